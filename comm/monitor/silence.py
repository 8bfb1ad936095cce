"""For how long other nodes have been silent while this one was listening."""

from __future__ import annotations

import time
from collections.abc import Callable

# The most that passes between two looks. What is more is this watcher's own absence: a suspended machine, a
# stopped process.
_MOST_BETWEEN = 0.5


class Silence:
    """Seconds since each node was heard, without the time in which this watcher did not listen.

    Parameters
    ----------
    clock : callable
        Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._now = 0.0
        self._heard: dict[int, float] = {}

    def look(self) -> None:
        """Let time pass. Called before each look at what has come, several times a second."""
        now = self._clock()
        self._now += min(now - self._looked, _MOST_BETWEEN)
        self._looked = now

    def hear(self, node: int) -> None:
        """Node `node` is there."""
        self._heard[node] = self._now

    def of(self, node: int) -> float:
        """Seconds since when `node` has been silent; infinite if it was never heard."""
        return self._now - self._heard.get(node, -float("inf"))

    @property
    def now(self) -> float:
        """Seconds that have passed."""
        return self._now
