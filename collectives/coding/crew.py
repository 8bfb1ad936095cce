"""The workers as the master sees them: who computes, who has offered what, and which vectors are here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ...datatypes.plain import MPI
from .arrays import Signature
from .channel import ABANDON, CONTROL, REPORT, Channel, Spares, Vector, next_tag
from .info import WorkerError
from .messages import Abandon, Failure, Pull, Report, Start, Stop
from .shown import NotShown, Shown


class Place(NamedTuple):
    """Which vector of which worker."""

    era: int
    rank: int
    job: int
    slot: int


@dataclass(eq=False)
class _Parameters:
    """Memory with parameters, and since when the workers have computed that they were given to last."""

    memory: Vector
    since: dict[int, float] = field(default_factory=dict)


@dataclass
class _Worker:
    """Since when it computes, if it does; which parameters it was sent; and what it is sending."""

    since: float | None = None
    has: set[int] = field(default_factory=set)
    sending: list[tuple[MPI.Request, Place, Vector]] = field(default_factory=list)


class Crew:
    """Messages to and from workers.

    Parameters
    ----------
    channel : Channel
    ranks : sequence of int
    wire : dtype, optional
        Of the vectors, if not the gradient's own.
    """

    def __init__(self, channel: Channel, ranks: Sequence[int], wire: np.dtype[Any] | None) -> None:
        self._channel, self._wire = channel, wire
        self._workers = {rank: _Worker() for rank in ranks}
        self._wanted: set[Place] = set()
        self._vectors: dict[Place, Vector] = {}
        # Those whose memory is not this crew's.
        self._seen: dict[Place, Vector] = {}
        self._spares = Spares(lambda nbytes: np.empty(nbytes, np.uint8))
        self._given: dict[int, _Parameters] = {}
        self._returned: list[_Parameters] = []
        self.signature: Signature | None = None
        self._signer = -1

    def is_free(self, rank: int) -> bool:
        """Whether a worker waits for something to do."""
        return self._workers[rank].since is None

    def silent(self, seconds: float) -> list[int]:
        """Workers that have been computing for longer."""
        now = perf_counter()
        return [
            rank
            for rank, each in self._workers.items()
            if each.since is not None and now - each.since > seconds
        ]

    def begin_anew(self) -> None:
        """Forget what was sent and received: another scheme follows."""
        self._wanted.clear()
        self._vectors.clear()
        self._seen.clear()
        for worker in self._workers.values():
            worker.has.clear()

    # Parameters -----------------------------------------------------------------------------------

    def room(self, job: int, nbytes: int) -> Vector:
        """Memory for the parameters of a job, which `start` sends; what it had before is forgotten."""
        self.forget_parameters(job)
        usable = [each for each in self._returned if self._is_read(each)]
        self._returned = [each for each in self._returned if each not in usable]
        fitting = [each.memory for each in usable if each.memory.nbytes == nbytes]
        memory = fitting[0] if fitting else self._channel.memory.room(nbytes)
        self._given[job] = _Parameters(memory)
        return memory

    def forget_parameters(self, job: int) -> None:
        """Have the memory of a job's parameters used again once nobody reads it."""
        if job in self._given:
            self._returned.append(self._given.pop(job))

    def _is_read(self, parameters: _Parameters) -> bool:
        """Whether all workers that were given parameters have answered since."""
        return not self._channel.is_sending and all(
            self._workers[rank].since != since for rank, since in parameters.since.items()
        )

    # To workers -----------------------------------------------------------------------------------

    def start(self, rank: int, start: Start) -> None:
        """Have a free worker compute; the parameters of its jobs go with it, if it does not have them."""
        worker = self._workers[rank]
        worker.since = perf_counter()
        sources: dict[int, int | Shown] = {}
        for job in sorted({task.job for task in start.tasks} - worker.has):
            given = self._given[job]
            shown = self._channel.memory.shown(given.memory, rank)
            sources[job] = next_tag(is_asked=False) if shown is None else shown
            given.since[rank] = worker.since
        self._channel.send(start._replace(parameters=sources), rank, CONTROL)
        for job, source in sources.items():
            if not isinstance(source, Shown):
                self._channel.send_array(self._given[job].memory, rank, source)
        worker.has.update(sources)

    def abandon(self, rank: int, era: int, turn: int) -> None:
        """Tell a worker that computes that a round is over; it may look meanwhile."""
        if not self.is_free(rank):
            self._channel.send(Abandon(era, turn), rank, ABANDON)

    def pull(self, place: Place, pieces: int, shown: Shown | None = None) -> None:
        """Ask for a vector that was offered, if it was not before; `vector` has it once it is here."""
        if place in self._wanted or self.signature is None:
            return
        self._wanted.add(place)
        dtype = self.signature.sent_as(self._wire)
        if shown is not None:
            # A worker that does not show it any more is not likely to answer, either.
            with suppress(NotShown):
                self._seen[place] = self._channel.memory.look(shown).view(dtype)
                return
        vector, tag = self._spares.take(self.signature.length(pieces), dtype), next_tag(is_asked=True)
        request = self._channel.receive_array(vector, place.rank, tag)
        self._workers[place.rank].sending.append((request, place, vector))
        self._channel.send(Pull(place.era, place.job, place.slot, tag), place.rank, CONTROL)

    def keep(self, place: Place, vector: Vector) -> None:
        """Add a vector that was computed here."""
        self._seen[place] = vector

    def vector(self, place: Place) -> Vector | None:
        """A vector, if it is here."""
        return self._vectors.get(place, self._seen.get(place))

    def drop(self, job: int) -> None:
        """Forget the vectors of a job."""
        for place in [each for each in self._vectors if each.job == job]:
            self._spares.keep(self._vectors.pop(place))
        self._seen = {place: each for place, each in self._seen.items() if place.job != job}
        self._wanted = {place for place in self._wanted if place.job != job}

    # From workers ---------------------------------------------------------------------------------

    def listen(self) -> tuple[list[tuple[int, Report]], bool]:
        """Reports that have arrived, and whether any vector has; raises `WorkerError`."""
        reports: list[tuple[int, Report]] = []
        while (found := self._channel.receive(MPI.ANY_SOURCE, REPORT)) is not None:
            message, rank = found
            if isinstance(message, Failure):
                raise WorkerError(f"rank {rank} raised an exception:\n{message.text}")
            self._workers[rank].since = None
            self.check(message.signature, rank)
            reports.append((rank, message))
        arrived = [self._arrive(worker) for worker in self._workers.values() if worker.sending]
        self._channel.settle()
        return reports, any(arrived)

    def _arrive(self, worker: _Worker) -> bool:
        before, worker.sending = worker.sending, []
        for each in before:
            request, place, vector = each
            if not request.Test():
                worker.sending.append(each)
            elif place in self._wanted:
                self._vectors[place] = vector
        return len(worker.sending) < len(before)

    def check(self, signature: Signature | None, rank: int) -> None:
        """Raise `WorkerError` if the gradient of a rank has not the shapes and dtype of the others."""
        if signature is None:
            return
        if self.signature is None:
            self.signature, self._signer = signature, rank
        elif signature != self.signature:
            raise WorkerError(
                f"the gradient of rank {rank} is {signature}, that of rank {self._signer} is {self.signature}"
            )

    def part(self, error: Exception | None) -> None:
        """Tell the workers that there are no more rounds; those that do not answer are not waited for."""
        for rank in self._workers:
            self._channel.send(Stop(error), rank, CONTROL)
        self._channel.part(self._workers)
        self.cancel()

    def cancel(self) -> None:
        """Wait for no vector any more."""
        for worker in self._workers.values():
            for request, _, _ in worker.sending:
                if not request.Test():
                    request.Cancel()
                    request.Free()
            worker.sending.clear()
