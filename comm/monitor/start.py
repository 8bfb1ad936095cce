"""Monitoring a job, on the side of its ranks: the record, and one watcher for each node.

The watcher is a process of its own, which the first rank of the node starts. A rank hands it the memory of
its record and the pipe for its Python stacks, and has nothing to do with it from then on.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recovery.kept import Whereabouts
from . import commits, failing, handover
from .gathering import introduce
from .notices import Notices
from .saying import say
from .spawning import NotMonitored, local_rank, start_watcher
from .stacks import StackPipe
from .verdict import Verdict

if TYPE_CHECKING:
    from mpi4py import MPI

ON_HANG = ("report", "abort", "raise")
# Of the program, which a report shows.
_MOST_ARGUMENTS = 64


@dataclass(frozen=True)
class Options:
    """What a watcher is asked to do.

    Parameters
    ----------
    report : str or None
        The file for the report, with its whole path.
    on_hang : str
        "report", "abort" or "raise".
    """

    report: str | None = None
    on_hang: str = "report"

    @classmethod
    def checked(cls, report: str | os.PathLike[str] | None, on_hang: str) -> Options:
        """Refuse unknown words, and remember where a relative path begins."""
        if on_hang not in ON_HANG:
            raise ValueError(f"on_hang: expected one of {', '.join(ON_HANG)}, found {on_hang!r}")
        return cls(None if report is None else str(Path(report).absolute()), on_hang)


@dataclass
class _State:
    """Of this process."""

    options: Options
    # A watcher that was started before MPI was: its name, and the connection that keeps it waiting.
    prepared: tuple[str, socket.socket] | None = None
    connection: socket.socket | None = None
    stacks: StackPipe | None = None
    notices: Notices | None = None
    is_begun: bool = False


_state = _State(Options())


def prepare(options: Options) -> None:
    """Start the watcher of this node before MPI is initialized, where the launcher names its first rank."""
    _state.options = options
    if local_rank() == "0":
        # Where this fails it is tried again later, and said then.
        with suppress(NotMonitored):
            _state.prepared = start_watcher(asdict(options))


def is_begun() -> bool:
    """Whether this process has begun to be monitored, or has tried to."""
    return _state.is_begun


def monitor(
    comm: MPI.Intracomm | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
    on_hang: str | None = None,
    on_verdict: Callable[[Verdict], object] | None = None,
) -> bool:
    """Watch the ranks of a communicator from now on: which of them is slow, stuck or dead.

    One process on each node, the watcher, reads what the ranks do in MPI. It says so on standard error when
    a rank is dead, stuck, slow or in a deadlock, and writes a report. This is collective. When it has been
    called before, or with ``roundelay run --monitor`` and ``ROUNDELAY_MONITOR=1``, it changes what it is
    given, and need not be collective.

    Parameters
    ----------
    comm : Intracomm, optional
        Whose ranks are watched, all of the world by default.
    report : path, optional
        A file for the report, in JSON, written at each verdict and at the end.
    on_hang : str, optional
        "report" (the default): say so, and leave the job as it is. "abort": also end it. "raise": also raise
        `HangError` in those ranks that are in Python code, and end the job five seconds later if the others
        still wait.
    on_verdict : callable, optional
        Gets each `Verdict`, in the main thread of this rank, between two instructions of Python: a rank that
        is inside a call of MPI gets it afterwards. Call this from the main thread.

    Returns
    -------
    bool
        Whether this rank is watched. Where it cannot be, that is said once, and the job goes on.

    Raises
    ------
    ValueError
        `on_hang` is none of the above, or `on_verdict` is given outside of the main thread.

    Examples
    --------
    >>> import roundelay
    >>> roundelay.monitor(report="report.json", on_hang="abort")  # doctest: +SKIP
    True
    """
    was = _state.options
    _state.options = Options.checked(
        was.report if report is None else report, was.on_hang if on_hang is None else on_hang
    )
    if _state.notices is None and (on_verdict is not None or _state.options.on_hang == "raise"):
        _state.notices = Notices()
    if on_verdict is not None and _state.notices is not None:
        _state.notices.functions.append(on_verdict)
    if _state.is_begun:
        return _change()
    _state.is_begun = True
    return _begin(comm)


def _change() -> bool:
    if _state.connection is None:
        return False
    with suppress(OSError):
        handover.send(_state.connection, {"kind": "change", **asdict(_state.options), **_notice_signal()})
    _listen_to_notices()
    return True


def tell_failure(failure: BaseException) -> None:
    """Tell the watcher, if there is one, that this rank is about to end the job."""
    if _state.connection is not None:
        if _state.notices is not None:
            # A signal must not take away the answer.
            _state.notices.connection = None
        failing.tell_failure(_state.connection, failure)


def hand_over_commits(folder: str | os.PathLike[str], whereabouts: Sequence[Whereabouts]) -> None:
    """Let the watcher, if there is one, save this rank's commits to a folder if the job does not end well."""
    if _state.connection is not None:
        try:
            commits.hand_over(_state.connection, str(Path(folder).absolute()), whereabouts)
        except OSError as error:
            say(f"the commits of rank {_place()[0]} will not be saved by the monitor: {error}")


def _listen_to_notices() -> None:
    if _state.notices is not None and _state.connection is not None:
        _state.notices.connection = _state.connection


def _launcher() -> list[int]:
    """The descriptor by which MPICH's mpiexec learns that this process has ended, as far as it can.

    The kernel closes it before the process is gone. While the watcher has it, too, mpiexec learns of the end
    only after the watcher has, and the ranks that it kills then cannot seem to have been the first.
    """
    try:
        file = int(os.environ["PMI_FD"])
        return [file] if stat.S_ISSOCK(os.fstat(file).st_mode) else []
    except (KeyError, ValueError, OSError):
        return []


def _notice_signal() -> dict[str, int]:
    return {} if _state.notices is None else {"notice": _state.notices.signal}


def _begin(comm: MPI.Intracomm | None) -> bool:
    from ...datatypes.plain import MPI

    # A plain one, whose collectives no algorithm of roundelay's runs.
    plain = MPI.COMM_WORLD if comm is None else MPI.Intracomm.fromhandle(comm.handle)
    node = plain.Split_type(MPI.COMM_TYPE_SHARED)
    reason = ""
    try:
        names = node.allgather(_state.prepared[0] if _state.prepared else "")
        name = next(filter(None, names), "")
        if not name:
            name, reason = node.bcast(_start_now() if node.rank == 0 else None)
        if not reason:
            reason = _attach(name, plain)
        reasons = node.gather((plain.rank, reason))
        if reasons:
            _say_who_is_not(reasons)
        apart = introduce(plain, node, None if reason else _state.connection)
        if apart:
            say(f"each node is monitored by itself: {apart}")
    finally:
        node.Free()
        _state.prepared = None
    if not reason:
        _go_on_recording()
    return not reason


def _say_who_is_not(reasons: list[tuple[int, str]]) -> None:
    unwatched = [rank for rank, reason in reasons if reason]
    if unwatched:
        ranks = "" if len(unwatched) == len(reasons) else f"ranks {', '.join(map(str, unwatched))} are "
        reason = next(reason for _, reason in reasons if reason)
        say(f"{ranks}not monitored: {reason}")


def _start_now() -> tuple[str, str]:
    """Start a watcher: its name, or why there is none."""
    try:
        _state.prepared = start_watcher(asdict(_state.options))
    except NotMonitored as error:
        return "", str(error)
    return _state.prepared[0], ""


def _attach(name: str, watched: MPI.Comm) -> str:
    """Begin to record, and hand the record to the watcher; why not, if that fails."""
    from ..interposer import interposer, why_not

    module = interposer()
    if module is None:
        return f"there is no interposer: {why_not()}"
    prepared, memory = _state.prepared, -1
    connection = prepared[1] if prepared is not None and prepared[0] == name else None
    try:
        if connection is None:
            connection = handover.connect(name)
        if prepared is not None and prepared[1] is not connection:
            # Another rank has started one as well; nobody comes to this one, and it ends.
            prepared[1].close()
        memory = os.memfd_create("roundelay-record", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        rank, ranks = _place()
        stacks = _state.stacks = StackPipe()
        module.start_record(memory, rank, ranks, watched.handle)
        # What is still to be said between the ranks of this node is not the program's.
        module.go_on_recording(False)
        # The watcher could not read what shrinks beneath it.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        handover.send(
            connection, _greeting(module, rank, ranks, stacks), [memory, stacks.read_end, *_launcher()]
        )
        stacks.close_read_end()
        module.prepare_last_words(stacks.signal, connection.fileno())
    except (OSError, AttributeError, ValueError) as error:
        if connection is not None:
            connection.close()
        return str(error)
    finally:
        if memory >= 0:
            os.close(memory)
    _state.connection = connection
    # The system closes it when the process is gone, which the watcher sees; Python would warn of that.
    atexit.register(connection.detach)
    _listen_to_notices()
    return ""


def _go_on_recording() -> None:
    from ..interposer import interposer

    interposer().go_on_recording(True)


def _place() -> tuple[int, int]:
    from ...datatypes.plain import MPI

    return MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size


def _greeting(module: Any, rank: int, ranks: int, stacks: StackPipe) -> dict[str, Any]:
    from ...datatypes.plain import MPI

    return {
        "kind": "rank",
        "rank": rank,
        "size": ranks,
        "host": MPI.Get_processor_name(),
        "functions": module.functions(),
        "module": module.__file__,
        "argv": sys.argv[:_MOST_ARGUMENTS],
        "stack": stacks.signal,
        **_notice_signal(),
    }
