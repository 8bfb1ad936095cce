"""Ranks that wait for each other, or for one that has left MPI: the knots of the wait-for graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .clocks import Clocks, Lasting
from .conditions import Clause
from .verdict import Verdict
from .wait_graph import WaitGraph, waiting_on
from .wording import named, ranks_of

# Nobody in the knot has gone on between two looks that are so far apart.
CONFIRMED_AFTER = 0.5


def knots_of(edges: Mapping[int, int]) -> list[int]:
    """Sets of ranks, as bits, that reach each other by `edges` and nobody else.

    Parameters
    ----------
    edges : mapping of int to int
        Ranks, as bits, that each rank waits for.
    """
    reached = dict(edges)
    changed = True
    while changed:
        changed = False
        for rank, mask in reached.items():
            wider = mask
            for each in ranks_of(mask):
                wider |= reached.get(each, 0)
            changed |= wider != mask
            reached[rank] = wider
    knots = set()
    for rank, mask in reached.items():
        # Whoever is reached must reach back.
        if mask >> rank & 1 and all(reached.get(each, 0) == mask for each in ranks_of(mask)):
            knots.add(mask)
    return sorted(knots)


class Deadlocks:
    """Finds deadlocks in one graph after the other.

    Attributes
    ----------
    stalled : int
        Ranks, as bits, of which it is sure that only themselves or ranks that are gone could let them go on.
    """

    def __init__(self) -> None:
        self.stalled = 0
        self._lasting = Lasting()

    def look(self, graph: WaitGraph, clocks: Clocks) -> list[Verdict]:
        """Find knots that were there half a second ago, and those who wait for a rank that has ended."""
        self._lasting.update(ranks_of(graph.stalled(graph.waits)), graph.views, clocks)
        sure = self._lasting.longer_than(lambda _: CONFIRMED_AFTER, graph.views, clocks.now)
        self.stalled = graph.stalled(sure)
        if not self.stalled:
            return []
        edges = waiting_on(graph, self.stalled)
        found = [self._deadlock(graph, clocks, knot) for knot in knots_of(edges)]
        finished = 0
        for mask in edges.values():
            finished |= mask & graph.gone
        # Of the dead there is a verdict.
        ended = [rank for rank in ranks_of(finished) if graph.views[rank].state != "dead"]
        return [*found, _wait_for_ended(graph, clocks, edges, ended)] if ended else found

    def _deadlock(self, graph: WaitGraph, clocks: Clocks, knot: int) -> Verdict:
        ranks = ranks_of(knot)
        steps = _cycle(graph, self.stalled | graph.gone, knot)
        parts = [f"rank {rank} in {_described(clause)} at {{{rank}}}" for rank, clause in steps]
        others = [rank for rank in ranks_of(self.stalled) if rank not in ranks]
        behind = f"; {named(others)} wait{'s' if len(others) == 1 else ''} behind them" if others else ""
        evidence: dict[str, Any] = {
            "cycle": [
                {"rank": rank, "call": clause.text, "waits_for": _waited_for(clause), "tag": clause.tag}
                for rank, clause in steps
            ],
            "waiting": others,
        }
        since = min(clocks.quiet(rank) for rank in ranks)
        sentence = f"deadlock: {' -> '.join(parts)}{behind}"
        return Verdict("deadlock", tuple(ranks), sentence, since, evidence, others[0] if others else None)


def _described(clause: Clause) -> str:
    if clause.collective is None:
        return clause.text
    return f"{clause.text}, which rank {clause.source} has not begun,"


def _waited_for(clause: Clause) -> int | list[int]:
    return clause.source if clause.source >= 0 else ranks_of(clause.ranks)


def _cycle(graph: WaitGraph, stalled: int, knot: int) -> list[tuple[int, Clause]]:
    """Ranks of a knot that wait in a circle, each with what it waits for."""
    rank = ranks_of(knot)[0]
    passed: dict[int, int] = {}
    steps: list[tuple[int, Clause]] = []
    while rank not in passed:
        passed[rank] = len(steps)
        clause = next(each for each in graph.failing(rank, stalled) if each.ranks & knot)
        steps.append((rank, clause))
        rank = ranks_of(clause.ranks & knot)[0]
    return steps[passed[rank] :]


def _wait_for_ended(graph: WaitGraph, clocks: Clocks, edges: Mapping[int, int], ended: list[int]) -> Verdict:
    """Some ranks wait for what others have not done before they left MPI."""
    mask = sum(1 << rank for rank in ended)
    waiting = [rank for rank, theirs in edges.items() if theirs & mask]
    first = waiting[0]
    clause = next(each for each in graph.failing(first, ~0) if each.ranks & mask)
    since = min(clocks.quiet(rank) for rank in waiting)
    has = "has" if len(ended) == 1 else "have"
    more = f", and {named(waiting[1:])} as well" if len(waiting) > 1 else ""
    them = "it" if len(ended) == 1 else "them"
    sentence = (
        f"{named(ended)} {has} finished; rank {first} still waits for {them} in {clause.text} at {{{first}}}"
        f"{more}, since {since:.1f} s"
    )
    evidence = {"finished": ended, "waiting": waiting, "call": clause.text}
    return Verdict("stuck", tuple(ended), sentence, since, evidence, first)
