"""Verdicts on links that are slow, in jobs that never run."""

from __future__ import annotations

import numpy as np
import pytest

from roundelay.comm.monitor.slow_links import compare, slow_links
from roundelay.comm.monitor.transfers import Waits
from tests.timed_jobs import all_pairs, halos, judged, ring, work_of

# Seeded repeats of a case whose rate is tested; the command of `test_verdicts` has more.
CASES = 10

# Messages completed one by one, or all of a step together, on one node or on a node each: there, and where
# one call waits for several, a link is known to be slow only if it is in both directions.
PATTERNS = [ring, all_pairs, halos]
HOW = {
    "": {},
    "together": {"together": True},
    "nodes": {"nodes": True},
    "both": {"together": True, "nodes": True},
}


def slow_link_case(seed, pattern, factor, late=1.0, how="", one_way=False, skew=0.0):
    """Let messages of one link take longer after a while; give the link, and verdicts with their times."""
    generator = np.random.default_rng(seed)
    size = int(generator.choice([3, 4, 8]))
    exchange = pattern(size, **HOW[how])
    links = [pair for pairs in exchange.pattern for pair in pairs]
    link = links[int(generator.integers(len(links)))]
    slow = {link} if how == "" or one_way else {link, link[::-1]}
    base, step = float(generator.choice([1e-3, 4e-3])), float(generator.choice([2e-3, 15e-3]))
    onset, shortest = float(generator.uniform(0, 4)), step + base * len(exchange.pattern)
    steps = int((onset + 10) / shortest)

    def transfer(source, dest, time):
        is_slow = (source, dest) in slow and time >= onset
        return base * generator.lognormal(0, 0.2) * (factor if is_slow else 1.0)

    work = work_of(generator, steps, size, step)
    work[:, link[0]] *= late
    work[:, generator.integers(size)] += skew * base
    found = judged(exchange.snapshots(work, transfer), size)
    return link if how == "" else tuple(sorted(link)), [(when - onset, verdict) for when, verdict in found]


def is_named(verdict, link):
    """Whether a verdict names a link; one that is slow in both directions may be named for either."""
    return verdict.ranks == link or (link == tuple(sorted(link)) and verdict.ranks == link[::-1])


def rate_of_slow_links(pattern, count, how=""):
    """How often the right link is named in time, and sentences that say anything else."""
    cases = [slow_link_case(seed, pattern, 3.0, how=how) for seed in range(count)]
    named = [any(is_named(each, link) and 0 <= when <= 10 for when, each in found) for link, found in cases]
    others = [each.sentence for link, found in cases for _, each in found if not is_named(each, link)]
    return np.mean(named), others


@pytest.mark.timeout_s(300)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_slow_link(pattern, how):
    named, others = rate_of_slow_links(pattern, CASES, how)
    assert others == []
    assert named >= 0.99


@pytest.mark.timeout_s(300)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("late", [1.0, 2.0])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_late_ranks_are_no_slow_links(pattern, late, how):
    for seed in range(3):
        assert slow_link_case(seed, pattern, 1.0, late, how)[1] == []


@pytest.mark.parametrize("how", ["together", "both"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_slow_link_beside_a_rank_that_is_late(pattern, how):
    """Its messages are sent last, and the calls that receive them wait for the link all the same."""
    for seed in range(3):
        link, found = slow_link_case(seed, pattern, 3.0, how=how, skew=2.0)
        assert found
        assert all(is_named(verdict, link) for _, verdict in found)


@pytest.mark.parametrize("how", ["together", "both"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_of_links_that_may_be_slow_none_is_named_in_place_of_another(pattern, how):
    """A call that waits for two messages does not tell which of them is late, if none is in the other way."""
    for seed in range(3):
        link, found = slow_link_case(seed, pattern, 3.0, how=how, one_way=True)
        assert all(is_named(verdict, link) for _, verdict in found)


@pytest.mark.parametrize("culprit", [0, 2])
def test_of_links_that_explain_the_same_calls_the_steadier_is_named(culprit):
    """Rank 1 waits for ranks 0 and 2 in one call, and comes so late to its own messages that these wait."""
    generator, steps, usual, slow = np.random.default_rng(culprit), 40, 4e-3, 12e-3
    other = 2 - culprit
    # By how much the other message sets out later, and what is left for it until the slow one has come.
    skew = 4e-3 + generator.uniform(-1e-3, 1e-3, steps)
    rows = [(source, dest, usual, False, usual) for source in range(4) for dest in range(4) if source != dest]
    rows = [row for row in rows if 1 not in row[:2] or 3 in row[:2]] * steps
    rows += [(1, rank, slow - 1e-3, False, 1e-4) for rank in (0, 2)] * steps
    quick, calls = len(rows), []
    for step in range(steps):
        rows += [
            (culprit, 1, slow, False, slow - skew[step]),
            (other, 1, slow - skew[step], True, slow - skew[step]),
        ]
        calls += [quick + step] * 2
    source, dest, took, _, together = map(np.array, zip(*rows, strict=True))
    tells = np.array([row[3] for row in rows]) | (np.arange(len(rows)) < len(rows) - 2 * steps)
    window = compare(
        Waits(
            source=source,
            dest=dest,
            bytes=np.full(len(rows), 800),
            took=took,
            tells=tells,
            call=np.array([*range(quick), *calls]),
            together=together,
            waited=together,
            shortest=np.zeros(len(rows)),
            surely=took,
        ),
        np.zeros(4, np.int64),
    )
    named, possible = slow_links(window, 4)
    assert set(named) == possible == {(min(culprit, 1), max(culprit, 1))}
