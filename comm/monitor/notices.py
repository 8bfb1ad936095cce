"""In a rank: what the watcher has to tell it, at a safe point of its Python code."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from . import handover
from .stacks import free_signal
from .verdict import Verdict


class HangError(RuntimeError):
    """The job hangs, and was to raise this (``on_hang="raise"``).

    Attributes
    ----------
    verdict : Verdict
        Which rank is to blame, and how that is known.
    """

    # Its public home, which tracebacks name.
    __module__ = "roundelay"

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict

    def __reduce__(self) -> tuple[type[HangError], tuple[Verdict]]:
        """Pickle the verdict, of which the sentence alone makes no other."""
        return type(self), (self.verdict,)


class Notices:
    """Receives what the watcher sends, when a signal says that there is something.

    Attributes
    ----------
    signal : int
        A real-time signal that nothing else in this process handles.
    functions : list of callables
        Which get each verdict.
    connection : socket or None
        To the watcher.

    Raises
    ------
    ValueError
        This is not the main thread, in which Python handles signals.
    """

    def __init__(self) -> None:
        if current_thread() is not main_thread():
            raise ValueError("verdicts are delivered in the main thread: expected to be called there")
        self.functions: list[Callable[[Verdict], object]] = []
        self.connection: socket.socket | None = None
        self.signal = free_signal()
        signal.signal(self.signal, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        raised: HangError | None = None
        while (message := self._next()) is not None:
            if "verdict" not in message:
                # For a rank that ends the job, which this one does not.
                continue
            verdict = verdict_of(message["verdict"])
            if message.get("kind") == "raise":
                raised = HangError(verdict)
            else:
                for function in self.functions:
                    function(verdict)
        if raised is not None:
            raise raised

    def _next(self) -> dict[str, Any] | None:
        if self.connection is None:
            return None
        self.connection.setblocking(False)
        try:
            return handover.receive(self.connection)[0]
        except (OSError, ValueError):
            return None


def verdict_of(entry: Mapping[str, Any]) -> Verdict:
    """The verdict that an entry of a report tells of."""
    return Verdict(
        kind=entry["kind"],
        ranks=tuple(entry["ranks"]),
        sentence=entry["sentence"],
        since=entry["since"],
        evidence=entry["evidence"],
        witness=entry["witness"],
        hosts=tuple(entry["hosts"]),
        stacks={int(rank): stack for rank, stack in entry["stacks"].items()},
    )
