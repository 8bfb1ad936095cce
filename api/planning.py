"""`roundelay plan`: what every algorithm would take on a network that is described, and which one is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table

from .collectives.catalogue import Algorithm, Setting, members
from .collectives.links import Links
from .collectives.schedule import Schedule
from .collectives.simulate import Prediction, chunk_sizes, simulate
from .collectives.units import format_bytes, format_seconds, parse_bytes, parse_rate, parse_seconds
from .comm.settings import OPERATIONS
from .files import PictureFile, save_picture
from .terminal import print_table, progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Forecast(NamedTuple):
    """An algorithm, its predicted seconds, and the steps of its longest lane."""

    algorithm: Algorithm
    seconds: float
    steps: int


def _quantity(
    name: str, parse: Callable[[str], float], metavar: str, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that is a number with a unit."""

    def parsed(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return click.option(*name.split(), callback=parsed, metavar=metavar, **settings)


_time = partial(_quantity, parse=parse_seconds, metavar="TIME")
_size = partial(_quantity, parse=parse_bytes, metavar="SIZE")
_rate = partial(_quantity, parse=parse_rate, metavar="RATE")


@click.command()
@click.argument("operation", type=click.Choice(OPERATIONS))
@click.option("--ranks", type=click.IntRange(1), required=True)
@_size("--bytes nbytes", required=True, help="Of the whole vector, such as 1MiB.")
@_time("--latency", required=True, help="Of a message, such as 50us.")
@_rate("--bandwidth", required=True, help="Of a rank's link, such as 10GB/s or 300Mbit/s.")
@_time("--overhead", default="0s", help="Of a processor for each message.")
@_time("--gap", default="0s", help="Least time between two messages of a rank.")
@_rate("--reduce reduction", help="Bytes that a rank reduces; by default at once.")
@click.option("--per-node", type=click.IntRange(1), default=1, help="Ranks of a node, which share its link.")
@_time("--node-latency", help="Within a node.")
@_rate("--node-bandwidth", help="Of a rank within its node.")
@click.option("--shared", is_flag=True, help="All links share one medium, such as a radio channel.")
@click.option("--root", type=click.IntRange(0), default=0, show_default=True)
@click.option("--top", type=click.IntRange(1), help="Show only this number of algorithms.")
@click.option("--draw", type=PictureFile(), help="Draw the best one's messages into a picture.")
def plan(operation: str, ranks: int, nbytes: int, **options: Any) -> None:
    """Predict what each algorithm for OPERATION takes on a network, and name the best.

    The best one of each name is shown first, then the others; each is on top of those that take longer.
    """
    root, path = options["root"], options["draw"]
    if root >= ranks:
        raise click.BadParameter(f"{root}: expected one of the ranks 0 to {ranks - 1}", param_hint="'--root'")
    links = _links(ranks, options)
    found = predict(operation, Setting(ranks, root, _nodes(ranks, options["per_node"], root)), nbytes, links)
    print_table(_table(found, options["top"]))
    best = found[0]
    subject = f"{operation} of {format_bytes(nbytes)} on {ranks} ranks"
    click.echo(f"{subject}: {best.algorithm}, {format_seconds(best.seconds)}")
    if path:
        title = f"{subject}, {best.algorithm}"
        save_picture(_draw(best.algorithm, nbytes, links, root, title), path)


def predict(operation: str, setting: Setting, nbytes: int, links: Links) -> list[Forecast]:
    """Forecasts for all algorithms of an operation, the fastest first.

    Parameters
    ----------
    operation : str
        Such as "allreduce".
    setting : Setting
    nbytes : int
        Bytes of the whole vector, in items of up to 8 bytes.
    links : Links
    """
    known = members(operation, setting)
    found = []
    with progress_bar(*Progress.get_default_columns()) as bar:
        for algorithm in bar.track(known, description="predicting"):
            schedule = algorithm.build()
            found.append(Forecast(algorithm, _prediction(schedule, nbytes, links).seconds, _steps(schedule)))
    return sorted(found, key=lambda forecast: forecast.seconds)


def _prediction(schedule: Schedule, nbytes: int, links: Links, timeline: bool = False) -> Prediction:
    return simulate(schedule, chunk_sizes(nbytes, schedule.chunks, gcd(nbytes, 8)), links, timeline)


def _steps(schedule: Schedule) -> int:
    return int(max(np.bincount([step.lane for step in schedule] or [0])))


def _links(ranks: int, options: Mapping[str, Any]) -> Links:
    latency, per_byte = options["latency"], 1 / options["bandwidth"]
    ports = None
    if options["per_node"] > 1:
        inside = options["node_latency"], options["node_bandwidth"]
        if None in inside:
            raise click.UsageError("--per-node: expected --node-latency and --node-bandwidth with it")
        ports = np.arange(ranks) // options["per_node"]
        same = ports[:, np.newaxis] == ports
        latency, per_byte = np.where(same, inside[0], latency), np.where(same, 1 / inside[1], per_byte)
    reduction = 1 / options["reduction"] if options["reduction"] else 0.0
    return Links(latency, per_byte, options["overhead"], options["gap"], reduction, ports, options["shared"])


def _nodes(ranks: int, per_node: int, root: int) -> tuple[tuple[int, ...], ...]:
    """Ranks of each node, the root's node and the root first."""
    nodes = [range(first, min(first + per_node, ranks)) for first in range(0, ranks, per_node)]
    rooted = [tuple(sorted(node, key=lambda rank: rank != root)) for node in nodes]
    return tuple(sorted(rooted, key=lambda node: root not in node))


def _table(found: Sequence[Forecast], top: int | None) -> Table:
    """The best of each name, then the others."""
    names: dict[str, Forecast] = {}
    for forecast in found:
        names.setdefault(forecast.algorithm.name, forecast)
    best = list(names.values())
    others = [forecast for forecast in found if names[forecast.algorithm.name] is not forecast]
    table = Table("algorithm", show_edge=False)
    for column in ("steps", "time", "of the best"):
        table.add_column(column, justify="right")
    for place, forecast in enumerate([*best, *others][:top]):
        if place == len(best):
            table.add_section()
        relative = forecast.seconds / found[0].seconds if forecast.seconds else 1.0
        time = format_seconds(forecast.seconds)
        table.add_row(str(forecast.algorithm), str(forecast.steps), time, f"{relative:.2f} x")
    return table


def _draw(algorithm: Algorithm, nbytes: int, links: Links, root: int, title: str) -> Figure:
    from .collectives.timeline import draw

    schedule = algorithm.build()
    timeline = _prediction(schedule, nbytes, links, timeline=True).timeline
    return draw(timeline, schedule.ranks, title, root)
