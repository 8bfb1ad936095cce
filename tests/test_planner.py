"""Plans for sequences of unequal lengths: what they promise, and attention run as they say."""

from itertools import pairwise
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.testing import assert_allclose, assert_array_equal

import roundelay
from roundelay.collectives.attention import routes
from roundelay.collectives.attention.costs import Rates, Work, measured_rates, shares
from roundelay.collectives.attention.placement import positions
from roundelay.collectives.attention.planner import plan_sequences
from roundelay.collectives.figures import Table
from roundelay.collectives.service import service_of
from tests.dense import Sequence, dense, hidden_keys

SHAPE: dict[str, Any] = {"heads": 4, "key_heads": 2, "size": 16, "value_size": 24}
LLAMA: dict[str, Any] = {"heads": 32, "key_heads": 8, "size": 128}
# Short ones, and long ones that must be spread: over all ranks, and over some.
LENGTHS = [40, 700, 3, 0, 150, 90, 1, 333, 41, 260]
# So slow that sequences of a few hundred tokens are worth spreading.
SLOW = Rates(flops=1e8)

lengths_of_any_kind = some.lists(some.integers(0, 3000), min_size=1, max_size=25)


def log_normal(seed, sequences=64):
    drawn = np.random.default_rng(seed).lognormal(7.5, 1.4, sequences)
    return np.clip(drawn, 200, 60_000).astype(int).tolist()


def in_order(lengths, ranks, work):
    """Seconds where each rank takes as many sequences as the others, in the order in which they come."""
    bounds = [len(lengths) * rank // ranks for rank in range(ranks + 1)]
    return max(work.arithmetic(np.array(lengths[begin:end], int)).sum() for begin, end in pairwise(bounds))


def work_of(rates=None, causal=True):
    return Work(32, 8, 256, 4, causal, rates or Rates())


# The plan


@given(lengths_of_any_kind, some.integers(1, 9), some.booleans(), some.booleans())
def test_every_token_has_one_place(lengths, ranks, causal, is_tight):
    room = max(-(-sum(lengths) // ranks), 1) if is_tight else None
    plan = plan_sequences(lengths, ranks, **LLAMA, causal=causal, tokens_per_rank=room)
    assert [each.length for each in plan.sequences] == lengths
    for sequence, (length, members, counts) in enumerate(plan.sequences):
        places = plan.positions(sequence)
        assert tuple(places) == members
        assert members == tuple(sorted(set(members)))
        assert tuple(map(len, places.values())) == counts
        assert_array_equal(np.sort(np.concatenate(list(places.values()))), np.arange(length))
        assert len(members) == 1 or min(counts) > 0


@given(lengths_of_any_kind, some.integers(1, 9), some.integers(0, 500))
def test_memory_is_kept(lengths, ranks, spare):
    """Whenever all sequences together fit, even to the last token, there is a plan."""
    room = max(-(-sum(lengths) // ranks) + spare, 1)
    plan = plan_sequences(lengths, ranks, **LLAMA, tokens_per_rank=room)
    held = [0] * ranks
    for _, members, counts in plan.sequences:
        for rank, count in zip(members, counts, strict=True):
            held[rank] += count
    assert held == [load.tokens for load in plan.loads]
    assert max(held) <= room


@given(lengths_of_any_kind, some.integers(1, 9))
def test_never_far_from_the_best(lengths, ranks):
    """Longest first is at most 4/3 of the best for whole sequences (Graham 1969); spreading only helps."""
    plan = plan_sequences(lengths, ranks, **LLAMA)
    assert plan.seconds <= 1.02 * 4 / 3 * in_order(lengths, ranks, work_of()) + 1e-12
    assert 0 < plan.efficiency <= 1 + 1e-9
    assert max(load.seconds for load in plan.loads) <= plan.seconds + 1e-12


@given(lengths_of_any_kind, some.integers(1, 9), some.booleans())
def test_all_work_is_planned(lengths, ranks, causal):
    plan = plan_sequences(lengths, ranks, **LLAMA, causal=causal)
    pairs = sum(length * (length + 1) // 2 if causal else length**2 for length in lengths)
    assert sum(load.flops for load in plan.loads) == pairs * 2 * 32 * (128 + 128)
    assert sum(load.memory for load in plan.loads) == sum(lengths) * (40 * 256 * 4 + 32 * 4)


def test_same_arguments_same_plan():
    lengths = log_normal(0)
    plan = plan_sequences(lengths, 8, **LLAMA)
    assert plan == plan_sequences(tuple(lengths), 8, **LLAMA)
    assert plan == plan_sequences(np.array(lengths), 8, **LLAMA, rates=Rates())
    assert sorted(plan.order) == list(range(64))


@pytest.mark.parametrize(
    ("ranks", "sequences", "least"),
    [(2, 64, 0.99), (4, 64, 0.98), (8, 64, 0.95), (8, 256, 0.98), (64, 64, 0.9)],
)
def test_efficiency(ranks, sequences, least):
    """Of lengths as in training data: a log-normal distribution between 200 and 60,000 tokens."""
    for seed in range(20):
        lengths = log_normal(seed, sequences)
        plan = plan_sequences(lengths, ranks, **LLAMA)
        seconds = [load.seconds for load in plan.loads]
        assert plan.efficiency >= least
        assert plan.efficiency <= np.mean(seconds) / max(seconds) + 1e-9
        assert plan.seconds <= in_order(lengths, ranks, work_of())


def test_as_efficient_where_memory_is_tight():
    for seed in range(20):
        lengths = log_normal(seed)
        assert plan_sequences(lengths, 8, **LLAMA, tokens_per_rank=-(-sum(lengths) // 8)).efficiency >= 0.9


def test_many_sequences_are_planned_fast():
    lengths = [30 * length for length in log_normal(0, 1000)]
    begin = perf_counter()
    plan = plan_sequences(lengths, 64, **LLAMA, tokens_per_rank=-(-sum(lengths) // 64))
    assert perf_counter() - begin < 1
    assert plan.efficiency > 0.95


def test_short_sequences_stay_whole():
    plan = plan_sequences([60_000, *[300] * 40], 4, **LLAMA)
    assert [len(each.ranks) for each in plan.sequences] == [4] + [1] * 40
    assert plan.placement(0) == "zigzag"
    assert plan.placement(1) == "contiguous"


def test_nothing_is_sent_without_need():
    plan = plan_sequences([5000] * 8, 4, **LLAMA)
    assert [load.messages for load in plan.loads] == [0] * 4
    assert plan.efficiency == pytest.approx(1)


def test_spread_only_as_far_as_memory_demands():
    plan = plan_sequences([100, 10, 10, 10], 4, **LLAMA, tokens_per_rank=60, rates=Rates(latency=1))
    assert [len(each.ranks) for each in plan.sequences] == [2, 1, 1, 1]


def test_uneven_shares_use_the_last_room():
    plan = plan_sequences([9, 7, 4], 2, **LLAMA, tokens_per_rank=10, rates=Rates(latency=1))
    assert plan.sequences[2] == (4, (0, 1), (1, 3))


def test_slow_links_keep_sequences_whole():
    lengths = [3000, 1000, 1000]
    assert len(plan_sequences(lengths, 3, **LLAMA).sequences[0].ranks) == 3
    far = plan_sequences(lengths, 3, **LLAMA, rates=Rates(latency=100))
    assert [len(each.ranks) for each in far.sequences] == [1, 1, 1]


def test_order_is_one_for_all_ranks():
    plan = plan_sequences(log_normal(3), 8, **LLAMA)
    for rank in range(8):
        mine = plan.of_rank(rank)
        assert mine == [sequence for sequence in plan.order if rank in plan.sequences[sequence].ranks]
        assert sum(len(plan.positions(sequence)[rank]) for sequence in mine) == plan.loads[rank].tokens


def test_seconds_have_the_waits_in_them():
    """A sequence begins when the last of its ranks is done with those before it."""
    lengths, waits = log_normal(1), []
    for room in (None, -(-sum(lengths) // 16)):
        plan = plan_sequences(lengths, 16, **LLAMA, tokens_per_rank=room)
        done, busy = np.zeros(16), np.zeros(16)
        for sequence in plan.order:
            length, members, counts = plan.sequences[sequence]
            seconds = work_of().seconds(length, len(members), max(counts))
            done[[*members]] = done[[*members]].max() + seconds
            busy[[*members]] += seconds
        assert plan.seconds == done.max()
        assert [load.seconds for load in plan.loads] == busy.tolist()
        waits.append(plan.seconds - busy.max())
    assert max(waits) > 0


def test_description():
    lines = plan_sequences([60_000, 300, 0], 2, **LLAMA).describe().splitlines()
    assert lines[0].startswith("3 sequences of 0 to 60000 tokens, 1 of them spread, on 2 ranks: ")
    assert len(lines) == 4
    assert len({len(line) for line in lines[1:]}) == 1


@given(some.lists(some.integers(1, 9), min_size=1, max_size=7), some.booleans())
def test_shares_are_those_of_the_route(counts, causal):
    places = positions(counts, "zigzag" if causal else "contiguous")
    visible = ~hidden_keys(sum(counts), causal=causal)
    problem: Any = SimpleNamespace(
        group=SimpleNamespace(size=len(counts)),
        shape=SimpleNamespace(key_heads=1),
        sees=lambda queries, keys: visible[np.ix_(places[queries], places[keys])].any(),
    )
    sent = [task for step in routes.ring(problem) for task in step]
    members = range(len(counts))
    pairs, keys, messages, held = shares(counts, causal).tolist()
    assert messages == [sum(task.via == member for task in sent) for member in members]
    assert keys == [sum(counts[task.owner] for task in sent if task.via == member) for member in members]
    assert held == counts
    assert pairs == [int(visible[place].sum()) for place in places]


@pytest.mark.parametrize(
    ("lengths", "changes", "message"),
    [
        ([], {}, "no lengths: expected one or more"),
        ([5, -2], {}, r"lengths\[1\] -2: expected 0 or more"),
        (
            [30, 11],
            {"tokens_per_rank": 10},
            "lengths of 41 tokens together, .* of 30: expected at most 40, 10 for",
        ),
        ([5], {"heads": 3}, "heads 3: expected a multiple of the 2 of keys and values"),
        ([5], {"key_heads": 0}, "key_heads 0: expected more than 0"),
        ([5], {"value_size": 0}, "value_size 0: expected more than 0"),
        ([5], {"tokens_per_rank": 0}, "tokens_per_rank 0: expected more than 0"),
        ([5], {"rates": Rates(bandwidth=0)}, "bandwidth 0: expected more than 0"),
    ],
)
def test_errors(lengths, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plan_sequences(lengths, 4, **(SHAPE | changes))


def test_no_ranks():
    with pytest.raises(ValueError, match=r"^ranks 0: expected more than 0"):
        plan_sequences([5], 0, **SHAPE)


# Attention as planned


def sequences_of(plan, dtype):
    shape = {**SHAPE, "batch": 1, "dtype": dtype}
    return [Sequence((each.length,), seed=place, **shape) for place, each in enumerate(plan.sequences)]


def shards(plan, sequences, rank, name):
    return {each: sequences[each].arrays[name][:, plan.positions(each)[rank]] for each in plan.of_rank(rank)}


@pytest.mark.mpi
@pytest.mark.parametrize("is_tight", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_attention_as_planned(comm, dtype, causal, is_tight):
    room = -(-sum(LENGTHS) // comm.size) if is_tight else None
    how = {**SHAPE, "itemsize": np.dtype(dtype).itemsize, "causal": causal, "rates": SLOW}
    plan = plan_sequences(LENGTHS, comm.size, **how, tokens_per_rank=room)
    sequences = sequences_of(plan, dtype)
    q, k, v, dout = (shards(plan, sequences, comm.rank, name) for name in ("q", "k", "v", "dout"))
    with roundelay.count_traffic() as sent:
        out, lse = plan.attention(comm, q, k, v)
    load = plan.loads[comm.rank]
    assert (sent.messages, sent.bytes) == (load.messages, load.bytes)
    assert comm.size == 1 or any(len(each.ranks) > 1 for each in plan.sequences)
    gradients = plan.attention_backward(comm, dout, q, k, v, out, lse)
    tolerance = 1e-10 if dtype is np.float64 else 2e-4
    for each in plan.of_rank(comm.rank):
        here = plan.positions(each)[comm.rank]
        right = dense(sequences[each], hidden_keys(LENGTHS[each], causal=causal), np.float64)
        assert_allclose(lse[each], right["lse"][..., here], rtol=0, atol=tolerance)
        assert_allclose(out[each], right["out"][:, here], rtol=0, atol=tolerance)
        for name, found in zip(("dq", "dk", "dv"), gradients, strict=True):
            assert_allclose(found[each], right[name][:, here], rtol=0, atol=tolerance)


@pytest.mark.mpi
def test_memory_is_what_arrays_take(comm):
    plan = plan_sequences(LENGTHS, comm.size, **SHAPE, rates=SLOW)
    sequences = sequences_of(plan, np.float32)
    arrays = [shards(plan, sequences, comm.rank, name) for name in ("q", "k", "v")]
    arrays += plan.attention(comm, *arrays)
    taken = sum(array.nbytes for group in arrays for array in group.values())
    assert taken == plan.loads[comm.rank].memory


@pytest.mark.mpi
def test_options_are_passed_on(comm):
    plan = plan_sequences(LENGTHS, comm.size, **SHAPE, rates=SLOW)
    sequences = sequences_of(plan, np.float32)
    arrays = [shards(plan, sequences, comm.rank, name) for name in ("q", "k", "v")]
    out, lse = plan.attention(comm, *arrays, scale=0.5)
    by_head = [{each: array.swapaxes(1, 2) for each, array in group.items()} for group in arrays]
    options: dict[str, Any] = {"scale": 0.5, "heads": "BHSD", "algorithm": "all-gather"}
    other, other_lse = plan.attention(comm, *by_head, **options)
    for each in out:
        assert_allclose(other[each].swapaxes(1, 2), out[each], atol=1e-5)
        assert_allclose(other_lse[each], lse[each], atol=1e-5)


@pytest.mark.mpi
def test_shards_that_are_not_those_of_the_plan(comm):
    plan = plan_sequences([8] * comm.size, comm.size, **SHAPE)
    (mine,) = plan.of_rank(comm.rank)
    good = {mine: np.ones((1, 8, 2, 16))}
    last = comm.size - 1
    (wrong,) = plan.of_rank(last)
    start = "^attention of a plan: " + (f"rank {last}: " if comm.size > 1 else "")
    with pytest.raises(ValueError, match=rf"{start}k of sequences \[\]: expected \[{wrong}\]"):
        plan.attention(comm, good, {} if comm.rank == last else good, good)
    bad = {mine: np.ones((1, 7, 2, 16))} if comm.rank == last else good
    with pytest.raises(ValueError, match=rf"{start}q\[{wrong}\] of shape \(1, 7, 2, 16\): expected 8"):
        plan.attention(comm, bad, bad, bad)
    larger = plan_sequences([8], comm.size + 1, **SHAPE)
    with pytest.raises(ValueError, match=rf"communicator of {comm.size} ranks: expected {comm.size + 1}"):
        larger.attention(comm, good, good, good)
    if comm.size > 1:
        other = plan_sequences([8 + (comm.rank == last)] * comm.size, comm.size, **SHAPE)
        lengths = {each: other.sequences[each].length for each in other.of_rank(comm.rank)}
        tokens = {each: np.ones((1, length, 2, 16)) for each, length in lengths.items()}
        with pytest.raises(ValueError, match=f"plan: sequences: rank 0 has .*rank {last} has"):
            other.attention(comm, tokens, tokens, tokens)


@pytest.mark.mpi
def test_measured_rates(comm):
    rates = measured_rates(comm)
    assert comm.allgather(rates) == [rates] * comm.size
    links = Table().links(service_of(comm).nodes)
    slowest = np.max(links.latency) + 2 * links.overhead
    assert rates == Rates(Table().attention_rate([]), slowest, 1 / np.max(links.per_byte))
