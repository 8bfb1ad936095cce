"""Proof of a schedule for one number of ranks, by running it on symbols.

The value of a chunk on a rank is an expression over the contributions of the ranks. Each rank runs its own
part of the schedule, which is what is executed over MPI, and a message passes only when both its ranks
are in the step that has it, as under a rendezvous protocol without any buffering.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .program import RankStep, rank_steps
from .schedule import Fold, Schedule

# An expression: a rank's contribution, or a pair, which is the operation on two expressions.
Expression = Any


class ScheduleError(AssertionError):
    """A schedule that does not do what its operation asks for."""


class Properties(NamedTuple):
    """Properties of a schedule that is right.

    Attributes
    ----------
    ordered : bool
        Whether all operands are in the order of the ranks, as an operation needs that does not commute.
    identical : bool
        Whether all ranks that have the result of a chunk got it by the same expression, so that it has the
        same bits.
    """

    ordered: bool
    identical: bool


def verify(operation: str, schedule: Schedule, root: int = 0) -> Properties:
    """Prove that a schedule is right; raise `ScheduleError` naming what is wrong.

    Parameters
    ----------
    operation : str
        One of `roundelay.collectives.catalogue.OPERATIONS`.
    schedule : Schedule
    root : int
        The root, for operations that have one.

    Examples
    --------
    >>> from roundelay.collectives.algorithms.ring import ring_allreduce
    >>> verify("allreduce", ring_allreduce(5))
    Properties(ordered=False, identical=True)
    """
    values = _run(schedule, _initial(operation, schedule, root))
    full = Counter(range(schedule.ranks))
    ordered = identical = True
    for chunk in range(schedule.chunks):
        holders = _wanted(operation, schedule, root, chunk)
        found = [values[rank][chunk] for rank in holders]
        for rank, value in zip(holders, found, strict=True):
            if value is None:
                raise ScheduleError(f"{operation}: rank {rank} ends without chunk {chunk}")
            operands = _operands(value)
            if operation in ("allgather", "bcast"):
                owner = root if operation == "bcast" else chunk * schedule.ranks // schedule.chunks
                if operands != [owner]:
                    raise ScheduleError(f"{operation}: rank {rank} ends with {operands} as chunk {chunk}")
            elif Counter(operands) != full:
                raise ScheduleError(f"{operation}: rank {rank} ends with {operands} in chunk {chunk}")
            ordered = ordered and operands == sorted(operands)
        identical = identical and all(value == found[0] for value in found)
    return Properties(ordered, identical)


def _initial(operation: str, schedule: Schedule, root: int) -> list[list[Expression | None]]:
    """Each rank's value of each chunk before the first step."""
    ranks, chunks = schedule.ranks, schedule.chunks
    if operation == "allgather":
        owners = [chunk * ranks // chunks for chunk in range(chunks)]
        return [[rank if rank == owner else None for owner in owners] for rank in range(ranks)]
    if operation == "bcast":
        return [[root if rank == root else None] * chunks for rank in range(ranks)]
    return [[rank] * chunks for rank in range(ranks)]


def _wanted(operation: str, schedule: Schedule, root: int, chunk: int) -> Sequence[int]:
    """The ranks that must end with a chunk."""
    if operation == "reduce_scatter":
        return [chunk * schedule.ranks // schedule.chunks]
    return [root] if operation == "reduce" else range(schedule.ranks)


class _Lane:
    """Steps that one rank has yet to do in one lane."""

    def __init__(self, rank: int, steps: Iterable[RankStep]) -> None:
        self.rank = rank
        self.steps = deque(steps)
        self.arrived: dict[int, list[Expression | None]] = {}
        self.open = 0

    def enter(self, values: list[Expression | None], wire: _Wire) -> None:
        """Post the messages of the next step."""
        step = self.steps[0]
        self.arrived, self.open = {}, len(step.sends) + len(step.receives)
        for message in step.sends:
            wire.sends[self.rank, message.peer, step.lane].append((self, [values[i] for i in message.chunks]))
        for place, message in enumerate(step.receives):
            wire.receives[message.peer, self.rank, step.lane].append((self, place))

    def leave(self, values: list[Expression | None]) -> None:
        """Take over or reduce what arrived."""
        step = self.steps.popleft()
        for fold in (Fold.TAKE, Fold.BEFORE, Fold.AFTER):
            before: dict[int, Expression] = {}
            for place, message in enumerate(step.receives):
                if message.fold != fold:
                    continue
                for chunk, value in zip(message.chunks, self.arrived[place], strict=True):
                    if fold == Fold.TAKE:
                        values[chunk] = value
                    elif fold == Fold.AFTER:
                        values[chunk] = _combined(values[chunk], value)
                    else:
                        before[chunk] = _combined(before[chunk], value) if chunk in before else _held(value)
            for chunk, value in before.items():
                values[chunk] = _combined(value, values[chunk])


class _Wire:
    """Messages posted but not matched, for each pair of ranks and lane."""

    def __init__(self) -> None:
        self.sends: dict[tuple[int, int, int], deque[Any]] = defaultdict(deque)
        self.receives: dict[tuple[int, int, int], deque[Any]] = defaultdict(deque)

    def match(self) -> None:
        """Let all messages pass whose two ends are posted."""
        for key, sends in self.sends.items():
            receives = self.receives[key]
            while sends and receives:
                (sender, values), (receiver, place) = sends.popleft(), receives.popleft()
                receiver.arrived[place] = values
                sender.open -= 1
                receiver.open -= 1


def _run(schedule: Schedule, values: list[list[Expression | None]]) -> list[list[Expression | None]]:
    """Each rank's value of each chunk after all steps."""
    lanes, wire = [], _Wire()
    for rank in range(schedule.ranks):
        steps = rank_steps(schedule, rank)
        _check_hazards(rank, steps)
        for number in range(schedule.lanes):
            lanes.append(_Lane(rank, [step for step in steps if step.lane == number]))
    waiting = [lane for lane in lanes if lane.steps]
    for lane in waiting:
        lane.enter(values[lane.rank], wire)
    while waiting:
        wire.match()
        ready = [lane for lane in waiting if not lane.open]
        if not ready:
            stuck = sorted({lane.rank for lane in waiting})
            raise ScheduleError(f"deadlock: ranks {stuck} wait for one another")
        for lane in ready:
            lane.leave(values[lane.rank])
            if lane.steps:
                lane.enter(values[lane.rank], wire)
        waiting = [lane for lane in waiting if lane.steps]
    for (source, destination, _), messages in wire.sends.items():
        if messages:
            raise ScheduleError(f"a message from rank {source} to rank {destination} is never received")
    return values


def _check_hazards(rank: int, steps: Iterable[RankStep]) -> None:
    """No chunk may be taken over while it is sent, nor be written in one lane and used in another one."""
    written: dict[int, int] = {}
    for step in steps:
        sent = {chunk for message in step.sends for chunk in message.chunks}
        taken = [chunk for message in step.receives if message.fold == Fold.TAKE for chunk in message.chunks]
        folded = {chunk for message in step.receives if message.fold != Fold.TAKE for chunk in message.chunks}
        if len(set(taken)) < len(taken) or sent & set(taken) or folded & set(taken):
            raise ScheduleError(f"rank {rank} takes over a chunk that it also uses in the same step: {step}")
        written.update(dict.fromkeys([*taken, *folded], step.lane))
    for step in steps:
        for message in (*step.sends, *step.receives):
            for chunk in message.chunks:
                if written.get(chunk, step.lane) != step.lane:
                    raise ScheduleError(f"rank {rank} uses chunk {chunk} in two lanes")


def _held(value: Expression | None) -> Expression:
    if value is None:
        raise ScheduleError("a chunk is sent by a rank that does not have it")
    return value


def _combined(left: Expression | None, right: Expression | None) -> Expression:
    return (_held(left), _held(right))


def _operands(expression: Expression) -> list[int]:
    """The ranks in an expression, from left to right."""
    found, rest = [], [expression]
    while rest:
        top = rest.pop()
        if isinstance(top, tuple):
            rest += [top[1], top[0]]
        else:
            found.append(top)
    return found
