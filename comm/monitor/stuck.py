"""Ranks that hang outside MPI, or are stopped, while others wait for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .clocks import Clocks
from .conditions import Clause
from .snapshot import RankView
from .verdict import Verdict
from .wait_graph import WaitGraph, waiting_on
from .wording import listed, named, places, ranks_of

# A rank that does nothing outside MPI, and those that wait for it, have done so for this long.
LONGEST_IDLE = 1.0
# A rank that computes may take this long.
LONGEST_COMPUTING = 600.0


class Hangs:
    """Finds ranks that others wait for in vain.

    Attributes
    ----------
    patience : dict of int to float
        How long a rank may be idle, where a false alarm has shown that it does so for longer than others.
    """

    def __init__(self) -> None:
        self.patience: dict[int, float] = {}

    def look(self, graph: WaitGraph, clocks: Clocks, deadlocked: int) -> list[Verdict]:
        """Find the culprits; those in a deadlock wait for each other."""
        hung = sum(1 << rank for rank, view in graph.views.items() if self._hangs(graph, clocks, view))
        found = self._look(graph, clocks, deadlocked, hung) if hung else []
        stopped = sum(1 << rank for rank in ranks_of(hung) if graph.views[rank].state == "stopped")
        if not found and stopped:
            # One that is idle may rightly be so while another only looks for messages.
            found = self._look(graph.with_looks(), clocks, deadlocked, stopped)
        return found

    def _look(self, graph: WaitGraph, clocks: Clocks, deadlocked: int, hung: int) -> list[Verdict]:
        candidates = {
            rank
            for rank in graph.waits
            if not (hung | deadlocked) >> rank & 1 and clocks.quiet(rank) >= LONGEST_IDLE
        }
        waiting = _without_servers(graph, candidates, hung)
        if not waiting:
            return []
        edges = waiting_on(graph, waiting | hung, everything=True, of=waiting)
        culprits = 0
        for mask in edges.values():
            culprits |= mask & hung
        if not culprits:
            return []
        return [self._verdict(graph, clocks, edges, ranks_of(culprits))]

    def _hangs(self, graph: WaitGraph, clocks: Clocks, view: RankView) -> bool:
        rank, patience = view.rank, self.patience.get(view.rank, LONGEST_IDLE)
        if graph.gone >> rank & 1 or view.state == "traced":
            return False
        if view.state == "stopped":
            return clocks.stopped(view) >= patience
        if rank in graph.waits:
            return False
        if view.state == "idle" and not len(view.under_way):
            return clocks.idle(view) >= patience
        return clocks.quiet(rank) >= LONGEST_COMPUTING

    @staticmethod
    def _verdict(graph: WaitGraph, clocks: Clocks, edges: dict[int, int], culprits: list[int]) -> Verdict:
        mask = sum(1 << rank for rank in culprits)
        direct = {
            rank: next(
                each
                for option in graph.waits[rank].clauses(everything=True)
                for each in option
                if each.ranks & mask
            )
            for rank, theirs in edges.items()
            if theirs & mask
        }
        witness, text = _largest_group(graph, direct)
        behind = [rank for rank in edges if rank not in direct]
        since = max(_since(clocks, graph.views[rank]) for rank in culprits)
        sentence = f"{text}{_behind(behind)}; {_located(graph, culprits, since)}"
        evidence: dict[str, Any] = {
            "waiting": sorted(edges),
            "calls": {str(rank): clause.text for rank, clause in direct.items()},
            "states": {str(rank): graph.views[rank].state for rank in culprits},
            "waited": round(min(clocks.quiet(rank) for rank in edges), 3),
        }
        return Verdict("stuck", tuple(culprits), sentence, since, evidence, witness)


def _without_servers(graph: WaitGraph, candidates: set[int], hung: int) -> int:
    """The candidates that wait for a rank that hangs.

    A server that waits for any client does nothing wrong while all are idle, unless one waits for it.
    """
    while True:
        waiting = graph.stalled(candidates, hung, everything=True)
        edges = waiting_on(graph, waiting | hung, everything=True, of=waiting)
        servers = {
            rank
            for rank in edges
            if any(
                each.ranks & (each.ranks - 1)
                for each in graph.failing(rank, waiting | hung | graph.gone, everything=True)
            )
            and not any(mask >> rank & 1 for other, mask in edges.items() if other != rank)
        }
        if not servers:
            return waiting
        candidates = candidates - servers


def _largest_group(graph: WaitGraph, direct: dict[int, Clause]) -> tuple[int, str]:
    """One of those that wait in the same call as most, and words for all of them."""
    groups = Counter(clause.collective or clause.text for clause in direct.values())
    chosen, count = groups.most_common(1)[0]
    ranks = [rank for rank, clause in direct.items() if (clause.collective or clause.text) == chosen]
    first = ranks[0]
    text = direct[first].text
    waits = "waits" if count == 1 else "wait"
    collective = direct[first].collective
    if collective is not None:
        members = len(graph.views[first].members[collective[0]])
        return first, f"{count} of {members} ranks {waits} in {text} at {{{first}}}"
    return first, f"{named(ranks)} {waits} in {text} at {places(ranks[:3])}"


def _behind(ranks: list[int]) -> str:
    if not ranks:
        return ""
    return f", and {named(ranks)} behind {'it' if len(ranks) == 1 else 'them'}"


def _since(clocks: Clocks, view: RankView) -> float:
    if view.state == "stopped":
        return clocks.stopped(view)
    return clocks.idle(view) if view.state == "idle" else clocks.quiet(view.rank)


def _located(graph: WaitGraph, culprits: list[int], since: float) -> str:
    """Where the culprits are."""
    are = "is" if len(culprits) == 1 else "are"
    states = {graph.views[rank].state for rank in culprits}
    inside = [len(graph.views[rank].under_way) > 0 for rank in culprits]
    if states == {"stopped"}:
        calls = {graph.functions.names[int(graph.views[rank].under_way["function"][0])]
                 for rank, is_inside in zip(culprits, inside, strict=True) if is_inside}  # fmt: skip
        where = f"in {listed(sorted(calls))}" if all(inside) else "outside MPI"
        return f"{named(culprits)} {are} stopped by a signal, {where}, since {since:.1f} s"
    where = "in calls that look for messages" if all(inside) else "outside MPI"
    return f"{named(culprits)} {are} at {places(culprits)}, {where}, since {since:.1f} s"
