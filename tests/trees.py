"""Trees of datatypes: printable values, what MPI and the MPI standard say of them, and a random generator.

A tree is a nested tuple: the constructor's name, its arguments, and the tree (for a struct: the trees) it is
made over, as in ``("vector", 3, 1, 2, ("named", "INT"))``.  `build` makes the MPI datatype, `typemap` walks
the tree in plain Python, `draw_tree` grows a random tree with a given signature (the idea of MPICH's DTPools:
the sender's and the receiver's tree differ, their signature does not).

`oracle_pack` and `oracle_unpack` ask the MPI library, `walk_pack` and `walk_unpack` follow the typemap: where
they differ, the typemap is what the standard says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from random import Random
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import roundelay
from roundelay.comm.interposer import library_alone

Tree = tuple[Any, ...]
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LEAVES = {"named", "value_index", "f90_integer", "f90_real", "f90_complex"}
CONSTRUCTORS = {
    "dup",
    "contiguous",
    "vector",
    "hvector",
    "indexed",
    "hindexed",
    "indexed_block",
    "hindexed_block",
    "struct",
    "subarray",
    "darray",
    "resized",
}

GUARD = 64
"""Bytes on either side of what a datatype touches, to see a write that goes astray."""


# --- From a tree to an MPI datatype -------------------------------------------------------------------------


def build(tree: Tree, mpi: ModuleType) -> PLAIN.Datatype:
    """Make the committed MPI datatype of ``tree`` with the given MPI module; `release` frees it."""
    datatype = _construct(tree, mpi)
    if not datatype.is_predefined:
        datatype.Commit()
    return datatype


def release(datatype: PLAIN.Datatype) -> None:
    """Free a datatype unless it is predefined."""
    if not datatype.is_predefined:
        datatype.Free()


@contextmanager
def built(tree: Tree, mpi: ModuleType = PLAIN) -> Iterator[PLAIN.Datatype]:
    """Hold the MPI datatype of ``tree`` for the length of a block."""
    datatype = build(tree, mpi)
    try:
        yield datatype
    finally:
        release(datatype)


def _construct(tree: Tree, mpi: ModuleType) -> PLAIN.Datatype:
    children = [_construct(child, mpi) for child in children_of(tree)]
    try:
        made: PLAIN.Datatype = _constructor(tree[0], children, mpi)(*_arguments(tree, children, mpi))
    finally:
        for child in children:
            release(child)
    return made


def _constructor(kind: str, children: list[PLAIN.Datatype], mpi: ModuleType) -> Any:
    if kind == "named":
        return partial(getattr, mpi)
    if kind == "value_index":
        return mpi.Datatype.Get_value_index
    if kind == "dup":
        return children[0].Dup
    return getattr(mpi.Datatype if kind == "struct" or not children else children[0], f"Create_{kind}")


def _arguments(tree: Tree, children: list[PLAIN.Datatype], mpi: ModuleType) -> list[Any]:
    kind, *arguments = tree
    if kind == "struct":
        return [*map(list, arguments[:2]), children]
    if kind == "value_index":
        return [getattr(mpi, name) for name in arguments]
    return _translate(kind, arguments if kind in LEAVES else arguments[:-1], mpi)


def _translate(kind: str, arguments: Sequence[Any], mpi: ModuleType) -> list[Any]:
    """Put the library's constants in the place of names."""
    names = {"C": mpi.ORDER_C, "F": mpi.ORDER_F}
    if kind == "subarray":
        return [*arguments[:3], names[arguments[3]]]
    if kind == "darray":
        size, rank, gsizes, distribs, dargs, psizes, order = arguments
        kinds = [getattr(mpi, f"DISTRIBUTE_{name.upper()}") for name in distribs]
        blocks = [mpi.DISTRIBUTE_DFLT_DARG if darg is None else darg for darg in dargs]
        return [size, rank, gsizes, kinds, blocks, psizes, names[order]]
    return [list(argument) if isinstance(argument, tuple) else argument for argument in arguments]


def children_of(tree: Tree) -> tuple[Tree, ...]:
    """List the trees that ``tree`` is made over."""
    if tree[0] in LEAVES:
        return ()
    return tuple(tree[-1]) if tree[0] == "struct" else (tree[-1],)


def kinds_of(tree: Tree) -> set[str]:
    """Name every constructor that occurs in ``tree``."""
    return {tree[0]}.union(*map(kinds_of, children_of(tree)))


def depth_of(tree: Tree) -> int:
    """Count the constructors on the longest way from the root to a leaf."""
    return 1 + max(map(depth_of, children_of(tree))) if children_of(tree) else 0


# --- From a tree to its typemap, in plain Python ------------------------------------------------------------


@lru_cache(maxsize=4096)
def bounds(tree: Tree) -> tuple[int, int]:
    """Ask for lower bound and extent: libraries differ in how they pad and in what a resize marks."""
    with built(tree) as datatype:
        lb, extent = datatype.Get_extent()
    return lb, extent


def typemap(tree: Tree, count: int = 1) -> tuple[Integers, Integers]:
    """Give offsets and lengths of the maximal contiguous pieces of ``count`` instances, in typemap order."""
    offsets, lengths = _instance_typemap(tree)
    return _tile(offsets, lengths, np.arange(count) * bounds(tree)[1])


@lru_cache(maxsize=256)
def _instance_typemap(tree: Tree) -> tuple[Integers, Integers]:
    if tree[0] in LEAVES:
        return _leaf_typemap(tree)
    parts = [_tile(*_instance_typemap(child), places) for child, places in _place_children(tree)]
    return _merge(
        np.concatenate([np.zeros(0, np.int64), *(offsets for offsets, _ in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in parts)]),
    )


def _tile(offsets: Integers, lengths: Integers, places: Integers) -> tuple[Integers, Integers]:
    return _merge(np.add.outer(places, offsets).ravel(), np.tile(lengths, len(places)))


def _merge(offsets: Integers, lengths: Integers) -> tuple[Integers, Integers]:
    """Join pieces that follow one another both in the list and in memory."""
    if not len(offsets):
        return offsets, lengths
    starts = np.flatnonzero(np.concatenate(([True], offsets[1:] != offsets[:-1] + lengths[:-1])))
    return offsets[starts], np.add.reduceat(lengths, starts)


_PAIRS: dict[str, Any] = {
    "SHORT_INT": np.short,
    "TWOINT": np.intc,
    "LONG_INT": np.dtype("l"),
    "FLOAT_INT": np.single,
    "DOUBLE_INT": np.double,
    "LONG_DOUBLE_INT": np.longdouble,
}
_VALUES = {"SHORT": "SHORT_INT", "DOUBLE": "DOUBLE_INT"}


def _leaf_typemap(tree: Tree) -> tuple[Integers, Integers]:
    """Lay out a pair as C lays out a struct of its value and an int; all else is one piece."""
    name = _VALUES[tree[1]] if tree[0] == "value_index" else tree[1]
    if name in _PAIRS:
        value, index = np.dtype(_PAIRS[name]).itemsize, np.dtype(np.intc).itemsize
        return _merge(np.array([0, -(-value // index) * index]), np.array([value, index]))
    with built(tree) as datatype:
        return np.array([0]), np.array([datatype.Get_size()])


def _place_children(tree: Tree) -> Iterator[tuple[Tree, Integers]]:
    """Give each child with the offsets in bytes of its instances, in typemap order."""
    kind, *arguments = tree
    if kind == "struct":
        for blocklength, displacement, child in zip(*arguments, strict=True):
            yield child, displacement + np.arange(blocklength) * bounds(child)[1]
        return
    *arguments, child = arguments
    extent = bounds(child)[1]
    unit = 1 if kind.startswith("h") else extent
    match kind, arguments:
        case (("dup" | "resized"), _):
            places = np.zeros(1, np.int64)
        case "contiguous", (count,):
            places = np.arange(count) * extent
        case (("vector" | "hvector"), (count, blocklength, stride)):
            places = np.add.outer(np.arange(count) * stride * unit, np.arange(blocklength) * extent)
        case (("indexed" | "hindexed"), (blocklengths, displacements)):
            blocks = zip(blocklengths, displacements, strict=True)
            places = np.concatenate(
                [np.zeros(0, np.int64), *(d * unit + np.arange(b) * extent for b, d in blocks)]
            )
        case (("indexed_block" | "hindexed_block"), (blocklength, displacements)):
            starts = np.array(displacements, np.int64) * unit
            places = np.add.outer(starts, np.arange(blocklength) * extent)
        case "subarray", (sizes, subsizes, starts, order):
            indices = [np.arange(start, start + taken) for start, taken in zip(starts, subsizes, strict=True)]
            places = _grid(sizes, indices, order) * extent
        case "darray", (_, rank, gsizes, distribs, dargs, psizes, order):
            coordinates = map(int, np.unravel_index(rank, psizes))
            dimensions = zip(gsizes, distribs, dargs, psizes, coordinates, strict=True)
            places = _grid(gsizes, [_own(*dimension) for dimension in dimensions], order) * extent
        case _:
            raise ValueError(f"constructor {kind!r} with arguments {arguments!r} is not known")
    yield child, places.ravel()


def _grid(sizes: Sequence[int], indices: Sequence[Integers], order: str) -> Integers:
    """Give the positions in memory of the chosen elements of an array, in the array's order."""
    if order == "F":
        sizes, indices = sizes[::-1], indices[::-1]
    chosen: Integers = np.zeros(1, np.int64)
    for size, index in zip(sizes, indices, strict=True):
        chosen = np.add.outer(chosen * size, index).ravel()
    return chosen


def _own(size: int, distribution: str, darg: int | None, processes: int, coordinate: int) -> Integers:
    """List the indices of one dimension of a distributed array that belong to a process."""
    everything = np.arange(size)
    if distribution == "none":
        return everything
    block = darg or (-(-size // processes) if distribution == "block" else 1)
    mine: Integers = everything[everything // block % processes == coordinate]
    return mine


def spread(offsets: Integers, lengths: Integers) -> Integers:
    """Turn pieces into the offset of every byte."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(offsets - before, lengths) + np.arange(lengths.sum())


# --- Memory, and what ought to be in it ---------------------------------------------------------------------


def span(tree: Tree, count: int) -> tuple[int, int]:
    """Give the lowest and highest byte touched, relative to the origin; (0, 0) if none is."""
    offsets, lengths = typemap(tree, count)
    return (int(offsets.min()), int((offsets + lengths).max())) if len(offsets) else (0, 0)


def arena(datatype: PLAIN.Datatype, count: int, seed: int = 0) -> tuple[Bytes, int]:
    """Make pseudo-random memory for ``count`` instances with guard bytes, and say where the origin is."""
    lower, size = datatype.Get_true_extent() if count and datatype.Get_size() else (0, 0)
    shift = (count - 1) * datatype.Get_extent()[1] if count else 0
    low, high = min(0, lower + min(0, shift)), max(0, lower + size + max(0, shift))
    origin = GUARD * (1 - low // GUARD)
    memory = np.frombuffer(np.random.default_rng(seed).bytes(origin + high + GUARD), np.uint8).copy()
    return memory, origin


def oracle_pack(datatype: PLAIN.Datatype, count: int, memory: Bytes, origin: int) -> Bytes:
    """Pack with the MPI library."""
    packed = np.zeros(count * datatype.Get_size(), np.uint8)
    with whole(datatype, count, memory[origin:]) as (instances, source), library_alone():
        position = PLAIN.Datatype.Pack(instances, source, packed, 0, PLAIN.COMM_SELF)
    assert position == len(packed)
    return packed


def oracle_unpack(datatype: PLAIN.Datatype, count: int, packed: Bytes, memory: Bytes, origin: int) -> None:
    """Unpack with the MPI library, in place."""
    with whole(datatype, count, memory[origin:]) as (instances, target), library_alone():
        position = PLAIN.Datatype.Unpack(instances, packed, 0, target, PLAIN.COMM_SELF)
    assert position == len(packed)


@contextmanager
def whole(
    datatype: PLAIN.Datatype, count: int, memory: Bytes
) -> Iterator[tuple[PLAIN.Datatype, PLAIN.buffer]]:
    """Give a datatype, and a buffer of which mpi4py infers that ``count`` instances are meant.

    mpi4py divides the size of the buffer by the extent, which only works for a positive extent.
    """
    extent = datatype.Get_extent()[1]
    if extent > 0:
        yield datatype, PLAIN.buffer.fromaddress(memory.ctypes.data, count * extent)
        return
    instances = datatype.Create_contiguous(count)
    made = instances.Create_resized(0, 1).Commit()
    instances.Free()
    try:
        yield made, PLAIN.buffer.fromaddress(memory.ctypes.data, 1)
    finally:
        made.Free()


def walk_pack(tree: Tree, count: int, memory: Bytes, origin: int) -> Bytes:
    """Pack by following the typemap."""
    return memory[origin + spread(*typemap(tree, count))]


def walk_unpack(tree: Tree, count: int, packed: Bytes, memory: Bytes, origin: int) -> None:
    """Unpack by following the typemap, in place."""
    memory[origin + spread(*typemap(tree, count))] = packed


def seat(layout: roundelay.Layout, origin: int) -> roundelay.Layout:
    """Move a layout so that it is seen from the start of the memory in which its origin lies."""
    return roundelay.Layout(layout.node, layout.offset + origin, layout.lb + origin, layout.extent)


def check_movement(tree: Tree, count: int = 1) -> None:
    """Assert that roundelay reads, packs and unpacks ``tree`` as the typemap says and as the library does."""
    message = f"{count} of {tree!r}"
    places = typemap(tree, count)
    with built(tree, roundelay.MPI) as datatype:
        layout = roundelay.Layout.from_datatype(datatype, count)
        assert layout.size == count * datatype.Get_size(), message
        assert count != 1 or (layout.lb, layout.extent) == datatype.Get_extent(), message
        assert_array_equal(spread(*layout.runs()), spread(*places), message)
        memory, origin = arena(datatype, count)
        packed = walk_pack(tree, count, memory, origin)
        assert_array_equal(
            oracle_pack(datatype, count, memory, origin), packed, f"the library packs {message}"
        )
        seated = seat(layout, origin)
        assert_array_equal(roundelay.pack(memory, seated), packed, message)
        if not disjoint(*places):
            return
        expected, library, ours = memory.copy(), memory.copy(), memory.copy()
        packed = ~packed
        walk_unpack(tree, count, packed, expected, origin)
        oracle_unpack(datatype, count, packed, library, origin)
        roundelay.unpack(packed, ours, seated)
        assert_array_equal(library, expected, f"the library unpacks {message}")
        assert_array_equal(ours, expected, message)


# --- Random trees -------------------------------------------------------------------------------------------

LIMIT = 2**19
"""No bound of a drawn tree is further than this from its origin: three instances stay within 4 MiB."""

_NAMED = [
    "BYTE",
    "CHAR",
    "SHORT",
    "INT",
    "LONG",
    "FLOAT",
    "DOUBLE",
    "UNSIGNED_SHORT",
    "INT8_T",
    "UINT32_T",
    "INT64_T",
    "AINT",
]
# Long doubles are left out: their padding is not data, and no library is bound to carry it.
_LEAF_TREES: tuple[Tree, ...] = (
    *(("named", name) for name in _NAMED),
    *(("named", name) for name in _PAIRS if "LONG_DOUBLE" not in name),
    ("value_index", "DOUBLE", "INT"),
    ("value_index", "SHORT", "INT"),
    ("f90_integer", 9),
    ("f90_real", 15, 300),
)
if "Open MPI" not in PLAIN.Get_library_version():
    # Open MPI 5.0.11 packs the wrong bytes of two complex numbers half an element apart.
    _LEAF_TREES += (("named", "C_FLOAT_COMPLEX"), ("named", "C_DOUBLE_COMPLEX"), ("f90_complex", 6, 30))


_REPEATS = (1, 2, 3, 4, 6, 8, 12, 24, 36, 60, 96, 120, 240, 512, 1440)


class Signature(NamedTuple):
    """Content of a message: ``repeat`` times the ``unit``, which lists leaves and how often each comes."""

    unit: tuple[tuple[Tree, int], ...]
    repeat: int


def draw_signature(rng: Random) -> Signature:
    """Draw a signature of one basic type (mostly) or of a few."""
    if rng.random() < 0.7:
        return Signature(((rng.choice(_LEAF_TREES), 1),), rng.choice(_REPEATS))
    unit = tuple((rng.choice(_LEAF_TREES), rng.randint(1, 4)) for _ in range(rng.randint(2, 4)))
    return Signature(unit, rng.choice((1, 1, 2, 3, 4, 6, 8, 12)))


def draw_tree(rng: Random, signature: Signature, overlap: bool = False, depth: int = 6) -> Tree:
    """Grow a tree with the given signature.

    Up to three instances of it do not overlap, so that it may be received in, unless ``overlap`` allows it.
    """
    tree = _Grower(rng, overlap).grow(signature, rng.randint(1, depth) - 1)
    if overlap or disjoint(*typemap(tree, 3)):
        return tree
    low, high = span(tree, 1)
    return ("resized", low, high - low, tree)


def draw_pair(seed: int, overlap: bool = False) -> tuple[Tree, Tree]:
    """Draw two trees with one signature: a sender's (``overlap`` is for it) and a receiver's."""
    rng = Random(seed)
    signature = draw_signature(rng)
    return draw_tree(rng, signature, overlap), draw_tree(rng, signature)


def disjoint(offsets: Integers, lengths: Integers) -> bool:
    """Tell whether no two pieces share a byte."""
    order = np.argsort(offsets, kind="stable")
    starts, ends = offsets[order], (offsets + lengths)[order]
    return bool((starts[1:] >= ends[:-1]).all())


class _Grower:
    """Grows trees by one constructor at a time; what overlaps or reaches too far is drawn again."""

    def __init__(self, rng: Random, overlap: bool) -> None:
        self.rng = rng
        self.overlap = overlap

    def grow(self, signature: Signature, depth: int) -> Tree:
        for _ in range(4 if depth > 0 else 0):
            kind = self.rng.choice(sorted(CONSTRUCTORS))
            tree = self.struct(signature, depth) if kind == "struct" else self.wrap(kind, signature, depth)
            if self.accept(tree):
                return tree
        return _pack_plainly(signature)

    def accept(self, tree: Tree) -> bool:
        lb, extent = bounds(tree)
        reach = max(map(abs, (lb, lb + extent, extent, *span(tree, 1))))
        return (
            reach <= LIMIT and not _has_unit_stride_back(tree) and (self.overlap or disjoint(*typemap(tree)))
        )

    def wrap(self, kind: str, signature: Signature, depth: int) -> Tree:
        """Put a constructor around a child: the child repeats the unit as often as is left to it."""
        factor = 1 if kind in ("dup", "resized") else self.divide(signature.repeat)
        child = self.grow(Signature(signature.unit, signature.repeat // factor), depth - 1)
        arguments: tuple[Any, ...] = getattr(self, kind)(child, factor)
        return (kind, *arguments, child)

    def divide(self, number: int) -> int:
        return self.rng.choice([divisor for divisor in range(1, number + 1) if number % divisor == 0])

    def part(self, total: int, most: int) -> tuple[int, ...]:
        """Split a number into at most ``most`` positive summands."""
        cuts = sorted(self.rng.sample(range(1, total), min(self.rng.randint(1, most), total) - 1))
        return tuple(np.diff([0, *cuts, total]).tolist())

    def factorise(self, number: int, most: int) -> tuple[int, ...]:
        """Write a number as a product of at most ``most`` factors."""
        factors = []
        for _ in range(self.rng.randint(1, most) - 1):
            factors.append(self.divide(number))
            number //= factors[-1]
        return (*factors, number)

    # One method for each constructor that has arguments: given the child and how many instances to place.

    def dup(self, _child: Tree, _factor: int) -> tuple[Any, ...]:
        return ()

    def contiguous(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        return (factor,)

    def vector(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        count = self.divide(factor)
        block = factor // count
        strides = [block, block + 1, 4 * block, -2 * block, -block - 1]
        return count, block, self.rng.choice(strides + [0, 1, block // 2] * self.overlap)

    def hvector(self, child: Tree, factor: int) -> tuple[Any, ...]:
        count = self.divide(factor)
        block = factor // count
        width = block * _width(child)
        run = int(
            typemap(child)[1][0]
        )  # instances lie in the gaps of the first: the inner stride is the larger
        strides = [width, width + self.rng.randint(1, 9), 4 * width, -2 * width, -width - 3, run, -run]
        return count, block, self.rng.choice(strides + [0, width // 2] * self.overlap)

    def indexed(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        return self.list_blocks(factor, unit=1, odd=0)

    def hindexed(self, child: Tree, factor: int) -> tuple[Any, ...]:
        return self.list_blocks(factor, unit=_width(child), odd=5)

    def indexed_block(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        blocks = self.divide(factor)
        return factor // blocks, self.place([factor // blocks] * blocks, unit=1, odd=0)

    def hindexed_block(self, child: Tree, factor: int) -> tuple[Any, ...]:
        blocks = self.divide(factor)
        return factor // blocks, self.place([factor // blocks] * blocks, unit=_width(child), odd=5)

    def list_blocks(self, factor: int, unit: int, odd: int) -> tuple[Any, ...]:
        """Choose blocks of uneven lengths; empty ones among them may claim to lie anywhere."""
        lengths = list(self.part(factor, 6))
        places = list(self.place(lengths, unit, odd))
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            position = self.rng.randint(0, len(lengths))
            lengths.insert(position, 0)
            places.insert(position, self.rng.choice((0, -9, 2**31 - 1)))
        return tuple(lengths), tuple(places)

    def place(self, sizes: Sequence[int], unit: int, odd: int) -> tuple[int, ...]:
        """Lay out blocks one after another with gaps, and list them upwards, downwards or mixed."""
        order = list(range(len(sizes)))
        self.rng.choice((lambda _: None, list.reverse, self.rng.shuffle))(order)
        widest = max(sizes) if sizes else 0
        gaps = self.rng.choice(((0,), (1,), (3 * widest,), (0, 1, 2, 5)))
        places, cursor = [0] * len(sizes), self.rng.choice((0, 0, 3, -7)) * unit
        for block in order:
            places[block] = cursor
            cursor += (sizes[block] + self.rng.choice(gaps)) * unit + self.rng.randint(0, odd)
        if self.overlap:
            places = [place - self.rng.randint(0, 2 * unit) for place in places]
        return tuple(places)

    def subarray(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        subsizes = self.factorise(factor, 4)
        margins = [self.rng.choice((0, 0, 1, 3)) for _ in subsizes]
        sizes = tuple(taken + margin for taken, margin in zip(subsizes, margins, strict=True))
        starts = tuple(self.rng.randint(0, margin) for margin in margins)
        return sizes, subsizes, starts, self.rng.choice("CF")

    def darray(self, _child: Tree, factor: int) -> tuple[Any, ...]:
        dimensions = [self.distribute(owned) for owned in self.factorise(factor, 4)]
        gsizes, distribs, dargs, psizes, coordinates = (
            tuple(column) for column in zip(*dimensions, strict=True)
        )
        rank = int(np.ravel_multi_index(coordinates, psizes))
        return prod(psizes), rank, gsizes, distribs, dargs, psizes, self.rng.choice("CF")

    def distribute(self, owned: int) -> tuple[int, str, int | None, int, int]:
        """Choose a dimension of a distributed array of which one process owns a given number of indices."""
        processes = self.rng.randint(1, 3)
        mine = self.rng.randrange(processes)
        kind = self.rng.choice(("none", "block", "cyclic"))
        if kind == "none":
            return owned, kind, None, 1, 0
        if kind == "block":
            block = self.rng.choice((None, owned))
            size = self.rng.randint((mine + 1) * owned, processes * owned) if block else processes * owned
            return size, kind, block, processes, mine
        block = self.rng.randint(1, owned)
        rounds, rest = divmod(owned, block)
        size = processes * block * rounds + (
            mine * block + rest if rest else self.rng.randint(0, mine * block)
        )
        return size, kind, block, processes, mine

    def resized(self, child: Tree, _factor: int) -> tuple[Any, ...]:
        low, high = span(child, 1)
        width = high - low
        extents = [width, width, width + 3, 2 * width, 10 * width, int(typemap(child)[1][0])]
        # MPICH 5.0.2 takes contiguous(2, T) twice for contiguous(4, T), wrong for a negative extent.
        extents += [0, width // 2] if self.overlap else [-width, -2 * width]
        lower = self.rng.choice((low, 0, low - 4, low - 10 * width, low + width // 2))
        return lower, self.rng.choice(extents)

    def struct(self, signature: Signature, depth: int) -> Tree:
        """Cut the signature into consecutive parts and give each its own child."""
        counts, children, places, cursor = [], [], [], self.rng.choice((0, 0, 8, -24))
        for part in self.cut(signature):
            counts.append(self.divide(part.repeat))
            children.append(self.grow(Signature(part.unit, part.repeat // counts[-1]), depth - 1))
            low, high = span(("contiguous", counts[-1], children[-1]), 1)
            backwards = self.rng.random() < 0.3
            places.append(cursor - high if backwards else cursor - low)
            cursor += (low - high if backwards else high - low) + self.rng.choice(
                (0, 1, 8, -1 * self.overlap)
            )
        if self.rng.random() < 0.3:
            position = self.rng.randint(0, len(counts))
            counts.insert(position, 0)
            children.insert(position, ("named", "DOUBLE"))
            places.insert(position, self.rng.choice((0, -9, 2**31 - 1)))
        return ("struct", tuple(counts), tuple(places), tuple(children))

    def cut(self, signature: Signature) -> list[Signature]:
        unit, repeat = signature
        if repeat > 1:
            return [Signature(unit, part) for part in self.part(repeat, 4)]
        if len(unit) == 1:
            (leaf, count), *_ = unit
            return [Signature(((leaf, 1),), part) for part in self.part(count, 4)]
        edges = np.cumsum([0, *self.part(len(unit), 4)]).tolist()
        return [Signature(unit[start:stop], 1) for start, stop in pairwise(edges)]


def _has_unit_stride_back(tree: Tree) -> bool:
    """Find a vector with a stride of -1 byte, which Open MPI 5.0.11 takes for contiguous."""
    if tree[0] not in ("vector", "hvector"):
        return False
    return bool(tree[3] * (1 if tree[0] == "hvector" else bounds(tree[-1])[1]) == -1)


def _width(tree: Tree) -> int:
    """Give a step in bytes at which instances cannot touch."""
    low, high = span(tree, 1)
    return max(high - low, abs(bounds(tree)[1]))


def _pack_plainly(signature: Signature) -> Tree:
    """Make the shortest tree with a signature: its leaves one after another."""
    counts, places, leaves, cursor = [], [], [], 0
    for leaf, count in signature.unit:
        counts.append(count)
        places.append(cursor)
        leaves.append(leaf)
        cursor += count * bounds(leaf)[1]
    single = len(leaves) == 1 and counts[0] == 1
    child = leaves[0] if single else ("struct", tuple(counts), tuple(places), tuple(leaves))
    return ("contiguous", signature.repeat, child) if signature.repeat > 1 else child
