"""A lab: hosts that live as long as it does, programs on them, and changes of the network meanwhile."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.netlab import hosts as made
from benchmarks.netlab import launch
from benchmarks.netlab.machine import unavailable
from benchmarks.netlab.network import Figures, Network

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_TO_START = 30.0
SECONDS_TO_END = 10.0
# Before what else runs on this machine: a rank that has a message must not wait for a processor.
PRIORITY = -10


class LabError(RuntimeError):
    """The lab cannot be made, or what it was asked for cannot be done."""


class Result(NamedTuple):
    """How a program ended: its exit status, its output and its errors, empty where they were not kept."""

    status: int
    output: str
    errors: str


class Lab:
    """Emulated hosts, joined by links with a delay and a rate.

    Parameters
    ----------
    hosts
        How many.
    delay, jitter
        Seconds: one figure, or a (hosts, hosts) matrix of senders by receivers.
    rate
        Bytes a second, as a figure or a matrix.

    Raises
    ------
    LabError
        Where `unavailable` gives a reason, and when the rates together are more than the switch carries.

    Examples
    --------
    >>> with Lab(hosts=2, delay=0.002, rate=300e6 / 8) as lab:  # doctest: +SKIP
    ...     lab.run(["python", "prog.py"], ranks=2, timeout=60).status
    0
    """

    def __init__(self, hosts: int, delay: Figures, rate: Figures, jitter: Figures = 0.0) -> None:
        self.network = Network(hosts, delay, rate, jitter)
        if reason := unavailable():
            raise LabError(reason)
        self._lock = threading.Lock()
        self._keeper = _start_keeper(hosts, self._window())
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        watchdog = threading.Timer(SECONDS_TO_START, self._keeper.kill)
        watchdog.start()
        try:
            told = self._hear()
        finally:
            watchdog.cancel()
        self._pid = int(told["pid"])
        self.capacity = float(told["capacity"])
        self._hosts = [made.Host(**host) for host in told["hosts"]]
        wanted = self.network.total_rate()
        if wanted > self.capacity:
            raise LabError(
                f"{self.network.hosts} hosts may send {_mbit(wanted)} together, but the switch carries"
                f" {_mbit(self.capacity)} at most on this machine: lower the rate or the number of hosts"
            )
        self._apply()

    def _window(self) -> int:
        """Enough for any link to be full at twice its round trip, jitter included."""
        network = self.network
        longest = 4 * (network.delay + network.jitter) * network.rate
        return max(made.MIN_WINDOW, int(longest.max()))

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs in the lab, and the lab; a closed one stays closed."""
        for stream in (self._keeper.stdin, self._keeper.stdout, self._keeper.stderr):
            if stream is not None:
                stream.close()
        try:
            self._keeper.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def slow_host(self, host: int, factor: float) -> None:
        """Make a host's links slower by `factor`, in delay and rate; 1 is as it was."""
        self.network.slow_host(host, factor)
        self._apply()

    def slow_link(self, one: int, other: int, factor: float) -> None:
        """Make the link between two hosts slower by `factor`, in delay and rate; 1 is as it was."""
        self.network.slow_link(one, other, factor)
        self._apply()

    def cut(self, one: int, other: int | None = None) -> None:
        """Lose all that is sent between two hosts, or between `one` and all others."""
        self.network.cut(one, other)
        self._apply()

    def restore(self, one: int, other: int | None = None) -> None:
        """Carry again what is sent between two hosts, or between `one` and all others."""
        self.network.restore(one, other)
        self._apply()

    def count(self) -> dict[str, int]:
        """Tell how many bytes the switch has ``carried`` and how many frames it has ``lost``."""
        counts: dict[str, int] = self._ask("count")
        return counts

    def stop(self) -> None:
        """End all that runs in the lab."""
        self._ask("stop")

    def start(
        self,
        command: Sequence[str],
        ranks: int | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        library: str = "auto",
        capture: bool = True,
    ) -> subprocess.Popen[str]:
        """Start an MPI program: rank `r` on host `r` // (ranks / hosts).

        Parameters
        ----------
        command
            What each rank runs.
        ranks
            How many; a multiple of the hosts, or fewer than hosts. One on each host if not given.
        environment
            Variables for the ranks beside those of this process.
        library
            ``mpich``, ``openmpi``, or ``auto`` for that of this interpreter's mpi4py.
        capture
            Keep the output; otherwise it goes where this process's goes.
        """
        placed = launch.place(self.network.hosts, ranks or self.network.hosts)
        line, variables = launch.command_line(launch.find_library(library), placed, command)
        return self._start(
            made.HEAD, line, {**launch.environment(), **variables, **(environment or {})}, capture
        )

    def run(
        self, command: Sequence[str], ranks: int | None = None, timeout: float = 60.0, **how: Any
    ) -> Result:
        """Run an MPI program, as `start` does, to its end.

        Raises
        ------
        subprocess.TimeoutExpired
            When it takes longer than `timeout` seconds; nothing of it is left then.
        """
        return self.finish(self.start(command, ranks, **how), timeout)

    def start_on(self, host: int, command: Sequence[str], capture: bool = True) -> subprocess.Popen[str]:
        """Start a program, which need not use MPI, on one host."""
        return self._start(self._hosts[host].name, command, dict(os.environ), capture)

    def run_on(self, host: int, command: Sequence[str], timeout: float = 60.0) -> Result:
        """Run a program, which need not use MPI, on one host to its end; see `run`."""
        return self.finish(self.start_on(host, command), timeout)

    def finish(self, process: subprocess.Popen[str], timeout: float = 60.0) -> Result:
        """Wait for what `start` or `start_on` has started; see `run`."""
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            self.stop()
            process.communicate()
            raise
        return Result(process.returncode, output or "", errors or "")

    def _start(
        self, name: str, command: Sequence[str], environment: dict[str, str], capture: bool
    ) -> subprocess.Popen[str]:
        host = next(host for host in self._hosts if host.name == name)
        options = made.enter_options(self._pid, host).split()
        pipe = subprocess.PIPE if capture else None
        script = f"cd {shlex.quote(str(Path.cwd()))} && exec nice -n {PRIORITY} {shlex.join(command)}"
        return subprocess.Popen(
            ["nsenter", f"--pid=/proc/{self._pid}/ns/pid", *options, "--", "sh", "-c", script],
            env={**environment, "PATH": _path(), "TMPDIR": str(made.FOLDER)},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def _apply(self) -> None:
        self._ask("set", **self.network.settings()._asdict())

    def _ask(self, what: str, **arguments: Any) -> Any:
        with self._lock:
            try:
                _pipe(self._keeper.stdin).write(json.dumps({"do": what, **arguments}) + "\n")
                _pipe(self._keeper.stdin).flush()
            except (ValueError, BrokenPipeError) as error:
                raise LabError("the lab is closed") from error
            return self._hear()

    def _hear(self) -> Any:
        line = _pipe(self._keeper.stdout).readline()
        if not line:
            raise LabError(f"the lab's keeper ended: {_pipe(self._keeper.stderr).read().strip()}")
        return json.loads(line)


def _start_keeper(hosts: int, window: int) -> subprocess.Popen[str]:
    module = [sys.executable, "-m", "benchmarks.netlab.keeper", str(hosts), str(window)]
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--", *module],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _path() -> str:
    """The PATH with this interpreter's folder first: ``python`` is the one that has this MPI library."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _mbit(rate: float) -> str:
    return f"{rate * 8e-6:,.0f} Mbit/s"
