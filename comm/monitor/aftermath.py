"""Deaths that follow from others, or from a wish: mpiexec ends all ranks when it loses one, or is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .members import Member
from .snapshot import Snapshot
from .verdict import Verdict

# A job that goes on for so long after a death was not ended because of it.
SECONDS_TO_CLEAN_UP = 1.0
# By these, people and batch systems end jobs, and mpiexec hands them on to all ranks.
_REQUESTS = ("SIGTERM", "SIGINT", "SIGHUP")


def find_aborts(snapshot: Snapshot, ranks: Mapping[int, Member]) -> list[Verdict]:
    """Find ranks that end the job. Those that they kill may be gone before them."""
    found = []
    abort = snapshot.functions.index("Abort") if "Abort" in snapshot.functions else -1
    for rank, view in snapshot.ranks.items():
        how, what = "", ranks[rank].failure if rank in ranks else ""
        # MPICH's may return before the process is killed.
        calls = view.under_way["function"], view.calls["function"]
        if what:
            how = f"{what}, at {{{rank}}}"
        elif any((each == abort).any() for each in calls):
            how = what = "MPI_Abort"
        if how:
            sentence = f"rank {rank} on {view.host} ends the job: {how}"
            found.append(Verdict("dead", (rank,), sentence, 0.0, {"failure": what}, hosts=(view.host,)))
    return found


class Aftermath:
    """Holds deaths back that seem to follow from what was said before, or from a wish to end the job.

    Attributes
    ----------
    wish : str
        What is to be said of a job that somebody has ended.
    """

    def __init__(self) -> None:
        self._held: list[tuple[float, Verdict]] = []
        self._dead: set[int] = set()
        # A stopped rank takes no signal but SIGKILL, by which mpiexec ends it in the end.
        self._stopped: set[int] = set()
        self._wished: Verdict | None = None
        self._mismatched_at = float("-inf")
        self.wish = ""

    def filter(self, verdicts: Sequence[Verdict], snapshot: Snapshot, is_over: bool) -> list[Verdict]:
        """Give those that are worth saying, and deaths that were held back and that the job has outlived.

        Parameters
        ----------
        verdicts : sequence of Verdict
        snapshot : Snapshot
        is_over : bool
            Whether all ranks are gone.
        """
        said, now = [], snapshot.time
        self._stopped |= {rank for rank, view in snapshot.ranks.items() if view.state == "stopped"}
        for verdict in sorted(verdicts, key=_is_plain_death):
            if verdict.kind != "dead":
                if not (is_over and self._dead):
                    said.append(verdict)
                if verdict.kind == "mismatch":
                    # An MPI library may end the job when it meets one.
                    self._mismatched_at = now
            elif self._follows(verdict, now):
                if not self._dead.issuperset(verdict.ranks):
                    self._held.append((now, verdict))
            elif verdict.evidence.get("ended_by") in _REQUESTS:
                self._wished = verdict
                self._held.append((now, verdict))
            else:
                said.append(verdict)
            if verdict.kind == "dead":
                self._dead.update(verdict.ranks)
        said += [each for at, each in self._held if now - at > SECONDS_TO_CLEAN_UP]
        self._held = [(at, each) for at, each in self._held if now - at <= SECONDS_TO_CLEAN_UP]
        if is_over and self._held and self._held[0][1] is self._wished:
            said += self._at_the_end(self._wished, snapshot)
        return said

    def _at_the_end(self, first: Verdict, snapshot: Snapshot) -> list[Verdict]:
        """Tell a job that somebody has ended from one that mpiexec ended because of the first death."""
        self._held.clear()
        end = first.evidence["ended_by"]
        ends = {view.ended_by for rank, view in snapshot.ranks.items() if rank not in self._stopped}
        if not ends <= {end, ""}:
            return [first]
        self.wish = f"all ranks were ended by {end}, rank {first.ranks[0]} first"
        return []

    def _follows(self, verdict: Verdict, now: float) -> bool:
        if self._dead:
            return True
        return _is_plain_death(verdict) and now - self._mismatched_at < SECONDS_TO_CLEAN_UP


def _is_plain_death(verdict: Verdict) -> bool:
    return verdict.kind == "dead" and "failure" not in verdict.evidence
