"""The catalogue: which algorithms there are for each operation, by name, and with which parameters.

Names are what a program or a user asks for; a name stands for a family, whose members differ in
parameters. To add an algorithm is to add one function that yields its family's members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..comm.settings import OPERATIONS
from .algorithms import factors, hierarchical, ring, star, trees
from .schedule import Schedule

NATIVE = "native"
SHARED_MEMORY = "shared-memory"

# Parts that a long message is cut into, to reduce one while the next is under way.
_SEGMENTS = (1, 4, 16)
_LARGEST_FACTOR_LIST = 64


class Setting(NamedTuple):
    """The setting that an algorithm is made for.

    Attributes
    ----------
    ranks : int
        Number of ranks.
    root : int
        The rank that has the data, or gets it, in operations that have one; else 0.
    nodes : tuple of tuples of int
        The ranks of each node, the root's own first.
    hosts : tuple of str
        The name of each node, where links were measured pair by pair.
    """

    ranks: int
    root: int = 0
    nodes: tuple[tuple[int, ...], ...] = ()
    hosts: tuple[str, ...] = ()


class Algorithm(NamedTuple):
    """One member of a family: its name, its parameters as a person reads them, and its schedule.

    `ordered` tells that it reduces in the order of the ranks, as an operation needs that does not commute;
    `shares_memory`, that its messages go through memory that all ranks see.
    """

    name: str
    parameters: str
    build: Callable[[], Schedule]
    ordered: bool
    shares_memory: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.parameters}".strip()


Members = Iterator[tuple[str, Callable[[], Schedule]]]
Family = Callable[[Setting], Members]

_FAMILIES: dict[str, dict[str, Family]] = {operation: {} for operation in OPERATIONS}


def _family(name: str, operation: str) -> Callable[[Family], Family]:
    def register(members: Family) -> Family:
        _FAMILIES[operation][name] = members
        return members

    return register


def algorithms(operation: str) -> list[str]:
    """The names of an operation's algorithms, the MPI library's own first.

    Raises `ValueError` for an unknown operation.

    Examples
    --------
    >>> algorithms("bcast")
    ['native', 'star', 'tree', 'chain', 'double-tree', 'scatter-allgather', 'hierarchical']
    """
    return [NATIVE, *_families(operation)]


def members(operation: str, setting: Setting, name: str | None = None) -> list[Algorithm]:
    """All algorithms of an operation that fit a setting, or those of one name.

    Raises `ValueError` for an unknown operation or name.
    """
    families = _families(operation)
    if name is not None and name not in families:
        raise ValueError(
            f"{operation}: unknown algorithm {name!r}; expected one of {', '.join(algorithms(operation))}"
        )
    return [
        Algorithm(family, parameters, build, _is_ordered(operation, family, setting), family == SHARED_MEMORY)
        for family in (families if name is None else (name,))
        for parameters, build in families[family](setting)
    ]


_ORDERED = {
    "allreduce": (
        "star",
        "direct",
        "direct-parts",
        "recursive-multiplying",
        "reduce-scatter-allgather",
        "tree",
    ),
    "reduce_scatter": ("star", "direct"),
    "reduce": ("star",),
}
_ORDERED_FROM_RANK_0 = ("tree", "chain")


def _is_ordered(operation: str, family: str, setting: Setting) -> bool:
    from_first = operation == "reduce" and setting.root == 0 and family in _ORDERED_FROM_RANK_0
    return from_first or family in _ORDERED.get(operation, ())


def _families(operation: str) -> dict[str, Family]:
    if operation not in _FAMILIES:
        raise ValueError(f"unknown operation {operation!r}; expected one of {', '.join(OPERATIONS)}")
    return _FAMILIES[operation]


def _segmented(build: Callable[..., Schedule], *arguments: Any) -> Members:
    for segments in _SEGMENTS:
        text = f"in {segments} segments" if segments > 1 else ""
        yield text, partial(build, *arguments, segments=segments)


def _by_factors(
    build: Callable[[int, Sequence[int]], Schedule], lists: Sequence[Sequence[int]], ranks: int
) -> Members:
    for each in lists:
        yield "x".join(map(str, each)), partial(build, ranks, each)


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number, smallest first.

    Examples
    --------
    >>> prime_factors(12)
    [2, 2, 3]
    """
    found = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found


def _factor_lists(ranks: int, exact: bool) -> list[tuple[int, ...]]:
    """Lists of factors of the number of ranks and, if it need not be exact, of powers a little below it.

    The list of one factor is left out: it is the direct exchange, which has a name of its own.
    """
    primes = prime_factors(ranks)
    lists = {tuple(primes), tuple(reversed(primes))}
    for radix in (2, 3, 4, 8, 16):
        power = 0
        while radix ** (power + 1) <= ranks:
            power += 1
        if power and (not exact or radix**power == ranks):
            lists.add((radix,) * power)
        rest, number = [], ranks
        while number % radix == 0 and number > 1:
            rest.append(radix)
            number //= radix
        if rest:
            lists.add((*rest, *prime_factors(number)))
    # Nobody wants a large prime factor but the direct exchange.
    kept = [each for each in lists if each != (ranks,) and each and max(each) <= _LARGEST_FACTOR_LIST]
    return sorted(kept) or [(ranks,)]


@_family("ring", "allreduce")
def _ring(setting: Setting) -> Members:
    return _segmented(ring.ring_allreduce, setting.ranks)


@_family("bidirectional-ring", "allreduce")
def _bidirectional_ring(setting: Setting) -> Members:
    return _segmented(ring.bidirectional_ring_allreduce, setting.ranks)


@_family("star", "allreduce")
def _star(setting: Setting) -> Members:
    for hub in _hubs(setting):
        yield f"hub {hub}", partial(star.star_allreduce, setting.ranks, hub)


def _hubs(setting: Setting) -> Sequence[int]:
    """Ranks that may be the hub: all of them, while these are few."""
    return range(setting.ranks if setting.ranks <= 16 else 1)


@_family("direct", "allreduce")
def _direct(setting: Setting) -> Members:
    yield "", partial(factors.recursive_multiplying, setting.ranks, (setting.ranks,))


@_family("direct-parts", "allreduce")
def _direct_parts(setting: Setting) -> Members:
    yield "", partial(factors.reduce_scatter_allgather, setting.ranks, (setting.ranks,))


@_family(SHARED_MEMORY, "allreduce")
def _shared_memory(setting: Setting) -> Members:
    """The direct exchanges, on one node: all ranks are in each of their steps, as its barriers need."""
    if len(setting.nodes) == 1:
        for text, build in (
            ("whole", factors.recursive_multiplying),
            ("by parts", factors.reduce_scatter_allgather),
        ):
            yield text, partial(build, setting.ranks, (setting.ranks,))


@_family("recursive-multiplying", "allreduce")
def _recursive_multiplying(setting: Setting) -> Members:
    lists = _factor_lists(setting.ranks, exact=False)
    return _by_factors(factors.recursive_multiplying, lists, setting.ranks)


@_family("reduce-scatter-allgather", "allreduce")
def _reduce_scatter_allgather(setting: Setting) -> Members:
    lists = _factor_lists(setting.ranks, exact=False)
    return _by_factors(factors.reduce_scatter_allgather, lists, setting.ranks)


@_family("tree", "allreduce")
def _tree(setting: Setting) -> Members:
    for radix in _radices(setting.ranks):
        yield f"radix {radix}", partial(trees.tree_allreduce, setting.ranks, radix)


def _radices(ranks: int) -> list[int]:
    return [radix for radix in (2, 4, 8) if radix == 2 or radix < ranks]


@_family("double-tree", "allreduce")
def _double_tree(setting: Setting) -> Members:
    return _segmented(trees.double_tree_allreduce, setting.ranks)


@_family("hierarchical", "allreduce")
def _hierarchical(setting: Setting) -> Members:
    nodes = setting.nodes
    if not _is_hierarchy(nodes):
        yield "of one level", partial(trees.tree_allreduce, setting.ranks)
        return
    inner = (("star", star.star_reduce, star.star_bcast), ("tree", trees.tree_reduce, trees.tree_bcast))
    equal = len({len(node) for node in nodes}) == 1
    for algorithm in members("allreduce", Setting(len(nodes))):
        if algorithm.build().lanes > 1:
            continue
        across = _rebuilt(algorithm)
        for name, reduce, bcast in inner:
            build = partial(hierarchical.leaders_allreduce, nodes, reduce, across, bcast)
            yield f"{name}, {algorithm}", build
        if equal:
            build = partial(hierarchical.parts_allreduce, nodes, _direct_scatter, across, _direct_gather)
            yield f"parts, {algorithm}", build


def _direct_scatter(ranks: int) -> Schedule:
    return factors.reduce_scatter(ranks, (ranks,))


def _direct_gather(ranks: int) -> Schedule:
    return factors.allgather(ranks, (ranks,))


def _rebuilt(algorithm: Algorithm) -> hierarchical.Level:
    return lambda _ranks: algorithm.build()


def _is_hierarchy(nodes: Sequence[Sequence[int]]) -> bool:
    return len(nodes) > 1 and any(len(node) > 1 for node in nodes)


@_family("ring", "reduce_scatter")
def _ring_reduce_scatter(setting: Setting) -> Members:
    yield "", partial(ring.ring_reduce_scatter, setting.ranks)


@_family("star", "reduce_scatter")
def _star_reduce_scatter(setting: Setting) -> Members:
    for hub in _hubs(setting):
        yield f"hub {hub}", partial(star.star_reduce_scatter, setting.ranks, hub)


@_family("direct", "reduce_scatter")
def _direct_reduce_scatter(setting: Setting) -> Members:
    yield "", partial(factors.reduce_scatter, setting.ranks, (setting.ranks,))


@_family("factors", "reduce_scatter")
def _factors_reduce_scatter(setting: Setting) -> Members:
    return _by_factors(factors.reduce_scatter, _factor_lists(setting.ranks, exact=True), setting.ranks)


@_family("ring", "allgather")
def _ring_allgather(setting: Setting) -> Members:
    yield "", partial(ring.ring_allgather, setting.ranks)


@_family("bidirectional-ring", "allgather")
def _bidirectional_ring_allgather(setting: Setting) -> Members:
    yield "", partial(ring.bidirectional_ring_allgather, setting.ranks)


@_family("star", "allgather")
def _star_allgather(setting: Setting) -> Members:
    for hub in _hubs(setting):
        yield f"hub {hub}", partial(star.star_allgather, setting.ranks, hub)


@_family("direct", "allgather")
def _direct_allgather(setting: Setting) -> Members:
    yield "", partial(factors.allgather, setting.ranks, (setting.ranks,))


@_family("factors", "allgather")
def _factors_allgather(setting: Setting) -> Members:
    return _by_factors(factors.allgather, _factor_lists(setting.ranks, exact=True), setting.ranks)


@_family("star", "bcast")
def _star_bcast(setting: Setting) -> Members:
    yield "", partial(star.star_bcast, setting.ranks, setting.root)


@_family("tree", "bcast")
def _tree_bcast(setting: Setting) -> Members:
    for radix in _radices(setting.ranks):
        yield f"radix {radix}", partial(trees.tree_bcast, setting.ranks, setting.root, radix)


@_family("chain", "bcast")
def _chain_bcast(setting: Setting) -> Members:
    return _segmented(trees.chain_bcast, setting.ranks, setting.root)


@_family("double-tree", "bcast")
def _double_tree_bcast(setting: Setting) -> Members:
    return _segmented(trees.double_tree_bcast, setting.ranks, setting.root)


@_family("scatter-allgather", "bcast")
def _scatter_allgather(setting: Setting) -> Members:
    scatter = partial(star.star_scatter, setting.ranks, setting.root)
    for algorithm in members("allgather", setting):
        # A scatter through a star is one already; and what comes after it must be of its one lane.
        if algorithm.name not in ("star", "bidirectional-ring"):
            yield str(algorithm), partial(_chained, scatter, algorithm.build)


@_family("hierarchical", "bcast")
def _hierarchical_bcast(setting: Setting) -> Members:
    if not _is_hierarchy(setting.nodes):
        yield "of one level", partial(trees.tree_bcast, setting.ranks, setting.root)
    else:
        for name, across in (("star", star.star_bcast), ("tree", trees.tree_bcast)):
            yield (
                f"{name}, tree",
                partial(hierarchical.leaders_bcast, setting.nodes, across, trees.tree_bcast),
            )


@_family("star", "reduce")
def _star_reduce(setting: Setting) -> Members:
    yield "", partial(star.star_reduce, setting.ranks, setting.root)


@_family("tree", "reduce")
def _tree_reduce(setting: Setting) -> Members:
    for radix in _radices(setting.ranks):
        yield f"radix {radix}", partial(trees.tree_reduce, setting.ranks, setting.root, radix)


@_family("chain", "reduce")
def _chain_reduce(setting: Setting) -> Members:
    return _segmented(trees.chain_reduce, setting.ranks, setting.root)


@_family("double-tree", "reduce")
def _double_tree_reduce(setting: Setting) -> Members:
    return _segmented(trees.double_tree_reduce, setting.ranks, setting.root)


@_family("scatter-gather", "reduce")
def _scatter_gather(setting: Setting) -> Members:
    gather = partial(star.star_gather, setting.ranks, setting.root)
    for algorithm in members("reduce_scatter", setting):
        if algorithm.name != "star":
            yield str(algorithm), partial(_chained, algorithm.build, gather)


@_family("hierarchical", "reduce")
def _hierarchical_reduce(setting: Setting) -> Members:
    if not _is_hierarchy(setting.nodes):
        yield "of one level", partial(trees.tree_reduce, setting.ranks, setting.root)
    else:
        for name, across in (("star", star.star_reduce), ("tree", trees.tree_reduce)):
            yield (
                f"tree, {name}",
                partial(hierarchical.leaders_reduce, setting.nodes, trees.tree_reduce, across),
            )


def _chained(first: Callable[[], Schedule], second: Callable[[], Schedule]) -> Schedule:
    return first().then(second())
