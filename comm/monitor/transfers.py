"""How long messages take, and calls wait for them, by both ends of each message.

Ranks of one node have one clock. Between nodes, messages bound how far two clocks are apart: none is
received before it was sent. So the shortest ones of both directions tell, and only nodes that send to each
other count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .memory import TAG_CLASSES, TIMED_MESSAGE
from .snapshot import Snapshot
from .wording import Functions

# Longer messages may not set out before their receiver is ready, nor leave their sender.
SURELY_EAGER = 4096
# Of one look, so that a look at many ranks costs no more.
MOST_ENDS = 4096
# Seconds in a second by which two clocks drift apart, at most.
DRIFT = 1e-4


class Waits(NamedTuple):
    """Messages, once for each call that waited for them.

    Attributes
    ----------
    source, dest, bytes : ndarray of int
        Of each message.
    took : ndarray of float
        Seconds that it was under way, at most.
    tells : ndarray of bool
        Whether this row is the receiver's, and no message that it waited for set out later. Only then is
        `took` close to the time of the message; others may have taken far less.
    call : ndarray of int
        Which call it was: rows with the same number are messages that one call has completed together.
    together : ndarray of float
        Seconds from when the last of these had set out to the end of the call.
    waited : ndarray of float
        How many of these seconds the call itself has lasted. If it had to wait, one of its messages took all
        of them, at least.
    shortest : ndarray of float
        Between nodes, the seconds that a message takes at least, on the average of both directions.
    surely : ndarray of float
        Of those that it took, how many do not depend on how the two clocks are set.
    """

    source: np.ndarray
    dest: np.ndarray
    bytes: np.ndarray
    took: np.ndarray
    tells: np.ndarray
    call: np.ndarray
    together: np.ndarray
    waited: np.ndarray
    shortest: np.ndarray
    surely: np.ndarray


class Transfers:
    """Ends of messages of all ranks, and the calls that completed them.

    Parameters
    ----------
    size : int
        Ranks of the job.
    functions : Functions
    """

    def __init__(self, size: int, functions: Functions) -> None:
        self._size = size
        self._synchronous = np.array(sorted(functions.synchronous), dtype=np.int64)
        self._buffered = np.array(sorted(functions.buffered), dtype=np.int64)
        self._ranks: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []
        # How many of the first of them are from the window before.
        self._kept = 0
        self._names: dict[str, int] = {}
        # Of each rank, the number of its host.
        self.hosts = np.zeros(size, np.int64)
        # By how much the clock of one host is ahead of that of another, at most.
        self._ahead = np.full((1, 1), np.inf)

    def add(self, snapshot: Snapshot) -> None:
        """Take the messages that calls have completed."""
        most = max(MOST_ENDS // max(len(snapshot.ranks), 1), 16)
        for rank, view in snapshot.ranks.items():
            self.hosts[rank] = self._names.setdefault(view.host, len(self._names))
            # One that has received messages of an unknown name has its own count of the others.
            if len(view.messages) and not view.unnamed:
                self._ends.append(view.messages[-most:])
                self._ranks.append(np.full(len(self._ends[-1]), rank))

    def take(self, seconds: float) -> Waits:
        """Give the messages of which both ends were seen since this was called before, so long ago."""
        ends = np.concatenate([np.zeros(0, TIMED_MESSAGE), *self._ends])
        ranks = np.concatenate([np.zeros(0, np.int64), *self._ranks])
        sender, receiver = self._match(ends, ranks)
        other = np.full(len(ends), -1)
        other[sender], other[receiver] = receiver, sender
        # Of the others, the second end may still come, but not later than in the next window.
        left = np.flatnonzero(other < 0)
        left = left[left >= self._kept]
        self._ends, self._ranks, self._kept = [ends[left]], [ranks[left]], len(left)
        self._bound(ends, ranks, sender, receiver, seconds)
        return self._waits(ends, ranks, other)

    def _match(self, ends: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the places of the two ends of each message."""
        sent = ends["sent"] == 1
        source, dest = np.where(sent, ranks, ends["peer"]), np.where(sent, ends["peer"], ranks)
        pair = (source * self._size + dest) * TAG_CLASSES + ends["class"]
        key = pair.astype(np.uint64) << np.uint64(32) | ends["ordinal"]
        sends, receives = np.flatnonzero(sent), np.flatnonzero(~sent)
        _, one, two = np.intersect1d(key[sends], key[receives], return_indices=True)
        sender, receiver = sends[one], receives[two]
        # Those of a class need not be received in the order in which they were sent.
        same = (ends["tag"][sender] == ends["tag"][receiver]) & (
            ends["comm"][sender] == ends["comm"][receiver]
        )
        return sender[same], receiver[same]

    def _bound(
        self, ends: np.ndarray, ranks: np.ndarray, sender: np.ndarray, receiver: np.ndarray, seconds: float
    ) -> None:
        """Bound by how much clocks are ahead, by these messages and by what was known before."""
        count = max(len(self._names), 1)
        before = np.full((count, count), np.inf)
        known = len(self._ahead)
        before[:known, :known] = self._ahead + DRIFT * seconds
        one, two = self.hosts[ranks[sender]], self.hosts[ranks[receiver]]
        np.minimum.at(before, (one, two), ends["left"][receiver] - ends["started"][sender])
        self._ahead = before

    def _clocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Compare the clocks of each two hosts.

        Returns
        -------
        seconds : ndarray
            What to add to a time of one host for that of the other; NaN where it is not known.
        half : ndarray
            Half of the time that a message there and one back take, at least.
        """
        ahead = self._ahead.copy()
        np.fill_diagonal(ahead, 0.0)
        # Over other hosts, too.
        for between in range(len(ahead)):
            ahead = np.minimum(ahead, ahead[:, between, None] + ahead[None, between])
        known = np.isfinite(ahead) & np.isfinite(ahead.T)
        ahead[~known] = np.nan
        return (ahead - ahead.T) / 2, (ahead + ahead.T) / 2

    def _waits(self, ends: np.ndarray, ranks: np.ndarray, other: np.ndarray) -> Waits:
        held = np.isin(ends["function"], self._synchronous) | (ends["bytes"] > SURELY_EAGER)
        held &= ~np.isin(ends["function"], self._buffered)
        rows, call = _calls(ends, ranks, held)
        partner, is_sent, left = other[rows], ends["sent"][rows] == 1, ends["left"][rows]
        sender = np.where(is_sent, rows, partner)
        clocks, half = self._clocks()
        there = ends["started"][partner] + clocks[self.hosts[ranks[partner]], self.hosts[ranks[rows]]]
        # Of a message that is held, the receiver has to be ready, too.
        ready = np.where(held[sender], np.maximum(there, ends["started"][rows]), there)
        # Nothing is known of a call that has waited for something else.
        ready[(partner < 0) | (ends["mixed"][rows] == 1) | np.isnan(ready)] = np.inf
        last = np.full(len(rows), -np.inf)
        np.maximum.at(last, call, ready)
        together = left - last[call]
        source, dest = ranks[sender], np.where(is_sent, ends["peer"][rows], ranks[rows])
        shortest = half[self.hosts[source], self.hosts[dest]]
        found = Waits(
            source=source,
            dest=dest,
            bytes=ends["bytes"][sender],
            took=left - ready,
            tells=~is_sent & (ready == last[call]),
            call=call,
            together=together,
            waited=np.minimum(together, left - ends["entered"][rows]),
            shortest=shortest,
            surely=left - ready - shortest,
        )
        found = Waits(*(column[np.isfinite(together)] for column in found))
        exact = self._are_exact(found)[self.hosts[found.source], self.hosts[found.dest]]
        return found._replace(surely=np.where(exact, found.took, found.surely))

    def _are_exact(self, waits: Waits) -> np.ndarray:
        """Tell of which hosts the clocks are compared exactly: by messages that both have waited for.

        If one of them is always late, all that it receives has come long before.
        """
        pair = self.hosts[waits.source] * len(self._ahead) + self.hosts[waits.dest]
        counts, waited = (
            np.bincount(pair[rows], minlength=self._ahead.size).reshape(self._ahead.shape)
            for rows in (slice(None), waits.tells & (2 * waits.waited > waits.took))
        )
        often = (waited > 0) & (4 * waited >= counts)
        return np.asarray((often & often.T) | np.eye(len(often), dtype=bool))


def _calls(ends: np.ndarray, ranks: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the ends that a call may have waited for, and the number of the call of each."""
    # Other sends wait for nothing.
    rows = np.flatnonzero((ends["sent"] == 0) | held)
    rows = rows[np.lexsort((ends["left"][rows], ends["entered"][rows], ranks[rows]))]
    entered, left = ends["entered"][rows], ends["left"][rows]
    is_new = (np.diff(entered) != 0) | (np.diff(left) != 0) | (np.diff(ranks[rows]) != 0)
    return rows, np.concatenate([[0], np.cumsum(is_new)])[: len(rows)]
