"""A worker: computes tasks, offers the vectors, and sends those that are asked for."""

from __future__ import annotations

import traceback
from time import perf_counter

import numpy as np

from .arrays import Packing
from .channel import CONTROL, NOTICE, REPORT, Channel, Vector
from .encoder import Encoder
from .info import TooFewWorkers
from .injection import Injection
from .messages import Abandon, Failure, Pull, Report, Start, Stop
from .shown import NotShown, Shown
from .waiting import Backoff


class Abandoned(Exception):
    """Nobody waits for this round any more."""


class Worker:
    """One rank that computes.

    Parameters
    ----------
    channel : Channel
    master : int
    streams : list of Packing
        The parameters of each model.
    encoder : Encoder
    injection : Injection, optional
    """

    def __init__(
        self,
        channel: Channel,
        master: int,
        streams: list[Packing],
        encoder: Encoder,
        injection: Injection | None,
    ) -> None:
        self._channel, self._master, self._streams = channel, master, streams
        self._encoder, self._injection = encoder, injection
        self._vectors: dict[tuple[int, int], Vector] = {}
        self._era = 0
        # The master's last word on rounds that are over, and on the training.
        self._over: Abandon | None = None
        self._stop: Stop | None = None

    def serve(self) -> None:
        """Work until the master says stop; raises what it says it stops for."""
        backoff = Backoff()
        while self._stop is None:
            self._channel.settle()
            # MPI may send a vector only while it is called: the next gradient would hold it up.
            found = None if self._channel.is_busy else self._channel.receive(self._master, CONTROL)
            if found is None:
                self._hear()
                backoff.pause()
                continue
            backoff.reset()
            message = found[0]
            if isinstance(message, Pull):
                self._send(message)
            else:
                self._work(message)
        stop, self._stop = self._stop, None
        self._channel.part([self._master])
        if stop.error is not None:
            raise stop.error

    def _send(self, wanted: Pull) -> None:
        # The result that an earlier scheme wanted is gone; nobody reads what is sent in its place.
        is_here = wanted.era == self._era
        vector = self._vectors[wanted.job, wanted.slot] if is_here else np.empty(0, np.uint8)
        self._channel.send_array(vector, self._master, wanted.tag)

    def _work(self, start: Start) -> None:
        if start.era != self._era:
            self._era = start.era
            self._vectors.clear()
            self._encoder.begin_anew()
        self._encoder.know(start.partitions)
        for place in [each for each in self._vectors if each[0] < start.first_open]:
            vector = self._vectors.pop(place)
            if not self._channel.is_busy:
                self._encoder.spares.keep(vector)
        done: dict[tuple[int, int], Shown | None] = {}
        begun = perf_counter()
        try:
            for job, source in start.parameters.items():
                self._receive_parameters(self._streams[job % len(self._streams)], source)
            begun = perf_counter()
            if self._injection is not None:
                self._injection.straggle(start.turn, lambda: self._look_up(start))
            for task in start.tasks:
                vector = self._encoder.encode(task, lambda: self._look_up(start))
                self._vectors[task.job, task.slot] = vector
                done[task.job, task.slot] = self._channel.memory.shown(vector, self._master)
        except Abandoned:
            pass
        except NotShown:
            # A master that shows parameters no more has ended the training: it says so.
            return
        except Exception:
            self._channel.send(Failure(traceback.format_exc()), self._master, REPORT)
            return
        report = Report(start.era, start.turn, done, self._encoder.signature, perf_counter() - begun)
        self._channel.send(report, self._master, REPORT)

    def _receive_parameters(self, stream: Packing, source: int | Shown) -> None:
        """Also for a round that is over: they are not sent again for a later one."""
        if isinstance(source, Shown):
            stream.unpack(self._channel.memory.look(source))
            return
        own = stream.memory
        memory = np.empty(stream.nbytes, np.uint8) if own is None else own
        request, backoff = self._channel.receive_array(memory, self._master, source), Backoff()
        while not self._channel.attempt(request.Test):
            self._hear()
            if self._stop is not None:
                raise Abandoned
            backoff.pause()
        if own is None:
            stream.unpack(memory)

    def _look_up(self, start: Start) -> None:
        """Give up a round that the master has ended."""
        self._hear()
        if self._stop is not None or self._over == Abandon(start.era, start.turn):
            raise Abandoned

    def _hear(self) -> None:
        if self._master in self._channel.gone.dead:
            raise TooFewWorkers(f"rank {self._master}, the master, is lost")
        while self._stop is None and (found := self._channel.receive(self._master, NOTICE)) is not None:
            if isinstance(found[0], Stop):
                self._stop = found[0]
            else:
                self._over = found[0]
