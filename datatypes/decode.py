"""From an MPI datatype to the layout it describes (MPI 4.1, chapter 5).

`Datatype.decode()` gives the constructor and its arguments in one form for all MPI libraries. Extents
are asked of the library, whose alignment rules are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .canonical import FLAT_LIMIT
from .layout import Blocks, Dense, Layout, Node, Offsets, Runs, Stream, flatten, run_count
from .plain import MPI


class UnsupportedDatatype(TypeError):
    """A datatype that only the MPI library can read."""


class Decoded(NamedTuple):
    """A layout as it was constructed, and the one predefined datatype it is made of (None: several)."""

    layout: Layout
    basis: MPI.Datatype | None


class _Part(NamedTuple):
    """A datatype on the way: its tree, extent, and the handles of its predefined leaves."""

    node: Node
    extent: int
    leaves: dict[int, MPI.Datatype]


# A block list longer than this becomes `Runs` at once: a tree of thousands of nodes helps nobody.
_BLOCK_LIMIT = 64


def decode(datatype: MPI.Datatype) -> Decoded:
    """Read a datatype.

    Raises `UnsupportedDatatype` for a constructor that is not known here, or too irregular to list,
    and `mpi4py.MPI.Exception` for a null datatype.
    """
    lb, extent = datatype.Get_extent()
    part = _read(datatype)
    bases = list(part.leaves.values())
    return Decoded(Layout(part.node, 0, lb, extent), bases[0] if len(bases) == 1 else None)


def _read(datatype: MPI.Datatype) -> _Part:
    _, extent = datatype.Get_extent()
    base, combiner, arguments = datatype.decode()
    if combiner == "NAMED" or combiner.startswith("F90_"):
        return _Part(_named(datatype), extent, {datatype.handle: datatype})
    if combiner == "VALUE_INDEX":
        return _Part(_named(datatype, arguments["index"].Get_size()), extent, {datatype.handle: datatype})
    children = arguments.pop("datatypes", [base])
    try:
        parts = _read_each(children)
    finally:
        for child in children:
            if not child.is_predefined:
                child.Free()
    build = _BUILDERS.get(combiner)
    if build is None:
        raise UnsupportedDatatype(f"datatype constructor {combiner} is not known to roundelay")
    leaves = {handle: leaf for part in parts for handle, leaf in part.leaves.items()}
    return _Part(build(parts, arguments), extent, leaves)


def _read_each(datatypes: Sequence[MPI.Datatype]) -> list[_Part]:
    """Read members of a struct; a predefined one, which may come thousands of times, only once."""
    known: dict[int, _Part] = {}
    parts = []
    for datatype in datatypes:
        part = known.get(datatype.handle) or _read(datatype)
        if datatype.is_predefined:
            known[datatype.handle] = part
        parts.append(part)
    return parts


def _named(datatype: MPI.Datatype, index_size: int | None = None) -> Node:
    """Predefined datatypes are dense, but for value-and-index pairs, which may have a gap between."""
    nbytes = datatype.Get_size()
    _, true_extent = datatype.Get_true_extent()
    if nbytes == true_extent:
        return Dense(nbytes)
    index_size = index_size or MPI.INT.Get_size()
    return Blocks((0, true_extent - index_size), (Dense(nbytes - index_size), Dense(index_size)))


def _tile(part: _Part, count: int) -> Node:
    """`count` instances of a datatype, an extent apart."""
    return part.node if count == 1 else Stream(count, part.extent, part.node)


def _dup(parts: list[_Part], _: dict[str, Any]) -> Node:
    return parts[0].node


def _contiguous(parts: list[_Part], a: dict[str, Any]) -> Node:
    return _tile(parts[0], a["count"])


def _vector(parts: list[_Part], a: dict[str, Any]) -> Node:
    return Stream(a["count"], a["stride"] * parts[0].extent, _tile(parts[0], a["blocklength"]))


def _hvector(parts: list[_Part], a: dict[str, Any]) -> Node:
    return Stream(a["count"], a["stride"], _tile(parts[0], a["blocklength"]))


def _indexed(parts: list[_Part], a: dict[str, Any]) -> Node:
    places = np.array(a["displacements"], np.int64) * parts[0].extent
    return _list_blocks(parts[0], places, np.array(a["blocklengths"], np.int64))


def _hindexed(parts: list[_Part], a: dict[str, Any]) -> Node:
    return _list_blocks(
        parts[0], np.array(a["displacements"], np.int64), np.array(a["blocklengths"], np.int64)
    )


def _indexed_block(parts: list[_Part], a: dict[str, Any]) -> Node:
    return _indexed(parts, a | {"blocklengths": [a["blocklength"]] * len(a["displacements"])})


def _hindexed_block(parts: list[_Part], a: dict[str, Any]) -> Node:
    return _hindexed(parts, a | {"blocklengths": [a["blocklength"]] * len(a["displacements"])})


def _struct(parts: list[_Part], a: dict[str, Any]) -> Node:
    places, counts = a["displacements"], a["blocklengths"]
    blocks = [_tile(part, count) for part, count in zip(parts, counts, strict=True)]
    tree = Blocks(tuple(places), tuple(blocks))
    return tree if len(blocks) <= _BLOCK_LIMIT else Runs(*flatten(_listable(tree)))


def _resized(parts: list[_Part], _: dict[str, Any]) -> Node:
    return parts[0].node


def _subarray(parts: list[_Part], a: dict[str, Any]) -> Node:
    dimensions = list(zip(a["sizes"], a["subsizes"], a["starts"], strict=True))
    stride, offset, node = parts[0].extent, 0, parts[0].node
    for length, taken, start in dimensions if a["order"] == MPI.ORDER_F else reversed(dimensions):
        node = Stream(taken, stride, node)
        offset += start * stride
        stride *= length
    return Blocks((offset,), (node,))


def _darray(parts: list[_Part], a: dict[str, Any]) -> Node:
    """Each dimension contributes the blocks that this process owns; the process grid is row-major."""
    rank, coordinates = a["rank"], []
    for processes in reversed(a["psizes"]):
        coordinates.append(rank % processes)
        rank //= processes
    dimensions = list(
        zip(a["gsizes"], a["distribs"], a["dargs"], a["psizes"], reversed(coordinates), strict=True)
    )
    stride, node = parts[0].extent, parts[0].node
    for length, kind, argument, processes, place in (
        dimensions if a["order"] == MPI.ORDER_F else reversed(dimensions)
    ):
        owned = _owned(length, kind, argument, processes, place)
        blocks = tuple(Stream(stop - start, stride, node) for start, stop in owned)
        node = Blocks(tuple(start * stride for start, _ in owned), blocks)
        stride *= length
    return node


def _owned(length: int, kind: int, argument: int, processes: int, place: int) -> list[tuple[int, int]]:
    """Ranges of indices that process `place` of `processes` owns in one dimension of a darray."""
    if kind == MPI.DISTRIBUTE_NONE:
        return [(0, length)]
    if argument == MPI.DISTRIBUTE_DFLT_DARG:
        argument = -(-length // processes) if kind == MPI.DISTRIBUTE_BLOCK else 1
    starts = range(place * argument, length, processes * argument)
    return [(start, min(start + argument, length)) for start in starts]


def _list_blocks(part: _Part, places: Offsets, counts: Offsets) -> Node:
    """`counts[i]` instances at `places[i]`; blocks of no instances have no place."""
    places, counts = places[counts > 0], counts[counts > 0]
    if isinstance(part.node, Dense) and part.node.nbytes == part.extent:
        return Runs(places, counts * part.extent)
    if len(places) <= _BLOCK_LIMIT:
        blocks = tuple(_tile(part, int(count)) for count in counts)
        return Blocks(tuple(places.tolist()), blocks)
    instance, lengths = flatten(_listable(part.node, int(counts.sum())))
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(places, counts) + within * part.extent
    return Runs(np.add.outer(starts, instance).ravel(), np.tile(lengths, len(starts)))


def _listable(node: Node, instances: int = 1) -> Node:
    runs = run_count(node) * instances
    if runs > FLAT_LIMIT:
        raise UnsupportedDatatype(
            f"{runs} irregular runs are more than the {FLAT_LIMIT} that roundelay lists"
        )
    return node


_BUILDERS: dict[str, Callable[[list[_Part], dict[str, Any]], Node]] = {
    "DUP": _dup,
    "CONTIGUOUS": _contiguous,
    "VECTOR": _vector,
    "HVECTOR": _hvector,
    "INDEXED": _indexed,
    "HINDEXED": _hindexed,
    "INDEXED_BLOCK": _indexed_block,
    "HINDEXED_BLOCK": _hindexed_block,
    "STRUCT": _struct,
    "RESIZED": _resized,
    "SUBARRAY": _subarray,
    "DARRAY": _darray,
}
