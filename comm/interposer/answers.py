"""Answers to the interposer about datatypes and arrays that it sees for the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial, wraps
from typing import Any, TypeVar

import numpy as np

from ...datatypes.arrays import as_numpy, element_datatype, strided_layout
from ...datatypes.known import known_datatype
from ...datatypes.layout import overlaps
from ...datatypes.movers import has_mover, mover_address
from ...datatypes.plain import MPI
from ...datatypes.program import Program
from ..choice import is_easy_to_pack, is_easy_to_send, is_misread
from ..densetype import dense_type
from ..described import array_datatype
from ..device import as_cupy, gpu_buffer, is_on_gpu, stage_gpu
from ..interrupts import uninterrupted
from ..refusals import bounds_error, overlap_error

_Question = TypeVar("_Question", bound=Callable[..., Any])

# As layouts.h has them.
_CONTIGUOUS, _ONE_RUN, _EASY_TO_SEND, _EASY_TO_PACK, _MISREAD, _PREDEFINED = 1, 2, 4, 8, 16, 32
_ATTRIBUTE = "interposer"
# By their bytes.
_INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}


def _uninterrupted(question: _Question) -> _Question:
    """Answer a question while handlers of signals wait; what they raise comes when MPI has returned."""

    @wraps(question)
    def answer(self: Answers, *arguments: Any) -> Any:
        return uninterrupted(partial(question, self, *arguments), self.module.raise_later)

    return answer  # type: ignore[return-value]


class Answers:
    """Answers for the interposer `module`, which keeps them until a datatype is freed."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @cached_property
    def _has_kernel(self) -> bool:
        """Whether the kernel is there; it is loaded, or compiled, when it is needed first."""
        if has_mover():
            self.module.set_kernel(mover_address())
        return has_mover()

    @_uninterrupted
    def datatype(self, handle: int) -> tuple[int, int, int, int] | None:
        """Size, extent, flags and dense form of a datatype; None where the MPI library must move it."""
        datatype = MPI.Datatype.fromhandle(handle)
        known = known_datatype(datatype)
        if known is None:
            return None
        known.attributes[_ATTRIBUTE] = _Remembered(self.module, handle)
        if known.layout is None or not self._has_kernel:
            return None
        flags = _CONTIGUOUS * known.contiguous + _ONE_RUN * known.is_run(1)
        flags += _EASY_TO_SEND * is_easy_to_send(known.layout)
        flags += _EASY_TO_PACK * is_easy_to_pack(known.layout)
        flags += _PREDEFINED * datatype.is_predefined
        dense = dense_type(known)
        return known.size, known.extent, flags, 0 if dense is None else dense.handle

    @_uninterrupted
    def program(self, handle: int, count: int) -> tuple[Any, int, bool]:
        """Copy loops for `count` instances, how often to run them, and whether bytes come twice."""
        known = known_datatype(MPI.Datatype.fromhandle(handle))
        assert known is not None
        program, instances = known.program(count)
        return program.words, instances, known.overlaps(count)

    @_uninterrupted
    def array(
        self, shape: Sequence[int], strides: Sequence[int], itemsize: int, code: str
    ) -> tuple[Any, bool, int, int]:
        """Copy loops in the order of memory, whether elements overlap, flags, and the elements' datatype."""
        if not self._has_kernel:
            raise BufferError("message: an array with gaps, and no Numba to move it")
        layout = strided_layout(shape, strides, itemsize, order="K")
        element = MPI._typedict.get(code)
        handle = 0 if element is None or element.Get_size() != itemsize else element.handle
        flags = _EASY_TO_SEND * is_easy_to_send(layout) + _MISREAD * is_misread(strides, itemsize, code)
        return Program(layout).words, overlaps(layout), flags, handle

    @_uninterrupted
    def described(self, shape: Sequence[int], strides: Sequence[int], itemsize: int, element: int) -> int:
        """A committed datatype of an array from its first element, which the interposer frees."""
        return array_datatype(shape, strides, itemsize, MPI.Datatype.fromhandle(element)).Commit().handle

    def array_like(
        self, thing: Any, receiving: bool, engages: bool, reduces: bool
    ) -> tuple[Any, Any, str | None, bool, Any] | None:
        """Memory for an object without a buffer, or with elements that MPI lacks; None where mpi4py reads it.

        With it come what fills and empties it if it is a stage, the format of its elements where it does not
        say that itself, and whether the array has no gaps. Where a collective of ours may take it
        (`engages`), the last one is an array that says more than address and datatype.
        """
        if is_on_gpu(thing):
            return _on_gpu(thing, receiving, engages, reduces)
        try:
            array = as_numpy(thing)
        except (TypeError, ValueError, BufferError):
            return None
        if reduces and (format_ := _as_integers(array.dtype)):
            return array.view(format_), None, None, array.flags.forc, array
        # mpi4py looks at the strides of an empty tensor, of which NumPy says that it has no gaps.
        return None if array.size and array.flags.forc and array.flags.aligned else _as_it_is(array)

    def bounds_error(self, handle: int, count: int, offset: int, nbytes: int) -> ValueError | None:
        """The error of instances of a datatype that begin at an offset of memory, if they leave it."""
        known = known_datatype(MPI.Datatype.fromhandle(handle))
        return None if known is None else bounds_error(known, count, offset, nbytes)

    def overlap_error(self, array: Any) -> ValueError:
        """The error of a receive array whose elements share memory."""
        return overlap_error(as_numpy(array))


def _as_it_is(memory: Any) -> tuple[Any, None, None, bool, None]:
    return memory, None, None, False, None


def _as_integers(dtype: np.dtype[Any]) -> str:
    """The format of integers as wide as numbers that NumPy adds and MPI lacks; empty for others."""
    is_lacking = dtype.kind == "f" or (
        dtype.kind == "V" and dtype.names is None and dtype.type is not np.void
    )
    if not is_lacking or not dtype.isnative or element_datatype(dtype) is not None:
        return ""
    return _INTEGERS.get(dtype.itemsize, "")


def _on_gpu(
    thing: Any, receiving: bool, engages: bool, reduces: bool
) -> tuple[Any, Any, str | None, bool, Any] | None:
    stage = stage_gpu(thing, receiving)
    if stage is not None:
        dense = stage.dense
        integers = _as_integers(dense.dtype) if reduces else ""
        array = dense if engages and (integers or not isinstance(dense, np.ndarray)) else None
        return stage.buffer, stage, integers or dense.dtype.char, stage.is_dense, array
    array = as_cupy(thing, receiving) if engages else None
    if array is None:
        return None
    integers = _as_integers(array.dtype) if reduces else ""
    return gpu_buffer(array), None, integers or array.dtype.char, True, array


class _Remembered:
    """Goes with a datatype when it is freed, and lets the interposer forget it."""

    def __init__(self, module: Any, handle: int) -> None:
        self._forget = module.forget
        self._handle = handle

    def __del__(self) -> None:
        self._forget(self._handle)
