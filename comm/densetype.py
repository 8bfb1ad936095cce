"""Dense datatypes: what packed data is sent as.

The dense form of a datatype has the same signature and the same size, and no gaps. Because count and
size stay what they were, an MPI library that cuts a message into segments of whole datatypes cuts it
at the same places on a rank that packs and on one that does not.
"""

from __future__ import annotations

from ..datatypes.known import KnownDatatype
from ..datatypes.plain import MPI
from .owned import OwnedType

_LARGEST_COUNT = 2**31 - 1
_ATTRIBUTE = "dense_type"


def dense_type(known: KnownDatatype) -> MPI.Datatype | None:
    """Dense form of a datatype; None when it is too large for one count of MPI 3."""
    found: OwnedType | None = known.attributes.get(_ATTRIBUTE)
    if found is None:
        basis = known.basis or MPI.BYTE
        count = known.size // basis.Get_size()
        if count > _LARGEST_COUNT:
            return None
        found = known.attributes[_ATTRIBUTE] = OwnedType(basis.Create_contiguous(count))
    return found.datatype
