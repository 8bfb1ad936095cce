"""The command line: `roundelay run`, `info`, `measure`, `plan` and `coding`."""

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


@main.command()
@click.option("--links", is_flag=True, help="Measure each pair of nodes for itself.")
@click.option("--budget", default="110s", show_default=True, help="Seconds that it may take.")
@click.option("--output", type=click.Path(dir_okay=False), help="Write another file than the user's own.")
def measure(links: bool, budget: str, output: str | None) -> None:
    """Measure the MPI library on these ranks; started by mpiexec.

    The figures go to a file in the user's cache folder, from which collectives are chosen.
    """
    from .measuring import measure_and_save

    measure_and_save(links, budget, output)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def plan(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Predict what each algorithm of a collective takes on a network."""
    from .planning import plan

    _hand_over(plan, context, arguments)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def coding(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Choose a scheme for gradients that do not wait for stragglers."""
    from .coding_commands import coding

    _hand_over(coding, context, arguments)


def _hand_over(command: click.Command, context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run a command that was imported only now, with arguments that were not read."""
    with command.make_context(context.info_name, list(arguments), parent=context.parent) as inner:
        command.invoke(inner)


if __name__ == "__main__":
    main(prog_name="roundelay")
