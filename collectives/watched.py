"""Watching a choice: whether it still takes the time that it should, and what is done when it does not.

Now and then some calls are timed, begun together. When they take far longer or shorter than they should, for
long, the next calls are left to one candidate after another, and the fastest one takes those that follow.
Every rank counts the same calls and is told the same times, so that all change together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from ctypes import addressof, c_int64
from statistics import median
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np

from ..datatypes.plain import MPI

Candidate = TypeVar("Candidate")
# Advanced by the seconds of each call that it asks to be timed.
_Course = Generator[None, float, Candidate]

# Calls that are timed in a row, of which the median counts.
SAMPLES = 5
# How many times longer or shorter than it should a call may take, and by how many seconds, for clocks and
# caches; and how often in a row it may be more. The first expectation was measured with calls in a row.
FAR, FAR_AT_FIRST = 1.5, 3.0
GRAIN = 10e-6
PATIENCE = 3
# Calls until the next look, after one that found the time far off.
SOON = 8
# How often a candidate is tried, and how many times longer than the best it may take to be tried again.
TURNS = 7
SLOW = 2.0
# By how much another candidate must be faster than the one that has the calls.
MARGIN = 1.05
_FOR_EVER = 1 << 62
# Looks until candidates are tried again, after a change: what was slow may have recovered.
RETRY = 16


class Watched(Generic[Candidate]):
    """The algorithm that runs the calls of one kind on a communicator, and may change.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Plain communicator on which nobody else calls collectives meanwhile.
    current : object
        What runs them first. None runs by itself, and its calls may be counted elsewhere.
    expected : float, optional
        Seconds that it should take. Without them, it is not watched.
    period : int
        Calls between two looks.
    candidates : callable, optional
        Gives what may run them instead, with or without `current`; asked for when it is needed.

    Examples
    --------
    >>> watched = Watched(MPI.COMM_SELF, "ring", expected=1e-6, period=2, candidates=lambda: ["ring", "star"])
    >>> called = []
    >>> for _ in range(4):
    ...     watched.run(called.append)
    >>> called
    ['ring', 'ring', 'ring', 'ring']
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        current: Candidate,
        expected: float | None = None,
        period: int = 0,
        candidates: Callable[[], Sequence[Candidate]] = list,
    ) -> None:
        self._comm = comm
        self.current = current
        # Calls until one is timed, as long as `current` stays; where it is None, the interposer counts.
        self._left, self._left_to_none = c_int64(), c_int64()
        self._set_left(_FOR_EVER)
        self._course = None if expected is None else self._watch(expected, period, candidates)
        if self._course is not None:
            next(self._course)

    def _set_left(self, calls: int) -> None:
        is_none = self.current is None
        self._left.value, self._left_to_none.value = (0, calls) if is_none else (calls, 0)

    @property
    def is_watched(self) -> bool:
        """Whether it may change."""
        return self._course is not None

    @property
    def left(self) -> int:
        """Calls until one is timed, as long as `current` stays."""
        return self._left.value + self._left_to_none.value

    @property
    def address_of_left(self) -> int:
        """The address of an int64 of how many calls are left to None without asking here."""
        return addressof(self._left_to_none)

    def begin(self) -> Callable[[], None] | None:
        """Count a call of all ranks, which `current` runs; return what to call after it if it is timed."""
        left = self._left_to_none if self.current is None else self._left
        if left.value > 0:
            left.value -= 1
            return None
        assert self._course is not None
        self._comm.Barrier()
        start, watch = perf_counter(), self._course.send
        return lambda: watch(perf_counter() - start)

    def run(self, call: Callable[[Candidate], object]) -> None:
        """Run a call of all ranks by the current candidate."""
        end = self.begin()
        call(self.current)
        if end is not None:
            end()

    def _watch(
        self, expected: float, period: int, candidates: Callable[[], Sequence[Candidate]]
    ) -> _Course[None]:
        first, off, patience, looks, far = self.current, 0, PATIENCE, 0, FAR_AT_FIRST
        while True:
            self._set_left(SOON if off else period)
            seconds = median((yield from self._turn([self.current] * SAMPLES)))
            off = off + 1 if _is_far(seconds, expected, far) else 0
            looks += 1
            if far == FAR_AT_FIRST and not off:
                expected, far = seconds, FAR
            if off < patience and (self.current is first or looks < RETRY):
                continue
            before = self.current
            expected = yield from self._try([before, *(each for each in candidates() if each is not before)])
            far = FAR
            # Times that stray by themselves shall not have it tried for ever.
            patience = 2 * patience if self.current is before else PATIENCE
            off = looks = 0

    def _turn(self, tried: Sequence[Candidate]) -> _Course[list[float]]:
        """Time a call by each of some candidates, on the rank where it takes longest."""
        times = np.empty(len(tried))
        for place, candidate in enumerate(tried):
            self.current = candidate
            times[place] = yield
        self._comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        return [float(each) for each in times]

    def _try(self, tried: Sequence[Candidate]) -> _Course[float]:
        """Give the calls to the fastest of some candidates; the first one has them now. Return its time."""
        now = tried[0]
        # The first time, plans and connections are made.
        yield from self._turn(tried)
        samples: list[tuple[Candidate, list[float]]] = [(each, []) for each in tried]
        for _ in range(TURNS):
            times = yield from self._turn([each for each, _ in samples])
            for (_, found), seconds in zip(samples, times, strict=True):
                found.append(seconds)
            least = min(min(found) for _, found in samples)
            samples = [each for each in samples if min(each[1]) < SLOW * least]
        medians = [(median(found), each) for each, found in samples]
        seconds, best = min(medians, key=lambda pair: pair[0])
        for other, each in medians:
            if each is now and other <= MARGIN * seconds:
                seconds, best = other, each
        self.current = best
        return seconds


def _is_far(seconds: float, expected: float, factor: float) -> bool:
    return seconds > factor * expected + GRAIN or factor * seconds + GRAIN < expected
