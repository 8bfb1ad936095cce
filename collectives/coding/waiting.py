"""How ranks wait: without taking the processor from those that they wait for, and for how long."""

from __future__ import annotations

import os
from time import perf_counter, sleep

_SPINS, _SHORTEST_SECONDS, _LONGEST_SECONDS = 20, 50e-6, 1e-3
# Most that one look adds to the time waited.
_LOOK_SECONDS = 0.1
# Bytes that come later, and more slowly, are not to be expected any more.
_LATE_SECONDS, _SLOWEST_RATE = 0.2, 1e7


def usual_seconds(nbytes: int) -> float:
    """Seconds in which a message of `nbytes` of a rank that answers should be here."""
    return _LATE_SECONDS + nbytes / _SLOWEST_RATE


class Backoff:
    """Waiting that first gives way to others and then sleeps: ranks may be more than processors.

    Who has waited for long sleeps for longer, by a twentieth of the time.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Something came."""
        self._begun, self._spins = perf_counter(), 0

    def pause(self) -> None:
        """Nothing came."""
        self._spins += 1
        if self._spins < _SPINS:
            os.sched_yield()
            return
        waited = perf_counter() - self._begun
        sleep(min(max(waited / 20, _SHORTEST_SECONDS), _LONGEST_SECONDS))


class Waited:
    """Seconds spent waiting: hardly those in which this process was stopped, or did something else."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, perf_counter()

    def look(self) -> float:
        """Count the time since the last look; return all of it."""
        now = perf_counter()
        self.seconds += min(now - self._last, _LOOK_SECONDS)
        self._last = now
        return self.seconds
