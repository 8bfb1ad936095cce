"""The workers as the master sees them: who computes, who has offered what, and which vectors are here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...datatypes.plain import MPI
from .arrays import Signature
from .channel import CONTROL, NOTICE, REPORT, Channel, Spares, Vector, next_tag
from .info import WorkerError
from .messages import Abandon, Failure, Pull, Report, Start, Stop
from .shown import NotShown, Shown
from .waiting import Waited, usual_seconds

# Of a worker that has come to the end of the training before.
_NOTHING = Report(0, -1, {}, None, 0.0)


class Place(NamedTuple):
    """Which vector of which worker."""

    era: int
    rank: int
    job: int
    slot: int


@dataclass(eq=False)
class _Parameters:
    """Memory with parameters, its sends, and since when the workers have computed that it was shown to."""

    memory: Vector
    since: dict[int, float] = field(default_factory=dict)
    sends: list[MPI.Request] = field(default_factory=list)


class _Pulled(NamedTuple):
    """A vector that a worker was asked for, and since when."""

    request: MPI.Request
    place: Place
    vector: Vector
    since: float


@dataclass
class _Worker:
    """Since when it computes, if it does, and for which round; what it has, and what it was asked for.

    Times are those that the master has waited.
    """

    since: float | None = None
    round: Abandon | None = None
    has: set[int] = field(default_factory=set)
    pulled: list[_Pulled] = field(default_factory=list)

    def is_silent(self, now: float, seconds: float) -> bool:
        """Whether an answer of it takes longer."""
        first = self.pulled[0].since if self.pulled else now
        return now - (first if self.since is None else min(first, self.since)) > seconds


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
        self._waited = Waited()
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
        """Workers that are gone, or whose answer was waited for longer than that."""
        now, gone = self._waited.seconds, self._channel.gone
        return [rank for rank, each in self._workers.items() if rank in gone or each.is_silent(now, seconds)]

    def asked(self) -> list[int]:
        """Workers that were asked for vectors which are not here."""
        return [rank for rank, each in self._workers.items() if each.pulled]

    def is_late(self) -> bool:
        """Whether a vector that was asked for should have come."""
        pulled = [each for worker in self._workers.values() for each in worker.pulled]
        if not pulled:
            return False
        usual = usual_seconds(sum(each.vector.nbytes for each in pulled))
        return self._waited.seconds - min(each.since for each in pulled) > usual

    def expect(self, ranks: Iterable[int]) -> None:
        """Wait for workers that compute without being told to."""
        for rank in ranks:
            self._workers[rank].since = self._waited.seconds

    def begin(self) -> None:
        """Begin a training: all are free, but those that have not come to the end of the one before."""
        for rank, worker in self._workers.items():
            if rank not in self._channel.owing:
                worker.since = None

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
        for worker in self._workers.values():
            worker.has.discard(job)

    def _is_read(self, parameters: _Parameters) -> bool:
        """Whether all workers that were given parameters have answered since."""
        return not any(parameters.sends) and all(
            self._workers[rank].since != since for rank, since in parameters.since.items()
        )

    # To workers -----------------------------------------------------------------------------------

    def start(self, rank: int, start: Start) -> None:
        """Have a free worker compute; the parameters of its jobs go with it, if it does not have them."""
        worker = self._workers[rank]
        worker.since, worker.round = self._waited.seconds, Abandon(start.era, start.turn)
        sources: dict[int, int | Shown] = {}
        for job in sorted({task.job for task in start.tasks} - worker.has):
            given = self._given[job]
            shown = self._channel.memory.shown(given.memory, rank)
            sources[job] = next_tag(is_asked=False) if shown is None else shown
            given.since[rank] = worker.since
        self._channel.send(start._replace(parameters=sources), rank, CONTROL)
        for job, source in sources.items():
            if not isinstance(source, Shown):
                given = self._given[job]
                given.sends.append(self._channel.send_array(given.memory, rank, source))
        worker.has.update(sources)

    def abandon(self, rank: int) -> None:
        """Tell a worker that computes, once, that its round is over; it may look meanwhile."""
        worker = self._workers[rank]
        if worker.since is not None and worker.round is not None:
            self._channel.send(worker.round, rank, NOTICE)
            worker.round = None

    def pull(self, place: Place, pieces: int, shown: Shown | None = None) -> bool:
        """Ask for a vector that was offered, if it was not before; tell whether it is here already."""
        if place in self._wanted or self.signature is None:
            return self.vector(place) is not None
        self._wanted.add(place)
        dtype = self.signature.sent_as(self._wire)
        if shown is not None:
            # A worker that does not show it any more is not likely to answer, either.
            with suppress(NotShown):
                self._seen[place] = self._channel.memory.look(shown).view(dtype)
                return True
        vector, tag = self._spares.take(self.signature.length(pieces), dtype), next_tag(is_asked=True)
        request = self._channel.receive_array(vector, place.rank, tag)
        self._workers[place.rank].pulled.append(_Pulled(request, place, vector, self._waited.seconds))
        self._channel.send(Pull(place.era, place.job, place.slot, tag), place.rank, CONTROL)
        return False

    def keep(self, place: Place, vector: Vector) -> None:
        """Add a vector that was computed here."""
        self._wanted.add(place)
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

    def listen(self) -> tuple[list[tuple[int, Report]], list[Place]]:
        """Reports, and wanted vectors, that have arrived; raises `WorkerError`."""
        self._waited.look()
        reports: list[tuple[int, Report]] = []
        while (found := self._channel.receive(MPI.ANY_SOURCE, REPORT)) is not None:
            message, rank = found
            if isinstance(message, Failure):
                raise WorkerError(f"rank {rank} raised an exception:\n{message.text}")
            self._note_answer(rank)
            self.check(message.signature, rank)
            reports.append((rank, message))
        for rank in self._channel.come_back():
            self._note_answer(rank)
            reports.append((rank, _NOTHING))
        arrived = [
            place
            for rank, worker in self._workers.items()
            if worker.pulled and rank not in self._channel.gone.dead
            for place in self._arrive(worker)
        ]
        self._channel.settle()
        return reports, arrived

    def _note_answer(self, rank: int) -> None:
        self._workers[rank].since = None
        self._channel.gone.has_answered(rank)

    def _arrive(self, worker: _Worker) -> list[Place]:
        before, worker.pulled, arrived = worker.pulled, [], []
        for each in before:
            if not self._channel.attempt(each.request.Test):
                worker.pulled.append(each)
            elif each.place in self._wanted:
                self._vectors[each.place] = each.vector
                arrived.append(each.place)
        return arrived

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

    def stop(self, error: Exception | None) -> None:
        """Tell the workers that there are no more rounds."""
        for rank in self._workers:
            self._channel.send(Stop(error), rank, NOTICE)

    def part(self) -> None:
        """Come to the end; workers that do not answer are not waited for."""
        self._channel.part(self._workers)
        for worker in self._workers.values():
            worker.pulled.clear()
