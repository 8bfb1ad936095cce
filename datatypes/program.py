"""From a layout to a program: a table of copy loops that one compiled kernel runs in a single call.

A program is an array of int64 words (the constants below name them): a header, then a row for each
piece of the layout, with its loops as (count, memory stride, packed stride) from the outermost to the
innermost. Because a loop carries both strides, loops may run in any order and every byte still lands
where MPI says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from .layout import Blocks, Dense, Layout, Node, Offsets, Runs, Stream, size

# Words of the header. A datatype's instances are EXTENT bytes apart and pack into NBYTES each; it is
# made of COPIES of a pattern, PATTERN_STRIDE bytes apart, each packed into PATTERN_BYTES. The rows
# describe the pattern, and are run for TILE of its copies at a time. NEAR: whether it all fits a cache.
ROWS, EXTENT, NBYTES, COPIES, PATTERN_STRIDE, PATTERN_BYTES, TILE, NEAR, HEADER_WORDS = range(9)
# Words of a row. NEXT: words to the next row. LIST: words from the row to its list of offsets.
# INSTANCE: which loop runs over the instances of a tile. LOOPS: the first loop.
NEXT, KIND, MEMORY, PACKED, LENGTH, LIST, LISTED, INSTANCE, LOOP_COUNT, LOOPS = range(10)
LOOP_WORDS = 3
# Kinds of row: equal runs in loops; equal runs at listed offsets; runs listed with their own lengths.
STRIDED, LISTED_EQUAL, LISTED_UNEQUAL = range(3)

_ALL = 1 << 62
# Memory that a second-level cache can hold about half of; beyond it every cache line touched counts.
_NEAR_BYTES = 2 << 20
# Runs of a type with many instances are walked this many bytes of memory at a time, so that all its
# pieces find them in the first-level cache.
_TILE_BYTES = 16 << 10
# Two loops that are nested differently in memory and in the message (a transpose) are walked in
# stripes of this many bytes, which keeps both sides within few cache lines.
_STRIPE_BYTES = 128
# Listed runs up to this many become rows of loops, if these take as many steps or more: a struct with many
# instances is walked by them. A row that is run once costs more than many runs of a list.
_FEW_RUNS = 8
_FEW_STEPS = 8
# Stretches of equal runs shorter than this on average are not worth a row each.
_STRETCH_RUNS = 16
# A run is cut into no more pieces than this.
_CUT_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Loop:
    """`count` steps; each moves `memory` bytes in memory and `packed` bytes in the message."""

    count: int
    memory: int
    packed: int


# In place of a loop over instances, where there is one.
_ONCE = Loop(1, 0, 0)


class Program:
    """The copy loops of a layout.

    Parameters
    ----------
    layout : Layout
        A canonical layout.
    many : bool
        Whether it will be run for many instances.

    Attributes
    ----------
    nbytes : int
        Bytes that one instance packs into.
    words, address : int64 array, int
        The program, and where it lies.
    """

    __slots__ = ("address", "nbytes", "words")

    def __init__(self, layout: Layout, many: bool = False) -> None:
        self.nbytes = layout.size
        node, copies, stride = layout.node, 1, layout.extent
        if isinstance(node, Stream) and isinstance(node.child, Blocks | Runs):
            copies, stride, node = node.count, node.stride, node.child
        pattern = size(node)
        instance = Loop(_ALL if many else copies, stride, pattern)
        rows = list(_rows(node, layout.offset, 0, [], instance))
        tile = max(1, _TILE_BYTES // max(1, abs(stride))) if len(rows) > 1 else _ALL
        low, high = layout.bounds()
        near = int(high - low <= _NEAR_BYTES)
        self._fill([len(rows), layout.extent, self.nbytes, copies, stride, pattern, tile, near], rows)

    @classmethod
    def of_rows(cls, rows: list[Offsets], nbytes: int) -> Program:
        """Make a program for one instance from its rows."""
        program = cls.__new__(cls)
        program.nbytes = nbytes
        program._fill([len(rows), 0, nbytes, 1, 0, nbytes, _ALL, 0], rows)
        return program

    def _fill(self, header: list[int], rows: list[Offsets]) -> None:
        self.words = np.concatenate([np.array(header, np.int64), *rows])
        self.address = int(self.words.ctypes.data)


def _rows(node: Node, memory: int, packed: int, loops: list[Loop], instance: Loop) -> Iterator[Offsets]:
    match node:
        case Dense(length) if length:
            yield from strided_rows(loops, length, memory, packed, instance)
        case Stream(count, stride, child):
            yield from _rows(child, memory, packed, [*loops, Loop(count, stride, size(child))], instance)
        case Runs():
            yield from _listed_rows(node, memory, packed, loops, instance)
        case Blocks(offsets, children):
            for offset, child in zip(offsets, children, strict=True):
                yield from _rows(child, memory + offset, packed, loops, instance)
                packed += size(child)


def strided_rows(
    loops: list[Loop], length: int, memory: int, packed: int, instance: Loop = _ONCE
) -> Iterator[Offsets]:
    """Rows for runs of `length` bytes in some loops, in an order that suits the cache."""
    for where_m, where_p, nest in _nests(loops, length, memory, packed):
        yield _row(STRIDED, where_m, where_p, length, nest, instance)


def listed_row(memory: Offsets, packed: Offsets, lengths: Offsets, loops: list[Loop]) -> Offsets:
    """One row for runs of which both places are listed."""
    return _row(LISTED_UNEQUAL, 0, 0, 0, loops, _ONCE, np.stack([memory, packed, lengths]))


def _nests(loops: list[Loop], length: int, memory: int, packed: int) -> Iterator[tuple[int, int, list[Loop]]]:
    """Order the loops for the cache; a transposed pair is cut into stripes, and a rest beside them."""
    nest = sorted(loops, key=lambda loop: abs(loop.memory), reverse=True)
    if len(nest) < 2:
        yield memory, packed, nest
        return
    inner = nest[-1]
    dense_side = min(nest, key=lambda loop: abs(loop.packed))
    stripe = max(2, _STRIPE_BYTES // length)
    if dense_side is inner or inner.count <= stripe or length >= _STRIPE_BYTES:
        yield memory, packed, nest
        return
    outer = [loop for loop in nest[:-1] if loop is not dense_side]
    stripes, rest = divmod(inner.count, stripe)
    cut = Loop(stripes, inner.memory * stripe, inner.packed * stripe)
    yield memory, packed, [*outer, cut, dense_side, replace(inner, count=stripe)]
    if rest:
        done = stripes * stripe
        yield (
            memory + done * inner.memory,
            packed + done * inner.packed,
            [*outer, dense_side, replace(inner, count=rest)],
        )


def _listed_rows(
    node: Runs, memory: int, packed: int, loops: list[Loop], instance: Loop
) -> Iterator[Offsets]:
    """Rows for listed runs: stretches of equal runs each get their own, the others keep lengths."""
    offsets, lengths = _cut(node.offsets + memory, node.lengths)
    places = packed + np.cumsum(lengths) - lengths
    if len(lengths) <= _FEW_RUNS and prod(loop.count for loop in (instance, *loops)) >= _FEW_STEPS:
        for offset, length, place in zip(offsets.tolist(), lengths.tolist(), places.tolist(), strict=True):
            yield _row(STRIDED, offset, place, length, loops, instance)
        return
    breaks = (np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist()
    if len(breaks) * _STRETCH_RUNS > len(lengths):
        yield _row(LISTED_UNEQUAL, 0, 0, 0, loops, instance, np.stack([offsets, places, lengths]))
        return
    for first, last in zip([0, *breaks], [*breaks, len(lengths)], strict=True):
        place, length = int(places[first]), int(lengths[first])
        yield _row(LISTED_EQUAL, 0, place, length, loops, instance, offsets[None, first:last])


def _cut(offsets: Offsets, lengths: Offsets) -> tuple[Offsets, Offsets]:
    """Cut runs that are a multiple of those around them: two elements that happen to be neighbours.

    Random indices make such pairs; without them a list is equal and needs no look at its lengths.
    """
    if len(lengths) <= _FEW_RUNS:
        return offsets, lengths
    around = np.pad(lengths, 2, mode="edge")
    left, right = np.minimum(around[:-4], around[1:-3]), np.minimum(around[3:-1], around[4:])
    pieces = np.maximum(left, right)
    cuttable = (lengths % pieces == 0) & (lengths <= _CUT_LIMIT * pieces)
    pieces = np.where(cuttable, pieces, lengths)
    counts = lengths // pieces
    if (counts == 1).all():
        return offsets, lengths
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    cut = np.repeat(pieces, counts)
    return np.repeat(offsets, counts) + within * cut, cut


def _row(
    kind: int,
    memory: int,
    packed: int,
    length: int,
    loops: list[Loop],
    instance: Loop,
    lists: Offsets | None = None,
) -> Offsets:
    """One row: header, loops, lists. The loop over the instances of a tile is the outermost."""
    padding = max(0, 1 - len(loops))
    nest = [Loop(1, 0, 0)] * padding + [instance, *loops]
    words = [0, kind, memory, packed, length, 0, 0, padding, len(nest)]
    words += [word for loop in nest for word in (loop.count, loop.memory, loop.packed)]
    listed = np.zeros((0, 0), np.int64) if lists is None else lists
    words[NEXT], words[LIST], words[LISTED] = len(words) + listed.size, len(words), listed.shape[-1]
    return np.concatenate([np.array(words, np.int64), listed.ravel()])
