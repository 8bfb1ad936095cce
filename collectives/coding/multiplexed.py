"""Multiplexed jobs: parts that only one worker has are tried again, and the rest is coded."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np

from .code import Code, Mask
from .errors import require
from .scheme import Combination, OpenJobs, Partition, Pattern, Progress, Scheme, Task, Term, combine
from .stragglers import Arbitrary, Bursty

# Weight of a partition that is sent as it is.
_ALONE = np.ones((1, 1))


class Multiplexed(Scheme):
    """M-SGC: most of the data is on one worker each and computed again if it straggled; the rest is coded.

    A job runs through window - 1 + burst rounds, with one small vector of each worker in every one of them:
    first the worker's own partitions, then, of `burst` coded groups, one vector each, or what is missing of
    its own. A worker so has vectors of as many jobs in a message.

    Parameters
    ----------
    workers : int
    burst, window, most : int
        The stragglers it is made for: `Bursty(burst, window, most)`, and also
        `Arbitrary(burst, window + burst - 1, most)`.
    code : Code, optional
        For `most` stragglers; None if `most` is the number of workers, where nothing is coded.

    Raises
    ------
    ValueError
        If not 1 <= burst < window and 0 <= most <= workers, or if the code is another one.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, "Sequential Gradient Coding", arXiv 2211.13802, section 3.2.
    """

    def __init__(self, workers: int, burst: int, window: int, most: int, code: Code | None) -> None:
        require(1 <= burst < window, f"burst {burst}, window {window}: M-SGC needs 1 <= burst < window")
        require(0 <= most <= workers, f"{most} stragglers: M-SGC of {workers} workers stands 0 to {workers}")
        if code is None:
            require(
                most == workers, f"M-SGC for {most} of {workers} workers needs a code for {most} stragglers"
            )
        else:
            fits = code.workers == code.partitions == workers and code.pieces == 1
            require(fits and code.stragglers >= most, f"{code}: M-SGC needs one for {workers} and {most}")
        self.name = "m-sgc"
        self.workers, self.burst, self.code = workers, burst, code if most < workers else None
        self.own, self.delay, self.slots = window - 1, window - 2 + burst, window - 1 + burst
        self.bursty, self.arbitrary = Bursty(burst, window, most), Arbitrary(burst, self.slots, most)

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        sizes = [self._own_size] * (self.workers * self.own)
        if self.code is not None:
            sizes += [self._coded_size] * (self.workers * self.burst)
        ends = np.cumsum([Fraction(0), *sizes]).tolist()
        return tuple(Partition(i, *each) for i, each in enumerate(pairwise(ends)))

    @property
    def _coded_size(self) -> Fraction:
        copies = self.bursty.most + 1
        return Fraction(1, self.workers * (self.burst + self.own * copies))

    @property
    def _own_size(self) -> Fraction:
        if self.code is None:
            return Fraction(1, self.workers * self.own)
        return (self.bursty.most + 1) * self._coded_size

    def own_partition(self, worker: int, place: int) -> int:
        """A partition that nobody else has."""
        return worker * self.own + place

    def coded_partitions(self, worker: int, group: int) -> tuple[int, ...]:
        """Partitions of a coded group that a worker has."""
        if self.code is None:
            return ()
        first = self.workers * (self.own + group)
        return tuple(first + each for each in self.code.placement[worker])

    @cached_property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        return tuple(
            (
                *(self.own_partition(worker, place) for place in range(self.own)),
                *(each for group in range(self.burst) for each in self.coded_partitions(worker, group)),
            )
            for worker in range(self.workers)
        )

    @cached_property
    def loads(self) -> tuple[Fraction, ...]:
        own, group = self._own_size, self.workers * self._coded_size
        coded = (Fraction(0),) * self.workers if self.code is None else self.code.loads
        loads = {each: self.own * own + self.burst * max(own, each * group) for each in set(coded)}
        return tuple(loads[each] for each in coded)

    def pattern(self) -> Pattern:
        return _Windows(self)

    def start(self, jobs: int) -> Progress:
        return _Diagonals(self, jobs)


class _Windows:
    """Each job by itself: the rounds that it runs through keep one model or the other."""

    def __init__(self, scheme: Multiplexed) -> None:
        self.scheme = scheme
        self.rounds = np.zeros((0, scheme.workers), np.bool_)

    def allows(self, missing: Mask) -> bool:
        rounds = np.vstack([self.rounds, missing])
        return self.scheme.arbitrary.allows(rounds) or self.scheme.bursty.conforms(rounds)

    def close(self, missing: Mask) -> None:
        self.rounds = np.vstack([self.rounds, missing])[1 - self.scheme.slots :]


class _Diagonals(Progress):
    """Job t is in slot j in round t + j; slots below `own` are a worker's own partitions."""

    def __init__(self, scheme: Multiplexed, jobs: int) -> None:
        self.scheme = scheme
        self._received: OpenJobs[set[tuple[int, int]]] = OpenJobs(jobs, set)

    def tasks(self, turn: int, worker: int) -> tuple[Task, ...]:
        open_slots = (slot for slot in range(self.scheme.slots) if turn - slot in self._received)
        found = (self._task(turn - slot, slot, worker) for slot in open_slots)
        return tuple(task for task in found if task is not None)

    def _task(self, job: int, slot: int, worker: int) -> Task | None:
        scheme, received = self.scheme, self._received[job]
        if slot >= scheme.own:
            lacking = [place for place in range(scheme.own) if (worker, place) not in received]
            if not lacking:
                if scheme.code is None:
                    return None
                held = list(scheme.code.placement[worker])
                partitions = scheme.coded_partitions(worker, slot - scheme.own)
                return Task(job, slot, partitions, scheme.code.matrix[worker, held])
            slot = lacking[0]
        return Task(job, slot, (scheme.own_partition(worker, slot),), _ALONE)

    def receive(self, worker: int, job: int, slot: int) -> bool:
        if job not in self._received or (worker, slot) in self._received[job]:
            return False
        self._received[job].add((worker, slot))
        return True

    def combine(self, job: int, exactly: bool = True) -> Combination | None:
        scheme, received = self.scheme, self._received[job]
        own = [(worker, place) for worker in range(scheme.workers) for place in range(scheme.own)]
        is_whole = received.issuperset(own)
        if exactly and not is_whole:
            return None
        terms, error = [Term(*each, (1.0,)) for each in own if each in received], 0.0 if is_whole else 1.0
        if scheme.code is not None:
            for slot in range(scheme.own, scheme.slots):
                returned = [worker for worker, each in received if each == slot]
                coded = combine(scheme.code, returned, slot, exactly)
                if coded is None:
                    return None
                terms += coded.terms
                error = max(error, coded.error)
        return Combination(tuple(terms), error)

    def forget(self, job: int) -> None:
        del self._received[job]
