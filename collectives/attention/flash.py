"""PyTorch's fused operators on CUDA that return the log-sum-exp, as functions of one signature.

Dao, "FlashAttention-2" (arXiv 2307.08691), and Rabe and Staats (arXiv 2112.05682) in the kernels of xFormers.
torch itself is not imported: who calls has tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

# The memory-efficient kernels write and read the log-sum-exp of this many rows together.
_LSE_ROWS = 32
# Beyond it, the gradients of the flash kernels do not fit into the shared memory of every GPU that has them.
_LARGEST_FLASH = 192


class Operators(NamedTuple):
    """A fused operator on tensors of shape (B, H, S, D), with fewer heads of keys than of queries or as many.

    Attributes
    ----------
    forward : callable
        (q, k, v, scale, causal) to output and log-sum-exp.
    backward : callable
        (dout, q, k, v, out, lse, scale, causal) to the gradients of q, k and v.
    stream : callable
        Makes the context in which operators are in order with what the array library does.
    """

    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[..., tuple[Any, Any, Any]]
    stream: Callable[[], AbstractContextManager[Any]] = nullcontext


def choose(
    dtype: str, size: int, value_size: int, capability: tuple[int, int], has_flash: bool = True
) -> Operators | None:
    """The operators of CUDA for a dtype, sizes of keys and values, and a GPU's compute capability.

    Not every build of torch has the flash kernels.

    Examples
    --------
    >>> choose("float16", 64, 64, (9, 0)) is FLASH, choose("float32", 64, 64, (9, 0)) is EFFICIENT
    (True, True)
    >>> choose("float64", 64, 64, (9, 0)), choose("float16", 60, 60, (9, 0))
    (None, None)
    """
    if size % 8 or value_size % 8:
        return None
    if dtype in ("float16", "bfloat16") and capability >= (8, 0):
        return FLASH if has_flash and size == value_size <= _LARGEST_FLASH else EFFICIENT
    # Before Ampere there is neither flash nor bfloat16; before Volta, no tensor cores worth the call.
    return EFFICIENT if dtype in ("float16", "float32") and capability >= (7, 0) else None


def _flash(q: Any, k: Any, v: Any, scale: float, causal: bool) -> tuple[Any, Any]:
    aten = sys.modules["torch"].ops.aten
    out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return out, lse


def _flash_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, scale: float, causal: bool
) -> tuple[Any, Any, Any]:
    torch = sys.modules["torch"]
    # Nothing is dropped, so nobody looks at the state of the random numbers.
    state = q.new_empty(2, dtype=torch.int64)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        dout,
        q,
        k,
        v,
        out,
        # The kernel takes no strides of it.
        lse.contiguous(),
        None,
        None,
        q.shape[2],
        k.shape[2],
        0.0,
        causal,
        state,
        state[0],
        scale=scale,
    )
    return dq, dk, dv


def _efficient(q: Any, k: Any, v: Any, scale: float, causal: bool) -> tuple[Any, Any]:
    aten = sys.modules["torch"].ops.aten
    each = q.shape[1] // k.shape[1]
    keys, values = (array.repeat_interleave(each, 1) if each > 1 else array for array in (k, v))
    out, lse, *_ = aten._scaled_dot_product_efficient_attention(
        q, keys, values, None, True, 0.0, causal, scale=scale
    )
    return out, lse[..., : q.shape[2]]


def _efficient_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, scale: float, causal: bool
) -> tuple[Any, Any, Any]:
    torch = sys.modules["torch"]
    each = q.shape[1] // k.shape[1]
    keys, values = (array.repeat_interleave(each, 1) if each > 1 else array for array in (k, v))
    # Rows that are not there have no weights: they are 0 below an infinite log-sum-exp.
    lse = torch.nn.functional.pad(lse.contiguous(), (0, -q.shape[2] % _LSE_ROWS), value=float("inf"))
    # The kernel takes the output for one as its forward pass makes it: token by token.
    out = out.transpose(1, 2).contiguous().transpose(1, 2)
    state = q.new_empty((), dtype=torch.int64)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        dout,
        q,
        keys,
        values,
        None,
        out,
        lse,
        state,
        state,
        0.0,
        [True, True, True, False],
        causal,
        scale=scale,
    )
    if each > 1:
        dk, dv = (array.unflatten(1, (-1, each)).sum(2, dtype=torch.float32) for array in (dk, dv))
    return dq, dk, dv


FLASH = Operators(_flash, _flash_backward)
EFFICIENT = Operators(_efficient, _efficient_backward)
