"""Arrays on a GPU: their stages, in memory of the host where the MPI library cannot read that of a GPU.

The wheels of MPICH and Open MPI are built without support for GPUs, and would read an address of a GPU as
one of the host. Of a library with support only arrays with gaps are staged, on the GPU itself.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ..datatypes.arrays import memory_order, strided_layout
from ..datatypes.layout import overlaps
from ..datatypes.plain import MPI
from .refusals import overlap_error
from .settings import hands_over_gpu_memory

# Functions of libraries with support for GPUs, which tell whether the support is enabled.
_QUERIES = ("MPIX_Query_cuda_support", "MPIX_Query_rocm_support")


@cache
def library_reads_gpu() -> bool:
    """Whether arrays on a GPU are handed to the MPI library: as the user has set it, else as it says.

    MPI 4.1 has a key of communicators for it (section 12.4.3), MPICH and Open MPI have functions, and HPE's
    MPI a variable in the environment.
    """
    setting = hands_over_gpu_memory()
    if setting is not None:
        return setting
    info = MPI.COMM_WORLD.Get_info()
    kinds = info.Get("mpi_memory_alloc_kinds") or ""
    info.Free()
    if "cuda" in kinds or "rocm" in kinds or os.environ.get("MPICH_GPU_SUPPORT_ENABLED") == "1":
        return True
    library = ctypes.CDLL(MPI.__file__)
    return any(getattr(library, name)() == 1 for name in _QUERIES if hasattr(library, name))


def is_on_gpu(owner: Any) -> bool:
    """Whether an object says where on a GPU its elements lie."""
    # Of PyTorch's tensors all have the property, and those on a GPU a value.
    return hasattr(type(owner), "__cuda_array_interface__") and hasattr(owner, "__cuda_array_interface__")


def as_cupy(buffer: Any, receiving: bool) -> Any:
    """See an array on a GPU, of any library, as one of CuPy; None for anything else, and without CuPy."""
    if not is_on_gpu(buffer):
        return None
    try:
        import cupy
    except ImportError:
        return None
    if isinstance(buffer, cupy.ndarray):
        return buffer
    if receiving and buffer.__cuda_array_interface__["data"][1]:
        return None
    return cupy.asarray(buffer)


def gpu_buffer(array: Any) -> Any:
    """An object with a buffer at the address of an array on a GPU, which only MPI may read."""
    place, readonly = array.__cuda_array_interface__["data"]
    return MPI.buffer.fromaddress(place, array.nbytes, readonly=readonly)


class GpuStage:
    """Contiguous memory that MPI is given in place of an array on a GPU.

    Parameters
    ----------
    array : cupy.ndarray
        In the order of its memory.
    on_host : bool
        Where the contiguous memory is.

    Attributes
    ----------
    dense : array
        It, of NumPy or CuPy.
    is_dense : bool
        Whether the array has no gaps.
    """

    def __init__(self, array: Any, on_host: bool) -> None:
        import cupy

        memory: Any
        if on_host:
            # Pages that stay where they are: copies to and from others are several times slower.
            pages = cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
            memory = np.frombuffer(pages, np.uint8, array.nbytes)
        else:
            with cupy.cuda.Device(array.device.id):
                memory = cupy.empty(array.nbytes, np.uint8)
        self._array = array
        self._memory = memory
        self.is_dense = bool(array.flags.forc)
        self.dense: Any = memory.view(array.dtype).reshape(array.shape)

    @property
    def buffer(self) -> Any:
        """The stage as an object with a buffer, also where its address is one of the GPU."""
        return self._memory if isinstance(self.dense, np.ndarray) else gpu_buffer(self.dense)

    def load(self) -> None:
        """Copy the array to the stage, after what the current stream has begun."""
        import cupy

        with cupy.cuda.Device(self._array.device.id):
            if isinstance(self.dense, np.ndarray):
                cupy.asnumpy(self._array, out=self.dense)
            else:
                self.dense[...] = self._array
            cupy.cuda.get_current_stream().synchronize()

    def store(self, received: int | None = None) -> None:
        """Copy the stage to the array; with `received`, only that number of bytes."""
        if received == 0:
            return
        if received is not None and received < self._memory.nbytes:
            # A message ends anywhere: fill up with what the array holds already.
            message = self._memory[:received].copy()
            self.load()
            self._memory[:received] = message
        self._unpack()

    def _unpack(self) -> None:
        import cupy

        with cupy.cuda.Device(self._array.device.id):
            if isinstance(self.dense, np.ndarray) and self._array.flags.c_contiguous:
                self._array.set(self.dense)
            else:
                self._array[...] = cupy.asarray(self.dense)
            # Until then the stage is read.
            cupy.cuda.get_current_stream().synchronize()


@lru_cache(maxsize=4096)
def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    return overlaps(strided_layout(shape, strides, itemsize))


def stage_gpu(thing: Any, receiving: bool) -> GpuStage | None:
    """Stage for an array on a GPU; None where mpi4py shall have or refuse it.

    Raises `ValueError` for a receive array whose elements overlap.
    """
    array = as_cupy(thing, receiving)
    if array is None or (array.flags.forc and library_reads_gpu()):
        return None
    if receiving and not array.flags.forc and _overlaps(array.shape, array.strides, array.itemsize):
        raise overlap_error(array)
    return GpuStage(
        array.transpose(memory_order(array.shape, array.strides)), on_host=not library_reads_gpu()
    )
