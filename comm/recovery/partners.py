"""Who holds copies of whose arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def partners(places: Sequence[Hashable], copies: int) -> tuple[tuple[int, ...], ...]:
    """For each rank those that hold a copy of its arrays, in the order in which they are asked for it.

    They are on other nodes, as long as there are any, and else the next ranks. Ranks are walked around the
    nodes in turn, so that all of them hold about as many copies.

    Parameters
    ----------
    places : sequence
        The node of each rank.
    copies : int
        How many hold a copy; fewer where there are fewer ranks.

    Examples
    --------
    >>> partners("aaa", 1)
    ((1,), (2,), (0,))
    >>> partners("aabb", 1)
    ((2,), (3,), (1,), (0,))
    >>> partners("aab", 2)
    ((2, 1), (2, 0), (1, 0))
    """
    order = _around(places)
    found = {}
    for where, rank in enumerate(order):
        others = order[where + 1 :] + order[:where]
        # Sorting keeps the order of those that are alike.
        others.sort(key=lambda other, rank=rank: places[other] == places[rank])  # type: ignore[misc]
        found[rank] = tuple(others[:copies])
    return tuple(found[rank] for rank in range(len(places)))


def _around(places: Sequence[Hashable]) -> list[int]:
    """Ranks by their number on their node, and then by node."""
    nodes: dict[Hashable, list[int]] = {}
    for rank, place in enumerate(places):
        nodes.setdefault(place, []).append(rank)
    number = {rank: index for ranks in nodes.values() for index, rank in enumerate(ranks)}
    order = list(nodes)
    return sorted(range(len(places)), key=lambda rank: (number[rank], order.index(places[rank])))
