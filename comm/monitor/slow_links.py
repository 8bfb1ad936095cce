"""Slow links: which pair's messages others wait for longest, and which are found on their way most often."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .clocks import Clocks
from .snapshot import Snapshot
from .verdict import Verdict
from .wording import Functions

SECONDS = 2.5
# Waits of a pair in a window, of which a mean is taken.
WAITS = 6
# A link is slow where this many times the usual is waited for it, in so many windows in a row.
FACTOR = 1.8
IN_A_ROW = 2
# It is over below this.
ENDED_FACTOR = 1.3
SHORTEST_WAIT = 50e-6
# Looks that found a message under way, over the usual number, in units of its error.
SURE = 4.0
SECONDS_APART = 600.0


class Window(NamedTuple):
    """What has been waited for since the window began; all by source and destination."""

    wait: np.ndarray
    counted: np.ndarray
    caught: np.ndarray
    looks: int


def hot_cells(wait: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find pairs, sources and destinations for which much more than the usual is waited.

    Parameters
    ----------
    wait : ndarray, shape (ranks, ranks)
        Mean waits, by source and destination.
    counted : ndarray of bool
        Pairs of which there are enough.

    Returns
    -------
    cells, rows, columns : ndarray
        Ratios to the median of the other pairs; sources and destinations that are hot as a whole.
    """
    ratio = np.zeros(wait.shape)
    values = wait[counted]
    for source, dest in np.argwhere(counted):
        others = np.sort(values)
        others = np.delete(others, np.searchsorted(others, wait[source, dest]))
        reference = float(np.median(others)) if len(others) else np.inf
        ratio[source, dest] = wait[source, dest] / max(reference, SHORTEST_WAIT / 3)
    hot = (ratio > FACTOR) & (wait > SHORTEST_WAIT)

    def is_whole(axis: int) -> np.ndarray:
        total = counted.sum(axis=axis)
        return (hot.sum(axis=axis) >= 2) & (hot.sum(axis=axis) * 3 > total * 2)

    return np.where(wait > SHORTEST_WAIT, ratio, 0.0), is_whole(1), is_whole(0)


def caught_often(caught: np.ndarray, counted: np.ndarray, looks: int) -> np.ndarray:
    """Pairs whose messages were under way at many more looks than those of the others."""
    if np.count_nonzero(counted) < 3 or looks < 15:
        return np.zeros(caught.shape, bool)
    usual = float(np.median(caught[counted]))
    error = np.sqrt(max(usual, 1.0) * 1.5)
    return counted & (caught > FACTOR * usual) & (caught > usual + SURE * error)


class SlowLinks:
    """Collects windows, and names links that stay slow over some of them."""

    def __init__(self, size: int, functions: Functions) -> None:
        self._functions, self._size = functions, size
        self._begun = -np.inf
        self._waited: np.ndarray | None = None
        self._waits = self._caught = np.zeros((size, size))
        self._looks = 0
        self._hot: dict[tuple[int, ...], int] = {}
        self._said: dict[tuple[int, ...], float] = {}
        self.slow: set[tuple[int, ...]] = set()

    def look(self, snapshot: Snapshot, clocks: Clocks) -> list[Verdict]:
        """Take the messages of a snapshot, and judge a window that is full."""
        if len(snapshot.ranks) < self._size or self._size < 3 or self._size > 256:
            return []
        peers = np.stack([snapshot.ranks[rank].peers for rank in range(self._size)])
        waits = peers["waits"].T.astype(np.int64)
        if self._waited is None or snapshot.gap > 2 or snapshot.time - self._begun > 20 * SECONDS:
            self._begin(snapshot.time, peers["waited"].T.copy(), waits)
            return []
        self._catch(snapshot, peers)
        if snapshot.time - self._begun < SECONDS:
            return []
        count = waits - self._waits
        counted = (count >= WAITS) & ~np.eye(self._size, dtype=bool)
        if np.count_nonzero(counted) < 3 or self._looks < 15:
            return []
        wait = (peers["waited"].T - self._waited) / np.maximum(count, 1)
        window = Window(wait, counted, self._caught, self._looks)
        self._begin(snapshot.time, peers["waited"].T.copy(), waits)
        return self._judge(window, snapshot)

    def _begin(self, time: float, waited: np.ndarray, waits: np.ndarray) -> None:
        self._begun, self._waited, self._waits = time, waited, waits
        self._caught, self._looks = np.zeros((self._size, self._size)), 0

    def _catch(self, snapshot: Snapshot, peers: np.ndarray) -> None:
        """Note for which pairs a message is under way while its receiver waits."""
        waiting = np.zeros(self._size, bool)
        for rank, view in snapshot.ranks.items():
            calls = view.under_way
            waiting[rank] = len(calls) and bool(
                calls["source"][0] >= 0 or calls["waits_for_all"][0] or calls["waits_for_any"][0]
            )
        sent, received = (
            peers["sent"].sum(axis=2, dtype=np.int64),
            peers["received"].sum(axis=2, dtype=np.int64),
        )
        self._caught += (sent - received.T > 0) & waiting
        self._looks += 1

    def _judge(self, window: Window, snapshot: Snapshot) -> list[Verdict]:
        ratio, rows, columns = hot_cells(window.wait, window.counted)
        caught = caught_often(window.caught, window.counted, window.looks)
        hot: dict[tuple[int, ...], str] = {}
        for source, dest in np.argwhere(caught & (window.wait > SHORTEST_WAIT)).tolist():
            hot[source, dest] = "caught"
        is_hot = ratio > FACTOR
        is_hot &= ~rows[:, None] & ~columns[None, :]
        # Lateness travels on to those who wait for the receiver: the hottest is where it comes from.
        is_hot &= ratio >= 0.75 * ratio.max(initial=0.0)
        for source, dest in np.argwhere(is_hot).tolist():
            hot.setdefault((source, dest), "waits")
        if not hot:
            for rank in np.flatnonzero(columns).tolist():
                hot[rank,] = "receives"
            for rank in np.flatnonzero(rows).tolist():
                # A rank that itself waits little is late; one that is not has a slow way out.
                if not _waits_little(window, rank):
                    hot[rank,] = "sends"
        self._hot = {link: self._hot.get(link, 0) + 1 for link in hot}
        self.slow = {link for link in self.slow if self._goes_on(link, ratio, hot)}
        sure = [link for link, count in self._hot.items() if count >= IN_A_ROW and link not in self.slow]
        self.slow |= set(sure)
        fresh = [link for link in sure if snapshot.time - self._said.get(link, -np.inf) >= SECONDS_APART]
        self._said.update(dict.fromkeys(fresh, snapshot.time))
        return [self._verdict(link, hot[link], ratio, window) for link in fresh[:2]]

    @staticmethod
    def _goes_on(link: tuple[int, ...], ratio: np.ndarray, hot: dict[tuple[int, ...], str]) -> bool:
        return link in hot or (len(link) == 2 and float(ratio[link]) > ENDED_FACTOR)

    @staticmethod
    def _verdict(link: tuple[int, ...], why: str, ratio: np.ndarray, window: Window) -> Verdict:
        usual = float(np.median(window.wait[window.counted]))
        evidence = {
            "microseconds": np.where(window.counted, window.wait * 1e6, -1.0).round(1).tolist(),
            "caught": window.caught.astype(int).tolist(),
            "looks": window.looks,
            "by": why,
        }
        if len(link) == 1:
            sentence = (
                f"the link of rank {link[0]} is slow: all that it {why} takes longer than other messages"
            )
            return Verdict("slow-link", link, sentence, IN_A_ROW * SECONDS, evidence)
        source, dest = link
        if why == "caught":
            found = f"at {window.caught[link]:.0f} of {window.looks} looks a message was on its way"
        else:
            found = f"rank {dest} waits {window.wait[link] * 1e6:.3g} us a message, the median is {usual * 1e6:.3g} us"
        sentence = (
            f"the link from rank {source} to rank {dest} is slow: {found} ({ratio[link]:.1f} times the usual)"
        )
        evidence["ratio"] = round(float(ratio[link]), 3)
        return Verdict("slow-link", link, sentence, IN_A_ROW * SECONDS, evidence, dest)


def _waits_little(window: Window, rank: int) -> bool:
    """Whether a rank waits less for the others than they do among themselves."""
    counted = window.counted.copy()
    own = window.wait[:, rank][counted[:, rank]]
    counted[rank], counted[:, rank] = False, False
    others = window.wait[counted]
    return bool(len(own) and len(others) and np.median(own) < np.median(others))
