"""Blocks by fused operators: regions against the rule, and attention over ranks by PyTorch's for the CPU."""

import random
import sys

import ml_dtypes
import numpy as np
import pytest

import roundelay
from roundelay.collectives.attention import flash, fused
from roundelay.collectives.attention.placement import PLACEMENTS, positions
from roundelay.collectives.attention.regions import MOST, known_regions, regions
from roundelay.collectives.attention.visibility import NO_LIMIT, Rule, Tokens, tokens_of
from tests.dense import Sequence, dense, hidden_keys
from tests.test_attention import MASKS, attend, run, usable_placement

torch = pytest.importorskip("torch")

# rsa computes whole rows of weights, without the kernels of blocks.
ALGORITHMS = [name for name in roundelay.attention_algorithms() if name != "rsa"]


def as_wide(*tensors):
    """Tensors with zeros after their last axis, up to the widest: the operator of the CPU wants one size."""
    widest = max(tensor.shape[-1] for tensor in tensors)
    return [torch.nn.functional.pad(tensor, (0, widest - tensor.shape[-1])) for tensor in tensors]


def forward_on_cpu(q, k, v, scale, causal):
    assert q.shape[2]
    assert k.shape[2]
    size = v.shape[-1]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *as_wide(q, k, v), 0.0, causal, scale=scale
    )
    return out[..., :size], lse


def backward_on_cpu(dout, q, k, v, out, lse, scale, causal):
    sizes = [tensor.shape[-1] for tensor in (q, k, v)]
    wide = as_wide(dout, q, k, v, out)
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *wide, lse.contiguous(), 0.0, causal, scale=scale
    )
    return tuple(each[..., :size] for each, size in zip(found, sizes, strict=True))


def loads_well(*tensors):
    """Alignment that the kernels of CUDA need for loads in vectors."""
    for tensor in tensors:
        steps = [tensor.data_ptr(), *(step * tensor.element_size() for step in tensor.stride()[:-1])]
        assert tensor.stride(-1) == 1
        assert tensor.shape[-1] % 8 == 0
        assert not any(step % 16 for step in steps)


def efficient_forward(q, k, v, bias, compute_lse, dropout=0.0, causal=False, *, scale=None):
    """A stand-in for the memory-efficient operator of CUDA, computed by that of the CPU."""
    loads_well(q, k, v)
    assert (bias, compute_lse, dropout) == (None, True, 0.0)
    assert q.shape[1] == k.shape[1] == v.shape[1]
    out, lse = forward_on_cpu(q, k, v, scale, causal)
    padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))
    nothing = torch.empty((), dtype=torch.int64)
    return out.transpose(1, 2).contiguous().transpose(1, 2), padded, nothing, nothing.clone()


def efficient_backward(  # noqa: PLR0913, PLR0917
    dout, q, k, v, bias, out, lse, seed, offset, dropout, which, causal=False, *, scale=None
):
    loads_well(q, k, v)
    assert (bias, dropout, which) == (None, 0.0, [True, True, True, False])
    assert (seed.dtype, offset.dtype) == (torch.int64, torch.int64)
    assert q.shape[1] == k.shape[1] == v.shape[1]
    assert out.transpose(1, 2).is_contiguous()
    rows = q.shape[2]
    assert lse.shape == (*q.shape[:2], rows + -rows % 32)
    assert lse.is_contiguous()
    assert bool(lse[..., rows:].isposinf().all())
    return *backward_on_cpu(dout, q, k, v, out, lse[..., :rows], scale, causal), None


def flash_forward(q, k, v, dropout=0.0, causal=False, debug=False, *, scale=None):
    """A stand-in for the flash operator of CUDA, computed by that of the CPU."""
    loads_well(q, k, v)
    assert q.element_size() == 2
    assert q.shape[-1] == v.shape[-1]
    assert not causal or q.shape[2] == k.shape[2]
    assert (dropout, debug) == (0.0, False)
    out, lse = forward_on_cpu(q, k, v, scale, causal)
    state = torch.empty(2, dtype=torch.uint64)
    return out, lse, None, None, q.shape[2], k.shape[2], state, state[0].clone(), q.new_empty(0)


def flash_backward(  # noqa: PLR0913, PLR0917
    dout, q, k, v, out, lse, ends_q, ends_k, most_q, most_k, dropout, causal, seed, offset, *, scale=None
):
    loads_well(q, k, v)
    assert (ends_q, ends_k, most_q, most_k, dropout) == (None, None, q.shape[2], k.shape[2], 0.0)
    assert lse.shape == q.shape[:3]
    assert lse.is_contiguous()
    return backward_on_cpu(dout, q, k, v, out, lse, scale, causal)


CPU = flash.Operators(forward_on_cpu, backward_on_cpu)


@pytest.fixture
def use(monkeypatch):
    """Let blocks on the host be computed by some operators; returns how many regions were."""
    calls = []

    def choose(operators):
        def counted(function):
            def counting(*arguments):
                calls.append(function)
                return function(*arguments)

            return counting

        both = flash.Operators(counted(operators.forward), counted(operators.backward))
        monkeypatch.setattr(fused, "operators", lambda q, _: both if q.size else None)
        return calls

    return choose


@pytest.fixture
def cuda_on_cpu():
    """The operators of CUDA, with their conventions, where there is no GPU."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_scaled_dot_product_efficient_attention", efficient_forward, "CPU")
        library.impl("_scaled_dot_product_efficient_attention_backward", efficient_backward, "CPU")
        library.impl("_scaled_dot_product_flash_attention", flash_forward, "CPU")
        library.impl("_scaled_dot_product_flash_attention_backward", flash_backward, "CPU")
        yield


def random_rule(rng):
    limits = (NO_LIMIT, 0), (NO_LIMIT, NO_LIMIT), (rng.randint(0, 60), 0), (NO_LIMIT, rng.randint(0, 9))
    return Rule(*rng.choice(limits))


def test_regions_are_what_the_rule_leaves():
    rng = random.Random(1)
    several = 0
    for _ in range(600):
        ranks, placement, rule = rng.randint(1, 5), rng.choice(PLACEMENTS), random_rule(rng)
        counts = [rng.choice([0, 1, 8, rng.randint(0, 50)]) for _ in range(ranks)]
        bounds = [0, *sorted(rng.randint(0, sum(counts)) for _ in range(rng.randint(0, 4))), sum(counts)]
        tokens = [tokens_of(each, rng.choice([None, bounds])) for each in positions(counts, placement)]
        queries, keys = rng.choice(tokens), rng.choice(tokens)
        found = regions(rule.stripes(queries, keys, rng.choice([7, 1024]), rng.choice([5, 256])))
        if found is None:
            continue
        seen = np.zeros((queries.size, keys.size), int)
        for rows, some, causal in found:
            part = seen[rows, some]
            assert part.size
            assert not causal or part.shape[0] == part.shape[1]
            part += np.tri(len(part)).astype(int) if causal else 1
        np.testing.assert_array_equal(seen, ~rule.hidden(queries, keys))
        several += len(found) > 1
    assert several > 50


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_regions_of_causal_shards_are_few(placement):
    rng = random.Random(2)
    for _ in range(100):
        counts = [rng.randint(0, 3000) for _ in range(rng.randint(1, 4))]
        tokens = [Tokens(each) for each in positions(counts, placement)]
        found = regions(Rule(after=0).stripes(rng.choice(tokens), rng.choice(tokens)))
        assert found is not None
        assert len(found) <= 2


def test_regions_of_windows_and_documents():
    tokens = Tokens(np.arange(100))
    assert regions(Rule(before=5, after=0).stripes(tokens, tokens)) is None
    for documents, few in ((MOST, True), (MOST + 1, False)):
        bounds = [100 * each // documents for each in range(documents + 1)]
        packed = tokens_of(tokens.positions, bounds)
        found = regions(Rule(after=0).stripes(packed, packed))
        assert (found is not None) == few


def test_regions_are_found_once():
    stripes = Rule(after=0).stripes(Tokens(np.arange(50)), Tokens(np.arange(50)))
    assert known_regions(stripes) is known_regions(stripes)
    assert known_regions(stripes) == regions(stripes)


@pytest.mark.mpi
@pytest.mark.parametrize("mask", ["all", "causal", "causal documents"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_attention(comm, use, algorithm, mask):
    calls = use(CPU)
    run(comm, [37] * comm.size, algorithm, MASKS[mask])
    if usable_placement(algorithm, MASKS[mask]) is not None:
        assert {forward_on_cpu, backward_on_cpu} == set(calls)


@pytest.mark.mpi
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_uneven_counts(comm, use, algorithm, causal):
    use(CPU)
    run(comm, [(17 + 31 * rank) % 60 for rank in range(comm.size)], algorithm, {"causal": causal})
    run(comm, [rank % 2 for rank in range(comm.size)], algorithm, {"causal": causal})


@pytest.mark.mpi
@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 3)])
@pytest.mark.parametrize("algorithm", ["ring", "all-gather", "token-ring", "ulysses"])
def test_heads_of_cuda(comm, use, cuda_on_cpu, algorithm, heads):
    calls = use(flash.EFFICIENT)
    shape = {"heads": heads[0], "key_heads": heads[1], "batch": 1}
    run(comm, [23] * comm.size, algorithm, {"causal": True}, **shape)
    # A rank that has no head after an exchange of heads computes nothing.
    assert calls or algorithm == "ulysses"


@pytest.mark.mpi
@pytest.mark.parametrize("options", [{"window": (20, 5)}, {"dropout": 0.3, "seed": 5}, {"key_padding": None}])
def test_the_rest_is_left_to_tiles(comm, use, options):
    calls = use(CPU)
    sequence = Sequence((60,) * comm.size)
    if "key_padding" in options:
        options = {"key_padding": np.ones((2, 60), bool)}
    found = attend(comm, sequence, "ring", "contiguous", options)
    assert np.isfinite(found["out"]).all()
    assert not calls or "window" in options


@pytest.mark.mpi
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_that_are_not_finite(comm, use, algorithm):
    """They come to the queries that see them, and to no others."""
    use(CPU)
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((9,) * comm.size)
    last = 9 * comm.size - 3
    mine = positions(sequence.counts, placement)[comm.rank]
    right = dense(sequence, hidden_keys(9 * comm.size, causal=True), np.float64)["out"][:, mine]
    sequence.arrays["v"][:, last:] = np.inf
    sequence.arrays["k"][:, last + 1 :] = np.nan
    q, k, v = (sequence.mine(name, comm.rank, placement) for name in "qkv")
    out, _ = roundelay.attention(q, k, v, comm, causal=True, placement=placement, algorithm=algorithm)
    assert not np.isfinite(out[:, mine >= last]).any()
    np.testing.assert_allclose(out[:, mine < last], right[:, mine < last], atol=1e-5)


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_low_precision(comm, use, cuda_on_cpu, algorithm, dtype):
    """Within a few roundings of the weights and of each region's results."""
    calls = use(flash.FLASH)
    placement = usable_placement(algorithm, {"causal": True})
    sequence = Sequence((29,) * comm.size, value_size=16, dtype=dtype)
    found = attend(comm, sequence, algorithm, placement, {"causal": True})
    assert {flash.FLASH.forward, flash.FLASH.backward} == set(calls)
    right = dense(sequence, hidden_keys(29 * comm.size, causal=True), np.float64)
    mine = positions(sequence.counts, placement)[comm.rank]
    step = float(ml_dtypes.finfo(dtype).eps)
    for name in ("out", "dq", "dk", "dv"):
        here = right[name][:, mine]
        assert found[name].dtype == dtype
        error = np.linalg.norm(found[name].astype(np.float64) - here)
        assert error <= 2 * step * np.linalg.norm(here), name
    np.testing.assert_allclose(found["lse"], right["lse"][..., mine], atol=1e-4)


def test_gradients_that_are_tiny_or_zero(use):
    """The stand-in for the output keeps delta, whatever the size of the slopes."""
    rng = np.random.default_rng(0)
    dout, out = rng.standard_normal((2, 1, 2, 5, 8), dtype=np.float32)
    dout *= np.array([1e-30, 1e-18, 1, 1e18, 0], np.float32)[:, None]
    delta = (dout * out).sum(axis=-1)
    stand_in = fused._output_for(torch.from_numpy(dout), torch.from_numpy(delta)).numpy()
    np.testing.assert_allclose((dout * stand_in).sum(axis=-1), delta, rtol=1e-5)
    assert (np.linalg.norm(stand_in, axis=-1) <= 1.001 * np.linalg.norm(out, axis=-1)).all()


def test_arrays_that_kernels_cannot_load():
    """They are copied: parts of a message that begin anywhere, and steps of any size."""
    memory = np.arange(1000, dtype=np.float32)
    odd = memory[1:769].reshape(2, 3, 16, 8)
    for array in (odd, odd[..., ::-1], odd.swapaxes(2, 3), memory[:960].reshape(2, 3, 16, 10)[..., :8]):
        tensor = fused._tensor(array)
        if array.shape[-1] == 8:
            loads_well(tensor)
        np.testing.assert_array_equal(tensor.numpy(), array)
    fits = memory[:768].reshape(2, 3, 16, 8)
    one = np.lib.stride_tricks.as_strided(fits, (1, 1, 16, 8), (4, 4, 32, 4))
    for array in (fits[:, :, 4:], one):
        tensor = fused._tensor(array)
        loads_well(tensor)
        assert tensor.data_ptr() == array.ctypes.data


@pytest.mark.parametrize("rows", [40, 64])
@pytest.mark.parametrize(
    ("operators", "dtype", "value_size"),
    [(flash.FLASH, "float16", 64), (flash.FLASH, "bfloat16", 64), (flash.EFFICIENT, "float32", 32)],
)
def test_cuda_takes_the_arguments(operators, dtype, value_size, rows):
    """By the shapes that torch derives for its operators without data."""

    def tensor(*shape):
        return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")

    q, k, v = tensor(2, 8, rows, 64), tensor(2, 2, 24, 64), tensor(2, 2, 24, value_size)
    out, lse = operators.forward(q, k, v, 0.125, False)
    assert out.shape == (2, 8, rows, value_size)
    assert lse.shape == (2, 8, rows)
    assert lse.dtype == torch.float32
    found = operators.backward(out, q, k, v, out, lse, 0.125, False)
    assert [each.shape for each in found] == [each.shape for each in (q, k, v)]


def test_choice():
    assert flash.choose("bfloat16", 128, 128, (8, 0)) is flash.FLASH
    assert flash.choose("bfloat16", 128, 64, (8, 0)) is flash.EFFICIENT
    assert flash.choose("float16", 256, 256, (9, 0)) is flash.EFFICIENT
    assert flash.choose("float16", 64, 64, (7, 0)) is flash.EFFICIENT
    assert flash.choose("float16", 64, 64, (9, 0), has_flash=False) is flash.EFFICIENT
    assert flash.choose("bfloat16", 64, 64, (7, 5)) is None
    assert flash.choose("float32", 64, 20, (9, 0)) is None


def test_host_keeps_its_own(monkeypatch):
    assert fused.operators(np.zeros((1, 1, 8, 8), np.float32), 8) is None
    monkeypatch.delitem(sys.modules, "torch")
    assert fused.operators(object(), 8) is None
