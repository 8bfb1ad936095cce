"""Where the arrays of a collective lie: in the memory of the host, or of a device, where CuPy computes.

An array on a device is handed to the MPI library as it is, if that says that it can read it, else staged on
the host (`roundelay.comm.device`). CuPy computes in streams, which MPI does not know: what is sent, or
returned to the program, is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from . import pool

Array = NDArray[Any]


class HostMemory:
    """Memory that NumPy computes in."""

    library: Any = np
    take: Callable[[int], Any] = staticmethod(pool.take)
    give_back: Callable[[Any], None] = staticmethod(pool.give_back)
    _everywhere = nullcontext()

    def current(self) -> AbstractContextManager[Any]:
        """Let a thread compute here."""
        return self._everywhere

    def is_aligned(self, array: Array) -> bool:
        """Whether the elements lie on their boundaries."""
        return bool(array.flags.aligned)

    def settle(self) -> None:
        """Wait until what was begun is done: here it is."""

    def adopt(self, array: Array) -> Array:
        """Give an array of the host to what computes here."""
        return array

    def publish(self, array: Array, target: Array) -> None:
        """Copy an array of this memory to one of the host."""
        target[...] = array


class _DeviceBlock(NamedTuple):
    array: Any


class DeviceMemory:
    """Memory of a device of CuPy, whose own pool keeps what is given back."""

    def __init__(self, number: int) -> None:
        import cupy

        self.library: Any = cupy
        self._number = number

    def current(self) -> AbstractContextManager[Any]:
        """Let a thread compute here, which begins with another device."""
        device: AbstractContextManager[Any] = self.library.cuda.Device(self._number)
        return device

    def is_aligned(self, _array: Any) -> bool:
        """Whether the elements lie on their boundaries, as CuPy's always do."""
        return True

    def take(self, nbytes: int) -> Any:
        """Return a block of that many bytes."""
        return _DeviceBlock(self.library.empty(nbytes, np.uint8))

    def give_back(self, block: Any) -> None:
        """Leave a block to CuPy, which finds out itself when it is not used any more."""

    def settle(self) -> None:
        """Wait until what was begun in the stream of this thread is done."""
        self.library.cuda.get_current_stream().synchronize()

    def adopt(self, array: Any) -> Any:
        """Copy an array of the host to the device."""
        return self.library.asarray(array)

    def publish(self, array: Any, target: Array) -> None:
        """Copy an array of the device to one of the host."""
        self.library.asnumpy(array, out=target)


Memory = HostMemory | DeviceMemory
HOST = HostMemory()
_device = cache(DeviceMemory)


def memory_of(array: Any) -> Memory:
    """The memory that an array of NumPy or CuPy lies in."""
    return HOST if isinstance(array, np.ndarray) else _device(array.device.id)


def is_writable(array: Any) -> bool:
    """Whether an array of NumPy or CuPy can be written; CuPy's always can."""
    return bool(getattr(array.flags, "writeable", True))


def memory_at(address: int, nbytes: int, array: Any = None) -> Array:
    """The bytes at an address, of the array that lies there where that is on a device."""
    if array is None or isinstance(array, np.ndarray):
        return _on_host(address, nbytes)
    flat = array.reshape(-1).view(np.uint8)
    begin = address - int(array.__cuda_array_interface__["data"][0])
    part: Array = flat[begin : begin + nbytes]
    return part


def _on_host(address: int, nbytes: int) -> Array:
    if not nbytes:
        return np.zeros(0, np.uint8)
    # A send buffer is never written; mpi4py decides whether it may be.
    return np.frombuffer(MPI.buffer.fromaddress(address, nbytes), np.uint8)  # type: ignore[call-overload, no-any-return]
