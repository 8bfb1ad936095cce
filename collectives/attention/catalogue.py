"""The algorithms of attention by their names, and what each can serve."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from . import exchange, mesh, routes, rsa
from .backward import Gradients, Queries
from .problem import Problem
from .tiles import Array


class Algorithm(NamedTuple):
    """How attention is computed.

    Attributes
    ----------
    forward, backward : callable
    refuses : callable
        Says why it cannot serve a problem with a placement; empty if it can.
    """

    forward: Callable[[Problem, Array, Array, Array], tuple[Array, Array]]
    backward: Callable[[Problem, Queries, Array, Array], Gradients]
    refuses: Callable[[Problem, str], str] = lambda problem, placement: ""


def _by_route(route: routes.Route, refuses: Callable[[Problem, str], str] | None = None) -> Algorithm:
    def forward(problem: Problem, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return exchange.forward(problem, route(problem), q, k, v)

    def backward(problem: Problem, queries: Queries, k: Array, v: Array) -> Gradients:
        return exchange.backward(problem, route(problem), queries, k, v)

    return Algorithm(forward, backward) if refuses is None else Algorithm(forward, backward, refuses)


def _needs_placement(wanted: str, _problem: Problem, placement: str) -> str:
    return "" if placement == wanted else f"it needs placement {wanted!r}, not {placement!r}"


def _needs_order(problem: Problem, _placement: str) -> str:
    size = problem.group.size
    later = any(problem.sees(member, other) for member in range(size) for other in range(member + 1, size))
    return "some rank sees tokens of a rank after it" if later else ""


def _by_mesh(width: Callable[[Problem], int]) -> Algorithm:
    def forward(problem: Problem, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return mesh.forward(problem, width(problem), q, k, v)

    def backward(problem: Problem, queries: Queries, k: Array, v: Array) -> Gradients:
        return mesh.backward(problem, width(problem), queries, k, v)

    return Algorithm(forward, backward)


ALGORITHMS = {
    "rsa": Algorithm(rsa.forward, _by_route(routes.ring).backward),
    "ring": _by_route(routes.ring),
    "zigzag": _by_route(routes.ring, partial(_needs_placement, "zigzag")),
    "striped": _by_route(routes.ring, partial(_needs_placement, "striped")),
    "bidirectional": _by_route(routes.bidirectional),
    "token-ring": _by_route(routes.token_ring),
    "all-gather": _by_route(routes.all_gather),
    "balanced": _by_route(routes.balanced, _needs_order),
    "ulysses": _by_mesh(lambda problem: problem.group.size),
    "mesh": _by_mesh(mesh.width_of_mesh),
}


def attention_algorithms() -> list[str]:
    """Names of the algorithms of `roundelay.attention`.

    Examples
    --------
    >>> attention_algorithms()[:3]
    ['rsa', 'ring', 'zigzag']
    """
    return list(ALGORITHMS)


def find(problem: Problem, name: str, placement: str) -> Algorithm:
    """The algorithm of a name.

    Raises `ValueError` for an unknown name, or for one that cannot serve the problem.
    """
    if name == "auto":
        name = "ring"
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm {name!r}: expected one of auto, {', '.join(ALGORITHMS)}")
    reason = ALGORITHMS[name].refuses(problem, placement)
    if reason:
        able = [other for other, each in ALGORITHMS.items() if not each.refuses(problem, placement)]
        raise ValueError(f"algorithm {name!r}: {reason}; {', '.join(able)} can")
    return ALGORITHMS[name]
