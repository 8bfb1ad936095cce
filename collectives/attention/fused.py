"""Fused operators on regions of blocks, given and returned as arrays of the library that a program uses.

Operators compute float16 and bfloat16 as such: what a region gives is rounded once, and added in float32.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..array_views import as_arrays, is_one_stream, tensor_over
from .flash import Operators, choose

Array = NDArray[Any]

# Bytes that the vector loads of the kernels take at once.
_ALIGNMENT = 16


def operators(q: Any, value_size: int) -> Operators | None:
    """The operators for queries where they lie, or None: on the host, or where there are none for them."""
    if isinstance(q, np.ndarray):
        # There the matrix products of NumPy are as fast.
        return None
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None or not q.size:
        return None
    return _operators(torch, q.dtype.name, q.shape[-1], value_size, q.device.id)


@cache
def _operators(torch: Any, dtype: str, size: int, value_size: int, device: int) -> Operators | None:
    capability = torch.cuda.get_device_capability(device)
    has_flash = torch.backends.cuda.is_flash_attention_available()
    found = choose(dtype, size, value_size, capability, has_flash)
    return None if found is None else found._replace(stream=lambda: _stream(torch, device))


def attend(use: Operators, arrays: tuple[Array, Array, Array], scale: float, causal: bool) -> tuple[Any, Any]:
    """Output of a region by its queries, keys and values, in their dtype, and log-sum-exp, in float32."""
    with use.stream():
        out, lse = as_arrays(*use.forward(*map(_tensor, arrays), scale, causal))
        return out, lse


def gradients(
    use: Operators,
    dout: Array,
    arrays: tuple[Array, Array, Array],
    out: Array,
    lse: Array,
    scale: float,
    causal: bool,
) -> tuple[Any, Any, Any]:
    """The gradients of a region's queries, keys and values that it adds, in their dtype or float32.

    Parameters
    ----------
    use : Operators
    dout : (B, Hq, S, Dv) array
    arrays : three arrays
        Queries, keys and values.
    out, lse : (B, Hq, S, Dv) and (B, Hq, S) arrays
        Over all keys.
    scale : float
    causal : bool
    """
    with use.stream():
        found = use.backward(*map(_tensor, (dout, *arrays, out, lse)), scale, causal)
        dq, dk, dv = as_arrays(*found)
    return dq, dk, dv


def output_for(use: Operators, dout: Array, delta: Array) -> Any:
    """An output with the right products with `dout`, delta, which is all that operators take of it.

    Not all who compute gradients have the output itself, but all have these products. The shortest output
    with them is a multiple of `dout`; it rounds no worse than the true one.
    """
    with use.stream():
        (out,) = as_arrays(_output_for(_tensor(dout), _tensor(delta)))
    return out


def are_finite(use: Operators, values: Array) -> bool:
    """Whether all values are finite; others come to rows that do not see them, too, times a weight of 0."""
    with use.stream():
        return bool(_tensor(values).isfinite().all())


def _output_for(dout: Any, delta: Any) -> Any:
    slopes = dout.to(delta.dtype)
    largest = slopes.abs().amax(-1, keepdim=True)
    largest = largest.where(largest > 0, 1)
    direction = slopes / largest
    # At least 1 where there is any slope.
    length = direction.square().sum(-1, keepdim=True).clamp(min=1)
    return (direction * (delta[..., None] / largest / length)).to(dout.dtype)


def _tensor(array: Array) -> Any:
    """A tensor over the memory of an array, if kernels can load from it; else over that of a copy."""
    torch = sys.modules["torch"]
    if min(array.strides) < 0:
        array = array.copy()
    tensor = tensor_over(array)
    if tensor.ndim < 4:
        return tensor
    # DLPack may give any step to an axis of length 1, and kernels look at it.
    steps = [
        step if size > 1 else tensor.shape[-1]
        for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    ]
    places = [tensor.data_ptr(), *(step * tensor.element_size() for step in steps[:-1])]
    if steps[-1] == 1 and not any(place % _ALIGNMENT for place in places):
        return tensor.as_strided(tensor.shape, steps)
    return tensor.clone(memory_format=torch.contiguous_format)


def _stream(torch: Any, device: int) -> AbstractContextManager[Any]:
    """Let torch use the stream of CuPy: neither runs ahead of the other, nor takes memory still in use."""
    import cupy

    if is_one_stream(torch, device):
        return nullcontext()
    pointer = cupy.cuda.get_current_stream().ptr
    # An external stream at 0 would be a new one.
    stream = torch.cuda.ExternalStream(pointer, device) if pointer else torch.cuda.default_stream(device)
    context: AbstractContextManager[Any] = torch.cuda.stream(stream)
    return context
