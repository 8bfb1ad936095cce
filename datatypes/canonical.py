"""The canonical form: one tree for each sequence of bytes, however the datatype was built.

Streams of streams are rewritten in place, so that their cost does not depend on how many runs they
have. Everything else is flattened to its maximal runs, which are unique, and these are folded back
into streams by fixed rules. After TEMPI (Pearson et al., HPDC 2021, section 3), but the order of the
typemap is kept: a transpose stays a transpose.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .layout import EMPTY, Blocks, Dense, Layout, Node, Offsets, Order, Runs, Stream, flatten, run_count

# Above this many runs a tree that is not made of streams alone keeps the form in which it was built.
FLAT_LIMIT = 1 << 20
# A fold that leaves more pieces than this has found no pattern; the runs are then listed.
PIECE_LIMIT = 256
# Longest pattern, in runs, that is looked for in a list that repeats itself.
PERIOD_LIMIT = 16


def canonicalize(layout: Layout) -> Layout:
    """Return the layout of the same bytes in the same order, in canonical form.

    Examples
    --------
    >>> rows = Layout(Stream(2, 8, Stream(2, 4, Dense(4))))
    >>> canonicalize(rows).node
    Dense(nbytes=16)
    """
    folded = fold(layout)
    if _is_canonical(folded.node) or run_count(folded.node) > FLAT_LIMIT:
        return folded
    node, shift = compress(*merge(*flatten(folded.node)))
    return _moved(node, folded.offset + shift, layout)


def fold(layout: Layout) -> Layout:
    """Return the layout of the same bytes in the same order, with streams folded where they stand.

    Streams of streams stay regular even where one copy ends at the byte where the next begins; the
    canonical form joins such runs, and so has fewer and less equal ones.
    """
    node, offset = _rewrite(layout.node)
    return _moved(node, layout.offset + offset, layout)


def _moved(node: Node, offset: int, layout: Layout) -> Layout:
    return Layout(node, offset if node != EMPTY else 0, layout.lb, layout.extent)


def equivalent(a: Any, b: Any) -> bool:
    """Tell whether `a` and `b` (layouts, datatypes or arrays) are the same bytes in the same order.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> vector = MPI.INT.Create_vector(3, 1, 1)
    >>> equivalent(vector, MPI.INT.Create_contiguous(3))
    True
    """
    first, second = canonicalize(as_layout(a)), canonicalize(as_layout(b))
    if first == second:
        return True
    if first.size != second.size or first.bounds() != second.bounds():
        return False
    # Beyond FLAT_LIMIT two forms of the same bytes may differ: only their runs can tell.
    runs = [merge(*layout.runs()) for layout in (first, second)]
    return all(np.array_equal(x, y) for x, y in zip(*runs, strict=True))


def as_layout(thing: Any, order: Order = "C") -> Layout:
    """Layout of a layout (itself), an MPI datatype, or an array whose elements come in some order."""
    from .plain import MPI

    if isinstance(thing, Layout):
        return thing
    if isinstance(thing, MPI.Datatype):
        return Layout.from_datatype(thing)
    return Layout.from_array(thing, order)


def _rewrite(node: Node) -> tuple[Node, int]:
    """Fold, flatten and drop streams from the leaves up; return the node and its own offset."""
    match node:
        case Stream(count, stride, child):
            inner, offset = _rewrite(child)
            return _stream(count, stride, inner), offset
        case Runs() if len(node.offsets) == 1:
            return Dense(int(node.lengths[0])), int(node.offsets[0])
        case Blocks(offsets, children):
            parts = [_rewrite(child) for child in children]
            kept = [(o + shift, n) for o, (n, shift) in zip(offsets, parts, strict=True) if n != EMPTY]
            if len(kept) < 2:
                return (kept[0][1], kept[0][0]) if kept else (EMPTY, 0)
            return Blocks(tuple(o for o, _ in kept), tuple(n for _, n in kept)), 0
    return node, 0


def _stream(count: int, stride: int, child: Node) -> Node:
    if count == 0 or child == EMPTY:
        return EMPTY
    if count == 1:
        return child
    match child:
        case Dense(nbytes) if stride == nbytes:
            return Dense(count * nbytes)
        case Stream(inner, inner_stride, grandchild) if stride == inner * inner_stride:
            return _stream(count * inner, inner_stride, grandchild)
    return Stream(count, stride, child)


def _is_canonical(node: Node) -> bool:
    """Whether `node` is streams over one dense run, and no copy begins where the last one ended."""
    return _end_of_chain(node) is not None


def _end_of_chain(node: Node) -> int | None:
    match node:
        case Dense(nbytes):
            return nbytes
        case Stream(count, stride, child):
            end = _end_of_chain(child)
            return None if end is None or end == stride else end + (count - 1) * stride
    return None


def merge(offsets: Offsets, lengths: Offsets) -> tuple[Offsets, Offsets]:
    """Join runs of which each begins where the one before it ended."""
    if len(offsets) < 2:
        return offsets, lengths
    first = np.concatenate(([True], offsets[1:] != offsets[:-1] + lengths[:-1]))
    starts = np.flatnonzero(first)
    return offsets[starts], np.add.reduceat(lengths, starts)


def compress(offsets: Offsets, lengths: Offsets) -> tuple[Node, int]:
    """Tree of a list of maximal runs and its offset: nested streams where they fit, else pieces.

    The result depends on nothing but the list, which makes it canonical.
    """
    if not len(offsets):
        return EMPTY, 0
    start = int(offsets[0])
    offsets = offsets - start
    if (lengths == lengths[0]).all() and (strides := _grid(offsets)) is not None:
        node: Node = Dense(int(lengths[0]))
        for count, stride in strides:
            node = Stream(count, stride, node)
        return node, start
    return _repeat(offsets, lengths) or _fold(offsets, lengths) or Runs(offsets, lengths), start


def _grid(offsets: Offsets) -> list[tuple[int, int]] | None:
    """(count, stride) of nested streams that visit `offsets`, innermost first; None if there are none."""
    strides = []
    while len(offsets) > 1:
        steps = np.diff(offsets)
        breaks = np.flatnonzero(steps != steps[0])
        count = int(breaks[0]) + 1 if len(breaks) else len(offsets)
        stride = int(steps[0])
        if len(offsets) % count:
            return None
        table = offsets.reshape(-1, count)
        if (table - table[:, :1] != np.arange(count) * stride).any():
            return None
        strides.append((count, stride))
        offsets = table[:, 0]
    return strides


def _repeat(offsets: Offsets, lengths: Offsets) -> Node | None:
    """Stream of a short pattern, as an array of structs has it.

    Where instances touch, the last run of one and the first of the next were merged. The pattern then
    begins with such a merged run, and the first run and what is left at the end stand beside it.
    """
    for head in (0, 1):
        inner, inner_lengths = offsets[head : len(offsets) - head], lengths[head : len(offsets) - head]
        period = _period(inner, inner_lengths)
        if not period:
            continue
        copies = len(inner) // period
        body = head + copies * period
        start = int(inner[0])
        pattern = Runs(inner[:period] - start, inner_lengths[:period])
        stream = Stream(copies, int(inner[period]) - start, pattern)
        beside = [*range(head), *range(body, len(offsets))]
        if not beside:
            return stream
        pieces: list[tuple[int, Node]] = [(int(offsets[i]), Dense(int(lengths[i]))) for i in beside]
        pieces.insert(head, (start, stream))
        return Blocks(tuple(place for place, _ in pieces), tuple(child for _, child in pieces))
    return None


def _period(offsets: Offsets, lengths: Offsets) -> int:
    """Length of the shortest pattern that makes up the whole list, at a fixed distance; 0 for none."""
    count = len(offsets)
    for period in range(1, min(PERIOD_LIMIT, count // 3) + 1):
        for checked in (min(count, 4 * period), count):
            steps = offsets[period:checked] - offsets[: checked - period]
            if (steps != steps[0]).any() or (lengths[period:checked] != lengths[: checked - period]).any():
                break
        else:
            # Equal runs at equal distances are no pattern but a stream, which folding finds.
            return period if period > 1 else 0
    return 0


def _fold(offsets: Offsets, lengths: Offsets) -> Node | None:
    """Pieces of a list of runs: three or more equal pieces at an equal distance become a stream."""
    sizes, kinds = np.unique(lengths, return_inverse=True)
    nodes: list[Node] = [Dense(int(nbytes)) for nbytes in sizes]
    while (folded := _fold_once(offsets, kinds, nodes)) is not None:
        offsets, kinds = folded
    if len(offsets) > PIECE_LIMIT:
        return None
    places, children = _list_dense(offsets.tolist(), [nodes[kind] for kind in kinds])
    return Blocks(tuple(places), tuple(children)) if len(places) > 1 else None


def _fold_once(offsets: Offsets, kinds: Offsets, nodes: list[Node]) -> tuple[Offsets, Offsets] | None:
    if len(offsets) < 3:
        return None
    steps, alike = np.diff(offsets), kinds[1:] == kinds[:-1]
    # goes_on[i]: pieces i, i + 1 and i + 2 are alike and equally far apart.
    goes_on = np.concatenate(([False], (steps[1:] == steps[:-1]) & alike[1:] & alike[:-1], [False]))
    edges = np.flatnonzero(goes_on[1:] != goes_on[:-1])
    first, last = edges[::2], edges[1::2] + 1
    # A piece that ends one progression and begins the next belongs to the first of them.
    first = first + np.concatenate(([False], first[1:] == last[:-1])).astype(np.int64)
    long_enough = last - first >= 2
    first, last = first[long_enough], last[long_enough]
    if not len(first):
        return None
    shapes = np.stack([last - first + 1, steps[first], kinds[first]], axis=1)
    unique, inverse = np.unique(shapes, axis=0, return_inverse=True)
    new_kinds = kinds.copy()
    new_kinds[first] = len(nodes) + inverse.ravel()
    nodes.extend(_stream(int(count), int(stride), nodes[kind]) for count, stride, kind in unique)
    inside = np.zeros(len(offsets) + 1, np.int64)
    inside[first + 1] += 1
    inside[last + 1] -= 1
    kept = np.cumsum(inside)[:-1] == 0
    return offsets[kept], new_kinds[kept]


def _list_dense(offsets: list[int], nodes: list[Node]) -> tuple[list[int], list[Node]]:
    """Gather neighbouring dense pieces into one `Runs`."""
    places: list[int] = []
    children: list[Node] = []
    group: list[tuple[int, int]] = []
    for offset, node in [*zip(offsets, nodes, strict=True), (0, None)]:
        if isinstance(node, Dense):
            group.append((offset, node.nbytes))
            continue
        if group:
            start = group[0][0]
            table = np.array(group, np.int64)
            places.append(start)
            children.append(
                Dense(group[0][1]) if len(group) == 1 else Runs(table[:, 0] - start, table[:, 1].copy())
            )
            group = []
        if node is not None:
            places.append(offset)
            children.append(node)
    return places, children
