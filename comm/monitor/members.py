"""The ranks of a node, as its watcher knows them: process, record, and the pipe for stacks."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..recovery.kept import Kept
from . import handover
from .clock import Clock
from .processes import Process
from .reading import Record
from .snapshot import RankView
from .stacks import SECONDS_TO_ANSWER, read_stack, unasked_stack

# Polls over which the share of waiting is averaged: about ten seconds.
_POLLS = 50


class Member:
    """One rank.

    Parameters
    ----------
    connection : socket
    process : Process
    greeting : mapping
        What it says of itself.
    files : list of int
        Its record and its pipe, and what its launcher hears it by, all closed later on.

    Raises
    ------
    OtherVersion
        Its record cannot be read.
    KeyError, TypeError, ValueError
        The greeting is none.
    """

    def __init__(
        self, connection: socket.socket, process: Process, greeting: Mapping[str, Any], files: list[int]
    ) -> None:
        record, self.pipe, *self._launcher = files
        self.connection, self.process = connection, process
        self.functions = tuple(map(str, greeting["functions"]))
        self.record = Record(record, self.functions)
        os.close(record)
        os.set_blocking(self.pipe, False)
        self.rank, self.size = self.record.rank, self.record.ranks
        self.host, self.module = str(greeting["host"]), str(greeting["module"])
        self.argv = [str(each) for each in greeting["argv"]]
        self.stack_signal = int(greeting["stack"])
        self.notice_signal = int(greeting.get("notice", 0))
        # The exception by which it ends the job, and where that was raised.
        self.failure = self.failure_stack = ""
        # By the folder to save them to.
        self.commits: dict[str, Kept] = {}
        # What it has written unasked: where it was when it ended inside a call.
        self.last_stack = ""
        self.waiting = 0.0
        self.polls = self.polls_inside = 0
        self.last: RankView | None = None
        self._ended = -1

    def view(self, clock: Clock) -> RankView:
        """Give what it is doing now."""
        ended = self.record.calls_ended()
        state, idle = self.process.look(clock.now, ended != self._ended)
        self._ended = ended
        view = self.record.view(self.host, state, idle, self.process.cpu(), clock)
        if state == "dead" and view.finalizing == 2:
            view = view.as_ended()
        elif state == "dead" and self.last is None:
            view = replace(view, idle=_likely_since(view))
        if self.process.is_gone:
            view = replace(view, ended_by=self.process.ended_by)
        inside = len(view.under_way) > 0
        self.polls += 1
        self.polls_inside += inside
        self.waiting += (inside - self.waiting) / min(self.polls, _POLLS)
        self.last = view
        return view

    @property
    def has_ended(self) -> bool:
        """Whether it has left MPI in order, and is gone."""
        return self.last is not None and self.last.state == "ended"

    def tell(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Tell it of a verdict, if it listens; it reads that when it gets the signal."""
        if not self.notice_signal or self.process.is_gone:
            return
        try:
            self.connection.setblocking(False)
            handover.send(self.connection, {"kind": kind, "verdict": dict(entry)})
        except OSError:
            # It has not read those before, and this one is in the report.
            return
        self.process.interrupt(self.notice_signal)

    def let_go(self) -> None:
        """Let its launcher know that it has ended."""
        for file in self._launcher:
            os.close(file)
        self._launcher.clear()

    def close(self) -> None:
        """Know it no more."""
        self.let_go()
        self.process.close()
        self.connection.close()
        os.close(self.pipe)


def _likely_since(view: RankView) -> float:
    """For how long a rank has been dead that was so when the watcher began, perhaps.

    Those that waited in MPI were most likely ended because of one that was not there.
    """
    if len(view.under_way) or not len(view.calls):
        return 0.0
    return float(view.time - view.calls["left"][-1])


def stacks_of(members: Iterable[Member]) -> dict[int, str]:
    """Ask some ranks for their Python stacks, all at the same time; say why where there is none."""
    found, asked = {}, []
    for member in members:
        state = member.last.state if member.last else "running"
        member.last_stack = unasked_stack(member.pipe) or member.last_stack
        if member.failure_stack:
            found[member.rank] = member.failure_stack
        elif member.process.is_gone:
            found[member.rank] = member.last_stack or f"no stack: it is {state}"
        elif member.last is not None and member.last.finalizing:
            found[member.rank] = "no stack: it is in MPI_Finalize"
        elif state in ("stopped", "traced"):
            found[member.rank] = f"no stack: it is {state}, and answers no signal"
        else:
            asked += [member] if member.process.interrupt(member.stack_signal) else []
    end = time.monotonic() + SECONDS_TO_ANSWER
    for member in asked:
        stack = read_stack(member.pipe, end) or member.last_stack
        found[member.rank] = stack or f"no stack: no answer within {SECONDS_TO_ANSWER:g} s"
    return found


def ranks_in(sentence: str) -> set[int]:
    """Ranks whose places a sentence names."""
    return {int(rank) for rank in re.findall(r"\{(\d+)\}", sentence)}


def end_processes(members: Iterable[Member], number: int = signal.SIGTERM) -> None:
    """Send all of them a signal."""
    for member in members:
        member.process.send(number)
