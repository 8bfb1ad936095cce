"""Messages that do not arrive and collectives that do not end although everyone has done their part."""

from __future__ import annotations

from .clocks import Clocks
from .deadlock import knots_of
from .verdict import Verdict
from .wait_graph import Clause, WaitGraph, waiting_on
from .wording import named, ranks_of

# How long a collective that all have begun, and a message that was sent, may take on top of moving its bytes.
LONGEST_COLLECTIVE = 1.5
LONGEST_MESSAGE = 3.0
# Where a call does not say how long its messages are.
LONGEST_UNKNOWN = 10.0
# Bytes a second of a network that is slow, and not stuck.
SLOWEST = 20e6


def find_undelivered(graph: WaitGraph, clocks: Clocks, deadlocked: int) -> list[Verdict]:
    """Find those that wait for nothing but the library or the network."""
    sure = [
        rank
        for rank, wait in graph.waits.items()
        if not deadlocked >> rank & 1
        and graph.views[rank].state != "stopped"
        and clocks.had_its_turn(graph.views[rank])
        and clocks.quiet(rank) >= max(
            min(_patience(graph, each) for each in option) for option in wait.clauses(everything=True)
        )
    ]  # fmt: skip
    stalled = graph.stalled(sure, deadlocked, everything=True)
    if not stalled:
        return []
    found = []
    # There is no knot where the sender has left MPI.
    for knot in knots_of(waiting_on(graph, stalled, everything=True)) or [stalled]:
        rank = ranks_of(knot)[0]
        clauses = [each for option in graph.waits[rank].clauses(everything=True) for each in option]
        collective = next((each for each in clauses if each.met and each.collective), None)
        if collective is not None:
            found.append(_collective(graph, clocks, rank, collective))
            continue
        links = [(rank, clause) for rank in ranks_of(knot) for clause in _messages(graph, rank)]
        if links:
            found.append(_message(graph, clocks, *links[0]))
    return found


def _messages(graph: WaitGraph, rank: int) -> list[Clause]:
    """What a rank waits for that seems to be on its way to or from it."""
    clauses = [each for option in graph.waits[rank].clauses(everything=True) for each in option]
    return [each for each in clauses if each.met and each.collective is None and each.source >= 0]


def _patience(graph: WaitGraph, clause: Clause) -> float:
    if clause.bytes < 0:
        return LONGEST_UNKNOWN
    if clause.collective is None:
        return LONGEST_MESSAGE + clause.bytes / SLOWEST
    return LONGEST_COLLECTIVE + clause.bytes * len(graph.views) / SLOWEST


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
