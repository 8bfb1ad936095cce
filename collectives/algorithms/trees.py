"""Trees: reduce on the way up, broadcast on the way down.

The double binary tree (Sanders, Speck and Traeff, Parallel Comput. 35, 2009) is two trees with one half of
the data each, in which no rank has children in both, so that all links carry data in both directions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from ..schedule import Fold, Ranks, Schedule, Step, Wave, wave


def tree_reduce(ranks: int, root: int = 0, radix: int = 2) -> Schedule:
    """Up a k-nomial tree; binomial with radix 2. In the order of the ranks if the root is rank 0."""

    def generate() -> Iterator[Step]:
        for children, stride in reversed(list(_levels(ranks, radix))):
            waves = (
                wave((child + root) % ranks, (child - place * stride + root) % ranks, 0, fold=Fold.AFTER)
                for place, child in enumerate(children, 1)
            )
            yield Step(tuple(waves))

    return Schedule(ranks, 1, generate)


def tree_bcast(ranks: int, root: int = 0, radix: int = 2) -> Schedule:
    """Down a k-nomial tree."""

    def generate() -> Iterator[Step]:
        for children, stride in _levels(ranks, radix):
            waves = (
                wave((child - place * stride + root) % ranks, (child + root) % ranks, 0)
                for place, child in enumerate(children, 1)
            )
            yield Step(tuple(waves))

    return Schedule(ranks, 1, generate)


def tree_allreduce(ranks: int, radix: int = 2) -> Schedule:
    """Up a k-nomial tree and down again."""
    return tree_reduce(ranks, 0, radix).then(tree_bcast(ranks, 0, radix))


def _levels(ranks: int, radix: int) -> Iterator[tuple[list[Ranks], int]]:
    """From the root down: the first, second, ... children of each parent, and how far they are from it."""
    everyone = np.arange(ranks)
    strides = [1]
    while strides[-1] * radix < ranks:
        strides.append(strides[-1] * radix)
    for stride in reversed(strides):
        place = everyone % (stride * radix)
        children = (everyone[place == number * stride] for number in range(1, radix))
        yield [each for each in children if each.size], stride


def chain_reduce(ranks: int, root: int = 0, segments: int = 1) -> Schedule:
    """Each rank adds its own and passes it on, to the root."""

    def generate() -> Iterator[Step]:
        for distance in range(ranks - 1, 0, -1):
            yield Step((wave((root + distance) % ranks, (root + distance - 1) % ranks, 0, fold=Fold.AFTER),))

    return Schedule(ranks, 1, generate).segmented(segments)


def chain_bcast(ranks: int, root: int = 0, segments: int = 1) -> Schedule:
    """Each rank passes on what it gets, from the root."""

    def generate() -> Iterator[Step]:
        for distance in range(1, ranks):
            yield Step((wave((root + distance - 1) % ranks, (root + distance) % ranks, 0),))

    return Schedule(ranks, 1, generate).segmented(segments)


def double_tree_allreduce(ranks: int, segments: int = 1) -> Schedule:
    """One half of the data up and down one binary tree, the other half on its mirror image."""
    up, down = _inorder_tree(ranks)
    tree = up.then(down)
    return tree.beside(tree.on(_mirrored(ranks), ranks)).segmented(segments)


def double_tree_reduce(ranks: int, root: int = 0, segments: int = 1) -> Schedule:
    """Up two binary trees, and from their roots to the root that is wanted."""
    up, _ = _inorder_tree(ranks)
    return _with_root(up, root, segments, reduces=True)


def double_tree_bcast(ranks: int, root: int = 0, segments: int = 1) -> Schedule:
    """From the root to the roots of two binary trees, and down these."""
    _, down = _inorder_tree(ranks)
    return _with_root(down, root, segments, reduces=False)


def _with_root(tree: Schedule, root: int, segments: int, reduces: bool) -> Schedule:
    ranks = tree.ranks
    halves = []
    for names in (np.arange(ranks), _mirrored(ranks)):
        top = int(names[_top(ranks)])

        def hop(source: int = root, destination: int = top) -> Iterator[Step]:
            if source != destination:
                ends = (destination, source) if reduces else (source, destination)
                yield Step((wave(*ends, 0),))

        half = tree.on(names, ranks)
        extra = Schedule(ranks, 1, hop)
        halves.append(half.then(extra) if reduces else extra.then(half))
    return halves[0].beside(halves[1]).segmented(segments)


def _mirrored(ranks: int) -> Ranks:
    """Names that make leaves of inner ranks."""
    everyone = np.arange(ranks)
    return everyone[::-1] if ranks % 2 == 0 else (everyone + 1) % ranks


def _top(ranks: int) -> int:
    return int((1 << (ranks.bit_length() - 1)) - 1)


def _inorder_tree(ranks: int) -> tuple[Schedule, Schedule]:
    """The ways up and down a binary tree whose ranks, read from left to right, are in order."""
    levels: dict[int, list[list[tuple[int, int]]]] = defaultdict(lambda: [[], []])

    def build(first: int, size: int, depth: int) -> int:
        top = _top(size)
        for side, (start, length) in enumerate(((0, top), (top + 1, size - top - 1))):
            if length:
                levels[depth][side].append((build(first + start, length, depth + 1), first + top))
        return first + top

    build(0, ranks, 0)

    def edges(depth: int, up: bool) -> Step:
        waves: list[Wave] = []
        for side, pairs in enumerate(levels[depth]):
            if pairs:
                child, parent = np.array(pairs).T
                fold = Fold.AFTER if side else Fold.BEFORE
                waves.append(wave(child, parent, 0, fold=fold) if up else wave(parent, child, 0))
        return Step(tuple(waves))

    def rise() -> Iterator[Step]:
        for depth in sorted(levels, reverse=True):
            yield edges(depth, up=True)

    def fall() -> Iterator[Step]:
        for depth in sorted(levels):
            yield edges(depth, up=False)

    return Schedule(ranks, 1, rise), Schedule(ranks, 1, fall)
