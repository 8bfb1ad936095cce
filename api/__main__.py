"""The command line: `roundelay run` and `roundelay info`."""

from __future__ import annotations

import sys
from signal import SIGINT

import click

from .comm.settings import is_disabled
from .information import information
from .takeover import take_over


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roundelay")
def main() -> None:
    """A communication layer over mpi4py for arrays and datatypes that are not contiguous."""


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True)
def run(program: tuple[str, ...]) -> None:
    """Run an unmodified mpi4py program with the layer in place.

    PROGRAM is a file, "-m module", "-c code" or "-" for standard input, followed by its arguments. When
    one rank dies of an exception, all ranks are aborted.
    """
    from mpi4py.run import run_command_line, set_abort_status

    if not is_disabled():
        take_over()
    try:
        run_command_line(list(program))
    except SystemExit as stop:
        set_abort_status(stop)
        raise
    except BaseException as failure:
        status = 128 + SIGINT if isinstance(failure, KeyboardInterrupt) else 1
        set_abort_status(status)
        # Click would take some exceptions for its own.
        sys.excepthook(*sys.exc_info())
        sys.exit(status)


@main.command()
def info() -> None:
    """Show the MPI library, mpi4py, the kernels, their cache folder and the switches."""
    from rich.console import Console
    from rich.table import Table

    table = Table("roundelay", "", show_edge=False)
    for name, value in information().items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main(prog_name="roundelay")
