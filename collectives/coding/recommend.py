"""Recommendation: which scheme, with which parameters, would have taken the least time on a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from .catalogue import SCHEMES, scheme
from .errors import require
from .scheme import Scheme
from .simulation import PATIENCES, simulate, usual_patience
from .traces import Trace

# Workers whose models are trained in turn are few: the delay that four models allow.
MOST_DELAY = 3
# By what factor a number of stragglers differs from the next one that is tried, where it is not by 1.
_STEP = 1.1
# The most bursts over which SR-SGC repeats.
_MOST_REPEATS = 3


class Candidate(NamedTuple):
    """A scheme with parameters, and the time that it takes in a simulation.

    `parameters` are those of `catalogue.scheme`, and `load` is the share of the data that a worker computes
    in a round.
    """

    name: str
    parameters: dict[str, int]
    load: Fraction
    delay: int
    patience: float
    seconds: float

    def __str__(self) -> str:
        shown = {"burst": "B", "window": "W", "stragglers": "s" if self.name == "gc" else "lambda"}
        values = ", ".join(f"{shown[key]}={value}" for key, value in self.parameters.items())
        return f"{self.name} ({values})" if values else self.name


def recommend(
    trace: Trace,
    jobs: int | None = None,
    *,
    names: Sequence[str] = SCHEMES,
    most_delay: int = MOST_DELAY,
    patience: float | None = None,
    build: Callable[..., Scheme] = scheme,
    report: Callable[[float], object] | None = None,
) -> list[Candidate]:
    """Simulate schemes over a grid of parameters, and return them with the fastest first.

    Parameters
    ----------
    trace : Trace
    jobs : int, optional
        As many as the trace has rounds, if not given.
    names : sequence of {"uncoded", "gc", "sr-sgc", "m-sgc"}
    most_delay : int
        Rounds by which a gradient may be late: with one model more than that, trained in turn, none waits.
    patience : float, optional
        As in `simulate`; if not given several are tried where there is a delay, and 0 where there is none.
    build : callable, optional
        What to call instead of `catalogue.scheme`.
    report : callable, optional
        Called with the share of the work that is done.

    Raises
    ------
    ValueError
        For negative numbers, and if there is no scheme with these names and so little delay.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, arXiv 2211.13802, section 4: parameters are chosen on probed rounds.

    Examples
    --------
    >>> from roundelay.collectives.coding.traces import markov_trace
    >>> print(recommend(markov_trace(workers=16, rounds=40))[0])
    gc (s=1)
    """
    require(most_delay >= 0, f"most delay {most_delay}: expected 0 or more")
    grid = [each for name in names for each in _grid(name, trace.workers, most_delay)]
    require(
        bool(grid), f"{', '.join(names) or 'no scheme'}: there is none with a delay of {most_delay} at most"
    )
    found = []
    for done, (name, choices) in enumerate(grid):
        patiences: tuple[float, ...] = PATIENCES if patience is None else (patience,)
        for tried, parameters in enumerate(choices):
            candidate = build(name, trace.workers, **parameters)
            if patience is None and not candidate.delay:
                patiences = (usual_patience(candidate),)
            for waits in patiences:
                result = simulate(candidate, trace, trace.rounds if jobs is None else jobs, patience=waits)
                found.append(
                    Candidate(name, parameters, candidate.load, candidate.delay, waits, result.seconds)
                )
                if not result.waited:
                    # To stand more stragglers would only be more load, and to wait longer only longer.
                    patiences = patiences[: patiences.index(waits)]
                    break
            if report is not None:
                report((done + (tried + 1) / len(choices)) / len(grid))
            if not patiences:
                break
    return sorted(found, key=lambda each: each.seconds)


def best_of_each(found: Sequence[Candidate]) -> list[Candidate]:
    """The best of each scheme, from candidates with the fastest first."""
    best: dict[str, Candidate] = {}
    for each in found:
        best.setdefault(each.name, each)
    return list(best.values())


def _grid(name: str, workers: int, most_delay: int) -> Iterator[tuple[str, list[dict[str, int]]]]:
    """Names, each with parameters that stand more and more stragglers."""
    if name == "gc":
        yield name, [{"stragglers": each} for each in _numbers(workers)]
    elif name == "sr-sgc":
        for burst, repeats in product(range(1, most_delay + 1), range(1, _MOST_REPEATS + 1)):
            # A code for some number of stragglers in a round tolerates as many in a window.
            most = sorted({min((repeats + 1) * each, workers) for each in _numbers(workers)})
            window = repeats * burst + 1
            yield name, [{"burst": burst, "window": window, "stragglers": each} for each in most]
    elif name == "m-sgc":
        most = [*_numbers(workers), workers]
        for burst in range(1, most_delay + 1):
            for window in range(burst + 1, most_delay + 3 - burst):
                yield name, [{"burst": burst, "window": window, "stragglers": each} for each in most]
    else:
        yield name, [{}]


def _numbers(workers: int) -> list[int]:
    """Numbers of stragglers to try of a code: to stand half of the workers, all compute half of the data."""
    # Where groups are of the same size: such a code stands more than it must.
    numbers = {size - 1 for size in range(2, workers // 2 + 1) if workers % size == 0}
    number = 1
    while number <= workers // 2:
        numbers.add(number)
        number = max(number + 1, int(number * _STEP))
    return sorted(numbers)
