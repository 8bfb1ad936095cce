"""For how long each rank has done nothing, by a clock that a pause of the whole job restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .snapshot import RankView, Snapshot

# Looks further apart than this were not the usual ones: the machine was suspended, or had no time for anyone.
LONGEST_GAP = 2.0
# Processor time by which a rank had its turn.
TURN = 0.02


class Clocks:
    """When each rank has last gone on.

    Attributes
    ----------
    now : float
        The time of the last snapshot.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._restarted = float("-inf")
        # By rank: how far it was, and since when; and when it last ended any call.
        self._marks: dict[int, tuple[int, int, float]] = {}
        self._called: dict[int, float] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Take the time of a snapshot, and what has changed in it."""
        self.now = snapshot.time
        if snapshot.gap > LONGEST_GAP or _is_paused(snapshot):
            self._restarted = self.now
        for rank, view in snapshot.ranks.items():
            mark = self._marks.get(rank)
            if mark is None or mark[:2] != (view.process, view.advanced):
                self._marks[rank] = (view.process, view.advanced, self.now)
                self._called[rank] = self.now
            elif len(view.calls):
                self._called[rank] = self.now

    def quiet(self, rank: int) -> float:
        """Seconds since a rank has begun or ended a call, other than a mere look."""
        return self.now - max(self._marks[rank][2], self._restarted)

    def idle(self, view: RankView) -> float:
        """Seconds since it has neither run nor ended a call."""
        return max(0.0, min(view.idle, self.now - max(self._called[view.rank], self._restarted)))

    def stopped(self, view: RankView) -> float:
        """Seconds since it was stopped."""
        return max(0.0, min(view.idle, self.now - self._restarted))


class Lasting:
    """Since when ranks are in some state, look after look, without having gone on meanwhile."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, float]] = {}

    def update(self, ranks: Iterable[int], views: Mapping[int, RankView], clocks: Clocks) -> None:
        """Say who is in that state now."""
        before, self._since = self._since, {}
        for rank in ranks:
            since = before.get(rank)
            if since is None or since[0] < clocks.now - clocks.quiet(rank):
                since = clocks.now, views[rank].cpu
            self._since[rank] = since

    def longer_than(
        self, seconds: Callable[[int], float], views: Mapping[int, RankView], now: float
    ) -> list[int]:
        """Those who have been in it for so long, and could have gone on, had there been anything for them."""
        return [
            rank
            for rank, (since, cpu) in self._since.items()
            if now - since >= seconds(rank) and _had_its_turn(views[rank], cpu)
        ]


def _had_its_turn(view: RankView, before: float) -> bool:
    """Whether a rank was on a core since it had used so much processor time."""
    return before < 0 or view.cpu < 0 or view.state == "idle" or view.cpu - before >= TURN


def _is_paused(snapshot: Snapshot) -> bool:
    """Whether nobody does anything or waits for anybody."""
    return all(
        view.state in ("stopped", "traced", "dead", "ended")
        or (view.state == "idle" and len(view.under_way) == 0)
        for view in snapshot.ranks.values()
    )
