"""One description of memory: which bytes, seen from a base address, in which order.

A `Layout` is a small tree. Its nodes are

- `Dense`: a run of bytes;
- `Stream`: `count` copies of a child, `stride` bytes apart;
- `Runs`: runs of bytes at listed offsets, for what has no regular pattern;
- `Blocks`: different children at listed offsets.

The order of the tree is the order of the MPI typemap, hence the order of the bytes in a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
# As in NumPy's `ravel`: the last index runs fastest, the first one does, or the one with the smallest stride.
Order = Literal["C", "F", "K"]


@dataclass(frozen=True, slots=True)
class Dense:
    """A run of `nbytes` bytes."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class Stream:
    """`count` copies of `child`, each `stride` bytes after the one before."""

    count: int
    stride: int
    child: Node


class Runs:
    """Runs of bytes at listed `offsets` with listed `lengths` (two int64 arrays of one shape)."""

    __slots__ = ("lengths", "offsets")

    def __init__(self, offsets: Offsets, lengths: Offsets) -> None:
        self.offsets = offsets
        self.lengths = lengths

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Runs)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.lengths, other.lengths)
        )

    def __hash__(self) -> int:
        return hash((self.offsets.tobytes(), self.lengths.tobytes()))


@dataclass(frozen=True, slots=True)
class Blocks:
    """`children[i]` at `offsets[i]` bytes, in this order."""

    offsets: tuple[int, ...]
    children: tuple[Node, ...]


Node = Dense | Stream | Runs | Blocks

EMPTY = Dense(0)


def size(node: Node) -> int:
    """Bytes that `node` holds."""
    match node:
        case Dense(nbytes):
            return nbytes
        case Stream(count, _, child):
            return count * size(child)
        case Runs():
            return int(node.lengths.sum())
        case Blocks(_, children):
            return sum(map(size, children))


def run_count(node: Node) -> int:
    """Runs that a walk of `node` meets, before any neighbours are merged."""
    match node:
        case Dense(nbytes):
            return int(nbytes > 0)
        case Stream(count, _, child):
            return count * run_count(child)
        case Runs():
            return len(node.offsets)
        case Blocks(_, children):
            return sum(map(run_count, children))


def bounds(node: Node) -> tuple[int, int] | None:
    """First byte and one past the last byte that `node` touches; None when it touches none."""
    match node:
        case Dense(nbytes):
            return (0, nbytes) if nbytes else None
        case Stream(count, stride, child):
            inner = bounds(child)
            if not count or inner is None:
                return None
            last = (count - 1) * stride
            return inner[0] + min(0, last), inner[1] + max(0, last)
        case Runs():
            filled = node.lengths > 0
            if not filled.any():
                return None
            starts, stops = node.offsets[filled], (node.offsets + node.lengths)[filled]
            return int(starts.min()), int(stops.max())
        case Blocks(offsets, children):
            spans = [
                (offset + span[0], offset + span[1])
                for offset, child in zip(offsets, children, strict=True)
                if (span := bounds(child)) is not None
            ]
            return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


def flatten(node: Node) -> tuple[Offsets, Offsets]:
    """Offsets and lengths of the runs of `node`, in order; runs of no bytes are left out."""
    match node:
        case Dense(nbytes):
            filled = 1 if nbytes else 0
            return np.zeros(filled, np.int64), np.full(filled, nbytes, np.int64)
        case Stream(count, stride, child):
            offsets, lengths = flatten(child)
            starts = np.arange(count, dtype=np.int64) * stride
            return np.add.outer(starts, offsets).ravel(), np.tile(lengths, count)
        case Runs():
            filled_runs = node.lengths > 0
            return node.offsets[filled_runs], node.lengths[filled_runs]
        case Blocks(places, children):
            parts = [flatten(child) for child in children]
            moved = [offsets + place for place, (offsets, _) in zip(places, parts, strict=True)]
            none = np.zeros(0, np.int64)
            return np.concatenate([none, *moved]), np.concatenate([none, *(part[1] for part in parts)])


def is_regular(node: Node) -> bool:
    """Whether a tree is streams over one dense run."""
    while isinstance(node, Stream):
        node = node.child
    return isinstance(node, Dense)


def is_transposed(node: Node) -> bool:
    """Whether streams step further within than without, so that a message jumps back and forth in memory."""
    while isinstance(node, Stream) and isinstance(node.child, Stream):
        if abs(node.stride) < abs(node.child.stride):
            return True
        node = node.child
    return False


def overlaps(layout: Layout) -> bool:
    """Tell whether a layout touches any byte twice.

    Nested streams are clear of each other when each stride is at least the span of all that is inside
    it. Where this cannot be seen, the runs are sorted and compared.
    """
    steps, node = [], layout.node
    while isinstance(node, Stream):
        if node.count > 1:
            steps.append((abs(node.stride), node.count))
        node = node.child
    if isinstance(node, Dense):
        span = node.nbytes
        for stride, count in sorted(steps):
            if stride < span:
                break
            span += (count - 1) * stride
        else:
            return False
    offsets, lengths = layout.runs()
    order = np.argsort(offsets, kind="stable")
    return bool((offsets[order][1:] < (offsets + lengths)[order][:-1]).any())


class Layout:
    """Bytes of memory from a base address, in the order in which a message carries them.

    Parameters
    ----------
    node : Dense, Stream, Runs or Blocks
        The tree.
    offset : int
        Where the tree begins, in bytes from the base address.
    lb, extent : int
        MPI's lower bound and extent in bytes: the next instance begins `extent` bytes further.
        Two layouts are equal when they move the same bytes in the same way; their extents may differ.

    Examples
    --------
    >>> import numpy as np
    >>> column = Layout.from_array(np.zeros((3, 4))[:, 1])
    >>> column.size, column.runs()[0].tolist()
    (24, [0, 32, 64])
    >>> print(column.describe())
    24 bytes in 3 runs, from 0 to 72, extent 72
      3 times, every 32 bytes:
        8 bytes
    """

    __slots__ = ("extent", "lb", "node", "offset")

    def __init__(self, node: Node, offset: int = 0, lb: int | None = None, extent: int | None = None) -> None:
        span = bounds(node) or (0, 0)
        self.node = node
        self.offset = offset
        self.lb = offset + span[0] if lb is None else lb
        self.extent = span[1] - span[0] if extent is None else extent

    @staticmethod
    def from_datatype(datatype: Any, count: int = 1) -> Layout:
        """Canonical layout of `count` instances of an MPI datatype.

        Raises `UnsupportedDatatype` for a datatype that only the MPI library can read, and
        `mpi4py.MPI.Exception` for one that was freed.
        """
        from .canonical import canonicalize
        from .decode import decode

        return canonicalize(decode(datatype).layout.repeat(count))

    @staticmethod
    def from_array(array: Any, order: Order = "C") -> Layout:
        """Canonical layout of the elements of an array, seen from its first element.

        The array has `__array_interface__`, `__cuda_array_interface__`, the buffer protocol or DLPack. The
        elements come in the order in which NumPy's `ravel(order=...)` gives them: that of the indices ("C",
        or "F" with the first index fastest), or that of memory ("K"), in which a message carries them.
        Raises `TypeError` when the object has no such interface, and `ValueError` for an unknown order.

        Examples
        --------
        >>> import numpy as np
        >>> columns = np.zeros((4, 3), order="F")[:, :2]
        >>> Layout.from_array(columns, order="K").runs()[1].tolist()
        [64]
        """
        from .arrays import array_layout

        return array_layout(array, order)

    @property
    def size(self) -> int:
        """Bytes of data: what a message of this layout carries."""
        return size(self.node)

    def bounds(self) -> tuple[int, int]:
        """First byte touched and one past the last, from the base address; (0, 0) for no bytes."""
        span = bounds(self.node)
        return (self.offset + span[0], self.offset + span[1]) if span else (0, 0)

    def runs(self) -> tuple[Offsets, Offsets]:
        """Offsets from the base address and lengths of all runs, in order, as two int64 arrays."""
        offsets, lengths = flatten(self.node)
        return offsets + self.offset, lengths

    def repeat(self, count: int) -> Layout:
        """`count` instances of this layout, each one extent after the one before."""
        if count == 1:
            return self
        span = max(count - 1, 0) * self.extent
        lb = self.lb + min(0, span)
        return Layout(Stream(count, self.extent, self.node), self.offset, lb, self.extent + abs(span))

    def describe(self) -> str:
        """The tree in words, one node a line."""
        low, high = self.bounds()
        runs = run_count(self.node)
        head = (
            f"{self.size} bytes in {runs} run{'s' * (runs != 1)}, from {low} to {high}, extent {self.extent}"
        )
        start = [f"  starting at {self.offset}"] if self.offset else []
        return "\n".join([head, *start, *_lines(self.node, "  ")])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.offset == other.offset and self.node == other.node

    def __hash__(self) -> int:
        return hash((self.offset, self.node))

    def __repr__(self) -> str:
        return f"Layout({self.node!r}, offset={self.offset}, lb={self.lb}, extent={self.extent})"


def _lines(node: Node, indent: str) -> list[str]:
    match node:
        case Dense(nbytes):
            return [f"{indent}{nbytes} bytes"]
        case Stream(count, stride, child):
            return [f"{indent}{count} times, every {stride} bytes:", *_lines(child, indent + "  ")]
        case Runs():
            shortest, longest = int(node.lengths.min()), int(node.lengths.max())
            length = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
            return [f"{indent}{len(node.offsets)} runs of {length} bytes at listed offsets"]
        case Blocks(offsets, children):
            lines = []
            for offset, child in zip(offsets, children, strict=True):
                lines += [f"{indent}at {offset}:", *_lines(child, indent + "  ")]
            return lines
