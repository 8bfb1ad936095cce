"""Datatypes that the layer makes for itself."""

from __future__ import annotations

import sys

from ..datatypes.plain import MPI

_unused: list[MPI.Datatype] = []
# References to a datatype that only `free_unused` still holds: its variable, and the one being counted.
_HELD_HERE = 2


class OwnedType:
    """A committed datatype that is freed, a little later, when what it belongs to is forgotten."""

    def __init__(self, datatype: MPI.Datatype) -> None:
        free_unused()
        self.datatype = datatype.Commit()

    def __del__(self, unused: list[MPI.Datatype] = _unused) -> None:
        # This may run inside an attribute callback of MPI, or after MPI_Finalize: do not free it here.
        unused.append(self.datatype)


def free_unused() -> None:
    """Free datatypes that nothing owns any more; MPI keeps those that an operation still uses."""
    for _ in range(len(_unused)):
        datatype = _unused.pop(0)
        if sys.getrefcount(datatype) > _HELD_HERE:
            # Another thread is about to hand it to MPI.
            _unused.append(datatype)
        else:
            datatype.Free()
