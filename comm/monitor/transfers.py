"""How long messages take, by when they were sent and when a receive that waited for them ended."""

from __future__ import annotations

import numpy as np

from .conditions import SURELY_EAGERLY_SENT
from .snapshot import Snapshot
from .wording import Functions

# A receive that took less has found its message there, and does not tell when it came.
SHORTEST_WAIT = 20e-6


class _Queue:
    """Messages of one pair: sends and receives that have not found each other yet, both in order."""

    def __init__(self) -> None:
        self.sent = np.zeros(0)
        self.received = np.zeros((3, 0))
        self.last = -np.inf
        self.taken: list[np.ndarray] = []

    def send(self, entered: np.ndarray) -> None:
        """Add sends; one that was under way comes again when it has ended."""
        entered = entered[entered > self.last]
        if len(entered):
            self.last = float(entered[-1])
            self.sent = np.concatenate([self.sent, entered])

    def receive(self, calls: np.ndarray, offset: float) -> None:
        """Add receives that have ended."""
        new = np.stack([calls["entered"] + offset, calls["left"] + offset, calls["bytes"]])
        self.received = np.concatenate([self.received, new], axis=1)

    def match(self, under_way: int) -> None:
        """Put sends and receives together; the counts say how many messages have no receive yet."""
        count = min(len(self.sent), self.received.shape[1])
        begun, (entered, left, size) = self.sent[:count], self.received[:, :count]
        self.sent, self.received = self.sent[count:], self.received[:, count:]
        # A long message does not set out before its receiver is ready.
        sets_out = (entered <= begun) | (size <= SURELY_EAGERLY_SENT)
        seconds = (left - begun)[(left - entered > SHORTEST_WAIT) & sets_out]
        if len(seconds):
            self.taken.append(seconds)
        # Calls were lost, or other calls have received some: begin anew with those that are under way.
        if len(self.sent) > max(under_way, 0) + 1:
            self.sent = self.sent[len(self.sent) - max(under_way, 0) :]
        if self.received.shape[1] > 1:
            self.received = self.received[:, :0]


class Transfers:
    """Messages of all pairs that were received by blocking calls.

    Ranks of one node have one clock. Between nodes, the clocks are brought near each other by when they were
    read, and both directions of a pair are taken together, so that their difference does not count.
    """

    def __init__(self, size: int, functions: Functions) -> None:
        self._size = size
        self._receives = np.array(sorted(functions.receives), dtype=np.int64)
        self._queues: dict[tuple[int, int], _Queue] = {}
        self._hosts: dict[int, str] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Take the calls that have ended."""
        views = snapshot.ranks
        self._hosts = {rank: view.host for rank, view in views.items()}
        are_apart = len(set(self._hosts.values())) > 1
        touched = set()
        for rank, view in views.items():
            offset = snapshot.time - view.time if are_apart else 0.0
            for calls in (view.calls, view.under_way):
                sends = calls[(calls["sequence"] == 0) & (calls["dest"] >= 0)]
                for dest in np.unique(sends["dest"]).tolist():
                    self._queue(rank, dest).send(sends["entered"][sends["dest"] == dest] + offset)
                    touched.add((rank, dest))
            calls = view.calls[(view.calls["source"] >= 0) & np.isin(view.calls["function"], self._receives)]
            for source in np.unique(calls["source"]).tolist():
                self._queue(source, rank).receive(calls[calls["source"] == source], offset)
                touched.add((source, rank))
        for source, dest in touched:
            if source in views and dest in views and source != dest:
                sent = int(views[source].peers["sent"][dest].sum(dtype=np.int64))
                received = int(views[dest].peers["received"][source].sum(dtype=np.int64))
                self._queues[source, dest].match(sent - received)

    def _queue(self, source: int, dest: int) -> _Queue:
        queue = self._queues.get((source, dest))
        if queue is None:
            queue = self._queues[source, dest] = _Queue()
        return queue

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the median seconds of each pair since this was called before, and of how many messages."""
        seconds, count = np.zeros((self._size, self._size)), np.zeros((self._size, self._size), np.int64)
        for pair, queue in self._queues.items():
            if queue.taken:
                times = np.concatenate(queue.taken)
                seconds[pair], count[pair] = np.median(times), len(times)
                queue.taken = []
        hosts = [self._hosts.get(rank, "") for rank in range(self._size)]
        apart = np.array([[one != other for other in hosts] for one in hosts])
        both = np.where((count > 0) & (count.T > 0), (seconds + seconds.T) / 2, 0.0)
        return np.where(apart, both, seconds), np.where(apart, np.minimum(count, count.T), count)
