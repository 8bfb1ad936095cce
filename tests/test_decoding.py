"""Attention of new queries to a cache spread over ranks, against a dense computation in float64."""

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay.collectives.attention import decoding
from roundelay.collectives.attention.decoding import decode_attention

pytestmark = pytest.mark.mpi

CLOSE = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-13}


def draw(counts, queries=1, batch=2, heads=4, key_heads=4, size=16, value_size=16, dtype="float32"):
    """Give queries, and the keys and values of all ranks, in the order BSHD; the same on all ranks."""
    rng = np.random.default_rng(sum(counts))
    shapes = (queries, heads, size), (sum(counts), key_heads, size), (sum(counts), key_heads, value_size)
    return [2 * rng.standard_normal((batch, *shape)).astype(dtype) for shape in shapes]


def part_of(counts, rank):
    begin = sum(counts[:rank])
    return np.s_[:, begin : begin + counts[rank]]


def dense(q, k, v, scale):
    """Give the output and its log-sum-exp in float64."""
    q, k, v = (array.astype(np.float64).swapaxes(1, 2) for array in (q, k, v))
    k, v = (np.repeat(array, q.shape[1] // array.shape[1], 1) for array in (k, v))
    scores = scale * (q @ k.swapaxes(2, 3))
    lse = np.logaddexp.reduce(scores, axis=-1)
    return (np.exp(scores - lse[..., None]) @ v).swapaxes(1, 2), lse


def check(comm, counts, arrays, scale=None, heads="BSHD"):
    q, k, v = arrays
    mine = part_of(counts, comm.rank)
    expected, expected_lse = dense(q, k, v, q.shape[3] ** -0.5 if scale is None else scale)
    q, k, v = (array.swapaxes(1, 2) if heads == "BHSD" else array for array in (q, k[mine], v[mine]))
    out, lse = decode_attention(q, k, v, comm, scale=scale, heads=heads)
    assert out.dtype == q.dtype
    assert lse.dtype == (np.float64 if q.dtype == np.float64 else np.float32)
    out = out.swapaxes(1, 2) if heads == "BHSD" else out
    np.testing.assert_allclose(out, expected, rtol=0, atol=CLOSE[str(q.dtype)] * np.abs(expected).max())
    np.testing.assert_allclose(
        lse, expected_lse, rtol=0, atol=CLOSE[str(lse.dtype)] * np.abs(expected_lse).max()
    )
    for found in (out, lse):
        assert len(set(comm.allgather(np.ascontiguousarray(found).tobytes()))) == 1


LENGTHS = {
    "even": lambda ranks: [50] * ranks,
    "uneven": lambda ranks: [1 + 37 * rank for rank in range(ranks)],
    "on one rank": lambda ranks: [0] * (ranks - 1) + [30],
    "every other rank": lambda ranks: [20 * ((rank + 1) % 2) for rank in range(ranks)],
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_against_dense(comm, lengths, dtype):
    counts = LENGTHS[lengths](comm.size)
    check(comm, counts, draw(counts, dtype=dtype))


@pytest.mark.parametrize("heads", ["BSHD", "BHSD"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("queries", [0, 1, 3])
def test_grouped_heads_and_several_queries(comm, queries, key_heads, heads):
    counts = LENGTHS["uneven"](comm.size)
    if queries:
        check(comm, counts, draw(counts, queries, key_heads=key_heads, value_size=5), heads=heads)
    else:
        q, k, v = draw([4], 0, key_heads=key_heads, value_size=5)
        out, lse = decode_attention(q, k, v, comm)
        assert out.shape == (2, 0, 4, 5)
        assert lse.shape == (2, 4, 0)


@pytest.mark.parametrize("scale", [0.0, 0.1, 30.0, -1.0])
def test_scale(comm, scale):
    counts = LENGTHS["uneven"](comm.size)
    check(comm, counts, draw(counts, dtype="float64"), scale=scale)


def test_many_rows_same_bits(comm):
    counts = LENGTHS["uneven"](comm.size)
    check(comm, counts, draw(counts, queries=40, batch=4, heads=16, key_heads=4, size=64, value_size=128))


def test_no_keys_anywhere(comm):
    q, k, v = draw([0])
    out, lse = decode_attention(q, k, v, comm)
    assert_array_equal(out, np.zeros_like(q))
    assert_array_equal(lse, np.full((2, 4, 1), -np.inf))


def test_scores_far_apart(comm):
    # Differences of which the exponential overflows in float32.
    q, k = np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 1, 1), 300.0 * comm.rank, np.float32)
    out, lse = decode_attention(q, k, k, comm)
    assert out.item() == lse.item() == 300 * (comm.size - 1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_strides(comm, dtype):
    counts = [6 + 2 * rank for rank in range(comm.size)]
    q, k, v = draw(counts, 2, dtype=dtype)
    wide = np.zeros((*k.shape[:3], 2 * k.shape[3]), dtype)
    wide[..., ::2] = k
    backwards = v[:, ::-1].copy()
    check(comm, counts, (np.asfortranarray(q), wide[..., ::2], backwards[:, ::-1]))


def test_bfloat16(comm):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    q, k, v = (array.astype(bfloat16) for array in draw([10]))
    out, lse = decode_attention(q, k, v, comm)
    assert out.dtype == bfloat16
    q, k, v = (array.astype(np.float32) for array in (q, k, v))
    wide, wide_lse = decode_attention(q, k, v, comm)
    assert_array_equal(out, wide.astype(bfloat16))
    assert_array_equal(lse, wide_lse)


def test_one_collective_and_nothing_else(comm, monkeypatch):
    called = []

    class Watched(PLAIN.Intracomm):
        def __getattribute__(self, name):
            called.append(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(PLAIN, "Intracomm", Watched)
    q, k, v = draw([5])
    decode_attention(q, k, v, comm)
    assert called == ["Allreduce"]


def test_merging_commutes_to_the_last_bit():
    rows = np.random.default_rng(0).standard_normal((2, 500, 9)).astype(np.float32)
    rows[0, ::7, -1] = rows[1, ::5, -1] = -np.inf
    rows[..., :-1][np.isneginf(rows[..., -1])] = 0
    one, other = rows.copy(), rows.copy()
    decoding._merge(one[0], one[1])
    decoding._merge(other[1], other[0])
    assert_array_equal(one[1], other[0])
    assert not np.isnan(one[1]).any()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("q", lambda q: q[0], "q of shape .*expected 4 axes"),
        ("k", lambda k: k[1:], "k of shape .*expected the B and D of q"),
        ("k", lambda k: k[..., 1:], "k of shape .*expected the B and D of q"),
        ("v", lambda v: v[:, 1:], "v of shape .*expected that of k"),
        ("v", lambda v: v.astype(np.float64), "v of dtype float64"),
        ("q", lambda q: q.astype(int), "q of dtype int64"),
        ("q", lambda q: q[:, :, :3], "3 heads of q: expected a multiple of the 4"),
    ],
)
def test_wrong_arrays(comm, name, change, message):
    arrays = dict(zip("qkv", draw([5]), strict=True))
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=message):
        decode_attention(**arrays, comm=comm)


def test_wrong_order_of_axes(comm):
    q, k, v = draw([5])
    with pytest.raises(ValueError, match="heads 'SBHD': expected one of BSHD, BHSD"):
        decode_attention(q, k, v, comm, heads="SBHD")


def test_one_rank_is_wrong(comm, monkeypatch):
    """With ROUNDELAY_CHECK all ranks are told which one, and what it has."""
    monkeypatch.setattr(decoding, "checks_bounds", lambda: True)
    q, k, v = draw([3])
    last = comm.size - 1
    with pytest.raises(
        ValueError, match=f"decode_attention: (rank {last}: )?k of shape .*expected the B and D"
    ):
        decode_attention(q, k[..., 1:] if comm.rank == last else k, v, comm)
    if comm.size > 1:
        with pytest.raises(ValueError, match=r"decode_attention: rank 0 has .*rank 1 has "):
            decode_attention(q, k, v[..., comm.rank :], comm)
    decode_attention(q, k, v, comm)
