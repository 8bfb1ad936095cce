"""Attention over ranks against a dense computation in float64, forward and backward."""

import tracemalloc
from math import prod

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import roundelay
from roundelay.collectives.attention import exchange, forward
from roundelay.collectives.attention.dropout import Dropout
from roundelay.collectives.attention.placement import PLACEMENTS, positions
from tests.conftest import drain
from tests.dense import Sequence, dense, hidden_keys

pytestmark = pytest.mark.mpi

ALGORITHMS = roundelay.attention_algorithms()


def usable_placement(algorithm, options):
    """A placement for an algorithm; None where it cannot serve the options at all."""
    if algorithm == "balanced":
        window = options.get("window") or (None, None)
        return "contiguous" if options.get("causal") or window[1] == 0 else None
    return algorithm if algorithm in PLACEMENTS else "contiguous"


def attend(comm, sequence, algorithm, placement, options):
    """All that this rank finds, of its own tokens."""
    rank = options["ranks"].index(comm.rank) if "ranks" in options else comm.rank
    q, k, v, dout = (sequence.mine(name, rank, placement) for name in ("q", "k", "v", "dout"))
    how = {"algorithm": algorithm, "placement": placement, **options}
    out, lse = roundelay.attention(q, k, v, comm, **how)
    gradients = roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how)
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def check(sequence, rank, placement, found, hidden, kept=None, low=np.float32):
    """Errors are at most four times those of a dense computation in the same precision."""
    right, same = (dense(sequence, hidden, dtype, kept) for dtype in (np.float64, low))
    mine = positions(sequence.counts, placement)[rank]
    for name, array in found.items():
        here, there = (
            each[name][..., mine] if name == "lse" else each[name][:, mine] for each in (right, same)
        )
        assert array.shape == here.shape, name
        unseen = np.isneginf(here)
        assert_array_equal(np.isneginf(array), unseen, err_msg=name)
        error = np.where(unseen, 0, array.astype(np.float64) - np.where(unseen, 0, here))
        usual = np.where(unseen, 0, there.astype(np.float64) - np.where(unseen, 0, here))
        if name in ("out", "lse"):
            assert abs(error).max(initial=0) <= 4 * abs(usual).max(initial=0) + 1e-6, name
        else:
            # Of the whole sequence: a token that sees only itself has no gradient but rounding errors.
            rounding = np.finfo(np.float32).eps * np.sqrt(error.size)
            usual_norm = np.linalg.norm(usual) + rounding
            assert np.linalg.norm(error) <= 4 * usual_norm + 1e-6 * np.linalg.norm(right[name]), name


MASKS = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": (20, 5)},
    "causal window": {"causal": True, "window": 13},
    "documents": {"documents": (0.0, 0.3, 0.35, 0.35, 1.0)},
    "causal documents": {"causal": True, "documents": (0.0, 0.1, 0.6, 1.0)},
}


def with_tokens(options, tokens):
    """Options with the bounds of documents in tokens."""
    if "documents" not in options:
        return options
    return {**options, "documents": [round(bound * tokens) for bound in options["documents"]]}


def hidden_by(options, tokens):
    """Which keys the queries do not see, by options of attention."""
    names = ("causal", "window", "documents")
    masks = {name: options[name] for name in names if name in options}
    if isinstance(masks.get("window"), int):
        masks["window"] = (masks["window"], masks["window"])
    return hidden_keys(tokens, **masks)


def run(comm, counts, algorithm, options, **shape):
    """Compare an algorithm with the dense computation; skip what it cannot serve."""
    options = with_tokens(options, sum(counts))
    placement = usable_placement(algorithm, options)
    if placement is None:
        return
    sequence = Sequence(tuple(counts), **shape)
    found = attend(comm, sequence, algorithm, placement, options)
    check(sequence, comm.rank, placement, found, hidden_by(options, sum(counts)))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_masks(comm, algorithm, mask):
    run(comm, [37] * comm.size, algorithm, MASKS[mask])


@pytest.mark.parametrize("mask", ["all", "causal", "causal documents"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_uneven_counts(comm, algorithm, mask):
    run(comm, [(17 + 31 * rank) % 60 for rank in range(comm.size)], algorithm, MASKS[mask])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ranks_without_tokens(comm, algorithm, causal):
    """More ranks than tokens, and none at all."""
    run(
        comm, [1 if rank == comm.size // 2 else 0 for rank in range(comm.size)], algorithm, {"causal": causal}
    )
    run(comm, [rank % 2 for rank in range(comm.size)], algorithm, {"causal": causal})


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 3), (4, 4), (7, 7), (3, 1)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads(comm, algorithm, heads):
    shape = {"heads": heads[0], "key_heads": heads[1], "batch": 1}
    run(comm, [23] * comm.size, algorithm, {"causal": True}, **shape)


@pytest.mark.mpi(max_size=2)
@pytest.mark.parametrize("algorithm", ["ring", "zigzag", "balanced"])
def test_several_tiles(comm, algorithm):
    # On one rank; the dense computation of more of them would take minutes.
    counts = [300] * (comm.size - 1) + [2100]
    shape = {"batch": 1, "heads": 2, "key_heads": 1, "size": 8, "value_size": 8}
    run(comm, counts, algorithm, {"causal": True, "window": 1500}, **shape)


def test_large_scores(comm):
    """Scores of some ten thousand, of which only the greatest count."""
    sequence = Sequence((20,) * comm.size, factor=1e4)
    found = attend(comm, sequence, "ring", "contiguous", {})
    right = dense(sequence, hidden_keys(20 * comm.size), np.float64)
    mine = slice(20 * comm.rank, 20 * (comm.rank + 1))
    np.testing.assert_allclose(found["lse"], right["lse"][..., mine], rtol=1e-5)
    np.testing.assert_allclose(found["out"], right["out"][:, mine], atol=2e-2)
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_key_padding(comm, algorithm):
    """Keys that are not there; a row of the batch has none."""
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((19,) * comm.size, batch=3)
    there = np.random.default_rng(1).random((3, 19 * comm.size)) < 0.6
    there[1] = False
    mine = positions(sequence.counts, placement)[comm.rank]
    options = {"causal": True, "key_padding": there[:, mine]}
    found = attend(comm, sequence, algorithm, placement, options)
    hidden = hidden_keys(19 * comm.size, causal=True) | ~there[:, None, None, :]
    check(sequence, comm.rank, placement, found, hidden)
    assert not found["out"][1].any()
    assert np.isneginf(found["lse"][1]).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_that_are_not_finite(comm, algorithm):
    """They come to queries that see them, and to no others."""
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((9,) * comm.size)
    last = 9 * comm.size - 3
    clean = {name: array.copy() for name, array in sequence.arrays.items()}
    sequence.arrays["v"][:, last:] = np.nan
    sequence.arrays["q"][:, 2, 1] = np.nan
    mine = positions(sequence.counts, placement)[comm.rank]
    q, k, v = (sequence.mine(name, comm.rank, placement) for name in "qkv")
    out, _ = roundelay.attention(q, k, v, comm, causal=True, placement=placement, algorithm=algorithm)
    sequence.arrays.update(clean)
    right = dense(sequence, hidden_keys(9 * comm.size, causal=True), np.float64)["out"][:, mine]
    spoiled = np.zeros(right.shape, bool)
    spoiled[:, mine >= last] = True
    spoiled[:, mine == 2, 1] = True
    assert np.isnan(out[spoiled]).all()
    np.testing.assert_allclose(out[~spoiled], right[~spoiled], atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_float64(comm, algorithm):
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((13,) * comm.size, dtype=np.float64)
    found = attend(comm, sequence, algorithm, placement, {"causal": True})
    right = dense(sequence, hidden_keys(13 * comm.size, causal=True), np.float64)
    mine = positions(sequence.counts, placement)[comm.rank]
    for name, array in found.items():
        here = right[name][..., mine] if name == "lse" else right[name][:, mine]
        np.testing.assert_allclose(array, here, rtol=1e-11, atol=1e-12)
        assert array.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_low_precision(comm, algorithm, dtype):
    """At most twice the error of a dense float32 computation that is rounded where a step ends."""
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((29,) * comm.size, dtype=dtype)
    found = attend(comm, sequence, algorithm, placement, {"causal": True})
    hidden = hidden_keys(29 * comm.size, causal=True)
    right, naive = dense(sequence, hidden, np.float64), rounded(sequence, hidden, dtype)
    mine = positions(sequence.counts, placement)[comm.rank]
    step = float(ml_dtypes.finfo(dtype).eps)
    for name in ("out", "dq", "dk", "dv"):
        here, there = right[name][:, mine], naive[name][:, mine]
        assert found[name].dtype == dtype
        error = abs(found[name].astype(np.float64) - here).max(initial=0)
        assert error <= 2 * abs(there - here).max(initial=0) + step * abs(here).max(initial=0), name
    assert found["lse"].dtype == np.float32
    np.testing.assert_allclose(found["lse"], right["lse"][..., mine], atol=1e-5)


def rounded(sequence, hidden, dtype):
    """The dense computation with results in a low precision."""
    return {
        name: each.astype(dtype).astype(np.float64)
        for name, each in dense(sequence, hidden, np.float32).items()
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layouts_and_strides(comm, algorithm):
    """(B, H, S, D), and arrays with gaps, are as good as contiguous ones."""
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((15,) * comm.size)
    found = attend(comm, sequence, algorithm, placement, {"causal": True})
    q, k, v, dout = (
        np.repeat(sequence.mine(name, comm.rank, placement).swapaxes(1, 2), 2, axis=3)[..., ::2]
        for name in ("q", "k", "v", "dout")
    )
    how = {"causal": True, "algorithm": algorithm, "placement": placement, "heads": "BHSD"}
    out, lse = roundelay.attention(q, k, v, comm, **how)
    gradients = roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how)
    for array, name in zip((out, *gradients), ("out", "dq", "dk", "dv"), strict=True):
        np.testing.assert_allclose(array.swapaxes(1, 2), found[name], atol=1e-6)
    np.testing.assert_allclose(lse, found["lse"], atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dropout_does_not_depend_on_the_ranks(comm, algorithm):
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((21,) * comm.size, heads=6, key_heads=3)
    tokens = 21 * comm.size
    drop = Dropout(0.3, 17)
    place = np.arange(tokens)
    kept = np.array([[drop.keep(b, h, place, place) for h in range(6)] for b in range(2)]) * drop.scale
    found = attend(comm, sequence, algorithm, placement, {"causal": True, "dropout": 0.3, "seed": 17})
    check(sequence, comm.rank, placement, found, hidden_keys(tokens, causal=True), kept)


def test_dropout_is_even():
    place = np.arange(700)
    keep = Dropout(0.25, 3).keep(0, 1, place, place)
    assert abs(keep.mean() - 0.75) < 0.005
    for axis in (0, 1):
        # Of a fair draw, the greatest of 700 deviations is about 3.2 standard deviations.
        assert abs(keep.mean(axis=axis) - 0.75).max() < 5 * (0.25 * 0.75 / 700) ** 0.5
    others = [Dropout(0.25, 4).keep(0, 1, place, place), Dropout(0.25, 3).keep(1, 1, place, place)]
    others += [Dropout(0.25, 3).keep(0, 2, place, place), keep.T]
    for other in others:
        assert abs((keep & other).mean() - 0.75**2) < 0.01


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_repeats_have_the_same_bits(comm, algorithm):
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((33,) * comm.size)
    first, second = (attend(comm, sequence, algorithm, placement, {"causal": True}) for _ in range(2))
    for name, array in first.items():
        assert_array_equal(array, second[name])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lists_of_ranks(comm, algorithm):
    """Another order, and some of the ranks; the others do not call."""
    if algorithm == "shared-memory":
        with pytest.raises(ValueError, match="it needs all ranks of the communicator"):
            attend_to_zeros(comm, algorithm=algorithm, ranks=range(comm.size))
        return
    for ranks in (list(reversed(range(comm.size))), list(range(1, comm.size)), [comm.size - 1]):
        if comm.rank in ranks:
            placement = usable_placement(algorithm, {"causal": True})
            sequence = Sequence((11,) * len(ranks))
            found = attend(comm, sequence, algorithm, placement, {"causal": True, "ranks": ranks})
            hidden = hidden_keys(11 * len(ranks), causal=True)
            check(sequence, ranks.index(comm.rank), placement, found, hidden)


@pytest.mark.parametrize("others", [0, 1])
def test_lists_of_ranks_that_differ(comm, others):
    """Two find out, and do not wait for another one, whom only one of them has in its list."""
    if comm.size < 2 + others:
        pytest.skip("not enough ranks")
    lists = [0, 1], [1, 0, 2][: 2 + others]
    if comm.rank < 2:
        with pytest.raises(ValueError, match=rf"rank {1 - comm.rank} calls with another list of ranks than"):
            attend_to_zeros(comm, ranks=lists[comm.rank])
    comm.Barrier()
    if comm.rank == 2 and others:
        assert len(list(drain(comm))) == 1


# Bytes and messages that a rank sends, with q and keys for one of the two arrays of keys and values.


def traffic(n, sequence):
    """Messages and bytes of each algorithm, forward and backward, when all see all."""
    tokens = sequence.counts[0]
    rows = sequence.batch * tokens
    q, keys = rows * sequence.heads * sequence.size, rows * sequence.key_heads * sequence.size
    lse, e = rows * sequence.heads, 4
    others = n - 1
    strides = min(sequence.key_heads, 4)
    ring = (others, 2 * others * keys * e), (2 * others, 4 * others * keys * e)
    answers = (2 * others, others * (2 * q + lse) * e), (2 * others, others * (3 * q + 2 * lse) * e)
    swaps = (2 * others, (2 * q + 2 * keys * max(1, n // sequence.key_heads) + lse) * others // n * e)
    gathered = (others * strides, 2 * others * keys * e), (2 * others * strides, 4 * others * keys * e)
    return {
        "rsa": ((2 * others, 2 * others * keys * e), ring[1]),
        "ring": ring,
        "zigzag": ring,
        "striped": ring,
        "bidirectional": ring,
        "token-ring": answers,
        "all-gather": gathered,
        # Keys and values are read in place; their gradients go to their owners.
        "shared-memory": ((0, 0), (others, 2 * others * keys * e)),
        "ulysses": (swaps, None),
    }


@pytest.mark.parametrize(
    "algorithm",
    [
        "rsa",
        "ring",
        "zigzag",
        "striped",
        "bidirectional",
        "token-ring",
        "all-gather",
        "shared-memory",
        "ulysses",
    ],
)
def test_traffic(comm, algorithm):
    sequence = Sequence((12,) * comm.size, heads=8, key_heads=4, value_size=16)
    if algorithm == "ulysses" and 4 % comm.size:
        return
    placement = usable_placement(algorithm, {})
    q, k, v, dout = (sequence.mine(name, comm.rank, placement) for name in ("q", "k", "v", "dout"))
    how = {"algorithm": algorithm, "placement": placement}
    with roundelay.count_traffic() as sent:
        out, lse = roundelay.attention(q, k, v, comm, **how)
    expected = traffic(comm.size, sequence)[algorithm]
    assert (sent.messages, sent.bytes) == expected[0]
    with roundelay.count_traffic() as sent:
        roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how)
    if expected[1] is not None:
        assert (sent.messages, sent.bytes) == expected[1]


def test_traffic_of_balanced(comm):
    """Each pair of ranks costs keys and values, or queries and what they find: n (n-1) / 2 of these."""
    sequence = Sequence((12,) * comm.size, heads=8, key_heads=4)
    q, k, v = (sequence.mine(name, comm.rank, "contiguous") for name in "qkv")
    with roundelay.count_traffic() as sent:
        out, lse = roundelay.attention(q, k, v, comm, causal=True, algorithm="balanced")
    helped = sum(step for step in range(1, comm.size) if 2 * step < comm.size)
    alone = comm.size * (comm.size - 1) // 2 - helped
    expected = alone * (k.nbytes + v.nbytes) + helped * (q.nbytes + out.nbytes + lse.nbytes)
    assert comm.allreduce(sent.bytes) == expected


def test_windows_and_order_save_messages(comm):
    """Keys that nobody sees are not sent: of a causal sequence half, of a short window one hop."""
    sequence = Sequence((64,) * comm.size)
    q, k, v = (sequence.mine(name, comm.rank, "contiguous") for name in "qkv")
    nbytes = k.nbytes + v.nbytes
    with roundelay.count_traffic() as sent:
        roundelay.attention(q, k, v, comm, causal=True, algorithm="ring")
    hops = comm.size - 1
    assert sent.bytes == nbytes * (hops if comm.rank == hops - 1 else comm.rank + 1) * (comm.rank < hops)
    with roundelay.count_traffic() as sent:
        roundelay.attention(q, k, v, comm, causal=True, window=40, algorithm="ring")
    assert sent.bytes == nbytes * (comm.rank < hops)
    with roundelay.count_traffic() as sent:
        roundelay.attention(q, k, v, comm, documents=[64 * each for each in range(comm.size + 1)])
    assert sent.bytes == 0


def test_ring_takes_no_more_memory_on_more_ranks(comm):
    """Beyond its arguments: 4 times the bytes of its keys and values, backward 10 times, on any number."""
    sequence = Sequence((256,) * comm.size, batch=1, size=64, value_size=64)
    q, k, v, dout = (sequence.mine(name, comm.rank, "contiguous") for name in ("q", "k", "v", "dout"))
    # Everything that is kept between calls exists from here on.
    attend(comm, sequence, "ring", "contiguous", {})
    (out, lse), most = peak(lambda: roundelay.attention(q, k, v, comm, algorithm="ring"))
    assert most <= 4.5 * (k.nbytes + v.nbytes)
    _, most = peak(lambda: roundelay.attention_backward(dout, q, k, v, out, lse, comm, algorithm="ring"))
    assert most <= 10.5 * (k.nbytes + v.nbytes)


def peak(call):
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_mutations_are_found(comm, monkeypatch):
    """The comparison fails when something is left out: a merge, a hop, a factor."""
    if comm.size == 1:
        pytest.skip("one rank sends nothing")

    def fails(algorithm, options):
        sequence = Sequence((20,) * comm.size)
        found = attend(comm, sequence, algorithm, "contiguous", options)
        with pytest.raises(AssertionError):
            check(sequence, comm.rank, "contiguous", found, hidden_keys(20 * comm.size, **options))

    with monkeypatch.context() as patch:
        patch.setattr(forward.Forward, "merge", lambda *_: None)
        fails("token-ring", {})
    with monkeypatch.context() as patch:
        whole = exchange._Backward.take_in

        def twice(self, task, answer):
            whole(self, task, [1.001 * each for each in answer])

        patch.setattr(exchange._Backward, "take_in", twice)
        fails("ring", {})
    with monkeypatch.context() as patch:
        every = exchange._Forward.compute
        patch.setattr(
            exchange._Forward,
            "compute",
            lambda self, task, fetched: (
                every(self, task, fetched) if task.keys != (self.me + 1) % comm.size else None
            ),
        )
        fails("ring", {})


def attend_to_zeros(comm, **options):
    tokens = np.zeros((1, 8, 2, 4))
    return roundelay.attention(tokens, tokens, tokens, comm, **options)


ERRORS = [
    ({"algorithm": "rings"}, "algorithm 'rings': expected one of auto, rsa, ring"),
    ({"algorithm": "zigzag"}, "it needs placement 'zigzag', not 'contiguous'; rsa, ring"),
    ({"placement": "spiral"}, "placement 'spiral': expected one of contiguous, zigzag, striped"),
    ({"heads": "SBHD"}, "heads 'SBHD': expected one of BSHD, BHSD"),
    ({"window": (-1, 2)}, r"window \(-1, 2\): expected"),
    ({"dropout": 1.0}, "dropout 1.0: expected a share"),
    ({"dropout": 0.5}, "dropout without a seed"),
    ({"documents": [0, 7, 5]}, r"documents \(0, 7, 5\): expected"),
    ({"documents": [0, 3]}, "documents end at 3; expected"),
    ({"key_padding": np.ones((1, 3), bool)}, r"key_padding of shape \(1, 3\)"),
    ({"ranks": [0, 0]}, r"ranks \(0, 0\): expected different ranks"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_refused_on_all_ranks(comm, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        attend_to_zeros(comm, **options)
    # All have given the same: it is no fault of a rank.
    assert "rank 0:" not in str(refused.value)


def test_balanced_needs_order(comm):
    if comm.size > 1:
        with pytest.raises(ValueError, match="some rank sees tokens of a rank after it; rsa, ring"):
            attend_to_zeros(comm, algorithm="balanced")


BAD = {
    "dtype": (lambda q, k, v: (q, k.astype(np.float32), v), "dtypes float32, float64: expected one"),
    "integers": (lambda q, k, v: (q.astype(int), k.astype(int), v.astype(int)), "dtypes int64: expected"),
    "axes": (lambda q, k, v: (q[0], k, v), r"q of shape \(8, 4, 4\): expected 4 axes"),
    "tokens": (lambda q, k, v: (q, k[:, 1:], v), r"k of shape \(1, 7, 4, 4\): expected that of q"),
    "values": (lambda q, k, v: (q, k, v[:, 1:]), r"v of shape \(1, 7, 4, 4\): expected that of k"),
    "heads": (lambda q, k, v: (q, k[:, :, :3], v[:, :, :3]), "4 heads of q: expected a multiple of the 3"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_rank_is_wrong(comm, bad):
    """All ranks are told which one, and what it has."""
    change, message = BAD[bad]
    q = k = v = np.zeros((1, 8, 4, 4))
    if comm.rank == comm.size - 1:
        q, k, v = change(q, k, v)
    name = f"rank {comm.size - 1}: " if comm.size > 1 else ""
    with pytest.raises(ValueError, match=f"attention: {name}{message}"):
        roundelay.attention(q, k, v, comm)


def test_ranks_differ(comm):
    if comm.size == 1:
        pytest.skip("one rank agrees with itself")
    with pytest.raises(ValueError, match=r"rank 0 has .*causal=False.*rank 1 has .*causal=True"):
        attend_to_zeros(comm, causal=comm.rank == 1)
    # And afterwards everything works.
    attend_to_zeros(comm)


def test_gradients_of_other_shapes(comm):
    q = np.zeros((1, 8, 4, 4))
    out, lse = roundelay.attention(q, q, q, comm)
    with pytest.raises(ValueError, match=r"dout of shape \(1, 8, 2, 4\): expected"):
        roundelay.attention_backward(out[:, :, :2], q, q, q, out, lse, comm)
    with pytest.raises(ValueError, match=r"lse of shape \(1, 3, 8\): expected \(1, 4, 8\)"):
        roundelay.attention_backward(out, q, q, q, out, lse[:, :3], comm)


def test_shards_and_permutations():
    tokens = np.arange(2 * 29).reshape(2, 29)
    for placement in PLACEMENTS:
        for ranks in (1, 2, 3, 5, 40):
            parts = [roundelay.shard(tokens, rank, ranks, placement) for rank in range(ranks)]
            counts = [part.shape[1] for part in parts]
            joined = np.concatenate(parts, axis=1)
            assert max(counts) - min(counts) <= 1
            assert_array_equal(joined, tokens[:, roundelay.permutation(counts, placement)])
            assert_array_equal(joined[:, roundelay.inverse_permutation(counts, placement)], tokens)
            assert_array_equal(np.concatenate(roundelay.positions(counts, placement)), joined[0])
    with pytest.raises(ValueError, match="rank 3: expected 0 to 2"):
        roundelay.shard(tokens, 3, 3)


def test_zigzag_is_balanced():
    """The slowest of four ranks computes at most 5 % more scores than the mean."""
    from roundelay.collectives.attention.visibility import Rule, Tokens

    rule, places = Rule(after=0), [Tokens(each) for each in positions([4096] * 4, "zigzag")]
    work = [
        sum(tile.scores for keys in places for stripe in rule.stripes(mine, keys) for tile in stripe.tiles)
        for mine in places
    ]
    assert max(work) <= 1.05 * np.mean(work)
    assert sum(work) <= 1.1 * prod([4 * 4096, 4 * 4096 + 1]) / 2


def test_linear_and_softmax_layers_together(comm):
    """LASP-2H: a layer with a softmax over gathered keys after one without, on shards of one sequence."""
    sequence = Sequence((14,) * comm.size, heads=4, key_heads=4, value_size=16, dtype=np.float64)
    q, k, v = (sequence.mine(name, comm.rank, "contiguous") for name in "qkv")
    mixed = roundelay.linear_attention(q, k, v, comm, causal=True)
    out, _ = roundelay.attention(mixed, k, v, comm, causal=True, algorithm="all-gather")
    whole = {name: sequence.arrays[name].swapaxes(1, 2) for name in "qkv"}
    seen = np.tri(14 * comm.size)
    hidden_layer = (whole["q"] @ whole["k"].swapaxes(-1, -2) * seen) @ whole["v"]
    sequence.arrays["q"] = hidden_layer.swapaxes(1, 2)
    right = dense(sequence, hidden_keys(14 * comm.size, causal=True), np.float64)["out"]
    np.testing.assert_allclose(out, right[:, 14 * comm.rank : 14 * (comm.rank + 1)], rtol=1e-9, atol=1e-10)
