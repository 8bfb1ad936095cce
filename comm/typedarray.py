"""Strided arrays as MPI datatypes, for messages that the MPI library moves well itself."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..datatypes.layout import Dense, Layout, Node, Stream
from ..datatypes.plain import MPI
from .choice import library_moves
from .owned import OwnedType
from .staging import array_facts


def typed_array(array: NDArray[Any], receiving: bool) -> list[Any] | None:
    """Buffer argument with a datatype that describes an array with gaps; None if it must be staged."""
    facts = array_facts(array)
    if facts is None or facts.datatype is None or (receiving and facts.overlapping):
        return None
    if not library_moves(facts.nbytes, regular=True):
        return None
    owned = facts.owned
    if owned is None:
        owned = facts.owned = OwnedType(_datatype(facts.layout, facts.datatype))
    # An empty slice has the address of the first element, and mpi4py takes it for contiguous.
    return [array[:0], 1, owned.datatype]


def _datatype(layout: Layout, element: MPI.Datatype) -> MPI.Datatype:
    """Datatype of the streams of an array's canonical layout, which begins with its first element."""

    def build(node: Node) -> MPI.Datatype:
        match node:
            case Dense(nbytes):
                return element.Create_contiguous(nbytes // element.Get_size())
            case Stream(count, stride, child):
                inner = build(child)
                try:
                    return inner.Create_hvector(count, 1, stride)
                finally:
                    inner.Free()
        raise TypeError(f"layout of an array: expected streams over dense runs, got {node!r}")

    return build(layout.node)
