"""Reductions of rows by MPI: what NumPy does to many rows at once, as an operation of the program.

A row is one element to the MPI library, which cuts arrays only between elements; so an operation may be
called on any of the rows, and never on a part of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...datatypes.plain import MPI
from .tiles import Array

# Merges the rows of the first array, which come from lower ranks, into those of the second one.
Merge = Callable[[Array, Array], None]


@cache
def row_operation(merge: Merge, dtype: np.dtype[Any], commutes: bool) -> MPI.Op:
    """An operation on rows of any length; mpi4py has room for a few tens of operations in all."""

    def run(lower: Any, higher: Any, datatype: MPI.Datatype) -> None:
        shape = -1, datatype.Get_size() // dtype.itemsize
        merge(np.frombuffer(lower, dtype).reshape(shape), np.frombuffer(higher, dtype).reshape(shape))

    return MPI.Op.Create(run, commutes)


@cache
def row_datatype(dtype: np.dtype[Any], length: int) -> MPI.Datatype:
    """The datatype of a row of `length` numbers."""
    return MPI._typedict[dtype.char].Create_contiguous(length).Commit()
