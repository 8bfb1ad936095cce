"""`roundelay coding`: what schemes against stragglers cost, and which one is best for a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from .collectives.coding.catalogue import SCHEMES, scheme
from .collectives.coding.recommend import MOST_DELAY, Candidate, best_of_each, recommend
from .collectives.coding.simulation import simulate
from .collectives.coding.traces import Seconds, Trace, gilbert_elliott_trace, markov_trace, pareto_trace

# Rounds of a trace by which parameters are chosen before the whole of it is simulated.
PROBED = 80
_DRAWN: dict[str, Callable[..., Trace]] = {
    "markov": markov_trace,
    "pareto": pareto_trace,
    "gilbert-elliott": gilbert_elliott_trace,
}

_trace_file = click.option(
    "--trace", "path", type=click.Path(exists=True, dir_okay=False), required=True, help="A file of seconds."
)
_jobs = click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Gradients of the training; by default as many as rounds in the trace.",
)


@click.group()
def coding() -> None:
    """Choose a scheme for gradients that do not wait for stragglers."""


@coding.command()
@click.argument("name", type=click.Choice(SCHEMES))
@click.option("--workers", type=int, required=True)
@click.option("-B", "--burst", type=int, help="Rounds in which a worker may straggle one after the other.")
@click.option("-W", "--window", type=int, help="Rounds of a window.")
@click.option("-s", "--lambda", "stragglers", type=int, help="In a round of gc; in a window of the others.")
def load(name: str, workers: int, **given: int | None) -> None:
    """Show what a worker computes in a round, and by how many rounds a gradient is late."""
    with _refused():
        found = scheme(name, workers, **given)
    _print(f"load {float(found.load):.6f}, {float(found.load * workers):.2f} times that of uncoded data")
    _print(f"delay {found.delay}")


@coding.command("simulate")
@_trace_file
@click.option("--schemes", default=",".join(SCHEMES), show_default=True)
@_jobs
@click.option(
    "--patience", type=float, help="Of a round after its first worker, in parts of that one's time."
)
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the rounds and the trace into FILE.png.")
def simulate_(path: str, schemes: str, jobs: int | None, patience: float | None, plot: str | None) -> None:
    """Simulate a training by each scheme, with parameters chosen on the first rounds of the trace."""
    trace, found, trainings = _read(path), [], {}
    with _refused(), _progress() as step:
        report = step("choosing parameters", 1)
        probed = recommend(trace.first(PROBED), names=schemes.split(","), patience=patience, report=report)
        for each in best_of_each(probed):
            chosen, count = scheme(each.name, trace.workers, **each.parameters), jobs or trace.rounds
            report = step(str(each), count + chosen.delay)
            training = simulate(chosen, trace, count, patience=each.patience, report=report)
            trainings[str(each)] = training.rounds
            found.append(each._replace(seconds=training.seconds))
    _print(_table(sorted(found, key=lambda each: each.seconds)))
    if plot:
        _draw(trace, trainings, plot)


@coding.command("recommend")
@_trace_file
@click.option(
    "--most-delay", type=click.IntRange(0), default=MOST_DELAY, show_default=True, help="In rounds."
)
@_jobs
def recommend_(path: str, most_delay: int, jobs: int | None) -> None:
    """Find the scheme and the parameters that take the least time on a trace."""
    trace = _read(path)
    with _refused(), _progress() as step:
        found = recommend(trace, jobs, most_delay=most_delay, report=step("simulating", 1))
    _print(_table(best_of_each(found)))
    best = found[0]
    arguments = [
        repr(best.name),
        str(trace.workers),
        *(f"{key}={value}" for key, value in best.parameters.items()),
    ]
    _print(f"best of {len(found)}: roundelay.coding.scheme({', '.join(arguments)})")


@coding.command("trace")
@click.option("--kind", type=click.Choice([*_DRAWN]), default="markov", show_default=True)
@click.option("--workers", type=click.IntRange(1), required=True)
@click.option("--rounds", type=click.IntRange(1), required=True)
@click.option("--output", type=click.Path(dir_okay=False), required=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def trace_(kind: str, workers: int, rounds: int, output: str, seed: int) -> None:
    """Draw how long workers take in each round, and write it to a file."""
    drawn = _DRAWN[kind](workers, rounds, seed=seed)
    try:
        drawn.save(output)
    except OSError as error:
        raise click.ClickException(f"{output}: cannot be written: {error}") from error
    _print(f"{output}: {rounds} rounds of {workers} workers")


@contextmanager
def _refused() -> Iterator[None]:
    """Wrong parameters are errors of the command."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _read(path: str) -> Trace:
    try:
        return Trace.read(path)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint="--trace") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, float], Callable[[float], None]]]:
    """A bar for each step, begun by its name and the whole of its work."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def step(name: str, whole: float) -> Callable[[float], None]:
            bar = bars.add_task(name, total=whole)
            return lambda done: bars.update(bar, completed=done)

        yield step


def _table(found: Sequence[Candidate]) -> Table:
    table = Table(Column("scheme", no_wrap=True), show_edge=False)
    for column in ("load", "delay", "patience", "time", "ratio"):
        table.add_column(column, justify="right")
    for each in found:
        relative = each.seconds / found[0].seconds if each.seconds else 1.0
        values = f"{float(each.load):.6f}", f"{each.delay}", f"{each.patience:g}", f"{each.seconds:.4g} s"
        table.add_row(str(each), *values, f"{relative:.2f} x")
    return table


def _print(shown: Any) -> None:
    Console(soft_wrap=True, highlight=False).print(shown)


def _draw(trace: Trace, trainings: dict[str, Seconds], path: str) -> None:
    from .collectives.coding.pictures import draw_training

    try:
        draw_training(trace, trainings).savefig(path, dpi=150)
    except ImportError as error:
        raise click.ClickException(
            f"--plot needs matplotlib ({error}); python -m pip install 'roundelay[bench]' installs it"
        ) from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: cannot be drawn: {error}") from error
    _print(f"drawn in {path}")
