"""Fused operators on regions of blocks, given and returned as arrays of the library that a program uses.

Operators compute float16 and bfloat16 as such: what a region gives is rounded once, and added in float32.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .flash import Operators, choose
from .tensors import tensor_over

Array = NDArray[Any]

# What the vector loads of the kernels take at once.
_ALIGNMENT = 16


def operators(q: Any, value_size: int) -> Operators | None:
    """The operators for queries where they lie, or None: on the host, or where there are none for them."""
    if isinstance(q, np.ndarray):
        # There the matrix products of NumPy are as fast.
        return None
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None or not q.size:
        return None
    device = q.device.id
    capability = torch.cuda.get_device_capability(device)
    has_flash = torch.backends.cuda.is_flash_attention_available()
    found = choose(q.dtype.name, q.shape[-1], value_size, capability, has_flash)
    return None if found is None else found._replace(stream=lambda: _stream(torch, device))


def attend(use: Operators, arrays: tuple[Array, Array, Array], scale: float, causal: bool) -> tuple[Any, Any]:
    """Output and log-sum-exp of a region by its queries, keys and values, in float32 or better."""
    with use.stream():
        out, lse = use.forward(*map(_tensor, arrays), scale, causal)
        return _array(out), _array(lse)


def gradients(
    use: Operators,
    dout: Array,
    arrays: tuple[Array, Array, Array],
    lse: Array,
    delta: Array,
    scale: float,
    causal: bool,
) -> tuple[Any, Any, Any]:
    """What a region adds to the gradients of its queries, keys and values, in float32 or better.

    Parameters
    ----------
    use : Operators
    dout : (B, Hq, S, Dv) array
    arrays : three arrays
        Queries, keys and values.
    lse, delta : (B, Hq, S) arrays
        Log-sum-exp over all keys, and the sums of `dout * out`.
    scale : float
    causal : bool
    """
    with use.stream():
        slopes = _tensor(dout)
        out = _output_for(slopes, _tensor(delta))
        found = use.backward(slopes, *map(_tensor, arrays), out, _tensor(lse), scale, causal)
        dq, dk, dv = map(_array, found)
    return dq, dk, dv


def are_finite(use: Operators, *arrays: Array) -> bool:
    """Whether all is finite; kernels bring what is not to rows that do not see it, too."""
    with use.stream():
        finite = [_tensor(array).isfinite().all() for array in arrays]
        return bool(sys.modules["torch"].stack(finite).all())


def _output_for(dout: Any, delta: Any) -> Any:
    """An output with the right products with `dout`, which is all that operators take of it.

    Not all who compute gradients have the output itself, but all have these products, delta. The shortest
    output with them is a multiple of `dout`; it rounds no worse than the true one.
    """
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


def _array(tensor: Any) -> Any:
    """An array over the memory of a tensor, or of its copy in float32."""
    torch = sys.modules["torch"]
    if tensor.dtype != torch.float64:
        tensor = tensor.float()
    if not tensor.is_cuda:
        return tensor.numpy()
    import cupy

    return cupy.from_dlpack(tensor)


def _stream(torch: Any, device: int) -> AbstractContextManager[Any]:
    """Let torch use the stream of CuPy: neither runs ahead of the other, nor takes memory still in use."""
    import cupy

    pointer = cupy.cuda.get_current_stream().ptr
    # An external stream at 0 would be a new one.
    stream = torch.cuda.ExternalStream(pointer, device) if pointer else torch.cuda.default_stream(device)
    context: AbstractContextManager[Any] = torch.cuda.stream(stream)
    return context
