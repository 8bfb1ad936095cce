"""`roundelay top`: what the ranks of a running job do, as its watcher sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .comm.monitor import handover
from .comm.monitor.wording import counted, dropped
from .terminal import ends_at_terminal

_SECONDS_TO_ANSWER = 3.0
_MOST_VERDICTS = 8


def show_job(process: int | None, once: bool) -> None:
    """Show the job that a process belongs to, until it ends.

    Raises
    ------
    click.ClickException
        There is none, it is not monitored, or it is another user's.
    """
    states = _states_of(_find(process))
    if once or not ends_at_terminal():
        Console(width=None if ends_at_terminal() else 160).print(picture(next(states)))
        return
    with Live(auto_refresh=False) as live, suppress(KeyboardInterrupt):
        for state in states:
            live.update(picture(state), refresh=True)
        click.echo("the job has ended", err=True)


def _states_of(name: str) -> Iterator[dict[str, Any]]:
    """What a watcher says of its job, as long as that goes on."""
    with handover.connect(name) as connection:
        connection.settimeout(_SECONDS_TO_ANSWER)
        handover.send(connection, {"kind": "top"})
        while True:
            try:
                state, _ = handover.receive(connection)
            except TimeoutError as error:
                raise click.ClickException("the watcher of the job does not answer") from error
            except OSError:
                return
            if state is None:
                return
            yield state


def _find(process: int | None) -> str:
    """The watcher to ask."""
    names = handover.names(os.getuid())
    if process is not None:
        _check(process)
    jobs = {}
    for name in names:
        with suppress(OSError, StopIteration, click.ClickException):
            jobs[name] = next(_states_of(name))
    if process is not None:
        jobs = {name: job for name, job in jobs.items() if _has(job, process)}
    if len(jobs) == 1:
        return next(iter(jobs))
    if jobs:
        found = "\n".join(f"  {_first(job)}: {' '.join(job['job']['argv'])}" for job in jobs.values())
        raise click.ClickException(f"several jobs are monitored here, give the process of one:\n{found}")
    if process is not None:
        raise click.ClickException(
            f"process {process} is in no monitored job; start it with: roundelay run --monitor"
        )
    others = len(handover.names()) - len(names)
    raise click.ClickException(
        "no job of yours is monitored on this machine" + (f", {others} of other users are" if others else "")
    )


def _check(process: int) -> None:
    try:
        owner = Path(f"/proc/{process}").stat().st_uid
    except OSError as error:
        raise click.ClickException(f"there is no process {process}: the job has ended") from error
    if owner != os.getuid():
        raise click.ClickException(f"process {process} belongs to another user")


def _first(job: dict[str, Any]) -> int:
    return int(job["job"]["ranks"][0]["process"])


def _has(job: dict[str, Any], process: int) -> bool:
    """Whether a process is a rank of the job, or has started one."""
    for rank in job["job"]["ranks"]:
        each = int(rank["process"])
        while each > 1:
            if each == process:
                return True
            each = _parent(each)
    return False


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
    except (OSError, IndexError):
        return 0


def picture(state: dict[str, Any]) -> Group:
    """A table of the ranks, and the latest verdicts."""
    job = state["job"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rank", "host", "process", "state", "in MPI", "does", "for"):
        table.add_column(name, justify="right" if name in ("rank", "process", "in MPI", "for") else "left")
    for rank in job["ranks"]:
        doing = rank["doing"]
        style = {"dead": "red", "stopped": "red", "traced": "yellow"}.get(rank["state"])
        table.add_row(
            str(rank["rank"]),
            rank["host"],
            str(rank["process"]),
            rank["state"] + (f" ({rank['ended_by']})" if rank["ended_by"] else ""),
            f"{100 * rank['waiting']:.0f} %",
            _operation(doing) if doing else "outside MPI",
            f"{doing['seconds']:.1f} s" if doing else "",
            style=style,
        )
    head = Text(f"{' '.join(job['argv'])}: {counted(job['size'], 'rank')}, {job['seconds']:.0f} s")
    said = [Text(f"{each['time']:.1f} s  {each['sentence']}", style="red") for each in state["verdicts"]]
    return Group(head, table, *said[-_MOST_VERDICTS:], *_dropped(job["dropped"]))


def _dropped(counts: dict[str, int]) -> list[Text]:
    outsiders = dropped(counts)
    return [Text(f"connections and messages dropped: {outsiders}", style="yellow")] if outsiders else []


def _operation(doing: dict[str, Any]) -> str:
    return str(doing["function"]) + (f" #{doing['sequence']}" if doing["sequence"] else "")
