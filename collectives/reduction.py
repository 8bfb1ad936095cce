"""Reductions: what MPI's operations do to arrays, through NumPy where it has the same, else through MPI."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI

Array = NDArray[Any]
Fold = Callable[..., Any]


class Reduction(NamedTuple):
    """An operation on the elements of one type.

    Attributes
    ----------
    fold : callable
        `fold(left, right, out=out)` on flat arrays of `dtype`; `out` may be `left` or `right`.
    dtype : numpy dtype
        Of the arrays; raw bytes, for a datatype that only MPI understands.
    commutes : bool
        Whether operands may change places.
    """

    fold: Fold
    dtype: np.dtype[Any]
    commutes: bool


# By operation: the function, and the kinds of elements that MPI defines it for.
_UFUNCS: dict[int, tuple[Any, str]] = {
    op.handle: (function, kinds)
    for op, function, kinds in (
        (MPI.SUM, np.add, "iufc"),
        (MPI.PROD, np.multiply, "iufc"),
        (MPI.MAX, np.maximum, "iuf"),
        (MPI.MIN, np.minimum, "iuf"),
        (MPI.LAND, np.logical_and, "biu"),
        (MPI.LOR, np.logical_or, "biu"),
        (MPI.LXOR, np.logical_xor, "biu"),
        (MPI.BAND, np.bitwise_and, "iu"),
        (MPI.BOR, np.bitwise_or, "iu"),
        (MPI.BXOR, np.bitwise_xor, "iu"),
    )
}


# NumPy's codes of the numbers that the MPI library has; not every one has float16.
MPI_CODES = "".join(code for code in "?bhilqBHILQefdgFDG" if MPI._typedict.get(code))
# Handles of the operations that are done through NumPy; they all commute.
PREDEFINED = frozenset(_UFUNCS)


def array_reduction(op: MPI.Op, dtype: np.dtype[Any], library: Any = np) -> Reduction | None:
    """Reduce arrays of a dtype by NumPy or CuPy; None where it does not have the operation as MPI has it.

    Also for dtypes that MPI lacks, such as those of ml_dtypes, which are of kind V to NumPy.
    """
    function, kinds = _UFUNCS.get(op.handle, (None, ""))
    if function is None or not dtype.isnative:
        return None
    if dtype.kind in kinds:
        return Reduction(getattr(library, function.__name__), dtype, True)
    if library is np and dtype.kind == "V" and dtype.names is None and "f" in kinds:
        try:
            if function.resolve_dtypes((dtype, dtype, None))[-1] == dtype:
                return Reduction(function, dtype, True)
        except TypeError:
            pass
    return None


def check_reducible(name: str, dtype: np.dtype[Any], op: MPI.Op, library: Any = np) -> None:
    """Raise `ValueError`, which begins with the name, for a dtype that neither MPI nor the library has.

    Examples
    --------
    >>> check_reducible("array 2", np.dtype("O"), MPI.SUM)
    Traceback (most recent call last):
    ...
    ValueError: array 2 of dtype object: expected one that SUM can reduce
    """
    is_of_mpi = dtype.isnative and dtype.char in MPI._typedict
    if not is_of_mpi and array_reduction(op, dtype, library) is None:
        raise ValueError(f"{name} of dtype {dtype}: expected one that {operation_name(op)} can reduce")


def local_reduction(op: MPI.Op, datatype: MPI.Datatype) -> Reduction:
    """Reduce by the MPI library itself; for pair types and operations of the program.

    Raises what MPI raises, on all ranks alike, when the operation does not take the datatype.
    """
    extent = datatype.Get_extent()[1]
    item = np.dtype((np.void, extent))

    def fold(left: Array, right: Array, out: Array) -> None:
        count = left.size
        if out is not right and np.shares_memory(left, out):
            # The library leaves its result in the operand on the right.
            held = right.copy()
            op.Reduce_local([left, count, datatype], [held, count, datatype])
            out[...] = held
            return
        if out is not right:
            out[...] = right
        op.Reduce_local([left, count, datatype], [out, count, datatype])

    if op.is_predefined:
        probe = np.zeros(extent, np.uint8).view(item)
        op.Reduce_local([probe, 1, datatype], [probe.copy(), 1, datatype])
    return Reduction(fold, item, op.is_commutative)


def datatype_reduction(op: MPI.Op, handle: int) -> Reduction | None:
    """Reduce elements of a predefined datatype, through NumPy if it has both it and the operation.

    None for a derived datatype, of whose elements only the program knows what they are. Raises what MPI
    raises when the operation does not take the datatype.
    """
    dtype = _dtypes().get(handle)
    found = None if dtype is None else array_reduction(op, dtype)
    if found is None:
        datatype = MPI.Datatype.fromhandle(handle)
        return local_reduction(op, datatype) if datatype.is_predefined else None
    return found


def operation_name(op: MPI.Op) -> str:
    """Name of a predefined operation; of the program's own, only that it is one."""
    return _operation_names().get(op.handle, "an operation of the program")


@cache
def _operation_names() -> dict[int, str]:
    return {value.handle: name for name, value in vars(MPI).items() if isinstance(value, MPI.Op)}


@cache
def _dtypes() -> dict[int, np.dtype[Any]]:
    """NumPy's types for MPI's, but for those that are not numbers to MPI: bytes and characters."""
    found = {MPI._typedict[code].handle: np.dtype(code) for code in MPI_CODES}
    for bits in (8, 16, 32, 64):
        found[getattr(MPI, f"INT{bits}_T").handle] = np.dtype(f"i{bits // 8}")
        found[getattr(MPI, f"UINT{bits}_T").handle] = np.dtype(f"u{bits // 8}")
    return found
