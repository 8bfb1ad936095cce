"""What the system knows of the processes of a rank: running, idle, stopped, traced or dead."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import time

from .process_table import ProcessTable, fields_of, threads_of

# A process that uses less of a core than this waits, even if it looks around now and then.
_BUSY = 0.05
# CPU time is counted in such steps.
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
# A flag of processes.
_EXITING = 0x4
# A process with much memory to give back may take longer, and how it has ended is not said then.
_SECONDS_TO_EXIT = 0.05
# PIDFD_SIGNAL_THREAD, since Linux 6.9; before, the C library's function where it has one.
_TO_THREAD = 1
_tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
# `struct pidfd_info` with PIDFD_INFO_EXIT, since Linux 6.15: the status of a process that is gone.
_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_WITH_EXIT = 1 << 3


class Process:
    """A process that is watched until it is gone, and its descendants.

    Parameters
    ----------
    number : int
        Of the process, which runs, or has done so a moment ago.

    Attributes
    ----------
    file : int
        A descriptor that becomes readable when it has ended; -1 where the system has none.
    is_gone : bool
    ended_by : str
        "SIGKILL", "exit status 1" or nothing, where that cannot be known.

    """

    def __init__(self, number: int, table: ProcessTable) -> None:
        self.number, self.is_gone, self.ended_by, self.file = number, False, "", -1
        self._table = table
        self._quiet_since: float | None = None
        self._cpu = 0.0
        self._state = "running"
        try:
            # Nobody else gets its number into this.
            self.file = os.pidfd_open(number)
        except ProcessLookupError:
            self.is_gone = True
        except OSError:
            # Linux before 5.3, or forbidden.
            pass
        fields = fields_of(f"/proc/{number}/stat")
        self._started = fields[19] if fields else ""
        self.is_gone |= not fields

    def close(self) -> None:
        """Look no more."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def send(self, number: int) -> bool:
        """Send a signal; tell whether it was there."""
        if self.is_gone:
            return False
        try:
            if self.file >= 0:
                signal.pidfd_send_signal(self.file, number)
            elif self._fields():
                os.kill(self.number, number)
        except OSError:
            return False
        return True

    def interrupt(self, number: int) -> bool:
        """Send its main thread a signal; tell whether it was there.

        Of one that is sent to a process, Linux may choose another thread, and the main one sleeps on.
        """
        if self.is_gone or self.is_exiting():
            return False
        try:
            signal.pidfd_send_signal(self.file, number, None, _TO_THREAD)
        except OSError:
            if _tgkill is None:
                return self.send(number)
            return bool(_tgkill(self.number, self.number, number) == 0)
        return True

    def is_exiting(self) -> bool:
        """Whether it is on its way out, or gone without this being known."""
        fields = self._fields()
        return not self.is_gone and (not fields or bool(int(fields[6]) & _EXITING))

    def cpu(self) -> float:
        """Seconds of processor time that it has used, without its descendants; negative when it is gone."""
        if self.is_gone:
            return -1.0
        try:
            # What `clock_getcpuclockid` gives for another process, which Python does not have.
            return time.clock_gettime(~self.number << 3 | 2)
        except OSError:
            return -1.0

    def _fields(self) -> list[str]:
        fields = fields_of(f"/proc/{self.number}/stat")
        return fields if fields and fields[19] == self._started else []

    def look(self, now: float, has_advanced: bool) -> tuple[str, float]:
        """Give its state, and for how long it has been idle or stopped.

        Parameters
        ----------
        now : float
            Seconds of the monotonic clock.
        has_advanced : bool
            Whether it is known to have done something since it was last looked at.
        """
        if self.is_gone:
            self._quiet_since = self._quiet_since or now
            return "dead", now - self._quiet_since
        if has_advanced:
            self._quiet_since, self._state = None, "running"
            return "running", 0.0
        fields = self._fields()
        state = self._state_of(fields)
        if state == "dead":
            if self.file < 0:
                self.end(now)
                return "dead", 0.0
            # Whoever waits for the descriptor says so, in the order in which processes end.
            return self._state, 0.0
        if state in ("running", "idle"):
            state = self._running_or_idle(fields, now)
        if state == "running":
            self._quiet_since = None
        elif self._quiet_since is None or state != self._state:
            self._quiet_since = now
        self._state = state
        return state, now - self._quiet_since if self._quiet_since is not None else 0.0

    @staticmethod
    def _state_of(fields: list[str]) -> str:
        return (
            {"T": "stopped", "t": "traced", "R": "running", "D": "running"}.get(
                fields[0], "dead" if fields[0] in "ZXx" else "idle"
            )
            if fields
            else "dead"
        )

    def _running_or_idle(self, fields: list[str], now: float) -> str:
        threads = threads_of(self.number)
        descendants = self._table.descendants(self.number, threads)
        cpu = _cpu_of(fields)
        states = [fields[0]]
        if len(threads) > 1:
            states += [_first_of(f"/proc/{self.number}/task/{thread}/stat") for thread in threads]
        for each in descendants:
            theirs = fields_of(f"/proc/{each}/stat")
            cpu += _cpu_of(theirs)
            states += theirs[:1]
            # The threads of each are sampled by their CPU time only.
        if self._quiet_since is None or "R" in states or "D" in states:
            self._cpu = cpu
        if "R" in states or "D" in states:
            return "running"
        quiet = now - (self._quiet_since or now)
        if cpu - self._cpu > _BUSY * quiet + 2 * _TICK:
            return "running"
        return "idle"

    def end(self, now: float) -> None:
        """It is gone: learn what can be known of that."""
        self.is_gone, self._quiet_since, self._state = True, now, "dead"
        self.learn_end()
        # It may still be on its way out.
        while not self.ended_by and self._fields() and time.monotonic() < now + _SECONDS_TO_EXIT:
            time.sleep(_SECONDS_TO_EXIT / 50)
            self.learn_end()

    def learn_end(self) -> None:
        """Ask how it has ended: it can be known before its parent has asked, and with a new Linux after."""
        if self.is_gone and not self.ended_by:
            fields = self._fields()
            has_status = len(fields) > 49 and fields[0] == "Z"
            self.ended_by = _in_words(int(fields[49])) if has_status else _status_after(self.file)


def _first_of(path: str) -> str:
    return next(iter(fields_of(path)), "")


def _cpu_of(fields: list[str]) -> float:
    """Seconds that a process and its children that are gone have computed."""
    return _TICK * sum(map(int, fields[11:15])) if len(fields) > 15 else 0.0


def _in_words(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"exit status {os.WEXITSTATUS(status)}"
    try:
        return signal.Signals(os.WTERMSIG(status)).name
    except ValueError:
        return f"signal {os.WTERMSIG(status)}"


def _status_after(file: int) -> str:
    """How a process has ended that is no more, by its descriptor."""
    answer = bytearray(64)
    struct.pack_into("=Q", answer, 0, _WITH_EXIT)
    try:
        fcntl.ioctl(file, _GET_INFO, answer)
    except (OSError, ValueError):
        return ""
    (mask,) = struct.unpack_from("=Q", answer)
    return _in_words(*struct.unpack_from("=i", answer, 60)) if mask & _WITH_EXIT else ""
