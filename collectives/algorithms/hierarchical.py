"""Hierarchies: within each node, then between the nodes, with any algorithm at each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..schedule import Schedule, abreast

Nodes = Sequence[Sequence[int]]
# An algorithm of one level, for a number of ranks; with a root where the operation has one.
Level = Callable[[int], Schedule]


def leaders_allreduce(nodes: Nodes, reduce: Level, across: Level, bcast: Level) -> Schedule:
    """Reduce to the first rank of each node, allreduce between those, broadcast in each node."""
    return _within(nodes, reduce, across).then(_across(nodes, across)).then(_within(nodes, bcast, across))


def leaders_reduce(nodes: Nodes, reduce: Level, across: Level) -> Schedule:
    """Reduce to the first rank of each node, then to the first rank of the first node."""
    return _within(nodes, reduce, across).then(_across(nodes, across))


def leaders_bcast(nodes: Nodes, across: Level, bcast: Level) -> Schedule:
    """Broadcast from the first rank of the first node to those of the others, then in each node."""
    return _across(nodes, across).then(_within(nodes, bcast, across))


def parts_allreduce(nodes: Nodes, scatter: Level, across: Level, gather: Level) -> Schedule:
    """Reduce-scatter in each node, allreduce each part between the nodes, gather in each node.

    All nodes need equally many ranks. All of a node's ranks send to other nodes, each its own part.
    """
    ranks, parts = _total(nodes), len(nodes[0])
    pieces = across(len(nodes)).chunks
    between = [
        across(len(nodes)).on([node[part] for node in nodes], ranks).within(parts * pieces, part * pieces)
        for part in range(parts)
    ]
    return _within(nodes, scatter, across).then(abreast(between)).then(_within(nodes, gather, across))


def _total(nodes: Nodes) -> int:
    return sum(map(len, nodes))


def _within(nodes: Nodes, level: Level, across: Level) -> Schedule:
    pieces = across(len(nodes)).chunks
    return abreast([level(len(node)).refined(pieces).on(node, _total(nodes)) for node in nodes])


def _across(nodes: Nodes, across: Level) -> Schedule:
    return across(len(nodes)).on([node[0] for node in nodes], _total(nodes))
