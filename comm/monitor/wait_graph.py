"""Who waits for whom: each blocked rank with the sets of ranks of which one must act before it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy

from .clocks import Clocks
from .conditions import Clause, Conditions, Wait
from .snapshot import RankView, Snapshot
from .wording import Functions, ranks_of

# A rank that has gone on since this is not asked what it waits for.
SHORTEST_QUIET = 0.2


class WaitGraph:
    """The graph of a snapshot.

    Attributes
    ----------
    waits : dict of int to Wait
        Of the ranks that have been in the same call for a moment, and of whose call it is known what it
        waits for.
    gone : int
        Ranks that take part in nothing any more, as bits.
    """

    def __init__(
        self, snapshot: Snapshot, clocks: Clocks, functions: Functions, known: Mapping[int, set[int]]
    ) -> None:
        self.views, self.functions = snapshot.ranks, functions
        self._clocks = clocks
        self._conditions = Conditions(snapshot, clocks, functions, known)
        self.everyone = (1 << snapshot.size) - 1
        self.gone = sum(1 << rank for rank, view in self.views.items() if _is_gone(view))
        self.waits: dict[int, Wait] = {}
        for rank, view in self.views.items():
            if self.gone >> rank & 1 or clocks.quiet(rank) < SHORTEST_QUIET or view.state == "traced":
                continue
            wait = self._conditions.wait_of(view)
            if wait is not None:
                self.waits[rank] = wait

    def with_looks(self) -> WaitGraph:
        """The same in which those wait, too, that look for messages again and again, and find none."""
        found = copy(self)
        found.waits = dict(self.waits)
        for rank, view in self.views.items():
            if not (rank in self.waits or self.gone >> rank & 1 or self._clocks.quiet(rank) < SHORTEST_QUIET):
                look = self._conditions.look_of(view)
                if look is not None:
                    found.waits[rank] = look
        return found

    def stalled(self, candidates: Iterable[int], dead: int = 0, everything: bool = False) -> int:
        """Those of the candidates that nobody but themselves, those gone and the `dead` could let go on.

        With `everything`, messages and collectives count that only have to arrive.
        """
        left = {rank: self.waits[rank].clauses(everything) for rank in candidates}
        live = self.everyone & ~self.gone & ~dead & ~sum(1 << rank for rank in left)
        changed = True
        while changed:
            changed = False
            for rank in list(left):
                if any(all(each.ranks & live for each in option) for option in left[rank]):
                    live |= 1 << rank
                    del left[rank]
                    changed = True
        return sum(1 << rank for rank in left)

    def failing(self, rank: int, stalled: int, everything: bool = False) -> list[Clause]:
        """The clauses of a stalled rank that only stalled ranks, or none, could meet."""
        return [
            each
            for option in self.waits[rank].clauses(everything)
            for each in option
            if each.ranks & ~stalled == 0
        ]

    def unfinished(self, collective: tuple[int, int]) -> int:
        """Members that have begun a collective and not completed it."""
        return sum(1 << rank for rank in self.views if collective in self._conditions.opened_by(rank))


def _is_gone(view: RankView) -> bool:
    return view.finalizing > 0 or view.state in ("dead", "ended")


def waiting_on(
    graph: WaitGraph, stalled: int, everything: bool = False, of: int | None = None
) -> dict[int, int]:
    """For each stalled rank, or those `of` them, the ranks that its failing clauses name."""
    found = {}
    for rank in ranks_of(stalled if of is None else of):
        mask = 0
        for each in graph.failing(rank, stalled | graph.gone, everything):
            mask |= each.ranks
        found[rank] = mask
    return found
