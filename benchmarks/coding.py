"""Simulated trainings by schemes against stragglers: what each one gains, and how long it takes to find out.

    python -m benchmarks.coding

Parameters are chosen on the first 80 rounds of a drawn trace, then 480 jobs are simulated with all of it:
for 32, 256 and 4096 workers, for several kinds of traces, and for 256 workers with more and more seconds of
data.

The last is done twice. As published by Krishnan, Ebrahimi and Khisti 2022, arXiv 2211.13802, codes stand so
many stragglers and no more, M-SGC allows bursts only, and each round goes on for as long again as its first
worker took. Here repetition within groups ends a round whenever each group has answered, M-SGC allows its
other model, too, and the patience of schemes with a delay is one of their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.results import results_folder, write_json
from roundelay.collectives.coding.catalogue import scheme
from roundelay.collectives.coding.code import Code, Mask
from roundelay.collectives.coding.cyclic import cyclic_repetition
from roundelay.collectives.coding.multiplexed import Multiplexed
from roundelay.collectives.coding.recommend import Candidate, best_of_each, recommend
from roundelay.collectives.coding.repetition import fractional_repetition
from roundelay.collectives.coding.scheme import GradientCoding, Pattern, Scheme
from roundelay.collectives.coding.selective import SelectiveRepeat, repeated_stragglers
from roundelay.collectives.coding.simulation import simulate
from roundelay.collectives.coding.stragglers import StragglerModel
from roundelay.collectives.coding.traces import Trace, gilbert_elliott_trace, markov_trace, pareto_trace
from roundelay.terminal import track

KINDS: dict[str, Callable[..., Trace]] = {
    "markov": markov_trace,
    "gilbert-elliott": gilbert_elliott_trace,
    "pareto": pareto_trace,
}
WORKERS, SHOWN_WORKERS = (32, 256, 4096), 256
JOBS, PROBED = 480, 80
# As published, relative to the first worker's time.
PUBLISHED_PATIENCE = 1.0
BASE = 0.62
# Seconds that all of the data takes on one worker.
SLOPES = (0.5, 1.0, 2.2, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
# Rounds that are shown of a trace.
SHOWN = 120


class _Bursts(Multiplexed):
    """M-SGC that allows bursts only, in all rounds together."""

    def pattern(self) -> Pattern:
        return _Window(self.bursty, self.workers)


class _Window:
    """A pattern of a model."""

    def __init__(self, model: StragglerModel, workers: int) -> None:
        self.model, self.rounds = model, np.zeros((0, workers), np.bool_)

    def allows(self, missing: Mask) -> bool:
        """Whether the last window keeps the model."""
        return self.model.allows(np.vstack([self.rounds, missing]))

    def close(self, missing: Mask) -> None:
        """Go on to the next window."""
        self.rounds = np.vstack([self.rounds, missing])[1 - self.model.window :]


def built(
    code: Callable[[int, int], Code],
    multiplexed: type[Multiplexed],
    name: str,
    workers: int,
    **parameters: int,
) -> Scheme:
    """A scheme by its name, of codes of one family."""
    values = tuple(parameters.values())
    if name == "gc":
        return GradientCoding(code(workers, *values))
    if name == "sr-sgc":
        return SelectiveRepeat(code(workers, repeated_stragglers(*values)), *values)
    if name == "m-sgc":
        burst, window, most = values
        return multiplexed(workers, burst, window, most, code(workers, most) if most < workers else None)
    return scheme(name, workers)


published = partial(built, cyclic_repetition, _Bursts)
grouped = partial(built, fractional_repetition, Multiplexed)


def training(
    trace: Trace, build: Callable[..., Scheme] = grouped, patience: float | None = None
) -> dict[str, Any]:
    """Times of each scheme with the parameters that are best on the first rounds of a trace."""
    start = perf_counter()
    found = recommend(trace.first(PROBED), patience=patience, build=build)
    spent = perf_counter() - start
    return {
        "workers": trace.workers,
        "candidates": len(found),
        "milliseconds per candidate": 1e3 * spent / len(found),
        "schemes": {each.name: _training(each, trace, build) for each in best_of_each(found)},
    }


def _training(chosen: Candidate, trace: Trace, build: Callable[..., Scheme]) -> dict[str, Any]:
    """Seconds of a training with all of a trace."""
    tried = build(chosen.name, trace.workers, **chosen.parameters)
    result, waiting = (
        simulate(tried, trace, JOBS, patience=chosen.patience, wait_for_all=wait_for_all)
        for wait_for_all in (False, True)
    )
    return {
        "parameters": chosen.parameters,
        "load": float(chosen.load),
        "delay": chosen.delay,
        "patience": chosen.patience,
        "seconds": result.seconds,
        "seconds, if rounds that go on wait for all": waiting.seconds,
        "rounds that went on": result.waited,
        "percentiles of rounds": " ".join(
            f"{each:.4g}" for each in np.percentile(result.rounds, np.arange(0, 101, 2))
        ),
    }


def stragglers(trace: Trace) -> list[str]:
    """Workers that take more than twice as long as the first one, of some rounds."""
    rows = trace.seconds[:SHOWN]
    slow = rows > (1 + PUBLISHED_PATIENCE) * rows.min(axis=1, keepdims=True)
    return [" ".join(map(str, np.flatnonzero(row))) for row in slow]


def simulations() -> dict[str, Any]:
    """All of them, by what they are to show."""
    slopes = [markov_trace(SHOWN_WORKERS, JOBS, base=BASE, slope=slope) for slope in SLOPES]
    return {
        "jobs": JOBS,
        "base": BASE,
        "sizes": [training(markov_trace(workers, JOBS, base=BASE)) for workers in track(WORKERS, "workers")],
        "kinds": {
            kind: {"stragglers": stragglers(trace), **training(trace)}
            for kind, draw in track(KINDS.items(), "kinds")
            for trace in [draw(SHOWN_WORKERS, JOBS, base=BASE)]
        },
        "slopes": [
            {
                "slope": trace.slope,
                "published": training(trace, published, PUBLISHED_PATIENCE),
                "here": training(trace),
            }
            for trace in track(slopes, "slopes")
        ],
    }


def lines(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of the table: what was simulated, and seconds."""
    named = [(f"{run['workers']} workers", run) for run in results["sizes"]]
    named += [(f"{kind} trace", run) for kind, run in results["kinds"].items()]
    named += [
        (f"slope {run['slope']:g} s, {how}", run[how])
        for run in results["slopes"]
        for how in ("published", "here")
    ]
    for name, run in named:
        schemes = run["schemes"]
        for each, figures in schemes.items():
            shown = ", ".join(map(str, figures["parameters"].values()))
            gain = 1 - figures["seconds"] / schemes["uncoded"]["seconds"]
            spent = run["milliseconds per candidate"]
            yield name, each, shown, f"{figures['seconds']:.1f}", f"{gain:.1%}", f"{spent:.1f}"


@click.command()
@results_folder
def main(output: Path) -> None:
    """Simulate trainings."""
    results = simulations()
    table = Table("trace", "scheme", "parameters", "s", "gain", "ms a candidate")
    for line in lines(results):
        table.add_row(*line)
    Console(width=110).print(table)
    write_json(output / "coding-simulation.json", results)


if __name__ == "__main__":
    main()
