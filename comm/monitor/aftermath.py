"""Deaths that follow from others: mpiexec ends all ranks when it has lost one, as MPI_Abort does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .members import Member
from .snapshot import Snapshot
from .verdict import Verdict

# A job that goes on for so long after a death was not ended because of it.
SECONDS_TO_CLEAN_UP = 1.0


def find_aborts(snapshot: Snapshot, ranks: Mapping[int, Member]) -> list[Verdict]:
    """Find ranks that end the job. Those that they kill may be gone before them."""
    found = []
    for rank, view in snapshot.ranks.items():
        how, what = "", ranks[rank].failure if rank in ranks else ""
        if what:
            how = f"{what}, at {{{rank}}}"
        elif "Abort" in (snapshot.functions[number] for number in view.under_way["function"].tolist()):
            how = what = "MPI_Abort"
        if how:
            sentence = f"rank {rank} on {view.host} ends the job: {how}"
            found.append(Verdict("dead", (rank,), sentence, 0.0, {"failure": what}, hosts=(view.host,)))
    return found


class Aftermath:
    """Holds deaths back that seem to follow from what was said before."""

    def __init__(self) -> None:
        self._held: list[tuple[float, Verdict]] = []
        self._dead: set[int] = set()
        self._mismatched_at = float("-inf")

    def filter(self, verdicts: Sequence[Verdict], now: float, is_over: bool) -> list[Verdict]:
        """Give those that are worth saying, and deaths that were held back and that the job has outlived.

        Parameters
        ----------
        verdicts : sequence of Verdict
        now : float
            Seconds of the monotonic clock.
        is_over : bool
            Whether all ranks are gone.
        """
        said = []
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
            else:
                said.append(verdict)
            if verdict.kind == "dead":
                self._dead.update(verdict.ranks)
        said += [each for at, each in self._held if now - at > SECONDS_TO_CLEAN_UP]
        self._held = [(at, each) for at, each in self._held if now - at <= SECONDS_TO_CLEAN_UP]
        return said

    def _follows(self, verdict: Verdict, now: float) -> bool:
        if self._dead:
            return True
        return _is_plain_death(verdict) and now - self._mismatched_at < SECONDS_TO_CLEAN_UP


def _is_plain_death(verdict: Verdict) -> bool:
    return verdict.kind == "dead" and "failure" not in verdict.evidence
