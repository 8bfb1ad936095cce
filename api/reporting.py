"""`roundelay report`: a page, or a trace, of what the watcher of a job has found."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import click

from .comm.monitor.page.document import page
from .comm.monitor.page.report_file import NotAReport, Report, read_report
from .comm.monitor.page.trace_events import trace_of
from .comm.monitor.wording import counted


def write_report(path: Path, output: Path | None, trace: Path | None) -> None:
    """Read a report, and write the trace, if one is wanted, and the page, if not only that.

    Raises
    ------
    click.ClickException
        The file is no report, or cannot be read, or what is made of it cannot be written.
    """
    report = _read(path)
    if trace is not None:
        _write(trace, json.dumps(trace_of(report)))
        click.echo(f"{trace}: a trace for ui.perfetto.dev or chrome://tracing")
    if trace is None or output is not None:
        target = output or path.with_suffix(".html")
        _write(target, page(report))
        click.echo(f"{target}: {_summary(report)}")


def _summary(report: Report) -> str:
    return f"{counted(len(report.findings), 'verdict')}, {counted(report.size, 'rank')}"


def _read(path: Path) -> Report:
    try:
        return read_report(path)
    except NotAReport as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """Write a file at once: what was there before stays there if this fails."""
    # What is not Unicode in a report, such as a file's name, is shown as it is escaped.
    data = text.encode("utf-8", "backslashreplace")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # A device or a pipe can only be written to.
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
