"""What `/proc` says of processes, and which of them are children of which."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def fields_of(path: str) -> list[str]:
    """What a `stat` file says, from the state on; nothing if the process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (twice as fast)
            # The name of a program may contain anything.
            return file.read(1024).rpartition(b") ")[2].decode().split()
    except OSError:
        return []


class ProcessTable:
    """Children of all processes, which are looked for seldom enough to cost little."""

    def __init__(self) -> None:
        self._has_children_files = Path("/proc/self/task", str(os.getpid()), "children").exists()
        self._children: dict[int, list[int]] = {}
        self._next = 0.0

    def descendants(self, process: int, threads: Iterable[str]) -> list[int]:
        """Processes that descend from one, which has some threads."""
        found: list[int] = []
        for child in self._children_of(process, threads):
            found += [child, *self.descendants(child, threads_of(child))]
        return found

    def _children_of(self, process: int, threads: Iterable[str]) -> list[int]:
        if not self._has_children_files:
            self._scan()
            return self._children.get(process, [])
        found = []
        for thread in threads:
            try:
                found += Path("/proc", str(process), "task", thread, "children").read_text().split()
            except OSError:
                continue
        return [int(each) for each in found]

    def _scan(self) -> None:
        begin = time.monotonic()
        if begin < self._next:
            return
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 (no object for each)
            if name.isdigit() and (fields := fields_of(f"/proc/{name}/stat")):
                children.setdefault(int(fields[1]), []).append(int(name))
        self._children = children
        end = time.monotonic()
        self._next = end + max(1.0, 100 * (end - begin))


def threads_of(process: int) -> list[str]:
    """The threads of a process; none if it is gone."""
    try:
        return os.listdir(f"/proc/{process}/task")  # noqa: PTH208
    except OSError:
        return []
