"""`roundelay run`: an unmodified program with the layer in place, whose ranks end together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGINT
from traceback import walk_tb

import click

from .comm.settings import ask_for_monitoring, is_disabled, is_monitored
from .datatypes.missing import MissingMPI
from .takeover import take_over


def run_program(
    arguments: Sequence[str], monitor: bool = False, report: Path | None = None, on_hang: str = "report"
) -> None:
    """Run a program as `python -m mpi4py` does, which aborts all ranks when one ends by an error.

    Parameters
    ----------
    arguments : sequence of str
        A file, "-m" and a module, "-c" and code, or "-", followed by the program's own arguments.
    monitor : bool
        Whether to watch the job, and with what `roundelay.monitor` takes.
    report : path, optional
    on_hang : str

    Raises
    ------
    SystemExit
        The program has ended by an exception.
    click.ClickException
        There is no such program.
    MissingMPI
        The program uses MPI, and there is no MPI library.
    """
    from mpi4py.run import run_command_line

    if arguments[0] in ("-m", "-c") and len(arguments) == 1:
        raise click.UsageError(f"{arguments[0]}: expected {'a module' if arguments[0] == '-m' else 'code'}")
    if arguments[0] in ("-m", "-c", "-") and not getattr(sys.flags, "safe_path", sys.flags.isolated):
        # Where Python would look for modules. An installed command has its own folder there.
        sys.path[0] = str(Path.cwd()) if arguments[0] == "-m" else ""
    if monitor or is_monitored():
        _watch(report, on_hang)
    if not is_disabled():
        take_over()
    try:
        run_command_line(list(arguments))
    except SystemExit as stop:
        if stop.code not in (None, 0):
            _tell_watcher(stop)
        _abort_at_exit(stop)
        raise
    except MissingMPI:
        raise
    except BaseException as failure:
        status = 128 + SIGINT if isinstance(failure, KeyboardInterrupt) else 1
        _tell_watcher(failure)
        _abort_at_exit(status)
        if _has_not_begun(failure):
            raise click.ClickException(_message(failure)) from failure
        # As Python itself does, for whoever asks at exit how the program has ended.
        sys.last_value = failure
        # Click would take some exceptions for its own.
        sys.excepthook(*sys.exc_info())
        sys.exit(status)


def _watch(report: Path | None, on_hang: str) -> None:
    """Start the watcher before there is MPI: some networks do not bear new processes afterwards."""
    from .comm.monitor.saying import say
    from .comm.monitor.spawning import local_rank
    from .comm.monitor.start import Options, prepare

    if is_disabled():
        if local_rank() in ("", "0"):
            say("not monitored: ROUNDELAY_DISABLE is set")
        return
    ask_for_monitoring()
    prepare(Options.checked(report, on_hang))


def _tell_watcher(failure: BaseException) -> None:
    start = sys.modules.get(f"{__package__}.comm.monitor.start")
    if start is not None:
        start.tell_failure(failure)


def _abort_at_exit(status: SystemExit | int) -> None:
    """Let all ranks be aborted when this one has ended, if its status is that of a failure."""
    from mpi4py.run import set_abort_status

    plain = sys.modules.get(f"{__package__}.datatypes.plain")
    if plain is not None:
        # mpi4py looks for its module in `sys.modules`, where `from roundelay import MPI` alone puts none.
        sys.modules.setdefault("mpi4py.MPI", plain.MPI)
    set_abort_status(status)
    if (status.code if isinstance(status, SystemExit) else status) not in (None, 0):
        _connect_to_mpiexec()


def _connect_to_mpiexec() -> None:
    """Connect a process that has not initialized MPI: mpiexec aborts the others when it loses a connection.

    Without one, MPICH's lets them wait in MPI_Init, and Open MPI's may hang itself. A session, unlike
    MPI_Init, waits for nobody.
    """
    if not {"PMI_RANK", "PMIX_RANK"} & os.environ.keys():
        return
    import mpi4py

    mpi4py.rc.initialize = False
    with suppress(Exception):
        from .datatypes.plain import MPI

        if not MPI.Is_initialized():
            MPI.Session.Init()


def _has_not_begun(failure: BaseException) -> bool:
    """Whether Python found no program, and raised the exception itself."""
    *_, (innermost, _) = walk_tb(failure.__traceback__)
    is_pythons = innermost.f_globals.get("__name__") == "runpy"
    return is_pythons and isinstance(failure, ImportError | OSError)


def _message(failure: BaseException) -> str:
    return f"{failure.filename}: {failure.strerror}" if isinstance(failure, OSError) else str(failure)
