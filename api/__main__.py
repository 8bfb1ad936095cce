"""The command line: `roundelay run`, `info`, `measure`, `plan`, `coding` and `top`."""

from __future__ import annotations

from pathlib import Path

import click

from .datatypes.missing import MissingMPI
from .files import OutputFile


class _Commands(click.Group):
    """Commands for which there may be no MPI library."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MissingMPI as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roundelay")
def main() -> None:
    """A communication layer over mpi4py for arrays and datatypes that are not contiguous."""


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[--monitor] [--on-hang ...] [--report FILE]",
)
@click.option("--monitor", is_flag=True, help="Watch the ranks, and say which is slow, stuck or dead.")
@click.option("--report", type=OutputFile(), help="Write what is found to a JSON file; includes --monitor.")
@click.option(
    "--on-hang",
    type=click.Choice(["report", "abort", "raise"]),
    help="What to do with a job that hangs, beside saying so; includes --monitor.",
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True)
def run(program: tuple[str, ...], monitor: bool, report: Path | None, on_hang: str | None) -> None:
    """Run an unmodified mpi4py program with the layer in place.

    PROGRAM is a file, "-m module", "-c code" or "-" for standard input, followed by its arguments. When
    one rank dies of an exception, all ranks are aborted.
    """
    from .running import run_program

    is_watched = monitor or report is not None or on_hang is not None
    run_program(program, is_watched, report, on_hang or "report")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", type=OutputFile(), help="The page; by default FILE with the ending .html.")
@click.option("--trace", type=OutputFile(), help="Write a trace, and a page only with --output.")
def report(file: Path, output: Path | None, trace: Path | None) -> None:
    """Make a page of the report of a monitored job, or a trace.

    FILE is what `roundelay run --monitor --report FILE` wrote. The page is one file that needs no network.
    The trace is in the JSON format of Chrome, for ui.perfetto.dev.
    """
    from .reporting import write_report

    write_report(file, output, trace)


@main.command()
def info() -> None:
    """Show versions, the kernel cache, measured figures and switches."""
    from .information import information

    shown = information()
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


@main.command()
@click.option("--links", is_flag=True, help="Measure each pair of nodes for itself.")
@click.option("--budget", metavar="TIME", default="110s", show_default=True, help="Time that it may take.")
@click.option("--output", type=OutputFile(), help="Write another file than the user's own.")
def measure(links: bool, budget: str, output: Path | None) -> None:
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


@main.command()
@click.argument("process", metavar="[PID]", type=int, required=False)
@click.option("--once", is_flag=True, help="Print the table once.")
def top(process: int | None, once: bool) -> None:
    """Show what the ranks of a running job do, which is monitored.

    PID is the process of a rank, or of mpiexec; needed if several jobs are monitored on this machine.
    """
    from .top import show_job

    show_job(process, once)


def _hand_over(command: click.Command, context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run a command that was imported only now, with arguments that were not read."""
    with command.make_context(context.info_name, list(arguments), parent=context.parent) as inner:
        command.invoke(inner)


if __name__ == "__main__":
    main(prog_name="roundelay")
