"""Jobs of which only the times count: steps with a collective, or with messages to neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from roundelay.comm.monitor.memory import COMM, NO_RANK, TIMED_CALL, TIMED_PEER, TIMED_REQUEST
from roundelay.comm.monitor.snapshot import RankView, Snapshot
from tests.simulated_ranks import FUNCTIONS, NUMBER, WORLD

# Looks a second.
RATE = 7


def _view(rank: int, size: int, time: float, calls: np.ndarray, steps: int) -> RankView:
    return RankView(
        rank=rank, process=rank, host="node0", state="running", idle=0.0, time=time, finalizing=0,
        advanced=2 * steps + len(calls), under_way=np.zeros(0, TIMED_CALL), calls=calls,
        comms=np.array([(WORLD, size, steps, 0)], COMM), members={WORLD: np.arange(size)},
        requests=np.zeros(0, TIMED_REQUEST), peers=np.zeros(size, TIMED_PEER), lost=0,
    )  # fmt: skip


def collective_times(work: np.ndarray, cost: np.ndarray, leave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When each rank comes to a collective and leaves it.

    Parameters
    ----------
    work : ndarray, shape (steps, ranks)
        Seconds before each collective.
    cost : ndarray, shape (steps,)
        Seconds that a collective takes after the last has come.
    leave : ndarray, shape (steps, ranks)
        Seconds by which each is late in leaving it.
    """
    entered, left = np.zeros(work.shape), np.zeros(work.shape)
    now = np.zeros(work.shape[1])
    for step in range(len(work)):
        entered[step] = now + work[step]
        now = left[step] = entered[step].max() + cost[step] + leave[step]
    return entered, left


def collective_snapshots(
    entered: np.ndarray, left: np.ndarray, function: str = "Allreduce"
) -> Iterator[Snapshot]:
    """Look at such a job."""
    steps, size = entered.shape
    calls = np.zeros((size, steps), TIMED_CALL)
    calls["number"] = calls["sequence"] = np.arange(1, steps + 1)
    calls["comm"], calls["function"], calls["bytes"] = WORLD, NUMBER[function], 8
    calls["dest"] = calls["source"] = NO_RANK
    calls["entered"], calls["left"] = entered.T, left.T
    # Clocks of different nodes have nothing to do with each other.
    offsets = 1000.0 * np.arange(size)
    seen = [0] * size
    for time in np.arange(0.0, left.max(), 1 / RATE):
        views = {}
        for rank in range(size):
            end = int(np.searchsorted(left[:, rank], time))
            own = calls[rank, seen[rank] : end].copy()
            own["entered"] += offsets[rank]
            own["left"] += offsets[rank]
            views[rank] = _view(rank, size, time, own, end)
            seen[rank] = end
        yield Snapshot(float(time), 1 / RATE, size, views, FUNCTIONS)


class Exchange:
    """Ranks that exchange messages step by step, and what is recorded of it.

    Parameters
    ----------
    pattern : list of list of tuple
        Rounds of a step, each with pairs (source, destination) that exchange in it. A rank goes on to the
        next round when it has received all that is for it.
    """

    def __init__(self, size: int, pattern: list[list[tuple[int, int]]]) -> None:
        self.size, self.pattern = size, pattern

    def snapshots(self, work: np.ndarray, transfer: Callable[[int, int], float]) -> Iterator[Snapshot]:
        """Look at it; `work` has the seconds of each step and rank, `transfer` those of a message."""
        events = self._events(work, transfer)
        size = self.size
        calls = np.zeros(len(events), TIMED_CALL)
        facts = np.array([(kind, rank, peer) for _, kind, rank, peer, _ in events])
        calls["left"] = [event[0] for event in events]
        calls["entered"] = calls["left"] - [event[4] for event in events]
        calls["comm"], calls["dest"], calls["source"] = WORLD, NO_RANK, NO_RANK
        sends = facts[:, 0] == 0
        calls["function"] = np.where(sends, NUMBER["Isend"], NUMBER["Recv"])
        calls["dest"][sends] = facts[sends, 2]
        calls["source"][~sends] = facts[~sends, 2]
        peers = np.zeros((size, size), TIMED_PEER)
        end, time = 0, 0.0
        while end < len(events):
            time += 1 / RATE
            begin, end = end, int(np.searchsorted(calls["left"], time))
            new, ranks = calls[begin:end], facts[begin:end, 1]
            sent, got = new["dest"] >= 0, new["source"] >= 0
            for name, rank, peer in (
                ("sent", ranks[sent], new["dest"][sent]),
                ("received", ranks[got], new["source"][got]),
            ):
                count = np.bincount(rank * size + peer, minlength=size * size)
                peers[name][:, :, 0] += count.reshape(size, size).astype(np.uint32)
            views = {
                rank: replace(_view(rank, size, time, new[ranks == rank], end), peers=peers[rank].copy())
                for rank in range(size)
            }
            yield Snapshot(time, 1 / RATE, size, views, FUNCTIONS)

    def _events(
        self, work: np.ndarray, transfer: Callable[[int, int], float]
    ) -> list[tuple[float, int, int, int, float]]:
        """Sends, 0, and receives that have ended, 2, in order, with the seconds that these waited."""
        events: list[tuple[float, int, int, int, float]] = []
        now = np.zeros(self.size)
        for step in work:
            now = now + step
            for pairs in self.pattern:
                begin, after = now.copy(), now.copy()
                for source, dest in pairs:
                    events.append((begin[source], 0, source, dest, 0.0))
                for source, dest in pairs:
                    arrival = begin[source] + transfer(source, dest)
                    end = max(after[dest], arrival)
                    events.append((end, 2, dest, source, end - after[dest]))
                    after[dest] = end
                now = after
        events.sort(key=lambda event: (event[0], event[1]))
        return events


def ring(size: int) -> Exchange:
    """Everyone receives from both neighbours."""
    pairs = [(rank, (rank + 1) % size) for rank in range(size)]
    return Exchange(size, [pairs + [(dest, source) for source, dest in pairs]])


def all_pairs(size: int) -> Exchange:
    """Everyone exchanges with everyone, one after the other."""
    rounds = []
    for shift in range(1, size):
        rounds.append([(rank, (rank + shift) % size) for rank in range(size)])
    return Exchange(size, rounds)
