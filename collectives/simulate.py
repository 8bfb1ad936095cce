"""The time that a schedule takes, predicted under the model of the links.

A rank enters a step of a lane when it has done its part of the step before it in that lane. Its messages
then leave in the order of the waves, each as `roundelay.collectives.links` says, and those that reach a port
or a processor are served in the order in which they get there. Arrivals to be reduced are reduced when all
messages of the rank's step are through. Lanes share ports and processors: first come, first served.

All messages of a step are computed together, in elementwise operations and sequential sums, so that the same
schedule, sizes and links have the same time to the last bit on every machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heapreplace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .links import Links, of_pair
from .schedule import Fold, Ranks, Schedule, Step, Wave
from .servers import Seconds, Servers

# Messages that are computed together. A step of more is cut, so as not to need the memory of all at once;
# messages that would overtake those of an earlier part of it then wait for them.
_LARGEST_BLOCK = 1 << 18


class Timeline(NamedTuple):
    """All messages of a simulation, one entry of each array for each message.

    Attributes
    ----------
    start, end : float64 arrays
        When the sender begins to send and when the receiver has the message, in seconds.
    source, destination : int64 arrays
        Ranks.
    nbytes : int64 array
    step : int64 array
        Number of the step within its lane.
    lane : int64 array
    """

    start: Seconds
    end: Seconds
    source: Ranks
    destination: Ranks
    nbytes: Ranks
    step: Ranks
    lane: Ranks


_NO_MESSAGES = Timeline(np.zeros(0), np.zeros(0), *(np.zeros(0, np.int64) for _ in range(5)))


class Prediction(NamedTuple):
    """Result of a simulation.

    Attributes
    ----------
    seconds : float
        When the last rank is done.
    timeline : Timeline
        The messages; none where they were not asked for.
    """

    seconds: float
    timeline: Timeline


def chunk_sizes(nbytes: int, chunks: int, itemsize: int = 1) -> NDArray[np.int64]:
    """Bytes of each chunk when an array of `nbytes` bytes is cut: chunk i begins at item n * i // chunks.

    Examples
    --------
    >>> chunk_sizes(40, 3, itemsize=8)
    array([ 8, 16, 16])
    """
    bounds = (nbytes // itemsize) * np.arange(chunks + 1, dtype=np.int64) // chunks
    return np.diff(bounds) * itemsize


def simulate(schedule: Schedule, sizes: ArrayLike, links: Links, timeline: bool = False) -> Prediction:
    """Predict the time of a schedule.

    Parameters
    ----------
    schedule : Schedule
    sizes : (chunks,) int array
        Bytes of each chunk; see `chunk_sizes`. Messages of no bytes are not sent.
    links : Links
    timeline : bool
        Whether to keep all messages.

    Raises
    ------
    ValueError
        If there are not as many sizes as chunks, or the links are of another number of ranks.

    Examples
    --------
    >>> from roundelay.collectives.algorithms.ring import ring_allreduce
    >>> simulate(ring_allreduce(8), chunk_sizes(1 << 20, 8), Links(latency=1e-3, per_byte=1e-8)).seconds
    0.03235...
    """
    sizes = np.asarray(sizes, np.int64)
    if sizes.shape != (schedule.chunks,):
        raise ValueError(f"sizes of shape {sizes.shape}: expected ({schedule.chunks},), one for each chunk")
    links.check(schedule.ranks)
    simulation = _Simulation(schedule, sizes, links, timeline)
    seconds = simulation.run(schedule)
    return Prediction(seconds, _joined(simulation.log) if timeline else _NO_MESSAGES)


@dataclass
class _Block:
    """Messages of a step that are computed together."""

    source: Ranks
    destination: Ranks
    nbytes: Ranks
    folded: NDArray[np.bool_]
    # Whether no rank sends or receives two of them.
    distinct: bool
    # When they are begun, get to their receivers' ports, and are through these.
    start: Seconds = field(init=False)
    arrival: Seconds = field(init=False)
    landed: Seconds = field(init=False)


class _Simulation:
    """Until when ports, processors and the medium are taken, and the messages so far."""

    def __init__(self, schedule: Schedule, sizes: NDArray[np.int64], links: Links, keeps_log: bool) -> None:
        self.links, self.ranks = links, schedule.ranks
        self.bounds = np.append(0, np.cumsum(sizes))
        self.processors, self.medium = Servers(self.ranks), Servers(1)
        # Behind the ranks' own ports are those that some share.
        self.shared_ports = None if links.ports is None else self.ranks + links.ports
        ports = self.ranks if self.shared_ports is None else 1 + int(self.shared_ports.max())
        self.outward, self.inward = Servers(ports), Servers(ports)
        self.keeps_log = keeps_log
        self.log: list[Timeline] = []

    def run(self, schedule: Schedule) -> float:
        """Let the lanes go on, always the one that has something to do first; return when all are done."""
        ends = [np.zeros(self.ranks) for _ in range(schedule.lanes)]
        lanes = [self._lane(steps, ready) for steps, ready in zip(_by_lane(schedule), ends, strict=True)]
        events = [(0.0, number) for number in range(len(lanes))]
        while events:
            number = events[0][1]
            time = next(lanes[number], None)
            if time is None:
                heappop(events)
            else:
                heapreplace(events, (time, number))
        return max(float(ready.max()) for ready in ends)

    def _lane(self, steps: Iterator[Step], ready: Seconds) -> Iterator[float]:
        """Run a lane, keep when each rank is `ready` with it, and yield the time of what is done next."""
        for number, step in enumerate(steps):
            yield _first(ready[wave.source] for wave in step.waves)
            done = ready.copy()
            blocks = list(self._blocks(step))
            for block in blocks:
                self._send(block, ready, done)
            yield _first(block.arrival for block in blocks)
            for block in blocks:
                self._land(block)
            yield _first(block.landed for block in blocks)
            folded = np.zeros(self.ranks)
            for block in blocks:
                end = self._receive(block, ready, done)
                folded += np.bincount(block.destination, block.nbytes * block.folded, self.ranks)
                if self.keeps_log:
                    self.log.append(_record(block, end, number, step.lane))
            yield _first([done[folded > 0]])
            self._reduce(folded, done)
            ready[:] = done

    def _blocks(self, step: Step) -> Iterator[_Block]:
        for waves in _cut(step.waves):
            joined = waves[0] if len(waves) == 1 else Wave(*map(np.concatenate, zip(*waves, strict=True)))
            nbytes = self.bounds[joined.chunk + joined.length] - self.bounds[joined.chunk]
            if not nbytes.all():
                joined = Wave(*(array[nbytes > 0] for array in joined))
                nbytes = nbytes[nbytes > 0]
            if len(nbytes):
                folded = joined.fold != Fold.TAKE
                yield _Block(joined.source, joined.destination, nbytes, folded, distinct=len(waves) == 1)

    def _send(self, block: _Block, ready: Seconds, done: Seconds) -> None:
        """Bring messages to their receivers' ports, and have the senders `done` when they have left."""
        links, source = self.links, block.source
        block.start = self.processors.serve(source, ready[source], links.overhead, block.distinct)
        carried, busy = self._on_the_wire(block)
        leave = self._through(self.outward, block, source, block.start + links.overhead, busy)
        if links.shared:
            leave = self._through_medium(block, leave, busy)
        np.maximum.at(done, source, leave + carried)
        block.arrival = leave + of_pair(links.latency, source, block.destination)

    def _land(self, block: _Block) -> None:
        """Bring messages through their receivers' ports."""
        carried, busy = self._on_the_wire(block)
        block.landed = self._through(self.inward, block, block.destination, block.arrival, busy) + carried

    def _receive(self, block: _Block, ready: Seconds, done: Seconds) -> Seconds:
        """Let receivers have messages, and be `done` then; return when each is through."""
        overhead, destination = self.links.overhead, block.destination
        there = np.maximum(block.landed, ready[destination])
        end = self.processors.serve(destination, there, overhead, block.distinct)
        end += overhead
        np.maximum.at(done, destination, end)
        return end

    def _reduce(self, folded: Seconds, done: Seconds) -> None:
        """Let ranks reduce their bytes, when they have done all else of the step."""
        (ranks,) = np.nonzero(folded)
        busy = (folded * self.links.reduce_per_byte)[ranks]
        done[ranks] = self.processors.serve(ranks, done[ranks], busy, distinct=True) + busy

    def _on_the_wire(self, block: _Block) -> tuple[Seconds, Seconds]:
        """Seconds that messages take to pass, and that they keep a port busy."""
        links = self.links
        carried = block.nbytes * of_pair(links.per_byte, block.source, block.destination)
        return carried, np.maximum(carried, max(links.gap, links.overhead))

    def _through(
        self, ports: Servers, block: _Block, ends: Ranks, arrival: Seconds, busy: Seconds
    ) -> Seconds:
        """When messages begin to pass the ports at one of their ends."""
        if self.shared_ports is None:
            return ports.serve(ends, arrival, busy, block.distinct)
        return ports.serve(np.where(self._leaves(block), self.shared_ports[ends], ends), arrival, busy)

    def _through_medium(self, block: _Block, arrival: Seconds, busy: Seconds) -> Seconds:
        """When messages begin to pass the medium, where they need it."""
        remote = self._leaves(block)
        start: Seconds = arrival.copy()
        if remote.any():
            only = np.zeros(int(remote.sum()), np.int64)
            start[remote] = self.medium.serve(only, arrival[remote], busy[remote])
        return start

    def _leaves(self, block: _Block) -> NDArray[np.bool_]:
        """Which messages go from one port to another one."""
        ports = np.arange(self.ranks) if self.shared_ports is None else self.shared_ports
        leaves: NDArray[np.bool_] = ports[block.source] != ports[block.destination]
        return leaves


def _first(times: Iterable[Seconds]) -> float:
    return min((float(each.min()) for each in times if len(each)), default=0.0)


def _by_lane(schedule: Schedule) -> list[Iterator[Step]]:
    """The steps of each lane, made when the first lane needs them."""
    steps = iter(schedule)
    waiting: list[deque[Step]] = [deque() for _ in range(schedule.lanes)]

    def of_lane(number: int) -> Iterator[Step]:
        while True:
            while not waiting[number]:
                step = next(steps, None)
                if step is None:
                    return
                waiting[step.lane].append(step)
            yield waiting[number].popleft()

    return [of_lane(number) for number in range(schedule.lanes)]


def _cut(waves: Sequence[Wave]) -> Iterator[Sequence[Wave]]:
    """Consecutive waves that are not too many messages together."""
    first = total = 0
    for number, wave in enumerate(waves):
        if total + len(wave.source) > _LARGEST_BLOCK and number > first:
            yield waves[first:number]
            first, total = number, 0
        total += len(wave.source)
    if total:
        yield waves[first:]


def _record(block: _Block, end: Seconds, step: int, lane: int) -> Timeline:
    numbers = (np.full(len(end), number, np.int64) for number in (step, lane))
    return Timeline(block.start, end, block.source, block.destination, block.nbytes, *numbers)


def _joined(parts: Sequence[Timeline]) -> Timeline:
    return Timeline(*map(np.concatenate, zip(_NO_MESSAGES, *parts, strict=True)))
