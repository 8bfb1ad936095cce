"""Linear attention over ranks, forward and backward, against a dense computation in float64."""

from typing import NamedTuple

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay.collectives.attention.group import count_traffic
from roundelay.collectives.attention.linear import chunks, states
from roundelay.collectives.attention.linear.functions import linear_attention, linear_attention_backward

pytestmark = pytest.mark.mpi

CAUSAL = ["all-gather", "chain", "exscan", "auto"]
UNMASKED = ["all-gather", "all-reduce", "auto"]
MODES = [(True, name) for name in CAUSAL] + [(False, name) for name in UNMASKED]
RATES = np.array([0.0, 0.003, 0.1, 2.0])
CLOSE = {"float16": 3e-3, "float32": 1e-5, "float64": 1e-12}


class Case(NamedTuple):
    """Arrays of the whole sequence, in the order BSHD, the same on all ranks."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray


def draw(count, batch=1, heads=4, key_heads=4, size=8, value_size=8, dtype="float32"):
    rng = np.random.default_rng(count)
    shapes = (heads, size), (key_heads, size), (key_heads, value_size), (heads, value_size)
    return Case(*(rng.standard_normal((batch, count, *shape)).astype(dtype) for shape in shapes))


def dense(case, causal, decay=None):
    """Give the output and the gradients, in float64."""
    q, k, v, dout = (array.astype(np.float64).swapaxes(1, 2) for array in case)
    each = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, each, 1), np.repeat(v, each, 1)
    places = np.arange(q.shape[2])
    distances = places[:, None] - places
    mask = np.where(distances >= 0, 1.0, 0.0) if causal else np.ones(distances.shape)
    if decay is not None:
        mask = mask * np.exp(-decay[:, None, None] * np.maximum(distances, 0))
    scores, slopes = (q @ k.swapaxes(2, 3)) * mask, (dout @ v.swapaxes(2, 3)) * mask
    found = scores @ v, slopes @ k, slopes.swapaxes(2, 3) @ q, scores.swapaxes(2, 3) @ dout
    out, dq, dk, dv = (array.swapaxes(1, 2) for array in found)
    dk, dv = (
        array.reshape(*array.shape[:2], case.k.shape[2], each, array.shape[3]).sum(3) for array in (dk, dv)
    )
    return out, dq, dk, dv


def lengths(members, each=70):
    """Give uneven lengths, an empty one among them where there are three members or more."""
    return [each + 100 * member if member != 1 or members < 3 else 0 for member in range(members)]


def part_of(counts, member):
    begin = sum(counts[:member])
    return np.s_[:, begin : begin + counts[member]]


def run(comm, arrays, **options):
    """Give the output and the gradients of a rank's part."""
    q, k, v, dout = arrays
    out = linear_attention(q, k, v, comm, **options)
    return out, *linear_attention_backward(dout, q, k, v, comm, **options)


def check(comm, case, counts, member, **options):
    """Compare a member's output and gradients with the dense ones, and return them."""
    mine = part_of(counts, member)
    parts = Case(*(array[mine] for array in case))
    results = run(comm, parts, **options)
    expected = dense(case, options.get("causal", False), options.get("decay"))
    for found, right, like in zip(results, expected, (parts.dout, *parts[:3]), strict=True):
        assert found.shape == like.shape
        assert found.dtype == like.dtype
        # Relative to the whole result, since a rank may have nothing of it.
        assert np.linalg.norm(found - right[mine]) <= CLOSE[str(like.dtype)] * np.linalg.norm(right)
    return results


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("causal", "algorithm"), MODES)
def test_against_dense(comm, causal, algorithm, dtype):
    counts = lengths(comm.size)
    case = draw(sum(counts), dtype=dtype)
    check(comm, case, counts, comm.rank, causal=causal, algorithm=algorithm)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", CAUSAL)
def test_decay(comm, algorithm, dtype):
    counts = lengths(comm.size)
    case = draw(sum(counts), dtype=dtype)
    check(comm, case, counts, comm.rank, causal=True, decay=RATES, algorithm=algorithm)


@pytest.mark.parametrize("decay", [None, RATES])
@pytest.mark.parametrize("key_heads", [1, 2])
@pytest.mark.parametrize(("causal", "algorithm"), MODES)
def test_grouped_heads_and_other_sizes(comm, causal, algorithm, key_heads, decay):
    if decay is not None and not causal:
        decay = None
    counts = lengths(comm.size, each=5)
    case = draw(sum(counts), batch=2, key_heads=key_heads, size=6, value_size=11)
    check(comm, case, counts, comm.rank, causal=causal, decay=decay, algorithm=algorithm)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("algorithm", CAUSAL)
def test_one_rank_has_all_tokens(comm, algorithm, position):
    counts = [150 if rank == position % comm.size else 0 for rank in range(comm.size)]
    check(comm, draw(150), counts, comm.rank, causal=True, decay=RATES, algorithm=algorithm)


@pytest.mark.parametrize(("causal", "algorithm"), MODES)
def test_no_tokens_at_all(comm, causal, algorithm):
    check(comm, draw(0), [0] * comm.size, comm.rank, causal=causal, algorithm=algorithm)


@pytest.mark.parametrize("count", [1, chunks.CHUNK - 1, chunks.CHUNK, chunks.CHUNK + 1, 3 * chunks.CHUNK])
def test_lengths_about_a_chunk(comm, count):
    case = draw(count * comm.size)
    check(comm, case, [count] * comm.size, comm.rank, causal=True, decay=RATES)


def test_more_heads_than_are_computed_together(comm):
    case = draw(chunks.CHUNK * comm.size, batch=2, heads=40, key_heads=20, size=3, value_size=2)
    rates = np.linspace(0, 0.2, 40)
    check(comm, case, [chunks.CHUNK] * comm.size, comm.rank, causal=True, decay=rates)


@pytest.mark.parametrize(("causal", "algorithm"), MODES)
def test_half_precision_is_rounded_once(comm, causal, algorithm):
    counts = lengths(comm.size)
    case = draw(sum(counts), dtype="float16")
    found = check(comm, case, counts, comm.rank, causal=causal, algorithm=algorithm)
    wide = [array[part_of(counts, comm.rank)].astype(np.float32) for array in case]
    for narrow, each in zip(found, run(comm, wide, causal=causal, algorithm=algorithm), strict=True):
        assert_array_equal(narrow, each.astype(np.float16))


def test_bfloat16(comm):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    case = draw(20)
    narrow = [array.astype(bfloat16) for array in case]
    wide = [array.astype(np.float32) for array in narrow]
    for one, other in zip(run(comm, narrow, causal=True), run(comm, wide, causal=True), strict=True):
        assert one.dtype == bfloat16
        assert_array_equal(one, other.astype(bfloat16))


def spread(array, axis):
    """Give the same numbers with gaps along an axis, or backwards."""
    if axis is None:
        return array[:, ::-1].copy()[:, ::-1]
    wide = np.zeros([2 * n if place == axis else n for place, n in enumerate(array.shape)], array.dtype)
    gaps = tuple(slice(None, None, 2 if place == axis else None) for place in range(4))
    wide[gaps] = array
    return wide[gaps]


@pytest.mark.parametrize("heads", ["BSHD", "BHSD"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, None])
@pytest.mark.parametrize("causal", [True, False])
def test_order_of_axes_and_strides(comm, heads, axis, causal):
    counts = lengths(comm.size)
    arrays = [array[part_of(counts, comm.rank)] for array in draw(sum(counts))]
    options = {"causal": causal, "decay": RATES if causal else None}
    expected = run(comm, arrays, **options)
    given = [spread(array.swapaxes(1, 2) if heads == "BHSD" else array, axis) for array in arrays]
    for found, right in zip(run(comm, given, heads=heads, **options), expected, strict=True):
        in_order = found.swapaxes(1, 2) if heads == "BHSD" else found
        assert np.linalg.norm(in_order - right) <= 1e-6 * np.linalg.norm(right)
        assert found.flags.c_contiguous


@pytest.mark.parametrize("which", ["reversed", "some", "alone"])
@pytest.mark.parametrize(("causal", "algorithm"), [mode for mode in MODES if "exscan" not in mode])
def test_lists_of_ranks(comm, which, causal, algorithm):
    everyone = list(range(comm.size))
    ranks = {"reversed": everyone[::-1], "some": everyone[1:][::-1] or [0], "alone": [comm.size - 1]}[which]
    if comm.rank not in ranks:
        return
    counts = lengths(len(ranks))
    options = {"causal": causal, "decay": RATES if causal else None, "algorithm": algorithm}
    check(comm, draw(sum(counts)), counts, ranks.index(comm.rank), ranks=ranks, **options)


@pytest.mark.parametrize("decay", [None, RATES])
@pytest.mark.parametrize(("causal", "algorithm"), MODES)
def test_same_bits_again(comm, causal, algorithm, decay):
    counts = lengths(comm.size)
    arrays = [array[part_of(counts, comm.rank)] for array in draw(sum(counts))]
    options = {"causal": causal, "decay": decay if causal else None, "algorithm": algorithm}
    first = run(comm, arrays, **options)
    for _ in range(5):
        for one, other in zip(first, run(comm, arrays, **options), strict=True):
            assert_array_equal(one, other)


@pytest.mark.parametrize("decay", [np.zeros(4), RATES])
def test_as_token_by_token(comm, decay):
    counts = lengths(comm.size)
    case = draw(sum(counts))
    state = np.zeros((4, 8, 8), np.float32)
    expected = []
    for q, k, v in zip(*(array[0] for array in case[:3]), strict=True):
        state = np.exp(-decay, dtype=np.float32)[:, None, None] * state + k[:, :, None] * v[:, None, :]
        expected.append((q[:, None, :] @ state)[:, 0])
    mine = part_of(counts, comm.rank)
    q, k, v = (array[mine] for array in case[:3])
    out = linear_attention(q, k, v, comm, causal=True, decay=decay)
    right = np.array(expected)[None]
    assert np.linalg.norm(out - right[mine]) <= 1e-5 * np.linalg.norm(right)


def test_gradients_are_slopes(comm):
    counts = [3 + rank for rank in range(comm.size)]
    arrays = [
        array[part_of(counts, comm.rank)] for array in draw(sum(counts), size=3, value_size=2, dtype="f8")
    ]
    _, *gradients = run(comm, arrays, causal=True, decay=RATES)
    rng = np.random.default_rng(comm.rank)
    directions = [rng.standard_normal(array.shape) for array in arrays[:3]]

    def loss(step):
        q, k, v = (array + step * way for array, way in zip(arrays[:3], directions, strict=True))
        out = linear_attention(q, k, v, comm, causal=True, decay=RATES)
        return comm.allreduce(float((out * arrays[3]).sum()))

    slope = comm.allreduce(sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True)))
    assert slope == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-7)


BATCH, KEY_HEADS, EACH, SIZE, VALUE_SIZE = 2, 2, 2, 80, 96
STATE = BATCH * KEY_HEADS * SIZE * VALUE_SIZE * 4


def sent_by_all_gather(rank, size, decays, backward):
    nbytes = STATE * EACH + 8 if decays else STATE
    messages = size - 1 if backward else size - 1 - rank
    return messages, messages * nbytes


def sent_by_chain(rank, size, decays, backward):
    rows = states._BLOCK_BYTES // (VALUE_SIZE * 4)
    blocks = -(-BATCH * KEY_HEADS * SIZE * (EACH if decays else 1) // rows)
    neighbours = (rank < size - 1) + (backward and rank > 0)
    return neighbours * blocks, neighbours * STATE * (EACH if decays else 1)


def sent_by_exscan(rank, size, decays, backward):
    # By the MPI library.
    return 0, 0


def traffic(comm, **options):
    case = draw(comm.size * 5, BATCH, KEY_HEADS * EACH, KEY_HEADS, SIZE, VALUE_SIZE)
    q, k, v, dout = (array[:, comm.rank * 5 :][:, :5] for array in case)
    with count_traffic() as forward:
        linear_attention(q, k, v, comm, **options)
    with count_traffic() as backward:
        linear_attention_backward(dout, q, k, v, comm, **options)
    return [(each.messages, each.bytes) for each in (forward, backward)]


@pytest.mark.parametrize("decays", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "sent"),
    [("all-gather", sent_by_all_gather), ("chain", sent_by_chain), ("exscan", sent_by_exscan)],
)
def test_traffic_of_causal(comm, algorithm, sent, decays):
    expected = [sent(comm.rank, comm.size, decays, backward) for backward in (False, True)]
    decay = RATES if decays else None
    assert traffic(comm, causal=True, decay=decay, algorithm=algorithm) == expected


def test_traffic_of_all_gather_unmasked(comm):
    others = comm.size - 1
    expected = [(others, others * STATE), (others, 2 * others * STATE)]
    assert traffic(comm, algorithm="all-gather") == expected


def test_traffic_of_all_reduce_unmasked(comm):
    assert traffic(comm, algorithm="all-reduce") == [(0, 0), (0, 0)]
    found = traffic(comm, algorithm="all-reduce", ranks=list(range(comm.size)))
    for messages, nbytes, state in ((*found[0], STATE), (*found[1], 2 * STATE)):
        assert messages == 2 * (comm.size - 1)
        # The parts that others sum up, and the own part to each of them.
        bounds = [state // 4 * member // comm.size * 4 for member in range(comm.size + 1)]
        own = bounds[comm.rank + 1] - bounds[comm.rank]
        assert nbytes == state - own + (comm.size - 1) * own


def test_scan_frees_what_it_made(comm):
    for _ in range(30):
        own = PLAIN.Intracomm.Dup(comm)
        run(own, draw(5), causal=True, decay=RATES, algorithm="exscan")
        own.Free()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "ring"}, "'ring': expected one of auto, all-gather, chain, exscan, all-reduce"),
        ({"algorithm": "chain"}, "'chain', not causal: expected one of auto, all-gather, all-reduce"),
        (
            {"causal": True, "algorithm": "all-reduce"},
            "causal: expected one of auto, all-gather, chain, exscan",
        ),
        (
            {"causal": True, "algorithm": "exscan", "ranks": [0]},
            "among some ranks: expected one of auto, all-gather, chain$",
        ),
        ({"decay": RATES}, "decay, not causal"),
        ({"causal": True, "decay": -RATES}, "decay .*expected finite numbers, 0 or more"),
        ({"causal": True, "decay": RATES * np.nan}, "decay .*expected finite numbers, 0 or more"),
        ({"causal": True, "decay": RATES[:2]}, r"decay of shape \(2,\): expected \(4,\)"),
        ({"heads": "SBHD"}, "heads 'SBHD': expected one of BSHD, BHSD"),
    ],
)
def test_wrong_options(comm, options, message):
    q, k, v, dout = draw(5)
    if "ranks" in options:
        options = {**options, "ranks": range(comm.size)}
    with count_traffic() as sent:
        with pytest.raises(ValueError, match=message):
            linear_attention(q, k, v, comm, **options)
        with pytest.raises(ValueError, match=message):
            linear_attention_backward(dout, q, k, v, comm, **options)
    assert not sent.messages


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("q", lambda q: q[0], "q of shape .*expected 4 axes"),
        ("k", lambda k: k[:, 1:], "k of shape .*expected that of q"),
        ("k", lambda k: k[..., 1:], "k of shape .*expected that of q"),
        ("v", lambda v: v[:, :, 1:], "v of shape .*expected that of k"),
        ("k", lambda k: k.astype(np.float64), "k of dtype float64"),
        ("q", lambda q: q.astype(int), "q of dtype int64"),
        ("q", lambda q: q[:, :, :3], "3 heads of q: expected a multiple of the 4"),
        ("dout", lambda dout: dout[..., 1:], "dout of shape .*as the output"),
    ],
)
def test_wrong_arrays(comm, name, change, message):
    arrays = draw(5)._asdict()
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=message):
        linear_attention_backward(**arrays, comm=comm)


def test_one_rank_is_wrong(comm):
    """All ranks are told which one, and what it has."""
    q, k, v, _ = draw(5)
    last = comm.size - 1
    with pytest.raises(ValueError, match=f"linear_attention: (rank {last}: )?k of shape .*that of q"):
        linear_attention(q, k[:, 1:] if comm.rank == last else k, v, comm)
    if comm.size > 1:
        with pytest.raises(ValueError, match=r"rank 0 has .*causal=True.*rank 1 has .*causal=False"):
            linear_attention(q, k, v, comm, causal=comm.rank != 1)
