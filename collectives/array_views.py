"""Arrays of any library seen as arrays of NumPy or CuPy over the same memory; torch itself is not imported.

Between CuPy and PyTorch DLPack takes a tenth of a millisecond each way, which is as much as some kernels: an
array over a tensor's memory is made without it, and remembers the tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn

import numpy as np

from ..comm.device import as_cupy, is_on_gpu
from ..datatypes.arrays import as_numpy, strided_layout
from ..datatypes.layout import overlaps
from .memory import is_writable


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
        self.reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(self.reason)


def check_usable(arguments: Mapping[str, Any]) -> None:
    """Raise `ValueError` if an argument is `Refused`, with its name and why.

    Examples
    --------
    >>> check_usable({"k": Refused("on a device that is unknown here")})
    Traceback (most recent call last):
    ...
    ValueError: k: on a device that is unknown here
    """
    for name, value in arguments.items():
        if isinstance(value, Refused):
            raise ValueError(f"{name}: {value.reason}")


def as_array(value: Any, detached: bool = False) -> Any:
    """See an array of any library as one of NumPy or CuPy over the same memory.

    Parameters
    ----------
    value : array
        Of NumPy or a subclass of its arrays, a tensor of PyTorch with any strides, or what has an array
        interface, the buffer protocol or DLPack; bfloat16 of PyTorch is seen as the dtype of ml_dtypes.
    detached : bool
        Whether to take a tensor that requires a gradient in any case, as `tensor.detach()` does.

    Raises
    ------
    ValueError
        A tensor that no array can be made of; or one that requires a gradient where PyTorch records how it
        is computed, since nothing is recorded here.
    TypeError
        No array.

    Examples
    --------
    >>> as_array(bytearray(2))
    array([0, 0], dtype=uint8)
    """
    if value.__class__ is np.ndarray:
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.requires_grad and torch.is_grad_enabled() and not detached:
            raise ValueError(
                "a tensor that requires a gradient, which is not recorded here; expected tensor.detach(), "
                "or a call under torch.no_grad()"
            )
        return _tensor_memory(value, torch)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return value
    if is_on_gpu(value):
        array = as_cupy(value, receiving=False)
        if array is None:
            raise TypeError(f"{type(value).__name__} on a GPU: needs CuPy")
        return array
    if isinstance(value, np.generic):
        raise TypeError(f"{type(value).__name__}, a number: expected an array")
    try:
        # Indexing and reshaping mean something else to some subclasses.
        return np.asarray(as_numpy(value))
    except BufferError as error:
        raise TypeError(f"{type(value).__name__}: {error}") from error
    except TypeError as error:
        raise TypeError(f"{type(value).__name__}: expected an array") from error


def writable_array(name: str, value: Any) -> Any:
    """See an array as `as_array` does, to write to it.

    Raises `ValueError`, which begins with the name, for what is no array, cannot be written, or has elements
    that overlap.

    Examples
    --------
    >>> writable_array("array 2", b"read-only")
    Traceback (most recent call last):
    ...
    ValueError: array 2 of shape (9,) cannot be written
    """
    try:
        array = as_array(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not is_writable(array):
        raise ValueError(f"{name} of shape {array.shape} cannot be written")
    if not array.flags.forc and overlaps(strided_layout(array.shape, array.strides, array.itemsize)):
        raise ValueError(
            f"{name} of shape {array.shape} and strides {array.strides} has elements that overlap; "
            "expected memory for each of them"
        )
    return array


def is_array(value: Any) -> bool:
    """Whether a value is a single array of any library, and no list or generator of them."""
    try:
        as_array(value, detached=True)
    except ValueError:
        # A tensor of another device.
        return True
    except TypeError:
        return False
    return True


def as_arrays(*values: Any) -> list[Any]:
    """See each value as `as_array` does.

    Returns
    -------
    list
        With `Refused` in the place of what cannot be used.

    Examples
    --------
    >>> as_arrays(np.zeros(2), bytearray(1))
    [array([0., 0.]), array([0], dtype=uint8)]
    """
    return [_or_refused(value) for value in values]


def mark_written(*values: Any) -> None:
    """Tell PyTorch which tensors were written to through their memory, so that autograd notices.

    Of a list its first item is meant, as in a buffer argument; other values are left alone.
    """
    torch = sys.modules.get("torch")
    for value in values:
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if torch is not None and isinstance(value, torch.Tensor) and not value.is_inference():
            torch.autograd.graph.increment_version(value)


def _or_refused(value: Any) -> Any:
    try:
        return as_array(value)
    except (TypeError, ValueError) as error:
        return Refused(str(error))


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


def buffer_of_arrays(buffer: Any) -> Any:
    """A buffer argument as mpi4py takes it, with a tensor, also in a list, seen as an array.

    Raises `ValueError` as `as_array` does.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return buffer
    if isinstance(buffer, list | tuple) and buffer and isinstance(buffer[0], torch.Tensor):
        return [as_array(buffer[0]), *buffer[1:]]
    return as_array(buffer) if isinstance(buffer, torch.Tensor) else buffer


def _tensor_memory(tensor: Any, torch: Any) -> Any:
    try:
        if tensor.is_cuda:
            return _cupy_array(tensor.detach(), torch)
        if tensor.dtype != torch.bfloat16:
            return tensor.detach().numpy()
        # NumPy and torch both know 16 bits.
        return tensor.detach().view(torch.int16).numpy().view(_bfloat16())
    except (BufferError, ImportError, RuntimeError, TypeError) as error:
        raise ValueError(f"tensor of {tensor.dtype} on {tensor.device}: {error}") from None


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
