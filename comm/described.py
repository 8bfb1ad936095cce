"""Arrays with gaps as derived datatypes, which the MPI library moves.

That is also all that there is without an interposer: a message, which is one count of a datatype, takes any
array, and a collective that divides its buffers among ranks refuses them, as mpi4py does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..datatypes.arrays import as_numpy, element_datatype, strided_layout
from ..datatypes.layout import Dense, Node, Stream
from ..datatypes.plain import MPI
from .choice import is_misread
from .owned import OwnedType
from .substitute import named_like

_REFUSED = (BufferError, KeyError, ValueError)
_TYPES_KEPT = 1024
_types: dict[Any, OwnedType] = {}


def array_datatype(
    shape: Sequence[int], strides: Sequence[int], itemsize: int, element: MPI.Datatype
) -> MPI.Datatype:
    """Datatype of an array from its first element, in the order of its memory."""

    def build(node: Node) -> MPI.Datatype:
        match node:
            case Dense(nbytes):
                return element.Create_contiguous(nbytes // itemsize)
            case Stream(count, stride, child):
                inner = build(child)
                try:
                    return inner.Create_hvector(count, 1, stride)
                finally:
                    inner.Free()
        raise TypeError(f"layout of an array: expected streams over dense runs, got {node!r}")

    return build(strided_layout(shape, strides, itemsize, order="K").node)


def describing(base: Any) -> Any:
    """Make a method of mpi4py's take arrays with gaps."""

    @named_like(base)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return base(self, *arguments, **named)
        except _REFUSED:
            described = [_describe(each) for each in arguments]
            also = {name: _describe(each) for name, each in named.items()}
            same = all(one is other for one, other in zip(arguments, described, strict=True))
            if same and all(also[name] is named[name] for name in named):
                raise
        return base(self, *described, **also)

    return method


def _describe(argument: Any) -> Any:
    """The buffer specification that MPI gets for an array with gaps; any other argument as it is."""
    try:
        array = as_numpy(argument)
    except (TypeError, ValueError, BufferError):
        return argument
    element = element_datatype(array.dtype)
    if array.flags.forc or element is None:
        return argument
    if is_misread(array.strides, array.itemsize, array.dtype.char):
        return argument
    key = array.shape, array.strides, array.dtype
    owned = _types.pop(key, None)
    if owned is None:
        owned = OwnedType(array_datatype(array.shape, array.strides, array.itemsize, element))
    _types[key] = owned
    if len(_types) > _TYPES_KEPT:
        del _types[next(iter(_types))]
    # An empty slice has the address of the first element, and mpi4py takes it for contiguous.
    return [array[:0], 1, owned.datatype]
