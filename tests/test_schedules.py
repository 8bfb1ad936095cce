"""Every algorithm is proved for 1 to 17 ranks; what is wrong is refused; what can be done with schedules."""

from dataclasses import replace

import numpy as np
import pytest

from roundelay.collectives import verify as proof
from roundelay.collectives.algorithms import factors, ring, star, trees
from roundelay.collectives.catalogue import NATIVE, Setting, algorithms, members
from roundelay.collectives.program import Message, RankStep, rank_steps
from roundelay.collectives.schedule import Fold, Schedule, Step, abreast, wave
from roundelay.collectives.verify import Properties, ScheduleError, verify
from roundelay.comm.settings import OPERATIONS

ROOTED = ("bcast", "reduce")


def fixed(schedule):
    """The same schedule, whose steps are made once for all ranks that are asked for theirs."""
    steps = list(schedule)
    return replace(schedule, generate=lambda: iter(steps))


def of(ranks, chunks, *steps, lanes=1):
    return Schedule(ranks, chunks, lambda: iter(steps), lanes)


def roots(operation, ranks):
    if operation not in ROOTED:
        return [0]
    return sorted({*range(ranks)} if ranks <= 5 else {0, ranks // 2, ranks - 1})


def layouts(ranks, root):
    """Nodes of two and of three neighbours, and two nodes that ranks are dealt out to; the root first."""
    for nodes in (
        [range(first, min(first + 2, ranks)) for first in range(0, ranks, 2)],
        [range(first, min(first + 3, ranks)) for first in range(0, ranks, 3)],
        [range(first, ranks, 2) for first in range(2)],
    ):
        rooted = [tuple(sorted(node, key=lambda rank: rank != root)) for node in nodes]
        if len(nodes) > 1:
            yield tuple(sorted(rooted, key=lambda node: root not in node))


@pytest.mark.parametrize("ranks", range(1, 18))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_algorithm_is_right(operation, ranks):
    proved = set()
    for root in roots(operation, ranks):
        one_node = ((root, *(rank for rank in range(ranks) if rank != root)),)
        for algorithm in members(operation, Setting(ranks, root, one_node)):
            found = verify(operation, fixed(algorithm.build()), root)
            assert found.identical, algorithm
            assert found.ordered or not algorithm.ordered, algorithm
            proved.add(algorithm.name)
    assert proved >= {*algorithms(operation)} - {NATIVE, "hierarchical"}


@pytest.mark.parametrize("ranks", range(3, 18))
@pytest.mark.parametrize("operation", ["allreduce", *ROOTED])
def test_every_hierarchy_is_right(operation, ranks):
    for root in roots(operation, ranks):
        for nodes in layouts(ranks, root):
            found = members(operation, Setting(ranks, root, nodes), "hierarchical")
            assert found
            for algorithm in found:
                assert verify(operation, fixed(algorithm.build()), root).identical, (algorithm, nodes)


def test_hierarchy_of_one_level():
    for nodes in ((), ((0, 1, 2, 3),), ((0,), (1,), (2,), (3,))):
        (algorithm,) = members("allreduce", Setting(4, 0, nodes), "hierarchical")
        assert verify("allreduce", algorithm.build()).identical


@pytest.mark.parametrize(
    ("schedule", "properties"),
    [
        (ring.ring_allreduce(4), Properties(ordered=False, identical=True)),
        (star.star_allreduce(4, 2), Properties(ordered=True, identical=True)),
        (factors.recursive_multiplying(6, [2, 3]), Properties(ordered=True, identical=True)),
        (trees.double_tree_allreduce(5), Properties(ordered=False, identical=True)),
    ],
)
def test_properties(schedule, properties):
    assert verify("allreduce", schedule) == properties


def test_each_rank_in_an_order_of_its_own_is_told():
    everyone = np.arange(3)
    waves = [wave(everyone, (everyone + shift) % 3, 0, fold=Fold.AFTER) for shift in (1, 2)]
    assert verify("allreduce", of(3, 1, Step(tuple(waves)))) == Properties(ordered=False, identical=False)


def test_operands_in_the_wrong_order_are_told():
    exchange = Step((wave([0, 1], [1, 0], 0, fold=[Fold.AFTER, Fold.BEFORE]),))
    assert verify("allreduce", of(2, 1, exchange)) == Properties(ordered=False, identical=True)


UP = Step((wave(1, 0, 0, fold=Fold.AFTER),))
DOWN = Step((wave(0, 1, 0),))


@pytest.mark.parametrize(
    ("operation", "schedule", "message"),
    [
        ("allreduce", of(2, 1), r"rank 0 ends with \[0\] in chunk 0"),
        ("allreduce", of(2, 1, UP), r"rank 1 ends with \[1\] in chunk 0"),
        ("allreduce", of(2, 2, UP, DOWN), r"rank 0 ends with \[0\] in chunk 1"),
        ("allreduce", of(2, 1, UP, UP, DOWN), r"rank 0 ends with \[0, 1, 1\]"),
        ("allreduce", of(2, 1, UP, DOWN, UP), r"rank 0 ends with \[0, 1, 0, 1\]"),
        ("reduce", of(2, 1, Step((wave(1, 0, 0),))), r"rank 0 ends with \[1\] in chunk 0"),
        ("reduce_scatter", of(2, 2, UP), r"rank 1 ends with \[1\] in chunk 1"),
        ("bcast", of(3, 1, DOWN), "rank 2 ends without chunk 0"),
        ("bcast", of(2, 1, Step((wave(1, 0, 0),))), "rank 0 ends without chunk 0"),
        ("reduce", of(3, 1, Step((wave(2, 1, 0),)), UP), r"rank 0 ends with \[0, 2\]"),
        ("allgather", of(2, 2, Step((wave([0, 1], [1, 0], [1, 0]),))), "rank 0 ends without chunk 0"),
        ("allgather", of(2, 2, Step((wave(0, 1, 0),))), "rank 0 ends without chunk 1"),
    ],
    ids=[
        "nothing done",
        "one rank left out",
        "one chunk left out",
        "contribution doubled",
        "result doubled",
        "taken instead of reduced",
        "one part left out",
        "one rank without",
        "sent by one who has nothing",
        "contribution overwritten",
        "wrong chunks",
        "half a gather",
    ],
)
def test_wrong_result_is_refused(operation, schedule, message):
    with pytest.raises(ScheduleError, match=message):
        verify(operation, schedule)


def test_reducing_what_nobody_has_is_refused():
    with pytest.raises(ScheduleError, match="does not have it"):
        verify("bcast", of(2, 1, UP))


def programs(monkeypatch, *steps_of_ranks):
    """Have ranks run these steps, of messages sent and received, whatever the schedule says."""

    def steps_of(_schedule, rank):
        peer = 1 - rank
        message = Message(peer, rank, 1, Fold.TAKE), Message(peer, peer, 1, Fold.TAKE)
        parts = {"send": (message[:1], ()), "receive": ((), message[1:]), "both": (message[:1], message[1:])}
        return [RankStep(0, *parts[part]) for part in steps_of_ranks[rank]]

    monkeypatch.setattr(proof, "rank_steps", steps_of)


@pytest.mark.parametrize(
    ("first", "second", "stuck"),
    [
        (["send", "receive"], ["send", "receive"], r"\[0, 1\]"),
        (["receive", "send"], ["receive", "send"], r"\[0, 1\]"),
        (["send", "receive"], ["receive"], r"\[0\]"),
        (["send"], [], r"\[0\]"),
        (["receive"], [], r"\[0\]"),
        (["both"], ["send", "send", "receive"], r"\[0, 1\]"),
    ],
    ids=["sends cross", "receives cross", "never sent", "never received", "nobody sends", "one too many"],
)
def test_deadlock_is_found(monkeypatch, first, second, stuck):
    programs(monkeypatch, first, second)
    with pytest.raises(ScheduleError, match=f"deadlock: ranks {stuck} wait"):
        verify("allgather", of(2, 2))


@pytest.mark.parametrize(
    ("first", "second"),
    [(["both"], ["both"]), (["both"], ["send", "receive"]), (["send", "receive"], ["receive", "send"])],
)
def test_order_that_goes_on_is_no_deadlock(monkeypatch, first, second):
    programs(monkeypatch, first, second)
    assert verify("allgather", of(2, 2)) == Properties(ordered=True, identical=True)


def test_message_to_no_rank_is_refused():
    with pytest.raises(ScheduleError, match=r"ranks \[0\] wait"):
        verify("bcast", of(2, 1, DOWN, Step((wave(0, 2, 0),))))


@pytest.mark.parametrize(
    "waves",
    [
        (wave([0, 1], [1, 0], 0),),
        (wave([1, 2], [0, 0], 0, fold=[Fold.TAKE, Fold.AFTER]),),
        (wave(1, 0, 0, 2), wave(2, 0, 1, 2)),
        (wave(0, 1, 0, 3), wave(2, 0, 2)),
    ],
    ids=["while it is sent", "while it is reduced", "twice", "in a longer message"],
)
def test_chunk_overwritten_while_it_is_used_is_refused(waves):
    with pytest.raises(ScheduleError, match=r"takes over a chunk that it also uses in the same step"):
        verify("allreduce", of(3, 3, Step(waves)))


@pytest.mark.parametrize("other", [UP, DOWN], ids=["written in both", "written in one, sent in the other"])
def test_chunk_in_two_lanes_is_refused(other):
    with pytest.raises(ScheduleError, match=r"rank \d uses chunk 0 in two lanes"):
        verify("allreduce", of(2, 1, UP, other._replace(lane=1), DOWN, lanes=2))


def test_schedules_follow_one_another():
    both = star.star_reduce(5).then(star.star_bcast(5))
    assert verify("allreduce", both) == Properties(ordered=True, identical=True)
    for following, what in (
        (star.star_bcast(4), "5 ranks: expected as many to follow, got 4"),
        (star.star_bcast(5, chunks=2), "1 chunks: expected as many to follow, got 2"),
        (of(5, 1, lanes=2), "1 lanes: expected as many to follow, got 2"),
    ):
        with pytest.raises(ValueError, match=what):
            star.star_reduce(5).then(following)


def test_schedule_among_other_ranks():
    (step,) = star.star_bcast(3).on([4, 2, 0], 5)
    assert [(int(each.source[0]), int(each.destination[0])) for each in step.waves] == [(4, 2), (4, 0)]
    assert star.star_bcast(3).on([4, 2, 0], 5).ranks == 5
    backwards = ring.ring_allreduce(5).on(range(4, -1, -1), 5)
    assert verify("allreduce", backwards).identical


@pytest.mark.parametrize("operation", ["reduce_scatter", "allgather"])
def test_refined_schedule_is_as_right(operation):
    plain = getattr(factors, operation)(6, [3, 2])
    fine = plain.refined(4)
    assert fine.chunks == 24
    assert verify(operation, fine) == verify(operation, plain)
    message, of_plain = (rank_steps(each, 1)[0].sends[0] for each in (fine, plain))
    assert (message.chunk, message.length) == (4 * of_plain.chunk, 4 * of_plain.length)


def test_schedule_on_some_chunks():
    halves = [star.star_allreduce(3).within(2, first) for first in range(2)]
    assert {int(each.chunk[0]) for step in halves[1] for each in step.waves} == {1}
    assert verify("allreduce", halves[0].then(halves[1])).ordered
    with pytest.raises(ScheduleError, match="in chunk 0"):
        verify("allreduce", halves[1])


def test_segments_are_lanes_of_their_own():
    plain = ring.ring_allreduce(3)
    assert plain.segmented(1) is plain
    cut = plain.segmented(4)
    assert (cut.chunks, cut.lanes) == (12, 4)
    assert verify("allreduce", cut) == verify("allreduce", plain)
    for lane in range(4):
        chunks = [each.chunk for step in cut if step.lane == lane for each in step.waves]
        of_plain = [each.chunk for step in plain for each in step.waves]
        assert [chunk.tolist() for chunk in chunks] == [(chunk + 3 * lane).tolist() for chunk in of_plain]


def test_two_schedules_at_a_time():
    beside = star.star_allreduce(4).beside(ring.ring_allreduce(4))
    assert (beside.chunks, beside.lanes) == (5, 2)
    assert sum(1 for _ in beside) == 2 + 6
    assert verify("allreduce", beside).identical


def test_schedules_of_different_ranks_abreast():
    groups = [star.star_bcast(3).on([0, 1, 2], 7), trees.tree_bcast(4).on([3, 4, 5, 6], 7)]
    joined = list(abreast(groups))
    assert [len(step.waves) for step in joined] == [2, 1]
    assert sorted(joined[0].waves[0].destination) == [1, 5]
    everyone = abreast(groups).then(of(7, 1))
    start = of(7, 1, Step((wave(0, 3, 0),)))
    assert verify("bcast", start.then(everyone)).identical


def test_waves_are_broadcast():
    made = wave(0, [1, 2], 5)
    assert [each.tolist() for each in made] == [[0, 0], [1, 2], [5, 5], [1, 1], [0, 0]]


def test_steps_of_a_rank():
    steps = rank_steps(factors.recursive_multiplying(4, [2, 2]), 2)
    assert [[message.peer for message in step.sends] for step in steps] == [[3], [0]]
    assert [step.receives[0].fold for step in steps] == [Fold.AFTER, Fold.BEFORE]
    assert rank_steps(star.star_bcast(3).on([0, 1, 2], 4), 3) == []


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown operation 'scan'; expected one of allreduce, "):
        members("scan", Setting(4))
    with pytest.raises(ValueError, match=r"bcast: unknown algorithm 'ring'; expected one of native, star, "):
        members("bcast", Setting(4), "ring")
