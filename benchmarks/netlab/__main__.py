"""Run an MPI program on emulated hosts: ``python -m benchmarks.netlab --hosts 8 -- python prog.py``."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import click

from benchmarks.netlab.lab import Lab, LabError
from benchmarks.netlab.launch import LIBRARIES
from benchmarks.netlab.network import Network
from benchmarks.netlab.timetable import Change, parse_change, parse_timed, run_timed
from benchmarks.netlab.units import parse_rate, parse_seconds

TIMED_OUT = 124


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """An option's type, by the function that reads it."""

    def __init__(self, name: str, parse: Any) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read `value`."""
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SECONDS = Parsed("time", parse_seconds)


def change(kind: str) -> Parsed:
    """Type of an option that is a change of one kind."""
    return Parsed("change", lambda value: parse_change(f"{kind}={value}"))


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--hosts", type=click.IntRange(1, 250), default=2, show_default=True, help="How many hosts.")
@click.option("--delay", type=SECONDS, default="2ms", show_default=True, help="One way, between any two.")
@click.option(
    "--rate",
    type=Parsed("rate", parse_rate),
    default="300mbit",
    show_default=True,
    help="Of each host and link.",
)
@click.option(
    "--jitter", type=SECONDS, default="0s", show_default=True, help="Added at random to each delay."
)
@click.option(
    "--ranks", type=click.IntRange(1), default=None, help="How many ranks, if not all hosts have as many."
)
@click.option("--ranks-per-host", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--slow-host", type=change("slow-host"), multiple=True, metavar="I:FACTOR", help="From the start."
)
@click.option(
    "--slow-link", type=change("slow-link"), multiple=True, metavar="I-J:FACTOR", help="From the start."
)
@click.option(
    "--at",
    "timed",
    type=Parsed("timed change", parse_timed),
    multiple=True,
    metavar="TIME:CHANGE",
    help="While it runs: 3s:slow-host=2:10, 3s:slow-link=0-1:5, 3s:cut=2, 3s:cut=0-1, 6s:restore=2.",
)
@click.option("--library", type=click.Choice(LIBRARIES), default="auto", show_default=True)
@click.option("--timeout", type=SECONDS, default="600s", show_default=True, help="For the whole program.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(
    hosts: int,
    ranks: int | None,
    ranks_per_host: int,
    timed: tuple[tuple[float, Change], ...],
    library: str,
    timeout: float,
    command: tuple[str, ...],
    **network: Any,
) -> None:
    """Run COMMAND as the ranks of an MPI program on emulated hosts, and end with its exit status."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    slowed = [*network.pop("slow_host"), *network.pop("slow_link")]
    try:
        trial = Network(hosts, **network)
        for each in (*slowed, *(change for _, change in timed)):
            each.apply(trial)
        with Lab(hosts, **network) as lab:
            for each in slowed:
                each.apply(lab)
            process = lab.start(command, ranks or hosts * ranks_per_host, library=library, capture=False)
            with run_timed(lab, timed):
                status = lab.finish(process, timeout).status
    except (LabError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except subprocess.TimeoutExpired:
        click.echo(f"netlab: ended the program after {timeout:g} s", err=True)
        status = TIMED_OUT
    sys.exit(status)


if __name__ == "__main__":
    main()
