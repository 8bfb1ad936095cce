"""What follows from verdicts: stacks, a sentence, the report, and what the job's ranks are told or sent."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from . import members, report
from .members import Member
from .nodes import Nodes
from .saying import say, wait_until_carried
from .stacks import CallSites
from .start import Options
from .verdict import Verdict

# The job goes no further by itself.
HANGS = ("stuck", "deadlock", "mismatch")
SECONDS_TO_RAISE = 5.0
SECONDS_TO_TERMINATE = 2.0
# Ranks that are asked for their stacks because they are to blame.
_MOST_SUSPECTS = 8
# Where a rank is, in a sentence; where it is now says little, and is left out if it is not known.
_PLACE = re.compile(r"(?P<now>, now at )?\{(?P<rank>\d+)\}")


class Findings:
    """The verdicts on a job so far.

    Parameters
    ----------
    options : Options
    ranks : mapping of int to Member
        By rank, those of this node.
    nodes : Nodes
        The others.
    save_commits : callable
        Called before ranks are ended.

    Attributes
    ----------
    entries : list of dict
        As the report has them.
    """

    def __init__(
        self,
        options: Options,
        ranks: Mapping[int, Member],
        nodes: Nodes,
        save_commits: Callable[[], object],
    ) -> None:
        self.options = options
        self._nodes, self._save_commits = nodes, save_commits
        self.entries: list[dict[str, Any]] = []
        self._ranks = ranks
        self._sites = CallSites()
        # When something is to be done with a job that hangs, and how far those ranks were that are in MPI.
        self._raised_at = self._terminated_at = 0.0
        self._waiting: dict[int, int] = {}
        # Whether somebody interrupts the job.
        self.is_wanted = False

    @property
    def is_ending(self) -> bool:
        """Whether the job is being ended, so that nothing that happens to it says anything."""
        return self._terminated_at > 0 or self._raised_at > 0 or self.is_wanted

    def complete(self, verdict: Verdict) -> Verdict:
        """Find out where ranks are, and fill that into the sentence."""
        wanted = {*verdict.ranks[:_MOST_SUSPECTS], *members.ranks_in(verdict.sentence)}
        if verdict.witness is not None:
            wanted.add(verdict.witness)
        known = dict(verdict.stacks)
        asked = [self._ranks[rank] for rank in sorted(wanted - known.keys()) if rank in self._ranks]
        elsewhere = self._nodes.stacks_of(sorted(wanted - known.keys() - self._ranks.keys()))
        stacks = {**known, **elsewhere, **members.stacks_of(asked)}
        places = {rank: self._sites.find(stack) for rank, stack in stacks.items()}
        sentence = _PLACE.sub(lambda found: _placed(found, places), verdict.sentence)
        evidence = dict(verdict.evidence)
        if any(places.values()):
            evidence["places"] = {str(rank): place for rank, place in places.items() if place}
        return replace(verdict, sentence=sentence, evidence=evidence, stacks=stacks)

    def take(self, verdict: Verdict, time: float) -> dict[str, Any]:
        """Say it, remember it, tell the ranks; give what the report has of it."""
        found = self.complete(verdict)
        entry = report.entry_of(found, time)
        self.entries.append(entry)
        say(found.sentence)
        self._tell(entry)
        self._nodes.tell("verdict", entry)
        return entry

    def hear(self, kind: str, entry: Mapping[str, Any], now: float) -> None:
        """Tell the ranks of this node of a verdict of the master's, or let them raise."""
        if kind == "raise":
            self._raise(entry, now)
        else:
            self._tell(entry)

    def _tell(self, entry: Mapping[str, Any]) -> None:
        for member in self._ranks.values():
            member.tell("verdict", entry)

    def act(self, entry: Mapping[str, Any], now: float) -> None:
        """Do with a job that hangs what is wanted."""
        if entry["kind"] not in HANGS or self._raised_at or self._terminated_at:
            return
        if self.options.on_hang == "abort":
            self.terminate(now)
        elif self.options.on_hang == "raise":
            self._raise(entry, now)

    def _raise(self, entry: Mapping[str, Any], now: float) -> None:
        """Raise in the ranks that are in Python; those in MPI could only do so when they are out of it."""
        self._raised_at = now
        self._nodes.tell("raise", entry)
        for member in self._ranks.values():
            if member.last is not None and len(member.last.under_way):
                self._waiting[member.rank] = member.last.advanced
            else:
                member.tell("raise", entry)

    def terminate(self, now: float) -> None:
        """End the ranks, and let mpiexec end those of other nodes."""
        say("ending the job, which hangs")
        wait_until_carried()
        self._terminated_at = now
        self._nodes.terminate()
        # They cannot save them themselves: those that wait in MPI run no Python.
        self._save_commits()
        members.end_processes(self._ranks.values())

    def go_on(self, now: float) -> None:
        """Do what is due later."""
        if self._raised_at and not self._terminated_at and now - self._raised_at > SECONDS_TO_RAISE:
            if any(self._still_waits(rank, advanced) for rank, advanced in self._waiting.items()):
                self.terminate(now)
            else:
                self._raised_at = 0.0
                self._waiting.clear()
        if self._terminated_at and now - self._terminated_at > SECONDS_TO_TERMINATE:
            members.end_processes(self._ranks.values(), signal.SIGKILL)

    def _still_waits(self, rank: int, advanced: int) -> bool:
        member = self._ranks[rank]
        return not member.process.is_gone and member.last is not None and member.last.advanced == advanced


def _placed(found: re.Match[str], places: Mapping[int, str]) -> str:
    now, place = found["now"] or "", places.get(int(found["rank"]))
    if place:
        return now + place
    return "" if now else "an unknown line"
