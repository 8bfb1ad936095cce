"""Datatypes that the layer makes for itself."""

from __future__ import annotations

from ..datatypes.plain import MPI

_unused: list[MPI.Datatype] = []


class _Collected(MPI.Datatype):
    """A datatype that can be freed once nothing refers to it: no owner, no call, no request of mpi4py's."""

    def __del__(self, unused: list[MPI.Datatype] = _unused) -> None:
        # This may run inside an attribute callback of MPI, or after MPI_Finalize: do not free it here.
        unused.append(self)


class OwnedType:
    """A committed datatype that is freed, a little later, when what it belongs to is forgotten."""

    def __init__(self, datatype: MPI.Datatype) -> None:
        free_unused()
        self.datatype: MPI.Datatype = _Collected(datatype.Commit())


def free_unused() -> None:
    """Free datatypes that nothing refers to any more; MPI keeps those that an operation still uses."""
    while True:
        try:
            datatype = _unused.pop()
        except IndexError:
            # There is none, or another thread took the last one.
            return
        datatype.Free()
