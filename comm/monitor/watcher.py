"""The watcher of a node: a process that reads the records of its ranks until the last of them is gone.

``python -m roundelay.comm.monitor.watcher SOCKET NAME OPTIONS``, started by `start`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from . import commits, handover, report
from .aftermath import Aftermath, find_aborts
from .clients import Clients, Newcomer
from .clock import Clock, ticks_of
from .findings import Findings
from .judge import Judge
from .members import Member
from .mismatch import SECONDS_TO_DECIDE
from .nodes import Nodes
from .saying import say, wait_until_carried
from .snapshot import Snapshot
from .start import Options
from .verdict import Verdict

PERIOD = 0.2


class Watcher:
    """What the watcher knows of the job.

    Parameters
    ----------
    listener : socket
    options : Options
    """

    def __init__(self, listener: socket.socket, options: Options) -> None:
        self.ranks: dict[int, Member] = {}
        self.options = options
        self.nodes = Nodes(self.ranks, self.complain)
        self.findings = Findings(options, self.ranks, self.nodes, self.save_commits)
        self.aftermath = Aftermath()
        self.history = report.History()
        # Those that wait for this before they end the job, and what they have said.
        self._leaving: list[tuple[Member, dict[str, Any]]] = []
        self.clients = Clients(listener, self._welcome, self._hear)
        self.clock: Clock | None = None
        self.judge: Judge | None = None
        self.started, self.begin = report.now_as_date(), time.monotonic()
        self._last_look = 0.0
        self._complaints: set[str] = set()

    def complain(self, what: str) -> None:
        """Say something once."""
        if what not in self._complaints:
            self._complaints.add(what)
            say(what)

    def save_commits(self) -> None:
        """Save the commits that the ranks of this node have handed over, and say so."""
        # A rank may have handed its commits over a moment before another one ended the job.
        self.clients.hear_all()
        self._tell_all("saving")
        for sentence in commits.save(self.ranks.values()):
            self.complain(sentence)
        wait_until_carried()
        self._tell_all("seen")

    def _tell_all(self, kind: str) -> None:
        """Have all ranks wait that want to end the job while commits are saved, or let them go on."""
        if any(member.commits for member in self.ranks.values()):
            for member in self.ranks.values():
                self._answer(member, kind)

    def run(self) -> None:
        """Watch until nobody is left, and write the report."""
        due = time.monotonic()
        # The watcher that judges all nodes stays until the last of them has left.
        while self.clients.are_there() or self.nodes.are_there():
            deaths = self.clients.wait(0.0 if self._leaving else due - time.monotonic())
            if self._leaving:
                self._see_off()
            for member in deaths:
                # One after the other: who died first is to blame for the others.
                member.process.end(time.monotonic())
                self.look()
            for member in deaths:
                # Only now: the others could not say where they are when mpiexec has killed them.
                member.let_go()
            if time.monotonic() >= due:
                self.look()
                due = self.nodes.next_look(PERIOD) or max(due + PERIOD, time.monotonic() + PERIOD / 2)
        self.look()
        if not any(member.has_ended for member in self.ranks.values()):
            self.save_commits()
        self.write(has_ended=True)
        self.nodes.leave()

    def _welcome(self, newcomer: Newcomer, greeting: dict[str, Any], files: list[int]) -> Member | None:
        """Take a rank in; None where it cannot be watched."""
        try:
            member = Member(newcomer.connection, newcomer.process, greeting, files)
            if self.clock is None:
                self.clock = Clock(ticks_of(member.module), member.record.started)
                self.judge = Judge(member.size, member.functions)
        except (OSError, ImportError, KeyError, TypeError, ValueError) as error:
            handover.close(files)
            self.complain(f"a rank is not monitored: {error}")
            return None
        self.ranks[member.rank] = member
        return member

    def _hear(self, member: Member, message: dict[str, Any], files: list[int]) -> None:
        """A rank says something later on."""
        if message.get("kind") == "change":
            self.options = Options.checked(message.get("report"), str(message.get("on_hang", "report")))
            self.findings.options = self.options
            member.notice_signal = int(message.get("notice", member.notice_signal))
        elif message.get("kind") in ("failing", "ending"):
            # Others have to be heard before it ends them.
            self._leaving.append((member, message))
        elif message.get("kind") == "commits":
            try:
                member.commits[str(message["folder"])] = commits.take(files)
            except (OSError, KeyError, ValueError) as error:
                self.complain(f"the commits of rank {member.rank} will not be saved: {error}")
        elif message.get("kind") == "listen":
            handover.send(member.connection, self.nodes.listen(member, message))
        elif message.get("kind") == "nodes":
            self.nodes.open(message.get("invitations", []), member.size, len(member.functions))

    def _see_off(self) -> None:
        """Some ranks are about to end the job, and wait for what can only be done before."""
        # Early in a job the others may not have been heard yet.
        self.clients.hear_all()
        # The look takes some time as well.
        self._tell_all("saving")
        leaving, self._leaving = self._leaving, []
        for member, message in leaving:
            # It may have failed because ranks disagree.
            self._look_before_the_end()
            if message["kind"] == "failing":
                member.failure, member.failure_stack = str(message.get("what")), str(message.get("stack", ""))
                self.findings.is_wanted |= message.get("is_wanted") is True
                self.look()
        # MPICH's mpiexec does not wait for what this process does after an abort.
        self.save_commits()
        for member, _ in leaving:
            self._answer(member, "seen")

    @staticmethod
    def _answer(member: Member, kind: str) -> None:
        """Tell a rank that waits for it before it ends the job how far this is."""
        with suppress(OSError):
            handover.send(member.connection, {"kind": kind})

    def _look_before_the_end(self) -> None:
        """Look at the other ranks while there are any: one that ends the job waits for that."""
        end = time.monotonic() + SECONDS_TO_DECIDE
        self.look()
        # Others may be about to enter the call in which this one has failed.
        while self.judge is not None and self.judge.is_undecided and time.monotonic() < end:
            time.sleep(0.01)
            self.look()

    def look(self) -> None:
        """Look at all ranks, and say what is new."""
        if self.clock is None or self.judge is None or not self.ranks:
            return
        now = self.clock.update()
        views = {rank: self.ranks[rank].view(self.clock) for rank in sorted(self.ranks)}
        everyone = self.nodes.exchange(views)
        self.nodes.serve(
            lambda: self.findings.terminate(now), lambda kind, entry: self.findings.hear(kind, entry, now)
        )
        self.history.add([*views.values(), *map(self.nodes.on_this_clock, self.nodes.views.values())])
        member = next(iter(self.ranks.values()))
        gap = now - self._last_look if self._last_look else 0.0
        self._last_look = now
        if any(view.lost for view in views.values()):
            self.complain("a rank has more communicators, requests or threads than its record holds")
        snapshot = Snapshot(now, gap, member.size, everyone, member.functions)
        verdicts = []
        try:
            # One watcher speaks for all nodes.
            if self.nodes.is_master:
                verdicts = [*self.judge.look(snapshot), *find_aborts(snapshot, self.ranks)]
        except Exception as error:
            # Whatever it is, the job goes on.
            self.complain(f"the monitor failed, and judges no more: {type(error).__name__}: {error}")
        is_over = all(each.process.is_gone for each in self.ranks.values()) and not self.nodes.are_there()
        for verdict in self.aftermath.filter(verdicts, snapshot, is_over):
            if not self.findings.is_ending:
                self._say(verdict, now)
        if self.aftermath.wish and not self.findings.is_ending:
            self.complain(self.aftermath.wish)
        self.findings.go_on(now)
        self.clients.show(self.state, now)

    def _say(self, verdict: Verdict, now: float) -> None:
        entry = self.findings.take(verdict, now - self.begin)
        # Before the job is ended, and the file system with it.
        self.write()
        self.findings.act(entry, now)

    def state(self) -> dict[str, Any]:
        """The job as it is: what the report and `roundelay top` show of it."""
        first = next(iter(self.ranks.values()), None)
        ranks = [report.rank_of(member) for member in self.ranks.values()]
        ranks += self.nodes.summaries(first.functions if first else ())
        return {
            "verdicts": self.findings.entries,
            "job": {
                "size": first.size if first else 0,
                "argv": first.argv if first else [],
                "started": self.started,
                "seconds": round(time.monotonic() - self.begin, 3),
                "watcher_seconds": round(time.process_time(), 3),
                "dropped": self._dropped(),
                "ranks": sorted(ranks, key=lambda each: int(each["rank"])),
            },
        }

    def _dropped(self) -> dict[str, int]:
        """Whom this watcher has refused, and what of that it has thrown away, by the reason."""
        refused = {"other users": self.clients.refused} if self.clients.refused else {}
        return {**self.nodes.dropped, **refused}

    def write(self, has_ended: bool = False) -> None:
        """Write the report, if there is to be one."""
        if self.options.report is None or not self.nodes.is_master:
            return
        found = self.state()
        found["job"]["ended"] = has_ended
        views = {member.rank: member.last for member in self.ranks.values() if member.last is not None}
        views |= {rank: self.nodes.on_this_clock(view) for rank, view in self.nodes.views.items()}
        functions = next((member.functions for member in self.ranks.values()), ())
        ranks = {
            str(rank): self.history.summary(view, functions, self.begin)
            for rank, view in sorted(views.items())
        }
        found["history"] = {"columns": report.COLUMNS, "ranks": ranks}
        try:
            report.write(self.options.report, found)
        except OSError as error:
            self.complain(f"the report cannot be written: {error}")


def main() -> None:
    """Watch the ranks that come to a socket."""
    file, _name, options = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        # Not beside the first rank only, which may be bound to a core.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with socket.socket(fileno=int(file)) as listener:
        watcher = Watcher(listener, Options(**json.loads(options)))
        # Who ends a job ends its ranks, too; the report is written at once, and again after them.
        signal.signal(signal.SIGTERM, lambda *_: watcher.write())
        try:
            watcher.run()
        except Exception as error:
            watcher.complain(
                f"the monitor failed, and the job goes on without: {type(error).__name__}: {error}"
            )


if __name__ == "__main__":
    main()
