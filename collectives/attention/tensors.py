"""PyTorch's tensors as arrays over the same memory, and arrays as tensors; torch itself is not imported.

Between CuPy and PyTorch DLPack takes a tenth of a millisecond each way, which is as much as some kernels: an
array over a tensor's memory is made without it, and remembers the tensor.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NoReturn

import numpy as np


class Refused:
    """Stands for an argument that cannot be used, and tells whoever looks at it why.

    Ranks look at their arguments when they agree on a call, so that the error of one comes to all.

    Parameters
    ----------
    reason : str

    Examples
    --------
    >>> Refused("k on a device that is unknown here").shape
    Traceback (most recent call last):
    ...
    ValueError: k on a device that is unknown here
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(self._reason)


def as_arrays(*values: Any) -> list[Any]:
    """See tensors as arrays of NumPy or CuPy over the same memory; what is no tensor stays as it is.

    Parameters
    ----------
    *values : tensors or anything else
        Tensors of the host or of CUDA, of any strides; bfloat16 is seen as the dtype of ml_dtypes.

    Returns
    -------
    list
        With `Refused` in the place of a tensor that no array can be made of.

    Examples
    --------
    >>> as_arrays(1, None)
    [1, None]
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return list(values)
    return [_array(value, torch) if isinstance(value, torch.Tensor) else value for value in values]


def results_like(given: Any, *arrays: Any) -> tuple[Any, ...]:
    """See arrays as tensors over the same memory if a tensor was given; else they stay as they are.

    Parameters
    ----------
    given : tensor or array
        What a program called with.
    *arrays : arrays of NumPy or CuPy

    Examples
    --------
    >>> results_like(None, 1, 2)
    (1, 2)
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(given, torch.Tensor):
        return arrays
    return tuple(map(tensor_over, arrays))


def _array(tensor: Any, torch: Any) -> Any:
    try:
        if tensor.is_cuda:
            return _cupy_array(tensor.detach(), torch)
        if tensor.dtype != torch.bfloat16:
            return tensor.detach().numpy()
        # NumPy and torch both know 16 bits.
        return tensor.detach().view(torch.int16).numpy().view(_bfloat16())
    except (BufferError, ImportError, RuntimeError, TypeError) as error:
        return Refused(f"tensor of {tensor.dtype} on {tensor.device}: {error}")


def _cupy_array(tensor: Any, torch: Any) -> Any:
    """An array of CuPy over the memory of a tensor, in order with what the tensor is computed by."""
    import cupy

    if tensor.is_conj() or tensor.is_neg():
        raise BufferError("its elements are other than they lie in memory")
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = _bfloat16() if name == "bfloat16" else name
    if not is_one_stream(torch, tensor.device.index):
        # DLPack lets one stream wait for the other.
        if name != "bfloat16":
            return cupy.from_dlpack(tensor)
        return cupy.from_dlpack(tensor.view(torch.int16)).view(dtype)
    strides = [step * tensor.element_size() for step in tensor.stride()]
    memory = cupy.cuda.MemoryPointer(_memory_class()(tensor), 0)
    return cupy.ndarray(tuple(tensor.shape), dtype, memory, strides)


def is_one_stream(torch: Any, device: int) -> bool:
    """Whether CuPy and PyTorch compute in the same stream, so that nobody needs to wait."""
    import cupy

    mine: int = cupy.cuda.get_current_stream().ptr
    return bool(torch.cuda.current_stream(device).cuda_stream == mine)


@cache
def _memory_class() -> Any:
    import cupy

    class TensorMemory(cupy.cuda.UnownedMemory):  # type: ignore[misc]
        """The memory of a tensor, from its first element on."""

        def __init__(self, tensor: Any) -> None:
            last = sum(step * (size - 1) for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            nbytes = (last + 1) * tensor.element_size() if tensor.numel() else 0
            super().__init__(tensor.data_ptr(), nbytes, tensor, tensor.device.index)
            self.tensor = tensor

    return TensorMemory


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("NumPy needs ml_dtypes for it: pip install ml_dtypes") from None
    return ml_dtypes.bfloat16


def tensor_over(array: Any) -> Any:
    """A tensor over the memory of an array; torch is imported already."""
    torch = sys.modules["torch"]
    # NumPy has no memory like this, and shows none of a dtype that it does not know.
    tensor = None if isinstance(array, np.ndarray) else getattr(array.data.mem, "tensor", None)
    if (
        tensor is not None
        and str(tensor.dtype) == f"torch.{array.dtype.name}"
        and is_one_stream(torch, tensor.device.index)
    ):
        steps = [step // array.itemsize for step in array.strides]
        place = (array.data.ptr - tensor.data_ptr()) // array.itemsize
        return tensor.as_strided(array.shape, steps, tensor.storage_offset() + place)
    # DLPack does not know the bfloat16 of ml_dtypes, and knows 16 bits.
    if array.dtype.name != "bfloat16":
        return torch.from_dlpack(array)
    return torch.from_dlpack(array.view("int16")).view(torch.bfloat16)
