"""How long messages take, by when they were sent and when a receive that waited for them ended."""

from __future__ import annotations

import numpy as np

from .snapshot import RankView, Snapshot
from .wait_graph import SURELY_EAGERLY_SENT
from .wording import Functions

# A receive that took less has found its message there, and does not tell when it came.
SHORTEST_WAIT = 20e-6
# Messages of a pair that are kept.
_MOST = 2048


class Transfers:
    """Messages of all pairs that were received by blocking calls.

    Ranks of one node have one clock. Between nodes, the clocks are brought near each other by when they were
    read, and both directions of a pair are taken together, so that their difference does not count.
    """

    def __init__(self, size: int, functions: Functions) -> None:
        self._size = size
        self._receives = np.array(sorted(functions.receives), dtype=np.int64)
        self._sent: dict[tuple[int, int], np.ndarray] = {}
        # Receives that have ended, with the seconds that they took from the send on.
        self._taken: dict[tuple[int, int], list[np.ndarray]] = {}
        self._hosts: dict[int, str] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Take the calls that have ended."""
        offsets = {}
        for rank, view in snapshot.ranks.items():
            self._hosts[rank] = view.host
            offsets[rank] = snapshot.time - view.time if len(set(self._hosts.values())) > 1 else 0.0
            self._add_sends(rank, view, offsets[rank])
        for rank, view in snapshot.ranks.items():
            self._add_receives(rank, view, offsets[rank])

    def _add_sends(self, rank: int, view: RankView, offset: float) -> None:
        for calls in (view.calls, view.under_way):
            sends = calls[(calls["sequence"] == 0) & (calls["dest"] >= 0)]
            dests = sends["dest"]
            for dest in np.unique(dests).tolist():
                entered = sends["entered"][dests == dest] + offset
                before = self._sent.get((rank, dest))
                if before is not None:
                    # A send that was under way comes again when it has ended.
                    entered = np.concatenate([before, entered[entered > before[-1]]])
                if len(entered):
                    self._sent[rank, dest] = entered[-_MOST:]

    def _add_receives(self, rank: int, view: RankView, offset: float) -> None:
        calls = view.calls
        calls = calls[(calls["source"] >= 0) & np.isin(calls["function"], self._receives)]
        sources = calls["source"]
        for source in np.unique(sources).tolist():
            sent = self._sent.get((source, rank))
            if sent is None or source == rank:
                continue
            own = calls[sources == source]
            entered, left = own["entered"] + offset, own["left"] + offset
            # The last message that was sent before the receive ended.
            at = np.searchsorted(sent, left) - 1
            begun = sent[np.maximum(at, 0)]
            # A long message does not set out before its receiver is ready.
            sets_out = (entered <= begun) | (own["bytes"] <= SURELY_EAGERLY_SENT)
            shown = (at >= 0) & (left - entered > SHORTEST_WAIT) & sets_out
            self._taken.setdefault((source, rank), []).append((left - begun)[shown])

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the median seconds of each pair since this was called before, and of how many messages."""
        seconds, count = np.zeros((self._size, self._size)), np.zeros((self._size, self._size), np.int64)
        for pair, parts in self._taken.items():
            times = np.concatenate(parts)
            if len(times):
                seconds[pair], count[pair] = np.median(times), len(times)
        self._taken.clear()
        hosts = [self._hosts.get(rank, "") for rank in range(self._size)]
        apart = np.array([[one != other for other in hosts] for one in hosts])
        both = np.where((count > 0) & (count.T > 0), (seconds + seconds.T) / 2, 0.0)
        return np.where(apart, both, seconds), np.where(apart, np.minimum(count, count.T), count)
