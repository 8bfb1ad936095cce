"""From snapshots to verdicts: each finding once, and again only after it had ended and come back."""

from __future__ import annotations

from dataclasses import replace

from .clocks import Clocks
from .deadlock import Deadlocks
from .gathered import Gathered, Gatherer
from .leaks import find_leaks
from .mismatch import Mismatches
from .pace import Paces
from .slow_jobs import SlowJobs
from .slow_links import SlowLinks
from .slow_ranks import SlowRanks
from .snapshot import Snapshot
from .stuck import LONGEST_COMPUTING, Hangs
from .undelivered import Undelivered
from .verdict import Verdict
from .wait_graph import SHORTEST_QUIET, WaitGraph
from .wording import Functions

# After calls of a rank beyond a mismatch, it explains no longer why the rank hangs.
_EXPLAINED = 20
# How much longer a rank may be idle than it was at a false alarm.
_MORE_PATIENCE = 2.0


class Judge:
    """Looks at the snapshots of a job, several times a second.

    Parameters
    ----------
    size : int
        Ranks of the job.
    functions : tuple of str
        Names of MPI's functions, by the numbers that the records have.
    """

    def __init__(self, size: int, functions: tuple[str, ...]) -> None:
        self._functions = Functions(functions)
        self._clocks = Clocks()
        self._gatherer = Gatherer()
        self._mismatches = Mismatches(self._functions)
        self._deadlocks = Deadlocks()
        self._hangs = Hangs()
        self._undelivered = Undelivered()
        self._paces = Paces(self._functions)
        self._slow_ranks = SlowRanks(self._functions)
        self._slow_links = SlowLinks(size, self._functions)
        self._slow_jobs = SlowJobs(self._functions)
        self._dead: set[int] = set()
        # By kind and culprits of a hang, since when it is and how far these were.
        self._open: dict[tuple[str, tuple[int, ...]], tuple[float, dict[int, int]]] = {}
        # By rank, how far it was at a mismatch.
        self._mismatched: dict[int, int] = {}
        self._leaks_known = False

    def look(self, snapshot: Snapshot) -> list[Verdict]:
        """Give what is wrong and was not before."""
        self._clocks.update(snapshot)
        if snapshot.gap > 2:
            for pace in self._paces.of.values():
                pace.forget()
        calls = self._gatherer.add(snapshot)
        found = self._deaths(snapshot) + self._disagreements(snapshot, calls)
        found += self._hanging(snapshot)
        found += self._slowness(snapshot, calls)
        found += self._leaks(snapshot)
        views = snapshot.ranks
        return [
            replace(each, hosts=tuple(views[rank].host for rank in each.ranks if rank in views))
            for each in found
        ]

    @property
    def is_undecided(self) -> bool:
        """Whether ranks disagree, or seem to, and it is not clear yet which of them are to blame."""
        return bool(self._mismatches.undecided) or self._gatherer.has_failed_early

    def _deaths(self, snapshot: Snapshot) -> list[Verdict]:
        """Ranks that are gone and had not left MPI, those that went first at the front."""
        views = snapshot.ranks
        dead = [
            rank
            for rank, view in views.items()
            if view.state == "dead" and view.finalizing < 2 and rank not in self._dead
        ]
        before = sorted(self._dead)
        self._dead.update(dead)
        found = []
        for rank in sorted(dead, key=lambda rank: -views[rank].idle):
            view, call = views[rank], "outside MPI"
            if len(view.under_way):
                call = f"in {self._functions.names[int(view.under_way['function'][0])]}"
            how = f" ({view.ended_by})" if view.ended_by else ""
            sentence = f"rank {rank} on {view.host} is dead, {call}{how}"
            evidence = {"dead_before": before, "ended_by": view.ended_by}
            found.append(Verdict("dead", (rank,), sentence, view.idle, evidence))
        return found

    def _disagreements(self, snapshot: Snapshot, calls: Gathered | None) -> list[Verdict]:
        if calls is None:
            return []
        found = self._mismatches.look(calls, self._gatherer.sizes, snapshot.time)
        for comm, _ in found:
            for rank, view in snapshot.ranks.items():
                if comm in self._gatherer.known.get(rank, ()):
                    self._mismatched[rank] = view.advanced
        return [verdict for _, verdict in found]

    def _hanging(self, snapshot: Snapshot) -> list[Verdict]:
        """Hangs and deadlocks, which nobody is looked for in while all go on."""
        views, clocks = snapshot.ranks, self._clocks
        self._close(snapshot)
        if not any(
            clocks.quiet(rank) >= SHORTEST_QUIET and (len(view.under_way) or len(view.calls))
            for rank, view in views.items()
        ):
            return []
        graph = WaitGraph(snapshot, clocks, self._functions, self._gatherer.known)
        found = self._deadlocks.look(graph, clocks)
        stalled = self._deadlocks.stalled
        found += self._hangs.look(graph, clocks, stalled)
        found += self._undelivered.look(graph, clocks, stalled)
        return [each for each in found if self._is_news(each, snapshot)]

    def _close(self, snapshot: Snapshot) -> None:
        """Forget hangs whose culprits go on; those who were only idle may be so for longer from now on."""
        for key, (since, advanced) in list(self._open.items()):
            views = [snapshot.ranks[rank] for rank in advanced if rank in snapshot.ranks]
            moved = [view.rank for view in views if view.advanced != advanced[view.rank]]
            if not moved:
                continue
            del self._open[key]
            for rank in moved if key[0] == "idle" else ():
                idle = snapshot.time - since
                self._hangs.patience[rank] = min(_MORE_PATIENCE * idle, LONGEST_COMPUTING)

    def _is_news(self, verdict: Verdict, snapshot: Snapshot) -> bool:
        views = snapshot.ranks
        involved = {*verdict.ranks, *verdict.evidence.get("waiting", ())}
        for rank in involved:
            if rank in self._mismatched and views[rank].advanced <= self._mismatched[rank] + _EXPLAINED:
                return False
        kind = "idle" if "idle" in verdict.evidence.get("states", {}).values() else verdict.kind
        known = {rank for (each, ranks), _ in self._open.items() if each == kind for rank in ranks}
        if known.issuperset(verdict.ranks):
            return False
        advanced = {rank: views[rank].advanced for rank in verdict.ranks}
        self._open[kind, verdict.ranks] = snapshot.time - verdict.since, advanced
        return True

    def _slowness(self, snapshot: Snapshot, calls: Gathered | None) -> list[Verdict]:
        self._paces.add(calls)
        found = self._slow_ranks.look(self._paces, snapshot.time)
        found += self._slow_links.look(snapshot)
        explained = bool(self._slow_ranks.slow or self._slow_links.slow)
        return found + self._slow_jobs.look(self._paces, explained)

    def _leaks(self, snapshot: Snapshot) -> list[Verdict]:
        if self._leaks_known or self._dead:
            return []
        found = find_leaks(snapshot, self._functions)
        self._leaks_known = found is not None
        return found or []
