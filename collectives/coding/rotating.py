"""All ranks as workers that take turns at being the master, and change parameters of their own alike."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from ...datatypes.plain import MPI
from .arrays import Packing, gradient_like
from .channel import CONTROL, NOTICE, REPORT, Channel, Vector, next_tag
from .crew import Crew, Place
from .encoder import Encoder
from .info import Limits, RoundInfo, TooFewWorkers, WorkerError
from .injection import Injection
from .messages import Failure, Outcome, Pull, Report, Stop
from .offers import Offers
from .rounds import Round
from .scheme import Combination, Scheme
from .waiting import Backoff, Waited, usual_seconds
from .worker import Abandoned


class Stopped(Exception):
    """Another rank has ended the training by an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Rotation:
    """One of the ranks that take turns; rank t modulo their number is the master of round t.

    Parameters
    ----------
    channel : Channel
    scheme : Scheme
        Without delay.
    stream : Packing
        The parameters.
    encoder : Encoder
    limits : Limits
    wire : dtype, optional
    injection : Injection, optional
    """

    def __init__(
        self,
        channel: Channel,
        scheme: Scheme,
        stream: Packing,
        encoder: Encoder,
        limits: Limits,
        wire: np.dtype[Any] | None,
        injection: Injection | None,
    ) -> None:
        self._channel, self._scheme, self._stream, self._encoder = channel, scheme, stream, encoder
        self._limits, self._injection = limits, injection
        encoder.know(scheme.partitions)
        self._ranks = range(channel.size)
        self._others = [rank for rank in self._ranks if rank != channel.rank]
        self._crew = Crew(channel, self._ranks, wire)
        self._vectors: dict[tuple[int, int], Vector] = {}
        # Messages of the master of the round that came while this rank computed.
        self._heard: deque[Any] = deque()
        self._turn = -1

    def rounds(self, jobs: int) -> Iterator[tuple[Any, RoundInfo]]:
        """Yield the gradient of each job, on all ranks; raises `WorkerError` and `TooFewWorkers`."""
        self._offers = Offers(self._crew, self._scheme, 0, self._ranks, 0, jobs)
        self._pattern = self._scheme.pattern()
        self._heard.clear()
        self._crew.begin()
        self._crew.begin_anew()
        try:
            for job in range(jobs):
                self._turn += 1
                is_master = self._turn % self._channel.size == self._channel.rank
                outcome, vector = self._lead(job) if is_master else self._follow(job)
                self._vectors.clear()
                yield gradient_like(outcome.signature, vector, self._stream.given), outcome.info
        except Stopped as stopped:
            raise stopped.error from None
        except (WorkerError, TooFewWorkers) as failure:
            for rank in self._others:
                self._channel.send(Stop(failure), rank, NOTICE)
            raise
        finally:
            self._crew.part()

    def _heed(self) -> None:
        """Raise `Stopped` if another rank has ended the training."""
        if (found := self._channel.receive(MPI.ANY_SOURCE, NOTICE)) is not None:
            raise Stopped(found[0].error)

    # As one of the others -------------------------------------------------------------------------

    def _follow(self, job: int) -> tuple[Outcome, Vector]:
        master = self._turn % self._channel.size
        report = self._compute(job, lambda: self._look_up(master))
        if report is not None:
            self._channel.send(report, master, REPORT)
        waited, backoff = Waited(), Backoff()
        while not isinstance(message := self._hear(master), Outcome):
            if isinstance(message, Pull):
                self._channel.send_array(self._vectors[message.job, message.slot], master, message.tag)
                backoff.reset()
            elif self._channel.has_left(master) and not self._channel.has_sent(master, CONTROL):
                self._heed()
                raise TooFewWorkers(f"round {job}: rank {master}, whose turn it is to decode, has left")
            else:
                self._wait(waited, backoff, master)
        self._offers.forget(job)
        gradient = np.empty(message.length, message.dtype)
        request = self._channel.receive_array(gradient, master, message.tag)
        while not self._channel.attempt(request.Test):
            self._wait(waited, backoff, master)
        return message, gradient

    def _wait(self, waited: Waited, backoff: Backoff, master: int) -> None:
        """Wait a little for what the master says: in all for longer than it waits for others itself."""
        self._heed()
        is_late = waited.look() > 2 * self._limits.lost_after and self._limits.on_deadline != "wait"
        if is_late or master in self._channel.gone:
            raise TooFewWorkers(
                f"round {self._turn}: ranks [{master}] have not answered for {waited.seconds:.1f} s, "
                "and it is their turn to decode"
            )
        backoff.pause()

    def _hear(self, master: int) -> Any:
        """The next message of the master, or None."""
        self._channel.settle()
        if self._heard:
            return self._heard.popleft()
        found = self._channel.receive(master, CONTROL)
        return None if found is None else found[0]

    def _look_up(self, master: int) -> None:
        """Give up what nobody waits for: a master has nothing else to say to a rank that has not answered."""
        self._heed()
        if (message := self._hear(master)) is not None:
            self._heard.append(message)
            raise Abandoned

    def _compute(self, job: int, look_up: Any) -> Report | Failure | None:
        """Compute this rank's vectors; None if it was given up."""
        begun = perf_counter()
        try:
            if self._injection is not None:
                self._injection.straggle(self._turn, look_up)
            for task in self._offers.progress.tasks(job, self._channel.rank):
                self._vectors[job, task.slot] = self._encoder.encode(task, look_up)
        except Abandoned:
            return None
        except Stopped:
            raise
        except Exception:
            return Failure(traceback.format_exc())
        seconds = perf_counter() - begun
        master, memory = self._turn % self._channel.size, self._channel.memory
        done = {place: memory.shown(vector, master) for place, vector in self._vectors.items()}
        return Report(0, self._turn, done, self._encoder.signature, seconds)

    # As the master --------------------------------------------------------------------------------

    def _lead(self, job: int) -> tuple[Outcome, Vector]:
        combination, round_ = self._collect(job)
        missing = round_.missing()
        self._pattern.close(missing)
        info = round_.info(job, 0, combination, 0, self._crew.silent(self._limits.lost_after))
        gradient = self._offers.decode(job, combination)
        assert self._crew.signature is not None
        tag = next_tag(is_asked=False)
        outcome = Outcome(info, self._crew.signature, gradient.size, str(gradient.dtype), tag)
        sends = {}
        for rank in self._others:
            self._channel.send(outcome, rank, CONTROL)
            sends[rank] = self._channel.send_array(gradient, rank, tag)
        self._push([sends[rank] for rank in self._others if not missing[rank]], gradient.nbytes)
        # The program must not change an array while it is sent.
        return outcome, gradient.copy()

    def _push(self, sends: list[MPI.Request], nbytes: int) -> None:
        """Wait for ranks that answer to have what they are sent: MPI may send only while it is called."""
        waited, backoff = Waited(), Backoff()
        while any(sends) and waited.look() < usual_seconds(nbytes * len(sends)):
            self._channel.settle()
            backoff.pause()

    def _take_own(self, job: int) -> None:
        """Compute what this rank adds itself."""
        own = self._compute(job, self._heed)
        if isinstance(own, Failure):
            raise WorkerError(f"rank {self._channel.rank} raised an exception:\n{own.text}")
        assert own is not None
        self._crew.check(own.signature, self._channel.rank)
        for place, vector in self._vectors.items():
            self._crew.keep(Place(0, self._channel.rank, *place), vector)
        self._offers.take(self._channel.rank, own)

    def _collect(self, job: int) -> tuple[Combination, Round]:
        """Wait until what came can be decoded, and is here."""
        round_, backoff, gone = Round(self._scheme.name, job, self._ranks), Backoff(), list[int]()
        for rank in self._ranks:
            if not self._offers.progress.tasks(job, rank):
                round_.excuse(rank)
        self._take_own(job)
        self._crew.expect(self._others)
        while True:
            reports, arrived = self._crew.listen()
            for rank, report in reports:
                if report.turn == self._turn:
                    self._offers.take(rank, report)
                else:
                    # It was late, and comes to this round now.
                    self._crew.expect([rank])
            for answer in self._offers.answers(arrived):
                round_.answer(answer.rank, answer.report.seconds)
            silent = self._crew.silent(self._limits.lost_after) + gone
            is_over, exactly = round_.verdict(self._pattern, self._limits, silent)
            if is_over:
                combination = self._offers.combine(round_, job, exactly, self._limits, silent)
                if combination is not None:
                    return combination, round_
            if reports or arrived:
                backoff.reset()
            else:
                gone = [rank for rank in self._others if self._channel.has_left(rank)]
                self._heed()
                backoff.pause()
