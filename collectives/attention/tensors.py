"""PyTorch's tensors as arrays over the same memory, and arrays as tensors; torch itself is not imported."""

from __future__ import annotations

import sys
from typing import Any, NoReturn


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
        if tensor.dtype != torch.bfloat16:
            return _over_memory(tensor.detach())
        # Neither NumPy nor DLPack between it and torch knows bfloat16; both know 16 bits.
        return _over_memory(tensor.detach().view(torch.int16)).view(_bfloat16())
    except (BufferError, ImportError, RuntimeError, TypeError) as error:
        return Refused(f"tensor of {tensor.dtype} on {tensor.device}: {error}")


def _over_memory(tensor: Any) -> Any:
    if not tensor.is_cuda:
        return tensor.numpy()
    import cupy

    return cupy.from_dlpack(tensor)


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("NumPy needs ml_dtypes for it: pip install ml_dtypes") from None
    return ml_dtypes.bfloat16


def tensor_over(array: Any) -> Any:
    """A tensor over the memory of an array; torch is imported already."""
    torch = sys.modules["torch"]
    # DLPack does not know the bfloat16 of ml_dtypes, and knows 16 bits.
    if array.dtype.name != "bfloat16":
        return torch.from_dlpack(array)
    return torch.from_dlpack(array.view("int16")).view(torch.bfloat16)
