"""The algorithms of attention by their names, what each can serve, and how long it is expected to take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple

from ..service import joined_service, service_of
from . import exchange, mesh, prediction, routes, rsa
from .backward import Gradients, Queries
from .costs import Rates, rates_of
from .problem import Problem
from .tiles import Array
from .window import Window, window_of

AUTO = "auto"


class Algorithm(NamedTuple):
    """How attention is computed.

    Attributes
    ----------
    forward, backward : callable
    seconds : callable
        Expected time of the forward pass.
    refuses : callable
        Says why it cannot serve a problem with a placement; empty if it can.
    """

    forward: Callable[[Problem, Array, Array, Array], tuple[Array, Array]]
    backward: Callable[[Problem, Queries, Array, Array], Gradients]
    seconds: Callable[[Problem, Rates], float]
    refuses: Callable[[Problem, str], str] = lambda problem, placement: ""


def _by_route(route: routes.Route, refuses: Callable[[Problem, str], str] | None = None) -> Algorithm:
    def steps(problem: Problem) -> routes.Steps:
        key = (route.__name__, problem.shape.key_heads)
        return problem.geometry.recall(key, lambda: route(problem))

    def own_steps(problem: Problem) -> routes.Steps:
        member = problem.group.index
        key = (route.__name__, problem.shape.key_heads, member)
        return problem.geometry.recall(key, lambda: routes.of_member(steps(problem), member))

    def forward(problem: Problem, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return exchange.forward(problem, own_steps(problem), q, k, v)

    def backward(problem: Problem, queries: Queries, k: Array, v: Array) -> Gradients:
        return exchange.backward(problem, own_steps(problem), queries, k, v)

    def seconds(problem: Problem, rates: Rates) -> float:
        return prediction.route_seconds(problem, steps(problem), rates)

    return Algorithm(forward, backward, seconds, *([] if refuses is None else [refuses]))


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

    def seconds(problem: Problem, rates: Rates) -> float:
        inner = mesh.largest_ring(problem, width(problem))
        within = prediction.route_seconds(inner, routes.ring(inner), rates)
        return within + prediction.swap_seconds(problem, width(problem), rates)

    return Algorithm(forward, backward, seconds)


def _in_place() -> Algorithm:
    def window(problem: Problem) -> Window | None:
        shape, group = problem.shape, problem.group
        most = max(problem.count(member) for member in range(group.size))
        nbytes = shape.keys_and_values(most, shape.key_heads, shape.dtype).nbytes
        return window_of(service_of(group.program), group.comm, nbytes)

    def steps(problem: Problem) -> routes.Steps:
        key = ("direct", problem.shape.key_heads)
        return problem.geometry.recall(key, lambda: routes.direct(problem))

    def forward(problem: Problem, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return exchange.forward(problem, steps(problem), q, k, v, window(problem))

    def backward(problem: Problem, queries: Queries, k: Array, v: Array) -> Gradients:
        return exchange.backward(problem, steps(problem), queries, k, v, window(problem))

    return Algorithm(forward, backward, lambda problem, rates: inf, _needs_one_node)


def _needs_one_node(problem: Problem, _placement: str) -> str:
    if not problem.group.everyone:
        return "it needs all ranks of the communicator"
    nodes = len(service_of(problem.group.program).nodes)
    return f"the ranks are on {nodes} nodes" if nodes > 1 else ""


_RING = _by_route(routes.ring)

ALGORITHMS = {
    # Its rows of weights take memory that grows with the whole sequence: only for who asks for it.
    "rsa": Algorithm(rsa.forward, _RING.backward, lambda problem, rates: inf),
    "ring": _RING,
    "zigzag": _by_route(routes.ring, partial(_needs_placement, "zigzag")),
    "striped": _by_route(routes.ring, partial(_needs_placement, "striped")),
    "bidirectional": _by_route(routes.bidirectional),
    "token-ring": _by_route(routes.token_ring),
    "all-gather": _by_route(routes.all_gather),
    "balanced": _by_route(routes.balanced, _needs_order),
    "shared-memory": _in_place(),
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
    """The algorithm of a name, or the one that is expected to be the fastest.

    Raises `ValueError` for an unknown name, or for one that cannot serve the problem.
    """
    if name == AUTO:
        return ALGORITHMS[_fastest(problem, placement)]
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm {name!r}: expected one of {AUTO}, {', '.join(ALGORITHMS)}")
    reason = ALGORITHMS[name].refuses(problem, placement)
    if reason:
        able = [other for other, each in ALGORITHMS.items() if not each.refuses(problem, placement)]
        raise ValueError(f"algorithm {name!r}: {reason}; {', '.join(able)} can")
    return ALGORITHMS[name]


def _fastest(problem: Problem, placement: str) -> str:
    if problem.group.size == 1:
        return "ring"
    rates = rates_of(joined_service(problem.group.program))

    def choose() -> str:
        seconds = expected(problem, placement, rates)
        return min(seconds, key=lambda name: seconds[name])

    return problem.geometry.recall((AUTO, problem.shape, rates), choose)


def expected(problem: Problem, placement: str, rates: Rates) -> dict[str, float]:
    """Seconds that each algorithm that can serve a problem is expected to take."""
    return {
        name: each.seconds(problem, rates)
        for name, each in ALGORITHMS.items()
        if not each.refuses(problem, placement)
    }
