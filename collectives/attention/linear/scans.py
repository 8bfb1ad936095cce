"""The states of linear attention by MPI's own exclusive scan.

`Exscan` is from the first rank to the last. Gradients of keys and values need the sum from the last rank on;
that is an exclusive scan on a communicator of the same ranks in reversed order, which is made once for a
communicator. Where states decay, what is scanned are the rows of a state, each behind the factor by which one
from before decays: the maps X -> f X + S, which do not commute.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ....datatypes.plain import MPI
from ..group import Group, wait
from ..rows import row_datatype, row_operation
from ..tiles import Array
from .states import State, rows_left


class Exscan:
    """A nonblocking `Iexscan` of all ranks of a communicator.

    Parameters
    ----------
    group : Group
        All ranks in their order.
    state : State
    reverse : bool
        Whether the scan goes from the last rank to the first.
    """

    def __init__(self, group: Group, state: State, reverse: bool) -> None:
        self._shape = state.sums.shape
        comm = _reversed(group.comm) if reverse else group.comm
        self._is_first = comm.rank == 0
        left = rows_left(state)
        sums = state.sums.reshape(-1, self._shape[-1])
        self._rows = sums if left is None else np.hstack((left, sums))
        self._found = np.empty_like(self._rows)
        if left is None:
            self._request = comm.Iexscan(self._rows, self._found, MPI.SUM)
            return
        datatype = row_datatype(sums.dtype, self._rows.shape[1])
        sent, received = ([rows, len(rows), datatype] for rows in (self._rows, self._found))
        self._request = comm.Iexscan(sent, received, row_operation(_then, sums.dtype, commutes=False))

    def poll(self) -> None:
        """Let messages move on."""
        self._request.Test()

    def finish(self) -> Array:
        """Wait for the sum of the states of all ranks before; 0 if there are none."""
        wait([self._request])
        if self._is_first:
            # MPI leaves it undefined.
            self._found[...] = 0
        return np.ascontiguousarray(self._found[:, -self._shape[-1] :]).reshape(self._shape)


def _then(before: Array, behind: Array) -> None:
    """Let a state decay in the tokens behind it, and add theirs."""
    behind[:, 1:] += behind[:, :1] * before[:, 1:]
    behind[:, :1] *= before[:, :1]


def _reversed(comm: MPI.Intracomm) -> MPI.Intracomm:
    """A communicator of the same ranks in reversed order, freed with the communicator."""
    found: Any = comm.Get_attr(_keyval())
    if found is None:
        found = comm.Split(0, -comm.rank)
        comm.Set_attr(_keyval(), found)
    return MPI.Intracomm(found)


@cache
def _keyval() -> int:
    def free(_comm: MPI.Comm, _keyval: int, attribute: Any) -> None:
        attribute.Free()

    return MPI.Comm.Create_keyval(delete_fn=free)
