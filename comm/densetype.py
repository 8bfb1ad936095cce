"""Dense datatypes: what packed data is sent as.

The dense form of a datatype has the same signature and the same size, and no gaps. Because count and
size stay what they were, an MPI library that cuts a message into segments of whole datatypes cuts it
at the same places on a rank that packs and on one that does not.
"""

from __future__ import annotations

from ..datatypes.plain import MPI

from ..datatypes.known import KnownDatatype

_LARGEST_COUNT = 2**31 - 1


class _DenseType:
    """A committed datatype that is freed, a little later, when what it belongs to is forgotten."""

    def __init__(self, datatype: MPI.Datatype) -> None:
        self.datatype = datatype

    def __del__(self) -> None:
        # This may run inside an attribute callback of MPI, or after MPI_Finalize: do not free it here.
        _unused.append(self.datatype)


_unused: list[MPI.Datatype] = []
_ATTRIBUTE = "dense_type"


def dense_type(known: KnownDatatype) -> MPI.Datatype | None:
    """Dense form of a datatype; None when it is too large for one count of MPI 3."""
    found: _DenseType | None = known.attributes.get(_ATTRIBUTE)
    if found is None:
        basis = known.basis or MPI.BYTE
        count = known.size // basis.Get_size()
        if count > _LARGEST_COUNT:
            return None
        while _unused:
            _unused.pop().Free()
        found = known.attributes[_ATTRIBUTE] = _DenseType(basis.Create_contiguous(count).Commit())
    return found.datatype
