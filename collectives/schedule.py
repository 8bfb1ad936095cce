"""A schedule: what an algorithm lets each rank send, receive and reduce, and in which order.

The data of an operation is cut into chunks. Every rank has a value for each chunk, at first its own
contribution or nothing. A message carries the sender's values of some chunks; the receiver takes them
over, or reduces them with its own. That is all there is: who sends which chunks to whom, in steps.

A **step** is a set of messages that are under way together. A rank enters a step when it has finished its
part of the one before it in the same **lane**; it then sends the values that it has, receives, and reduces
what it received. Lanes are independent: they touch different chunks, and none waits for another.

A step consists of **waves**, arrays with one entry for each message. In one wave a rank sends at most one
message and receives at most one, so that a step of all ranks is a few array operations, however many
ranks there are. A rank's messages go out in the order of the waves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


class Fold(IntEnum):
    """The receiver's use of the values of a message.

    `TAKE` replaces its own. `BEFORE` and `AFTER` reduce them with its own, as the operand on the left or on
    the right of it. Values that arrive in the same step for the same chunk are reduced in the order of the
    waves, from left to right, all of `BEFORE` to the left of the own value.
    """

    TAKE = 0
    BEFORE = 1
    AFTER = 2


class Wave(NamedTuple):
    """Messages of a step, at most one from and one to each rank.

    Attributes
    ----------
    source, destination : int64 arrays
        Ranks.
    chunk, count : int64 arrays
        The chunks from `chunk` on, `length` of them.
    fold : int64 array
        Values of `Fold`.
    """

    source: Ranks
    destination: Ranks
    chunk: Ranks
    length: Ranks
    fold: Ranks


def wave(source: Any, destination: Any, chunk: Any, length: Any = 1, fold: Any = Fold.TAKE) -> Wave:
    """Wave from arrays or scalars, which are broadcast."""
    arrays = np.broadcast_arrays(source, destination, chunk, length, fold)
    return Wave(*(np.atleast_1d(array).astype(np.int64, copy=False) for array in arrays))


class Step(NamedTuple):
    """Waves under way together, in a lane."""

    waves: tuple[Wave, ...]
    lane: int = 0


@dataclass(frozen=True)
class Schedule:
    """The steps of all ranks.

    Parameters
    ----------
    ranks : int
        Number of ranks.
    chunks : int
        Number of chunks.
    generate : callable
        Returns an iterator over the steps. They are made when they are needed: a ring of 4,096 ranks has
        33 million messages.
    lanes : int
        Number of lanes.

    Examples
    --------
    >>> import numpy as np
    >>> def gather_to_first():
    ...     yield Step(tuple(wave(rank, 0, 0, fold=Fold.AFTER) for rank in (1, 2)))
    >>> schedule = Schedule(3, 1, gather_to_first)
    >>> [len(step.waves) for step in schedule]
    [2]
    """

    ranks: int
    chunks: int
    generate: Callable[[], Iterator[Step]]
    lanes: int = 1

    def __iter__(self) -> Iterator[Step]:
        return self.generate()

    def then(self, following: Schedule) -> Schedule:
        """The schedule that goes on with another one, of as many ranks, chunks and lanes.

        Raises `ValueError` where these differ: lanes do not wait for one another.
        """
        for what in ("ranks", "chunks", "lanes"):
            mine, others = getattr(self, what), getattr(following, what)
            if mine != others:
                raise ValueError(f"schedule of {mine} {what}: expected as many to follow, got {others}")

        def generate() -> Iterator[Step]:
            yield from self
            yield from following

        return Schedule(self.ranks, self.chunks, generate, self.lanes)

    def on(self, ranks: Sequence[int] | Ranks, total: int) -> Schedule:
        """The schedule among some of `total` ranks: its rank i is `ranks[i]`."""
        names = np.asarray(ranks, np.int64)

        def generate() -> Iterator[Step]:
            for step in self:
                waves = (
                    each._replace(source=names[each.source], destination=names[each.destination])
                    for each in step.waves
                )
                yield Step(tuple(waves), step.lane)

        return Schedule(total, self.chunks, generate, self.lanes)

    def refined(self, pieces: int) -> Schedule:
        """The schedule with each of its chunks cut into `pieces`."""

        def generate() -> Iterator[Step]:
            for step in self:
                waves = (
                    each._replace(chunk=each.chunk * pieces, length=each.length * pieces)
                    for each in step.waves
                )
                yield Step(tuple(waves), step.lane)

        return Schedule(self.ranks, self.chunks * pieces, generate, self.lanes)

    def within(self, chunks: int, first: int) -> Schedule:
        """The schedule on some of `chunks` chunks, those from `first` on."""

        def generate() -> Iterator[Step]:
            for step in self:
                yield _moved(step, first, 0)

        return Schedule(self.ranks, chunks, generate, self.lanes)

    def segmented(self, segments: int) -> Schedule:
        """The schedule run independently on each of some consecutive parts of the data.

        While a part is reduced, the next one is under way.
        """
        if segments == 1:
            return self
        chunks, lanes = self.chunks, self.lanes

        def generate() -> Iterator[Step]:
            for step in self:
                for segment in range(segments):
                    yield _moved(step, segment * chunks, segment * lanes)

        return Schedule(self.ranks, chunks * segments, generate, lanes * segments)

    def beside(self, other: Schedule) -> Schedule:
        """Run this schedule on the first part of the data, and another one on the rest, at the same time."""

        def generate() -> Iterator[Step]:
            mine, others = iter(self), iter(other)
            while True:
                steps = [next(mine, None), next(others, None)]
                if steps == [None, None]:
                    return
                if steps[0] is not None:
                    yield steps[0]
                if steps[1] is not None:
                    yield _moved(steps[1], self.chunks, self.lanes)

        return Schedule(self.ranks, self.chunks + other.chunks, generate, self.lanes + other.lanes)


def _moved(step: Step, chunks: int, lanes: int) -> Step:
    waves = tuple(each._replace(chunk=each.chunk + chunks) for each in step.waves)
    return Step(waves, step.lane + lanes)


def abreast(schedules: Sequence[Schedule]) -> Schedule:
    """Schedules of different ranks, of the same chunks, at the same time."""

    def generate() -> Iterator[Step]:
        for steps in zip_longest(*schedules):
            lanes = {step.lane for step in steps if step is not None}
            for lane in sorted(lanes):
                waves = [step.waves for step in steps if step is not None and step.lane == lane]
                yield Step(tuple(map(_joined, zip_longest(*waves))), lane)

    first = schedules[0]
    return Schedule(first.ranks, first.chunks, generate, max(each.lanes for each in schedules))


def _joined(waves: Sequence[Wave | None]) -> Wave:
    return Wave(*map(np.concatenate, zip(*(each for each in waves if each is not None), strict=True)))
