"""How long ranks wait for each other in collectives, step by step, by durations alone."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from .gathered import Gathered
from .wording import Functions


class Chunk(NamedTuple):
    """Collectives of a communicator that were seen together.

    `span` is the time that they and the work before them took, `lateness` how much less than the others each
    rank has waited, both in them and in all calls since the one before, in the sum of all, and `squares` the
    same squared. Of one that took very long counts no more than a usual step.
    """

    ops: int
    span: float
    lateness: np.ndarray
    squares: np.ndarray


class Pace:
    """The latest chunks of one communicator.

    Attributes
    ----------
    ranks : ndarray of int
        Its members.
    function : int
        Of the last collective.
    chunks : deque of Chunk
    fresh : Chunk or None
        What the last look has brought.
    added : int
        How many chunks there have been.
    """

    def __init__(self, ranks: np.ndarray) -> None:
        self.ranks, self.function = ranks, -1
        self.chunks: deque[Chunk] = deque(maxlen=512)
        self.fresh: Chunk | None = None
        self.added = 0
        self._last: np.ndarray | None = None
        # Seconds that each rank had spent in calls by then, and its thread.
        self._spent = self._lanes = np.zeros(0)
        # About the length of a step.
        self._step = 0.0

    def add(
        self, entered: np.ndarray, left: np.ndarray, inside: np.ndarray, lanes: np.ndarray, function: int
    ) -> None:
        """Add collectives, with the times of all ranks in a row each."""
        spent = inside + left - entered
        if self._last is not None:
            span = float(np.median(entered[-1] - self._last))
            steps = np.diff(entered[:, 0], prepend=self._last[0])
            self._step = float(np.median(steps)) if self._step == 0.0 else self._step
            self._step += (float(np.median(steps)) - self._step) * min(1.0, len(steps) / 20)
            # A rank that has waited elsewhere since the last collective is late through no fault of its own.
            anywhere = np.diff(spent, axis=0, prepend=self._spent[None])
            lanes_before = np.concatenate([self._lanes[None], lanes[:-1]])
            is_known = (lanes == lanes_before).all(axis=1)[:, None]
            late = lateness_of(np.where(is_known, anywhere, left - entered))
            lateness = np.clip(late, -self._step, self._step)
            self.fresh = Chunk(len(entered), span, lateness.sum(axis=0), (lateness**2).sum(axis=0))
            self.chunks.append(self.fresh)
            self.added += 1
        self._last, self.function = entered[-1], function
        self._spent, self._lanes = spent[-1], lanes[-1]

    def latest(self, ops: int, seconds: float) -> list[Chunk]:
        """The fewest chunks with that many collectives over that much time; none if there are too few."""
        found: list[Chunk] = []
        for chunk in reversed(self.chunks):
            found.append(chunk)
            ops -= chunk.ops
            seconds -= chunk.span
            if ops <= 0 and seconds <= 0:
                return found[::-1]
        return []

    def forget(self) -> None:
        """Begin anew, after a pause."""
        self.chunks.clear()
        self.fresh = self._last = None


def lateness_of(waits: np.ndarray) -> np.ndarray:
    """By how much less each rank has waited than the median of the others.

    Parameters
    ----------
    waits : ndarray, shape (ops, ranks)

    Returns
    -------
    ndarray, shape (ops, ranks)
    """
    others = waits.shape[1] - 1
    order = np.argsort(waits, axis=1)
    place = np.argsort(order, axis=1)
    ordered = np.take_along_axis(waits, order, axis=1)

    def without(at: int) -> np.ndarray:
        return np.where(place > at, ordered[:, at : at + 1], ordered[:, at + 1 : at + 2])

    return np.asarray((without((others - 1) // 2) + without(others // 2)) / 2 - waits)


class Paces:
    """Those of all communicators of three ranks or more: of two, one cannot say which is slow."""

    def __init__(self, functions: Functions) -> None:
        self._synchronising = np.array(sorted(functions.synchronising), dtype=np.int64)
        self.of: dict[int, Pace] = {}

    def add(self, calls: Gathered | None) -> None:
        """Take the collectives that are complete and leave no rank before all have come."""
        for pace in self.of.values():
            pace.fresh = None
        if calls is None:
            return
        columns, begins, counts = calls.columns, calls.begins, calls.counts
        chosen = calls.complete & (counts >= 3) & np.isin(columns["function"][begins], self._synchronising)
        groups = np.flatnonzero(chosen)
        comms = columns["comm"][begins[groups]]
        for comm in np.unique(comms).tolist():
            own = groups[comms == comm]
            size = int(counts[own[0]])
            rows = begins[own][:, None] + np.arange(size)
            if comm not in self.of:
                if len(self.of) >= 64:
                    del self.of[next(iter(self.of))]
                self.of[comm] = Pace(columns["rank"][rows[0]])
            function = int(columns["function"][rows[-1, 0]])
            entered, left, inside, lanes = (
                columns[name][rows] for name in ("entered", "left", "inside", "lane")
            )
            self.of[comm].add(entered, left, inside, lanes, function)
