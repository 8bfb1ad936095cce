"""The master: hands out tasks, ends rounds, and decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from .arrays import Packing, gradient_like
from .crew import Crew
from .info import Limits, RoundInfo, TooFewWorkers, WorkerError
from .messages import Report, Start
from .offers import Offers
from .rounds import Round
from .scheme import Combination, Scheme
from .waiting import Backoff

# Of all trainings of this process: messages of one are told from those of another.
_eras = count(1)


class Era:
    """Rounds by one scheme; its jobs and workers count from 0, those of messages do not.

    Parameters
    ----------
    number : int
        What tells its messages from those of others.
    scheme : Scheme
    ranks : sequence of int
        Of each worker.
    first, last : int
        Jobs that it is to do, `last` not among them.
    crew : Crew
    streams : sequence of Packing
    limits : Limits
    is_outdated : callable
        Whether another scheme is to follow, be it in the middle of a round.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        number: int,
        scheme: Scheme,
        ranks: Sequence[int],
        first: int,
        last: int,
        crew: Crew,
        streams: Sequence[Packing],
        limits: Limits,
        is_outdated: Callable[[], bool],
    ) -> None:
        self.number, self.scheme, self.ranks, self.first = number, scheme, list(ranks), first
        self.jobs = last - first
        self.late = 0
        self._crew, self._streams, self._limits = crew, streams, limits
        self._is_outdated = is_outdated
        self._offers = Offers(crew, scheme, number, ranks, first, self.jobs)
        self._pattern = scheme.pattern()
        # Partitions that each worker has been told of.
        self._told: list[set[int]] = [set() for _ in ranks]
        self._round = Round(scheme.name, -1, ranks)
        crew.begin_anew()

    def rounds(self) -> Iterator[tuple[Any, RoundInfo]]:
        """The gradient of each job; ends early when the scheme is outdated."""
        for turn in range(self.jobs + self.scheme.delay):
            due = turn - self.scheme.delay
            if turn < self.jobs:
                self._keep_parameters(self.first + turn)
            combination = self._run(turn, due)
            if combination is not None:
                yield self._finish(due, combination)
            if self._is_outdated():
                return

    def _keep_parameters(self, job: int) -> None:
        """Those of a job as they are now: they may be sent when the program has changed them."""
        stream = self._streams[job % len(self._streams)]
        stream.pack(self._crew.room(job, stream.nbytes))

    def _run(self, turn: int, due: int) -> Combination | None:
        """One round; returns how to decode the job that is due, its vectors being here."""
        self._round, backoff, combination = Round(self.scheme.name, turn, self.ranks), Backoff(), None
        for worker in range(len(self.ranks)):
            self._start(worker)
        while True:
            has_heard = self._listen()
            # Before it is asked whether others go on without them: else it could be too late in between.
            silent = self._crew.silent(self._limits.lost_after)
            if self._is_outdated():
                break
            is_over, exactly = self._round.verdict(self._pattern, self._limits, silent)
            if is_over:
                if due >= 0:
                    combination = self._offers.combine(self._round, due, exactly, self._limits, silent)
                if combination is not None or due < 0:
                    self._pattern.close(self._round.missing())
                    break
            if has_heard:
                backoff.reset()
            else:
                backoff.pause()
        for rank in self.ranks:
            self._crew.abandon(rank)
        return combination

    def _listen(self) -> bool:
        """Take what has arrived; a worker that comes late takes part in this round."""
        reports, arrived = self._crew.listen()
        for rank, report in reports:
            if rank not in self.ranks:
                continue
            if report.era == self.number:
                self._offers.take(rank, report)
            if not self._is_now(report):
                self._start(self.ranks.index(rank))
        for answer in self._offers.answers(arrived):
            if self._is_now(answer.report):
                self._round.answer(self.ranks.index(answer.rank), answer.report.seconds)
            else:
                self.late += answer.used
        return bool(reports or arrived)

    def _is_now(self, report: Report) -> bool:
        return (report.era, report.turn) == (self.number, self._round.turn)

    def _start(self, worker: int) -> None:
        """Give a worker what it has to do in this round, once it is free."""
        tasks = self._offers.progress.tasks(self._round.turn, worker)
        if not tasks:
            self._round.excuse(worker)
        if not tasks or not self._crew.is_free(self.ranks[worker]):
            return
        partitions = {each for task in tasks for each in task.partitions} - self._told[worker]
        self._told[worker] |= partitions
        tasks = tuple(task._replace(job=self.first + task.job) for task in tasks)
        oldest = self.first + max(0, self._round.turn - self.scheme.delay)
        new = [self.scheme.partitions[each] for each in partitions]
        start = Start(self.number, self._round.turn, tasks, new, oldest, {})
        self._crew.start(self.ranks[worker], start)

    def _finish(self, due: int, combination: Combination) -> tuple[Any, RoundInfo]:
        """Decode a job, and forget it."""
        job, signature = self.first + due, self._crew.signature
        assert signature is not None
        whole = self._offers.decode(due, combination)
        self._crew.forget_parameters(job)
        stream = job % len(self._streams)
        gradient = gradient_like(signature, whole, self._streams[stream].given)
        lost = self._crew.silent(self._limits.lost_after)
        info = self._round.info(job, stream, combination, self.late, lost)
        return gradient, info


class Master:
    """Eras one after the other, until all jobs are done.

    Parameters
    ----------
    crew : Crew
    scheme : Scheme
    ranks : sequence of int
        Of each worker.
    streams : sequence of Packing
        The parameters of each model.
    limits : Limits
    replan : callable, optional
        Returns a scheme for fewer workers, to go on without those that are lost.
    """

    def __init__(
        self,
        crew: Crew,
        scheme: Scheme,
        ranks: Sequence[int],
        streams: Sequence[Packing],
        limits: Limits,
        replan: Callable[[int], Scheme] | None,
    ) -> None:
        self._crew, self._scheme, self._ranks = crew, scheme, list(ranks)
        self._streams, self._limits, self._replan = streams, limits, replan
        self._next: Scheme | None = None

    def switch(self, scheme: Scheme) -> None:
        """Go on with another scheme after this round; jobs that are not decoded yet begin again."""
        self._next = scheme

    def rounds(self, jobs: int) -> Iterator[tuple[Any, RoundInfo]]:
        """Yield the gradient of each job in turn; raises `WorkerError` and `TooFewWorkers`."""
        error: Exception | None = None
        done = 0
        self._crew.begin()
        try:
            while done < jobs:
                self._adopt()
                era = Era(
                    next(_eras),
                    self._scheme,
                    self._ranks,
                    done,
                    jobs,
                    self._crew,
                    self._streams,
                    self._limits,
                    self._is_outdated,
                )
                for each in era.rounds():
                    done += 1
                    yield each
        except (WorkerError, TooFewWorkers, ValueError) as failure:
            error = failure
            raise
        finally:
            self._crew.stop(error)
            self._crew.part()

    def _lost(self) -> set[int]:
        """Workers to go on without."""
        if self._replan is None:
            return set()
        return set(self._crew.silent(self._limits.lost_after)).intersection(self._ranks)

    def _is_outdated(self) -> bool:
        """Whether another scheme follows: one was asked for, or workers are lost."""
        return self._next is not None or bool(self._lost())

    def _adopt(self) -> None:
        """Take the scheme that was asked for, or one without the workers that are lost."""
        if lost := self._lost():
            self._ranks = [rank for rank in self._ranks if rank not in lost]
            if not self._ranks:
                raise TooFewWorkers(f"ranks {sorted(lost)} do not answer, and there are no others")
            assert self._replan is not None
            self._next = self._replan(len(self._ranks))
        if self._next is not None:
            self._scheme, self._next = self._next, None
        if self._scheme.workers != len(self._ranks):
            raise ValueError(f"a scheme for {self._scheme.workers} workers: there are {len(self._ranks)}")
