"""All ranks as workers that take turns at being the master, and change parameters of their own alike."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from .arrays import Packing, gradient_like
from .channel import CONTROL, REPORT, Backoff, Channel, Vector, next_tag
from .crew import Crew, Place
from .encoder import Encoder
from .info import Limits, RoundInfo, TooFewWorkers, WorkerError
from .injection import Injection
from .messages import Failure, Outcome, Pull, Report, Stop
from .rounds import Round, decode, places_of
from .scheme import Combination, Scheme
from .worker import Abandoned


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
        self._crew = Crew(channel, self._ranks, wire)
        self._vectors: dict[tuple[int, int], Vector] = {}
        # What the master of the round has said while this rank computed.
        self._heard: deque[Any] = deque()
        self._turn = -1

    def rounds(self, jobs: int) -> Iterator[tuple[Any, RoundInfo]]:
        """Yield the gradient of each job, on all ranks; raises `WorkerError` and `TooFewWorkers`."""
        self._progress, self._pattern = self._scheme.start(jobs), self._scheme.pattern()
        try:
            for job in range(jobs):
                self._turn += 1
                is_master = self._turn % self._channel.size == self._channel.rank
                outcome, vector = self._lead(job) if is_master else self._follow(job)
                self._progress.forget(job)
                self._vectors.clear()
                yield gradient_like(outcome.signature, vector, self._stream.given), outcome.info
        finally:
            self._channel.part(self._others())
            self._crew.cancel()

    # As one of the others -------------------------------------------------------------------------

    def _follow(self, job: int) -> tuple[Outcome, Vector]:
        master, begun, backoff = self._turn % self._channel.size, perf_counter(), Backoff()
        report = self._compute(job, lambda: self._look_up(master))
        if report is not None:
            self._channel.send(report, master, REPORT)
        while not isinstance(message := self._hear(master), Outcome):
            if isinstance(message, Stop):
                assert message.error is not None
                raise message.error
            if isinstance(message, Pull):
                self._channel.send_array(self._vectors[message.job, message.slot], master, message.tag)
                backoff.reset()
            elif perf_counter() - begun > self._limits.lost_after:
                raise TooFewWorkers(
                    f"round {job}: rank {master}, whose turn it is to decode, has not answered for "
                    f"{self._limits.lost_after} s"
                )
            else:
                backoff.pause()
        gradient = np.empty(message.length, message.dtype)
        self._channel.receive_array(gradient, master, message.tag).Wait()
        return message, gradient

    def _hear(self, master: int) -> Any:
        """What the master says next, or None."""
        self._channel.settle()
        if self._heard:
            return self._heard.popleft()
        found = self._channel.receive(master, CONTROL)
        return None if found is None else found[0]

    def _look_up(self, master: int) -> None:
        """Give up what nobody waits for: a master has nothing else to say to a rank that has not answered."""
        if (message := self._hear(master)) is not None:
            self._heard.append(message)
            raise Abandoned

    def _compute(self, job: int, look_up: Any) -> Report | Failure | None:
        """Compute this rank's vectors; None if it was given up."""
        begun = perf_counter()
        try:
            if self._injection is not None:
                self._injection.straggle(self._turn, look_up)
            for task in self._progress.tasks(job, self._channel.rank):
                self._vectors[job, task.slot] = self._encoder.encode(task, look_up)
        except Abandoned:
            return None
        except Exception:
            return Failure(traceback.format_exc())
        seconds = perf_counter() - begun
        master, memory = self._turn % self._channel.size, self._channel.memory
        done = {place: memory.shown(vector, master) for place, vector in self._vectors.items()}
        return Report(0, self._turn, done, self._encoder.signature, seconds)

    # As the master --------------------------------------------------------------------------------

    def _lead(self, job: int) -> tuple[Outcome, Vector]:
        try:
            combination, round_ = self._collect(job)
        except (WorkerError, TooFewWorkers) as failure:
            for rank in self._others():
                self._channel.send(Stop(failure), rank, CONTROL)
            raise
        gradient = decode(self._crew, combination, self._places(job, combination), self._scheme.pieces)
        self._crew.drop(job)
        self._pattern.close(round_.missing())
        info = round_.info(job, 0, combination, 0, ())
        assert self._crew.signature is not None
        tag = next_tag(is_asked=False)
        outcome = Outcome(info, self._crew.signature, gradient.size, str(gradient.dtype), tag)
        for rank in self._others():
            self._channel.send(outcome, rank, CONTROL)
            self._channel.send_array(gradient, rank, tag)
        # What is sent is not the program's to change.
        return outcome, gradient.copy()

    def _others(self) -> list[int]:
        return [rank for rank in self._ranks if rank != self._channel.rank]

    def _collect(self, job: int) -> tuple[Combination, Round]:
        """Wait until what came can be decoded, and is here."""
        self._begun = perf_counter()
        round_, backoff = Round(self._scheme.name, job, self._ranks), Backoff()
        for rank in self._ranks:
            if not self._progress.tasks(job, rank):
                round_.excuse(rank)
        own = self._compute(job, lambda: None)
        if isinstance(own, Failure):
            raise WorkerError(f"rank {self._channel.rank} raised an exception:\n{own.text}")
        assert own is not None
        self._crew.check(own.signature, self._channel.rank)
        for place, vector in self._vectors.items():
            self._crew.keep(Place(0, self._channel.rank, *place), vector)
        self._answer(self._channel.rank, own, round_)
        while (combination := self._combine(job, round_)) is None:
            reports, arrived = self._crew.listen()
            for rank, report in reports:
                if report.turn == self._turn:
                    self._answer(rank, report, round_)
            if reports or arrived:
                backoff.reset()
            else:
                backoff.pause()
        return combination, round_

    def _answer(self, rank: int, report: Report, round_: Round) -> None:
        round_.answer(rank, report.seconds)
        for (job, slot), shown in report.done.items():
            if self._progress.receive(rank, job, slot) and rank != self._channel.rank:
                self._crew.pull(Place(0, rank, job, slot), self._scheme.pieces, shown)

    def _combine(self, job: int, round_: Round) -> Combination | None:
        """How to decode, if the round may end and all that it needs is here."""
        is_silent = perf_counter() - self._begun > self._limits.lost_after
        is_over, exactly = round_.verdict(self._pattern, self._limits, self._ranks if is_silent else ())
        combination = self._progress.combine(job, exactly) if is_over else None
        if combination is None:
            return None
        lacking = [place for place in self._places(job, combination) if self._crew.vector(place) is None]
        return None if lacking else combination

    def _places(self, job: int, combination: Combination) -> list[Place]:
        return places_of(combination, 0, job, self._ranks)
