"""Attention of tensors on a GPU, by PyTorch's fused operators and by CuPy, against float64 on the host."""

from typing import Any

import numpy as np
import pytest

import roundelay
from roundelay.collectives.attention import fused
from roundelay.collectives.attention.placement import positions
from tests.dense import Sequence, dense
from tests.device import cupy_or_skip
from tests.test_attention import MASKS, hidden_by, usable_placement, with_tokens

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.mpi

# Errors by the norms of whole arrays. Half precision rounds weights, and each region's results.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2.5e-2}
COUNTS = {"even": lambda rank: 40, "uneven": lambda rank: (17 + 31 * rank) % 60}


@pytest.fixture(autouse=True)
def _gpu():
    cupy_or_skip()
    if not torch.cuda.is_available():
        pytest.skip("PyTorch without CUDA")


@pytest.fixture
def regions(monkeypatch):
    """Count what is left to fused operators."""
    seen = []

    def attend(*arguments):
        seen.append(arguments)
        return original(*arguments)

    original = fused.attend
    monkeypatch.setattr(fused, "attend", attend)
    return seen


def check(comm, algorithm, counts, dtype, options, value_size=16):
    """Compare all that this rank finds with dense attention of the whole sequence."""
    options = with_tokens(options, sum(counts))
    placement = usable_placement(algorithm, options)
    if placement is None:
        pytest.skip(f"not by {algorithm}")
    sequence = Sequence(tuple(counts), value_size=value_size, dtype=np.float64)
    tensors = {
        name: torch.from_numpy(each).to(getattr(torch, dtype)) for name, each in sequence.arrays.items()
    }
    # The right results are those of the rounded values.
    sequence.arrays.update({name: each.double().numpy() for name, each in tensors.items()})
    mine = positions(sequence.counts, placement)[comm.rank]
    q, k, v, dout = (tensors[name][:, mine].cuda() for name in ("q", "k", "v", "dout"))
    how = {"algorithm": algorithm, "placement": placement, **options}
    out, lse = roundelay.attention(q, k, v, comm, **how)
    gradients = roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how)
    right = dense(sequence, hidden_by(options, sum(counts)), np.float64)
    norms = {name: np.linalg.norm(each) for name, each in right.items()}
    found: dict[str, Any] = {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))
    for name, tensor in found.items():
        assert tensor.is_cuda
        assert tensor.dtype == q.dtype or (name == "lse" and tensor.dtype == torch.float32)
        here = right[name][..., mine] if name == "lse" else right[name][:, mine]
        error = np.linalg.norm(tensor.double().cpu().numpy() - here)
        assert error <= TOLERANCES[dtype] * norms[name], name


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("algorithm", roundelay.attention_algorithms())
def test_all_algorithms(comm, algorithm, causal, dtype, counts):
    each = [COUNTS[counts](rank) for rank in range(comm.size)]
    check(comm, algorithm, each, dtype, {"causal": True} if causal else {})


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks(comm, mask, dtype):
    check(comm, "ring", [40] * comm.size, dtype, MASKS[mask])


@pytest.mark.parametrize(("dtype", "value_size"), [("bfloat16", 16), ("float32", 16), ("float32", 24)])
def test_fused_operators_are_used(comm, regions, dtype, value_size):
    check(comm, "ring", [40] * comm.size, dtype, {"causal": True}, value_size)
    assert len(regions) == comm.rank + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite(comm, dtype):
    """They come to the queries that see them, and to no others."""
    sequence = Sequence((40,) * comm.size, value_size=16)
    right = dense(sequence, hidden_by({"causal": True}, 40 * comm.size), np.float64)["out"]
    last = 40 * comm.size - 9
    sequence.arrays["v"][:, last:] = np.inf
    sequence.arrays["k"][:, last + 1 :] = np.nan
    mine = positions(sequence.counts, "contiguous")[comm.rank]
    q, k, v = (
        torch.from_numpy(sequence.arrays[name][:, mine]).to(getattr(torch, dtype)).cuda() for name in "qkv"
    )
    out: Any = roundelay.attention(q, k, v, comm, causal=True, algorithm="ring")[0]
    found = out.double().cpu().numpy()
    assert not np.isfinite(found[:, mine >= last]).any()
    np.testing.assert_allclose(
        found[:, mine < last], right[:, mine[mine < last]], atol=10 * TOLERANCES[dtype]
    )


def test_streams_of_both_libraries(comm):
    """Calls wait for what PyTorch computes in a stream of its own, and PyTorch for their results."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        slow = torch.ones(4096, 4096, device="cuda")
        for _ in range(50):
            slow = slow @ slow / 4096
        q, k, v = (torch.full((1, 40, 4, 16), value, device="cuda") * slow[0, 0] for value in (1.0, 1.0, 2.0))
        out: Any = roundelay.attention(q, k, v, comm, algorithm="ring")[0]
        assert bool((out - 2).abs().max() < 1e-5)


def test_gradients_by_autograd(comm):
    """`roundelay.pytorch` on a GPU, beside PyTorch's own on the host."""
    from roundelay.pytorch import scaled_dot_product_attention

    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(2, 4, 40 * comm.size, 16, generator=generator) for _ in range(4)]
    mine = slice(40 * comm.rank, 40 * (comm.rank + 1))
    *right, slopes = (each.double() for each in whole)
    *here, slopes_here = (each[:, :, mine].cuda() for each in whole)
    for each in (*right, *here):
        each.requires_grad_()
    expected = torch.nn.functional.scaled_dot_product_attention(*right, is_causal=True)
    expected.backward(slopes)
    out = scaled_dot_product_attention(*here, is_causal=True, comm=comm)
    out.backward(slopes_here)
    torch.testing.assert_close(out.double().cpu(), expected[:, :, mine], rtol=1e-4, atol=1e-5)
    for one, other in zip(here, right, strict=True):
        torch.testing.assert_close(one.grad.double().cpu(), other.grad[:, :, mine], rtol=1e-4, atol=1e-4)
