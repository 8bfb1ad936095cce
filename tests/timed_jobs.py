"""Jobs of which only the times count: steps with a collective, or with messages to neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from roundelay.comm.monitor.judge import Judge
from roundelay.comm.monitor.memory import COMM, NO_RANK, TIMED_CALL, TIMED_MESSAGE, TIMED_PEER, TIMED_REQUEST
from roundelay.comm.monitor.snapshot import RankView, Snapshot
from roundelay.comm.monitor.verdict import Verdict
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
    entered: np.ndarray, left: np.ndarray, function: str = "Allreduce", elsewhere: np.ndarray | None = None
) -> Iterator[Snapshot]:
    """Look at such a job; of the work of each step, ranks have spent some seconds `elsewhere` in MPI."""
    steps, size = entered.shape
    calls = np.zeros((size, steps), TIMED_CALL)
    calls["number"] = calls["sequence"] = np.arange(1, steps + 1)
    calls["comm"], calls["function"], calls["bytes"] = WORLD, NUMBER[function], 8
    calls["dest"] = calls["source"] = NO_RANK
    calls["entered"], calls["left"] = entered.T, left.T
    calls["inside"][:, 1:] = np.cumsum(left - entered, axis=0)[:-1].T
    if elsewhere is not None:
        calls["inside"] += np.cumsum(elsewhere, axis=0).T
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
    together : bool
        Whether one call completes all messages of a round, and not a call for each.
    nodes : bool
        Whether each rank is on a node of its own, with a clock of its own.
    """

    def __init__(
        self, size: int, pattern: list[list[tuple[int, int]]], together: bool = False, nodes: bool = False
    ) -> None:
        self.size, self.pattern, self.together, self.nodes = size, pattern, together, nodes

    def snapshots(self, work: np.ndarray, transfer: Callable[[int, int, float], float]) -> Iterator[Snapshot]:
        """Look at it.

        Parameters
        ----------
        work : ndarray, shape (steps, ranks)
            Seconds before each step.
        transfer : callable
            Gives the seconds of a message by its source, its destination and when it is sent.
        """
        ends, ranks = self._ends(work, transfer)
        done, time = 0, 0.0
        while done < len(ends):
            time += 1 / RATE
            begin, done = done, int(np.searchsorted(ends["left"], time))
            views = {}
            for rank in range(self.size):
                offset = 1000.0 * rank if self.nodes else 0.0
                own = ends[begin:done][ranks[begin:done] == rank].copy()
                for name in ("started", "entered", "left"):
                    own[name] += offset
                view = _view(rank, self.size, time + offset, np.zeros(0, TIMED_CALL), done)
                views[rank] = replace(view, host=f"node{rank * self.nodes}", messages=own)
            yield Snapshot(time, 1 / RATE, self.size, views, FUNCTIONS)

    def _ends(
        self, work: np.ndarray, transfer: Callable[[int, int, float], float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of all messages in the order in which their calls have ended, and whose they are."""
        found: list[tuple[float, float, float, int, int, int, int]] = []
        count: Counter[tuple[int, int]] = Counter()
        now = np.zeros(self.size)
        for step in work:
            now = now + step
            for pairs in self.pattern:
                begin, arrivals = now.copy(), {}
                for source, dest in pairs:
                    sent = begin[source]
                    found.append((sent, sent, sent, source, dest, count[source, dest], 1))
                    arrivals[source, dest] = sent + transfer(source, dest, sent)
                for source, dest in pairs:
                    entered = begin[dest] if self.together else now[dest]
                    due = [each for pair, each in arrivals.items() if pair[1] == dest]
                    left = max(entered, max(due) if self.together else arrivals[source, dest])
                    found.append((begin[dest], entered, left, dest, source, count[source, dest], 0))
                    count[source, dest] += 1
                    now[dest] = max(now[dest], left)
        found.sort(key=lambda end: end[2])
        ends = np.zeros(len(found), TIMED_MESSAGE)
        columns = list(zip(*found, strict=True))
        for name, column in zip(("started", "entered", "left"), columns[:3], strict=True):
            ends[name] = column
        for name, column in zip(("peer", "ordinal", "sent"), columns[4:], strict=True):
            ends[name] = column
        ends["comm"], ends["bytes"] = WORLD, 800
        ends["function"] = np.where(ends["sent"] == 1, NUMBER["Isend"], NUMBER["Recv"])
        return ends, np.array(columns[3])


def ring(size: int, **how: bool) -> Exchange:
    """Everyone receives from both neighbours."""
    pairs = [(rank, (rank + 1) % size) for rank in range(size)]
    return Exchange(size, [pairs + [(dest, source) for source, dest in pairs]], **how)


def all_pairs(size: int, **how: bool) -> Exchange:
    """Everyone exchanges with everyone, one after the other."""
    rounds = []
    for shift in range(1, size):
        rounds.append([(rank, (rank + shift) % size) for rank in range(size)])
    return Exchange(size, rounds, **how)


def halos(size: int, **how: bool) -> Exchange:
    """Everyone exchanges with two at a time, near ones and far ones in turn."""
    rounds = []
    for shift in range(1, size):
        pairs = [(rank, (rank + shift) % size) for rank in range(size)]
        rounds.append(list(dict.fromkeys(pairs + [(dest, source) for source, dest in pairs])))
    return Exchange(size, rounds, **how)


def work_of(
    generator: np.random.Generator, steps: int, size: int, step: float, noise: float = 0.15
) -> np.ndarray:
    """Unequal work: it strays by so much, and one step in a hundred of a rank takes far longer."""
    work = step * generator.lognormal(0, noise, (steps, size))
    rare = generator.random((steps, size)) < 0.01
    return np.asarray(work + rare * generator.exponential(3 * step, (steps, size)))


def judged(snapshots: Iterable[Snapshot], size: int) -> list[tuple[float, Verdict]]:
    """Verdicts on snapshots, each with the moment when it came."""
    judge = Judge(size, FUNCTIONS)
    return [(snapshot.time, verdict) for snapshot in snapshots for verdict in judge.look(snapshot)]
