"""A rank's plan: its part of a schedule, with a place in memory for everything that it sends and receives.

There are three areas of memory. `OWN` is what the program gives, `RESULT` is where the result goes, and
`SCRATCH` is for what cannot be received where it belongs. A rank's own contribution stays where the
program has it until it is reduced with another one, and what is reduced with it is received into the result,
so that most algorithms copy nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from .program import Message, RankStep, rank_steps
from .schedule import Fold, Schedule


class Area(IntEnum):
    """Where in memory a value is."""

    OWN = 0
    RESULT = 1
    SCRATCH = 2


class Place(NamedTuple):
    """Chunks in an area; in the scratch area, those of the message with the number `slot` in its step."""

    area: Area
    chunk: int
    length: int
    slot: int = 0


class Folding(NamedTuple):
    """Reduce two places into a third."""

    left: Place
    right: Place
    out: Place


@dataclass
class PlanStep:
    """Actions of a step: copies to the result, then messages to and from ranks, then reductions."""

    lane: int
    copies: list[Place] = field(default_factory=list)
    sends: list[tuple[int, Place]] = field(default_factory=list)
    receives: list[tuple[int, Place]] = field(default_factory=list)
    folds: list[Folding] = field(default_factory=list)


class Plan(NamedTuple):
    """Steps of one rank; what is still among its own when they are done is copied to the result.

    Attributes
    ----------
    chunks, lanes : int
        Of the schedule.
    steps : list of PlanStep
    rest : list of Place
        Copied last.
    """

    chunks: int
    lanes: int
    steps: list[PlanStep]
    rest: list[Place]


def make_plan(schedule: Schedule, rank: int, in_place: bool, wanted: Iterable[int]) -> Plan:
    """Plan of a rank.

    Parameters
    ----------
    schedule : Schedule
    rank : int
    in_place : bool
        Whether what the rank contributes is in the result area already.
    wanted : iterable of int
        The chunks that must be in the result area at the end.

    Examples
    --------
    >>> from roundelay.collectives.algorithms.factors import reduce_scatter_allgather
    >>> plan = make_plan(reduce_scatter_allgather(2, [2]), 0, False, range(2))
    >>> plan.steps[0].receives
    [(1, Place(area=<Area.RESULT: 1>, chunk=0, length=1, slot=0))]
    """
    where = [Area.RESULT if in_place else Area.OWN] * schedule.chunks
    steps = [_place(step, where) for step in rank_steps(schedule, rank)]
    rest = [Place(Area.RESULT, chunk, 1) for chunk in wanted if where[chunk] == Area.OWN]
    return Plan(schedule.chunks, schedule.lanes, steps, rest)


def _place(step: RankStep, where: list[Area]) -> PlanStep:
    placed = PlanStep(step.lane)
    for message in step.sends:
        areas = {where[chunk] for chunk in message.chunks}
        if len(areas) > 1:
            _bring_together(message.chunks, where, placed)
        placed.sends.append((message.peer, Place(where[message.chunk], message.chunk, message.length)))
    sent = {chunk for message in step.sends for chunk in message.chunks}
    for group in _groups(step.receives):
        if group[0].fold == Fold.TAKE:
            _take(group, where, placed)
        else:
            _reduce(group, where, placed, free=sent.isdisjoint(group[0].chunks))
    return placed


def _bring_together(chunks: Iterable[int], where: list[Area], placed: PlanStep) -> None:
    for chunk in chunks:
        if where[chunk] == Area.OWN:
            placed.copies.append(Place(Area.RESULT, chunk, 1))
            where[chunk] = Area.RESULT


def _groups(receives: Sequence[Message]) -> list[list[Message]]:
    """Messages of the same chunks together, in their order."""
    groups: dict[tuple[int, int, bool], list[Message]] = {}
    for message in receives:
        groups.setdefault((message.chunk, message.length, message.fold == Fold.TAKE), []).append(message)
    return list(groups.values())


def _take(group: Sequence[Message], where: list[Area], placed: PlanStep) -> None:
    for message in group:
        placed.receives.append((message.peer, Place(Area.RESULT, message.chunk, message.length)))
        for chunk in message.chunks:
            where[chunk] = Area.RESULT


def _reduce(group: Sequence[Message], where: list[Area], placed: PlanStep, free: bool) -> None:
    """Receive what is reduced with the own value, and reduce all of it from left to right."""
    chunk, length = group[0].chunk, group[0].length
    if len({where[each] for each in group[0].chunks}) > 1:
        _bring_together(group[0].chunks, where, placed)
    own, result = Place(where[chunk], chunk, length), Place(Area.RESULT, chunk, length)
    arrivals: dict[Message, Place] = {}
    for message in group:
        direct = free and own.area == Area.OWN and not arrivals
        place = result if direct else Place(Area.SCRATCH, chunk, length, len(placed.receives))
        arrivals[message] = place
        placed.receives.append((message.peer, place))
    before = [place for message, place in arrivals.items() if message.fold == Fold.BEFORE]
    after = [place for message, place in arrivals.items() if message.fold == Fold.AFTER]
    operands = [*before, own, *after]
    left = operands[0]
    for number, right in enumerate(operands[1:], 1):
        # The result must not be written while an operand that is yet to come lies there.
        out = result if result not in operands[number + 1 :] else left
        placed.folds.append(Folding(left, right, out))
        left = out
    for each in group[0].chunks:
        where[each] = Area.RESULT
