"""Slow links: pairs of ranks whose messages take longer than those of the others.

How long a rank waits for a message says little: lateness travels from rank to rank, and the first receive of
a step has all of it. So only the time from the send to the end of a receive that was waiting for it counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .snapshot import Snapshot
from .transfers import Transfers
from .verdict import Verdict
from .wording import Functions

SECONDS = 2.5
# Messages of a pair in a window, of which a median is taken.
MESSAGES = 6
# A link is slow where a message takes this many times the usual, in a number of windows in a row.
FACTOR = 1.7
IN_A_ROW = 2
# It is over below this.
ENDED_FACTOR = 1.3
# By less, a message is late on a node whose ranks share cores.
LEAST_DELAY = 1e-3
SECONDS_APART = 600.0


class Hot(NamedTuple):
    """Ratios to the usual by source and destination; sources and destinations that are slow as a whole."""

    ratio: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def compare(seconds: np.ndarray, counted: np.ndarray) -> Hot:
    """Compare each pair with the median of the others.

    Parameters
    ----------
    seconds : ndarray, shape (ranks, ranks)
        By source and destination.
    counted : ndarray of bool
        Pairs of which enough is known.
    """
    ratio = np.zeros(seconds.shape)
    values = np.sort(seconds[counted])
    for source, dest in np.argwhere(counted).tolist():
        value = seconds[source, dest]
        others = np.delete(values, np.searchsorted(values, value))
        usual = float(np.median(others)) if len(others) > 1 else np.inf
        if value - usual > LEAST_DELAY:
            ratio[source, dest] = value / max(usual, LEAST_DELAY / 100)
    hot = ratio > FACTOR

    def whole(axis: int) -> np.ndarray:
        count, total = hot.sum(axis=axis), counted.sum(axis=axis)
        return np.asarray((count >= 2) & (3 * count > 2 * total))

    return Hot(ratio, whole(1), whole(0))


class SlowLinks:
    """Collects windows, and names links that stay slow over some of them."""

    def __init__(self, size: int, functions: Functions) -> None:
        self._size = size
        self._transfers = Transfers(size, functions)
        self._begun = 0.0
        self._hot: dict[tuple[int, ...], int] = {}
        self._said: dict[tuple[int, ...], float] = {}
        self.slow: set[tuple[int, ...]] = set()

    def look(self, snapshot: Snapshot) -> list[Verdict]:
        """Take the messages of a snapshot, and judge a window that is full."""
        if not 3 <= self._size <= 256:
            return []
        self._transfers.add(snapshot)
        if snapshot.time - self._begun < SECONDS:
            return []
        self._begun = snapshot.time
        seconds, count = self._transfers.take()
        counted = count >= MESSAGES
        if np.count_nonzero(counted) < 3:
            self._hot.clear()
            return []
        return self._judge(seconds, counted, snapshot.time)

    def _judge(self, seconds: np.ndarray, counted: np.ndarray, now: float) -> list[Verdict]:
        ratio, rows, columns = compare(seconds, counted)
        links: set[tuple[int, ...]] = {(rank,) for rank in np.flatnonzero(rows | columns).tolist()}
        single = (ratio > FACTOR) & ~rows[:, None] & ~columns[None, :]
        links |= {(source, dest) for source, dest in np.argwhere(single).tolist()}
        self._hot = {link: self._hot.get(link, 0) + 1 for link in links}
        self.slow = {
            link for link in self.slow if link in links or (len(link) == 2 and ratio[link] > ENDED_FACTOR)
        }
        sure = {link for link, count in self._hot.items() if count >= IN_A_ROW} - self.slow
        self.slow |= sure
        fresh = sorted(link for link in sure if now - self._said.get(link, -np.inf) >= SECONDS_APART)
        self._said.update(dict.fromkeys(fresh, now))
        return [self._verdict(link, ratio, seconds, counted) for link in fresh]

    @staticmethod
    def _verdict(
        link: tuple[int, ...], ratio: np.ndarray, seconds: np.ndarray, counted: np.ndarray
    ) -> Verdict:
        usual = float(np.median(seconds[counted]))
        microseconds = np.where(counted, seconds * 1e6, -1.0)
        evidence = {"microseconds": microseconds.round(1).tolist(), "usual": round(usual * 1e6, 1)}
        if len(link) == 1:
            sentence = (
                f"the link of rank {link[0]} is slow: messages of most pairs that it is in take {FACTOR} "
                f"times as long as the usual {usual * 1e6:.3g} us, or longer"
            )
            return Verdict("slow-link", link, sentence, IN_A_ROW * SECONDS, evidence)
        source, dest = link
        sentence = (
            f"the link from rank {source} to rank {dest} is slow: a message takes {seconds[link] * 1e6:.3g} "
            f"us, {ratio[link]:.1f} times as long as between other ranks"
        )
        evidence["ratio"] = round(float(ratio[link]), 3)
        return Verdict("slow-link", link, sentence, IN_A_ROW * SECONDS, evidence, dest)
