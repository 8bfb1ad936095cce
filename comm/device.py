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
from .staging import Stage
from .strided import has_derived_datatype

# What libraries with support for GPUs have functions of, that tell whether it is there and enabled.
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


class GpuStage(Stage):
    """Contiguous memory in place of an array on a GPU.

    Parameters
    ----------
    array : cupy.ndarray
    owner : object
    partial : bool
        As those of a stage.
    on_host : bool
        Where the contiguous memory is.
    """

    __slots__ = ("_array", "dense", "is_dense")

    def __init__(self, array: Any, owner: Any, partial: bool, on_host: bool) -> None:
        import cupy

        if on_host:
            # Pages that stay where they are: copies to and from others are several times slower.
            pages = cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
            memory = np.frombuffer(pages, np.uint8, array.nbytes)
        else:
            with cupy.cuda.Device(array.device.id):
                memory = cupy.empty(array.nbytes, np.uint8)
        super().__init__(memory, array.nbytes, owner, partial)
        self._array = array
        self.is_dense = bool(array.flags.forc)
        self.dense: Any = memory.view(array.dtype).reshape(array.shape)

    @property
    def buffer(self) -> Any:
        """The stage as an object with a buffer, also where its address is one of the GPU."""
        if isinstance(self.dense, np.ndarray):
            return self.dense
        place = self.dense.__cuda_array_interface__["data"][0]
        return MPI.buffer.fromaddress(place, self.nbytes, readonly=False)

    def load(self) -> None:
        """Copy the array to the stage, after what the current stream has begun."""
        import cupy

        with cupy.cuda.Device(self._array.device.id):
            if isinstance(self.dense, np.ndarray):
                cupy.asnumpy(self._array, out=self.dense)
            else:
                self.dense[...] = self._array
            cupy.cuda.get_current_stream().synchronize()

    def _unpack(self) -> None:
        import cupy

        with cupy.cuda.Device(self._array.device.id):
            if isinstance(self.dense, np.ndarray) and self._array.flags.c_contiguous:
                self._array.set(self.dense)
            else:
                self._array[...] = cupy.asarray(self.dense)
            # Until then the stage is read.
            cupy.cuda.get_current_stream().synchronize()

    def release(self) -> None:
        """Leave the memory to CuPy's pools, which find out themselves when it is not used any more."""


@lru_cache(maxsize=4096)
def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    return overlaps(strided_layout(shape, strides, itemsize))


def stage_gpu(buffer: Any, receiving: bool) -> GpuStage | None:
    """Stage for the array on a GPU in a buffer argument; None where mpi4py shall have or refuse it.

    Raises `ValueError` for a receive array whose elements overlap.
    """
    listed = isinstance(buffer, list | tuple)
    array = as_cupy(buffer[0] if listed else buffer, receiving)
    if array is None:
        return None
    dense = bool(array.flags.forc)
    if dense and library_reads_gpu():
        return None
    if not dense:
        if listed and has_derived_datatype(buffer):
            return None
        if receiving and _overlaps(array.shape, array.strides, array.itemsize):
            raise overlap_error(array)
    array = array.transpose(memory_order(array.shape, array.strides))
    stage = GpuStage(array, buffer, partial=listed, on_host=not library_reads_gpu())
    stage.spec = [stage.dense, *buffer[1:]] if listed else stage.dense
    return stage
