"""`roundelay coding`: what schemes against stragglers cost, and which one is best for a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from .collectives.coding.catalogue import SCHEMES, needed_parameters, scheme
from .collectives.coding.recommend import MOST_DELAY, Candidate, best_of_each, recommend
from .collectives.coding.simulation import simulate
from .collectives.coding.traces import Trace, gilbert_elliott_trace, markov_trace, pareto_trace
from .files import OutputFile, PictureFile, save_picture
from .terminal import print_table, progress_bar

# Rounds of a trace by which parameters are chosen before the whole of it is simulated.
PROBED = 80
_MODELS: dict[str, Callable[..., Trace]] = {
    "markov": markov_trace,
    "pareto": pareto_trace,
    "gilbert-elliott": gilbert_elliott_trace,
}

_OPTIONS = {"burst": "-B", "window": "-W", "stragglers": "-s"}

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
@click.option("-B", "--burst", type=int, help="Rounds in a row that a worker may straggle (sr-sgc, m-sgc).")
@click.option("-W", "--window", type=int, help="Rounds of a window (sr-sgc, m-sgc).")
@click.option(
    "-s", "--lambda", "stragglers", type=int, help="Stragglers in each round (gc) or window (sr-sgc, m-sgc)."
)
def load(name: str, workers: int, **given: int | None) -> None:
    """Show the load of workers and the delay of gradients."""
    needed = needed_parameters(name)
    if {parameter for parameter, value in given.items() if value is not None} != set(needed):
        options = "only " + ", ".join(_OPTIONS[parameter] for parameter in needed)
        raise click.UsageError(f"{name}: expected {options if needed else 'none of -B, -W and -s'}")
    with _refused():
        found = scheme(name, workers, **given)
    click.echo(f"load {float(found.load):.6f}, {float(found.load * workers):.2f} times that of uncoded data")
    click.echo(f"delay {found.delay}")


@coding.command("simulate")
@_trace_file
@click.option("--schemes", default=",".join(SCHEMES), show_default=True)
@_jobs
@click.option(
    "--patience",
    type=float,
    help="How long a round waits after its first worker, relative to that one's time.",
)
@click.option("--plot", type=PictureFile(), help="Draw the rounds and the trace into a picture.")
def simulate_(path: str, schemes: str, jobs: int | None, patience: float | None, plot: Path | None) -> None:
    """Simulate a training by each scheme on a trace.

    The parameters of each scheme are chosen on the first rounds.
    """
    trace, found, trainings = _read(path), [], {}
    with _refused(), _progress() as step:
        report = step("choosing parameters", 1)
        probed = recommend(
            trace.first(PROBED),
            names=[name.strip() for name in schemes.split(",")],
            patience=patience,
            report=report,
        )
        for each in best_of_each(probed):
            chosen, count = scheme(each.name, trace.workers, **each.parameters), jobs or trace.rounds
            report = step(str(each), count + chosen.delay)
            training = simulate(chosen, trace, count, patience=each.patience, report=report)
            trainings[str(each)] = training.rounds
            found.append(each._replace(seconds=training.seconds))
    print_table(_table(sorted(found, key=lambda each: each.seconds)))
    if plot:
        from .collectives.coding.pictures import draw_training

        save_picture(draw_training(trace, trainings), plot)


@coding.command("recommend")
@_trace_file
@click.option(
    "--most-delay", type=click.IntRange(0), default=MOST_DELAY, show_default=True, help="In rounds."
)
@_jobs
def recommend_(path: str, most_delay: int, jobs: int | None) -> None:
    """Find the fastest scheme, and its parameters."""
    trace = _read(path)
    with _refused(), _progress() as step:
        found = recommend(trace, jobs, most_delay=most_delay, report=step("simulating", 1))
    print_table(_table(best_of_each(found)))
    best = found[0]
    arguments = [
        repr(best.name),
        str(trace.workers),
        *(f"{key}={value}" for key, value in best.parameters.items()),
    ]
    click.echo(f"best of {len(found)}: roundelay.coding.scheme({', '.join(arguments)})")


@coding.command("trace")
@click.option("--kind", type=click.Choice([*_MODELS]), default="markov", show_default=True)
@click.option("--workers", type=click.IntRange(1), required=True)
@click.option("--rounds", type=click.IntRange(1), required=True)
@click.option("--output", type=OutputFile(), required=True, help="The trace, as of numpy.savez.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def trace_(kind: str, workers: int, rounds: int, output: Path, seed: int) -> None:
    """Generate a trace: random times of workers, by a model."""
    generated = _MODELS[kind](workers, rounds, seed=seed)
    try:
        generated.save(output)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error}") from error
    click.echo(f"{output}: {rounds} rounds of {workers} workers")


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
        raise click.BadParameter(str(error), param_hint="'--trace'") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, float], Callable[[float], None]]]:
    """A bar for each step, begun by its name and the whole of its work."""
    with progress_bar(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()) as bars:

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
