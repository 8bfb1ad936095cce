"""Seconds of the monotonic clock for the ticks that records have."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# The error of a pair is about a microsecond.
_LONG_ENOUGH_NS = 20_000_000_000


def ticks_of(file: str | Path) -> Callable[[], int]:
    """The function that reads ticks, of the interposer's module in `file`, which loads no MPI library."""
    name = Path(file).name.partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file}: expected an extension module")
    module = importlib.util.module_from_spec(spec)
    return module.ticks  # type: ignore[no-any-return]


class Clock:
    """Converts ticks, which go on evenly, to seconds of the node's monotonic clock.

    Times are counted back from now, so that ticks which went on while the machine was suspended, unlike the
    clock, spoil only those of calls from before.

    Parameters
    ----------
    ticks : callable
        Reads them.
    start : tuple of int
        Ticks and nanoseconds at one moment of the past.
    """

    def __init__(self, ticks: Callable[[], int], start: tuple[int, int]) -> None:
        self._ticks = ticks
        self._start = start
        self._suspended = _suspended()
        self.seconds_per_tick = 0.0
        self.update()
        # A rank may have been interrupted between its two clocks.
        self._start = self._anchor

    def update(self) -> float:
        """Read both clocks; return the seconds."""
        pairs = [(time.monotonic_ns(), self._ticks(), time.monotonic_ns()) for _ in range(3)]
        before, ticks, after = min(pairs, key=lambda pair: pair[2] - pair[0])
        self._anchor = ticks, (before + after) // 2
        self.now = self._anchor[1] * 1e-9
        suspended = _suspended()
        if suspended - self._suspended > 0.1:
            self._start, self._suspended = self._anchor, suspended
        past = self._anchor[1] - self._start[1]
        if self.seconds_per_tick == 0.0 or past > 1_000_000_000:
            self.seconds_per_tick = past * 1e-9 / (ticks - self._start[0])
        if past > 10 * _LONG_ENOUGH_NS:
            # Whoever disciplines the clock changes its rate a little.
            self._start = self._anchor
        return self.now

    def seconds(self, ticks: np.ndarray) -> np.ndarray:
        """Seconds of the monotonic clock at some ticks."""
        # Unsigned, and before or after now.
        past = (self._anchor[0] - ticks).astype(np.int64)
        return self.now - past * self.seconds_per_tick


def _suspended() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
