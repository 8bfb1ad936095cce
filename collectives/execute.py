"""Execution of a plan over MPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import sched_yield
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from .memory import memory_of
from .plan import Area, Place, Plan, PlanStep
from .reduction import MPI_CODES

Array = NDArray[Any]
_Part = tuple[int, slice]


class _BoundStep(NamedTuple):
    """A step for some number of elements: areas and slices in elements; messages of none are left out."""

    copies: list[slice]
    sends: list[tuple[int, _Part]]
    receives: list[tuple[int, _Part]]
    folds: list[tuple[_Part, _Part, _Part]]


class Bound(NamedTuple):
    """A plan for some number of elements.

    Attributes
    ----------
    lanes : list of lists of steps
    rest : list of slices
        Copied from the own area to the result in the end.
    scratch : int
        Elements of scratch memory.
    """

    lanes: list[list[_BoundStep]]
    rest: list[slice]
    scratch: int


def even_bounds(count: int, chunks: int) -> tuple[int, ...]:
    """Where chunks that share a number of elements begin, and the last one ends."""
    return tuple(count * chunk // chunks for chunk in range(chunks + 1))


def bind(plan: Plan, bounds: Sequence[int]) -> Bound:
    """Bind a plan to chunks that begin at the elements `bounds`, and end where the next one begins."""
    scratch = [0] * plan.lanes
    for step in plan.steps:
        needed = sum(_length(place, bounds) for _, place in step.receives if place.area == Area.SCRATCH)
        scratch[step.lane] = max(scratch[step.lane], needed)
    lanes: list[list[_BoundStep]] = [[] for _ in range(plan.lanes)]
    for step in plan.steps:
        lanes[step.lane].append(_bind_step(step, bounds, sum(scratch[: step.lane])))
    rest = [_slice(place, bounds) for place in plan.rest]
    return Bound([lane for lane in lanes if lane], rest, sum(scratch))


def _slice(place: Place, bounds: Sequence[int]) -> slice:
    return slice(bounds[place.chunk], bounds[place.chunk + place.length])


def _length(place: Place, bounds: Sequence[int]) -> int:
    return bounds[place.chunk + place.length] - bounds[place.chunk]


def _bind_step(step: PlanStep, bounds: Sequence[int], scratch: int) -> _BoundStep:
    slots: dict[int, slice] = {}
    for _, place in step.receives:
        if place.area == Area.SCRATCH:
            slots[place.slot] = slice(scratch, scratch + _length(place, bounds))
            scratch = slots[place.slot].stop

    def part(place: Place) -> _Part:
        in_scratch = place.area == Area.SCRATCH
        return int(place.area), slots[place.slot] if in_scratch else _slice(place, bounds)

    return _BoundStep(
        [_slice(place, bounds) for place in step.copies],
        [(peer, part(place)) for peer, place in step.sends if _length(place, bounds)],
        [(peer, part(place)) for peer, place in step.receives if _length(place, bounds)],
        [(part(left), part(right), part(out)) for left, right, out in step.folds if _length(out, bounds)],
    )


class Execution:
    """One run of a bound plan.

    Parameters
    ----------
    bound : Bound
    comm : mpi4py.MPI.Intracomm
        Plain communicator on which nobody else uses the tags from `tag` on, one for each lane.
    own, result : arrays
        Flat and contiguous, of one dtype, of NumPy or CuPy; the same one to reduce in place.
    fold : callable
        `fold(left, right, out=out)`, see `roundelay.collectives.reduction`.
    tag : int
    keeps : object
        What must live as long as the execution.
    """

    def __init__(
        self,
        bound: Bound,
        comm: MPI.Intracomm,
        own: Array,
        result: Array,
        fold: Callable[..., Any] | None = None,
        tag: int = 0,
        keeps: object = None,
    ) -> None:
        self._keeps = keeps
        self._bound, self._comm, self._fold, self._tag = bound, comm, fold, tag
        self._memory = memory_of(result)
        self._block: Any = None
        scratch = result
        if bound.scratch:
            self._block = self._memory.take(bound.scratch * result.itemsize)
            scratch = self._block.array[: bound.scratch * result.itemsize].view(result.dtype)
        self._areas = (own, result, scratch)
        self._messages: tuple[Array, ...] = self._areas
        if result.dtype.char not in MPI_CODES or not all(map(self._memory.is_aligned, self._areas)):
            # MPI need not know what the elements are, and mpi4py wants to know where they lie.
            self._messages = tuple(area.view(np.uint8).reshape(-1, area.itemsize) for area in self._areas)
        self._begun = self._done = False
        self._memory.settle()

    def run(self) -> None:
        """Run all of it."""
        if len(self._bound.lanes) == 1:
            self._run_one_lane()
            return
        while not self.advance():
            # MPICH 5.0 has calls that wait for any of several requests, but they keep the processor from
            # ranks that share it.
            sched_yield()

    def advance(self) -> bool:
        """Go on as far as messages have arrived; tell whether it is done."""
        if self._done:
            return True
        with self._memory.current():
            return self._advance()

    def _advance(self) -> bool:
        if not self._begun:
            self._begun = True
            self._places = [0] * len(self._bound.lanes)
            self._open = [0] * len(self._bound.lanes)
            self._requests: list[MPI.Request] = []
            self._lanes: list[int] = []
            for lane in range(len(self._bound.lanes)):
                self._enter(lane)
        elif self._requests:
            for index in self._completed(MPI.Request.Testsome(self._requests) or ()):
                self._open[index] -= 1
                if not self._open[index]:
                    self._leave(index)
                    self._enter(index)
        if self._requests:
            return False
        self._end()
        return True

    def _completed(self, indices: Sequence[int]) -> list[int]:
        """Lanes of the requests that are complete, which are forgotten."""
        lanes = [self._lanes[index] for index in indices]
        for index in sorted(indices, reverse=True):
            del self._requests[index], self._lanes[index]
        return lanes

    def _enter(self, lane: int) -> None:
        """Post the messages of a lane's next step that has any."""
        steps = self._bound.lanes[lane]
        while self._places[lane] < len(steps):
            step = steps[self._places[lane]]
            self._copy(step.copies)
            self._memory.settle()
            for peer, (area, part) in step.receives:
                self._requests.append(self._comm.Irecv(self._messages[area][part], peer, self._tag + lane))
            for peer, (area, part) in step.sends:
                self._requests.append(self._comm.Isend(self._messages[area][part], peer, self._tag + lane))
            self._open[lane] = len(step.receives) + len(step.sends)
            self._lanes += [lane] * self._open[lane]
            if self._open[lane]:
                return
            self._leave(lane)

    def _leave(self, lane: int) -> None:
        self._reduce(self._bound.lanes[lane][self._places[lane]])
        self._places[lane] += 1

    def _run_one_lane(self) -> None:
        comm, tag, messages = self._comm, self._tag, self._messages
        for step in self._bound.lanes[0]:
            self._copy(step.copies)
            self._memory.settle()
            sends, receives = step.sends, step.receives
            if len(sends) == len(receives) == 1:
                dest, (out, sent) = sends[0]
                source, (into, received) = receives[0]
                comm.Sendrecv(messages[out][sent], dest, tag, messages[into][received], source, tag)
            elif len(sends) + len(receives) == 1:
                for peer, (area, part) in sends:
                    comm.Send(messages[area][part], peer, tag)
                for peer, (area, part) in receives:
                    comm.Recv(messages[area][part], peer, tag)
            else:
                requests = [comm.Irecv(messages[area][part], peer, tag) for peer, (area, part) in receives]
                requests += [comm.Isend(messages[area][part], peer, tag) for peer, (area, part) in sends]
                MPI.Request.Waitall(requests)
            self._reduce(step)
        self._end()

    def _copy(self, parts: Sequence[slice]) -> None:
        own, result, _ = self._areas
        for part in parts:
            result[part] = own[part]

    def _reduce(self, step: _BoundStep) -> None:
        areas, fold = self._areas, self._fold
        for (left, at_left), (right, at_right), (out, at_out) in step.folds:
            assert fold is not None
            fold(areas[left][at_left], areas[right][at_right], out=areas[out][at_out])

    def _end(self) -> None:
        self._done = True
        self._copy(self._bound.rest)
        if self._block is not None:
            self._memory.give_back(self._block)
            self._block = None
        self._memory.settle()
