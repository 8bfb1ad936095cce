"""Messages that do not arrive and collectives that do not end although everyone has done their part."""

from __future__ import annotations

from .clocks import Clocks, Lasting
from .conditions import Clause
from .deadlock import knots_of
from .verdict import Verdict
from .wait_graph import WaitGraph, waiting_on
from .wording import named, ranks_of

# How long a collective that all have begun, and a message that was sent, may take on top of moving its bytes.
LONGEST_COLLECTIVE = 1.5
LONGEST_MESSAGE = 3.0
# Where a call does not say how long its messages are.
LONGEST_UNKNOWN = 10.0
# Bytes a second of a network that is slow, and not stuck.
SLOWEST = 20e6


class Undelivered:
    """Finds those who wait for nothing but the library or the network."""

    def __init__(self) -> None:
        self._lasting = Lasting()

    def look(self, graph: WaitGraph, clocks: Clocks, deadlocked: int) -> list[Verdict]:
        """Find them; those in a deadlock wait for each other."""
        candidates = [
            rank
            for rank in graph.waits
            if not deadlocked >> rank & 1 and graph.views[rank].state != "stopped"
        ]
        stalled = graph.stalled(candidates, deadlocked, everything=True)
        self._lasting.update(ranks_of(stalled), graph.views, clocks)
        sure = self._lasting.longer_than(lambda rank: _patience(graph, rank), graph.views, clocks.now)
        stalled = graph.stalled(sure, deadlocked, everything=True)
        if not stalled:
            return []
        found = []
        # There is no knot where the sender has left MPI.
        for knot in knots_of(waiting_on(graph, stalled, everything=True)) or [stalled]:
            verdict = _verdict(graph, clocks, knot)
            if verdict is not None:
                found.append(verdict)
        return found


def _verdict(graph: WaitGraph, clocks: Clocks, knot: int) -> Verdict | None:
    for rank in ranks_of(knot):
        for clause in _on_their_way(graph, rank):
            if clause.collective is not None:
                return _collective(graph, clocks, rank, clause)
            if clause.source >= 0:
                return _message(graph, clocks, rank, clause)
    return None


def _on_their_way(graph: WaitGraph, rank: int) -> list[Clause]:
    """What a rank waits for though others have done their part, collectives first."""
    clauses = [each for option in graph.waits[rank].clauses(everything=True) for each in option if each.met]
    return sorted(clauses, key=lambda clause: clause.collective is None)


def _patience(graph: WaitGraph, rank: int) -> float:
    """How long a rank may wait for what is on its way."""
    return max(
        min(_longest(each, len(graph.views)) for each in option)
        for option in graph.waits[rank].clauses(everything=True)
    )


def _longest(clause: Clause, ranks: int) -> float:
    if clause.bytes < 0:
        return LONGEST_UNKNOWN
    if clause.collective is None:
        return LONGEST_MESSAGE + clause.bytes / SLOWEST
    return LONGEST_COLLECTIVE + clause.bytes * ranks / SLOWEST


def _collective(graph: WaitGraph, clocks: Clocks, rank: int, clause: Clause) -> Verdict:
    collective = clause.collective or (0, 0)
    members = len(graph.views[rank].members[collective[0]])
    ranks = ranks_of(graph.unfinished(collective))
    since = min(clocks.quiet(each) for each in ranks)
    sentence = (
        f"all {members} ranks have begun {clause.text}, and {named(ranks)} "
        f"{'does' if len(ranks) == 1 else 'do'} not complete it at {{{rank}}}, since {since:.1f} s"
    )
    evidence = {"call": clause.text, "members": members, "unfinished": ranks}
    return Verdict("stuck", tuple(ranks), sentence, since, evidence, rank)


def _message(graph: WaitGraph, clocks: Clocks, rank: int, clause: Clause) -> Verdict:
    since = clocks.quiet(rank)
    ends = sorted({rank, clause.source})
    sentence = (
        f"rank {rank} waits in {clause.text} at {{{rank}}}, since {since:.1f} s, although rank "
        f"{clause.source} has done its part: the link between them is stuck, or a tag does not match"
    )
    evidence = {"call": clause.text, "link": [clause.source, rank]}
    return Verdict("stuck", tuple(ends), sentence, since, evidence, rank)
