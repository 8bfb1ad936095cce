"""Two layouts as one program: from any memory to any other in a single pass, without packed bytes between.

Both trees are walked together, in the order of the bytes. A loop of the program steps through both at once:
it takes the strides of the target as those of the memory, and of the source as those of the message. Where
the trees do not match, their runs are cut at the ends of each other's, and listed. That a copy between two
layouts needs no packed bytes is the idea of FALCON (Hashmi et al., IPDPS 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import lcm

import numpy as np

from .layout import Blocks, Dense, Layout, Node, Offsets, Runs, Stream, flatten, size
from .program import Loop, Program, listed_row, strided_rows

# A part of a tree: where it begins, and what is there.
Part = tuple[int, Node]


def compose(source: Layout, target: Layout) -> Program:
    """Return the program that copies the bytes of one layout to another, in their order.

    It is run in the direction `UNPACK`, for one instance, with the base address of the source in place of
    that of the packed bytes.

    Parameters
    ----------
    source, target : Layout
        Canonical layouts of the same size. The target touches no byte twice, and none of the source's.

    Returns
    -------
    Program

    Raises
    ------
    ValueError
        When the sizes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay.datatypes.movers import UNPACK, mover
    >>> table, rows = np.arange(6.0).reshape(2, 3), np.zeros((3, 4))
    >>> program = compose(Layout.from_array(table.T), Layout.from_array(rows[:, :2]))
    >>> mover()(UNPACK, table.ctypes.data, rows.ctypes.data, program.address, 1)
    >>> rows[:, :2].tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    if source.size != target.size:
        raise ValueError(f"layouts: expected the same number of bytes, got {source.size} and {target.size}")
    rows = list(_rows((target.offset, target.node), (source.offset, source.node), []))
    return Program.of_rows(rows, target.size)


def _rows(memory: Part, packed: Part, loops: list[Loop]) -> Iterator[Offsets]:
    """Rows that move one part to another of the same size, in the loops around them."""
    (m, target), (p, source) = memory, packed
    nbytes = size(target)
    if not nbytes:
        return
    if isinstance(target, Dense) and isinstance(source, Dense):
        yield from strided_rows(loops, nbytes, m, p)
    elif isinstance(target, Blocks) or isinstance(source, Blocks):
        yield from _block_rows(memory, packed, loops)
    elif isinstance(target, Runs) or isinstance(source, Runs):
        yield _listed(memory, packed, loops)
    else:
        yield from _stream_rows(memory, packed, loops)


def _block_rows(memory: Part, packed: Part, loops: list[Loop]) -> Iterator[Offsets]:
    """Both parts cut where the blocks of one end, or all runs listed where the other cannot be cut there."""
    blocks = memory[1] if isinstance(memory[1], Blocks) else packed[1]
    assert isinstance(blocks, Blocks)
    sizes = [size(child) for child in blocks.children]
    parts, others = _cut(*memory, sizes), _cut(*packed, sizes)
    if parts is None or others is None:
        yield _listed(memory, packed, loops)
        return
    for part, other in zip(parts, others, strict=True):
        yield from _rows(part, other, loops)


def _cut(offset: int, node: Node, sizes: list[int]) -> list[Part] | None:
    """Cut a node into parts of some sizes; None where a part would end within a child."""
    begins = [0, *accumulate(sizes)][:-1]
    match node:
        case Dense():
            return [(offset + begin, Dense(nbytes)) for begin, nbytes in zip(begins, sizes, strict=True)]
        case Stream(_, stride, child):
            each = size(child)
            if any(nbytes % each for nbytes in sizes):
                return None
            return [
                (offset + begin // each * stride, _stream(nbytes // each, stride, child))
                for begin, nbytes in zip(begins, sizes, strict=True)
            ]
        case Blocks(offsets, children) if [size(child) for child in children] == sizes:
            return [(offset + place, child) for place, child in zip(offsets, children, strict=True)]
    return None


def _stream(count: int, stride: int, child: Node) -> Node:
    return child if count == 1 else Stream(count, stride, child)


def _stream_rows(memory: Part, packed: Part, loops: list[Loop]) -> Iterator[Offsets]:
    """A loop over as many copies on either side as have the same number of bytes, and what is left."""
    nbytes = size(memory[1])
    piece = next(size(node.child) for _, node in (memory, packed) if isinstance(node, Stream))
    sides = [(offset, _as_stream(node, piece)) for offset, node in (memory, packed)]
    group = lcm(*(size(stream.child) for _, stream in sides))
    count = nbytes // group
    if count < 2:
        yield _listed(memory, packed, loops)
        return
    copies = [group // size(stream.child) for _, stream in sides]
    steps = [each * stream.stride for each, (_, stream) in zip(copies, sides, strict=True)]
    inner, rest = (
        [
            (offset + done * step, _stream(each, stream.stride, stream.child))
            for each, step, (offset, stream) in zip(counts, steps, sides, strict=True)
        ]
        for done, counts in ((0, copies), (count, [(nbytes % group) // (group // each) for each in copies]))
    )
    yield from _rows(inner[0], inner[1], [*loops, Loop(count, steps[0], steps[1])])
    if nbytes % group:
        yield from _rows(rest[0], rest[1], loops)


def _as_stream(node: Node, piece: int) -> Stream:
    """Take a dense run for pieces of its own."""
    return node if isinstance(node, Stream) else Stream(size(node) // piece, piece, Dense(piece))


def _listed(memory: Part, packed: Part, loops: list[Loop]) -> Offsets:
    """The runs of both, cut where those of either end."""
    runs = [flatten(node) for _, node in (memory, packed)]
    ends = [np.cumsum(lengths) for _, lengths in runs]
    cuts = np.union1d(*ends)
    begins = np.concatenate([[0], cuts[:-1]])
    places = []
    for (offset, _), (offsets, lengths), stops in zip((memory, packed), runs, ends, strict=True):
        at = np.searchsorted(stops, begins, side="right")
        places.append(offset + offsets[at] + begins - (stops - lengths)[at])
    return listed_row(places[0], places[1], cuts - begins, loops)
