"""Schemes: what workers compute in each round, when it may end, and from what a gradient is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from fractions import Fraction
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from .code import Code, Mask, Matrix

T = TypeVar("T")


class Partition(NamedTuple):
    """A part of the data, from one fraction of it to another."""

    number: int
    start: Fraction
    stop: Fraction

    def rows(self, count: int) -> slice:
        """Its rows of `count`; the partitions of a scheme have each row once.

        >>> Partition(0, Fraction(0), Fraction(1, 3)).rows(10)
        slice(0, 3, None)
        """
        return slice(int(self.start * count), int(self.stop * count))


class Task(NamedTuple):
    """One vector that a worker computes: gradients of some partitions for a job, weighted and added up.

    `weights` is (partitions, pieces), as a row of a code's matrix.
    """

    job: int
    slot: int
    partitions: tuple[int, ...]
    weights: Matrix


class Term(NamedTuple):
    """One vector of a worker in the sum that is a job's gradient, with its weight in each piece of it."""

    worker: int
    slot: int
    weights: tuple[float, ...]


class Combination(NamedTuple):
    """The sum that is a job's gradient.

    `error` is by how much the weight of a partition in it differs from 1, at most.
    """

    terms: tuple[Term, ...]
    error: float

    @property
    def amplification(self) -> float:
        """Largest sum of absolute weights over the vectors of one slot of each worker."""
        sums: dict[int, Matrix] = {}
        for term in self.terms:
            sums[term.slot] = sums.get(term.slot, 0.0) + np.abs(term.weights)
        return max((float(each.max()) for each in sums.values()), default=0.0)


class Pattern(Protocol):
    """Who was missing in the rounds so far, and who may be missing in the one that runs.

    Fewer missing workers than allowed are allowed, too.
    """

    def allows(self, missing: Mask) -> bool:
        """Whether the round may end without these workers, so that every job can be decoded in time."""

    def close(self, missing: Mask) -> None:
        """End the round without these workers."""


class Progress(ABC):
    """The jobs of one training, counted from 0 as rounds are: results that came, and tasks that follow."""

    @abstractmethod
    def tasks(self, turn: int, worker: int) -> tuple[Task, ...]:
        """The work of a worker in a round, from what was received until now."""

    @abstractmethod
    def receive(self, worker: int, job: int, slot: int) -> bool:
        """Note that the vector of a worker is there; False if it is of no use, or was there before."""

    @abstractmethod
    def combine(self, job: int, exactly: bool = True) -> Combination | None:
        """How to decode a job from what was received.

        None if that does not determine it; unless `exactly`, the nearest to it that there is.
        """

    @abstractmethod
    def forget(self, job: int) -> None:
        """Drop what is known of a job that was decoded; nothing of it is of use any more."""


class OpenJobs(Generic[T]):
    """The state of each job of a training, `new()` at first, until it is deleted."""

    def __init__(self, jobs: int, new: Callable[[], T]) -> None:
        self._first, self._jobs, self._new = 0, jobs, new
        self._known: dict[int, T] = {}
        # Deleted, beside all before the first.
        self._deleted: set[int] = set()

    def __contains__(self, job: int) -> bool:
        return self._first <= job < self._jobs and job not in self._deleted

    def __getitem__(self, job: int) -> T:
        if job not in self:
            raise KeyError(job)
        if job not in self._known:
            self._known[job] = self._new()
        return self._known[job]

    def __delitem__(self, job: int) -> None:
        self._known.pop(job, None)
        self._deleted.add(job)
        while self._first in self._deleted:
            self._deleted.remove(self._first)
            self._first += 1


class Scheme(ABC):
    """A way to share the gradients of jobs among workers: job t is decoded at the end of round t + delay.

    Attributes
    ----------
    name : str
    workers : int
    code : Code, optional
        By which vectors of several workers are one; None if none is.
    delay : int
        Rounds by which a gradient may be late (T).
    slots : int
        Most vectors that a worker computes in a round.
    pieces : int
        A vector has the length of a gradient, divided by this.
    """

    name: str
    workers: int
    code: Code | None
    delay: int = 0
    slots: int = 1
    pieces: int = 1

    @property
    @abstractmethod
    def partitions(self) -> tuple[Partition, ...]:
        """Parts of the data whose gradients are computed apart."""

    @property
    @abstractmethod
    def placement(self) -> tuple[tuple[int, ...], ...]:
        """Partitions that each worker has."""

    @property
    @abstractmethod
    def loads(self) -> tuple[Fraction, ...]:
        """Most of the data that each worker computes in a round, as a share of all."""

    @property
    def load(self) -> Fraction:
        """Most of the data that a worker computes in a round, as a share of all."""
        return max(self.loads)

    @abstractmethod
    def pattern(self) -> Pattern:
        """Who may be missing, from the first round on."""

    @abstractmethod
    def start(self, jobs: int) -> Progress:
        """A training of a number of jobs, before its first round."""


def equal_partitions(count: int) -> tuple[Partition, ...]:
    """Partitions of the same size."""
    return tuple(Partition(each, Fraction(each, count), Fraction(each + 1, count)) for each in range(count))


class SingleCode(Scheme):
    """A scheme in which each vector is a message of one code: the data is as the code places it."""

    code: Code

    def __init__(self, name: str, code: Code) -> None:
        self.name, self.code = name, code
        self.workers, self.pieces = code.workers, code.pieces

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        return equal_partitions(self.code.partitions)

    @property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        return self.code.placement

    @property
    def loads(self) -> tuple[Fraction, ...]:
        return self.code.loads


def message_tasks(code: Code, worker: int, job: int) -> tuple[Task, ...]:
    """The task that is a worker's message for a job; none if it has no partitions."""
    held = code.placement[worker]
    return (Task(job, 0, held, code.matrix[worker, list(held)]),) if held else ()


# Gradient coding ----------------------------------------------------------------------------------


class GradientCoding(SingleCode):
    """A code in every round for itself; a round ends when what came can be decoded.

    Parameters
    ----------
    code : Code

    Examples
    --------
    >>> from roundelay.collectives.coding.repetition import fractional_repetition
    >>> GradientCoding(fractional_repetition(8, 1)).load
    Fraction(1, 4)
    """

    def __init__(self, code: Code) -> None:
        super().__init__(code.name, code)

    def pattern(self) -> Pattern:
        return _Decodable(self.code)

    def start(self, jobs: int) -> Progress:
        return _Rounds(self.code, jobs)


class _Decodable:
    """A round may end when the rest can be decoded, whatever was before."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def allows(self, missing: Mask) -> bool:
        return self.code.allows(missing)

    def close(self, missing: Mask) -> None:
        pass


class _Rounds(Progress):
    """Job t is round t."""

    def __init__(self, code: Code, jobs: int) -> None:
        self.code = code
        self._returned: OpenJobs[set[int]] = OpenJobs(jobs, set)

    def tasks(self, turn: int, worker: int) -> tuple[Task, ...]:
        return message_tasks(self.code, worker, turn) if turn in self._returned else ()

    def receive(self, worker: int, job: int, slot: int) -> bool:
        if job not in self._returned or not self.code.adds(worker, self._returned[job]):
            return False
        self._returned[job].add(worker)
        return True

    def combine(self, job: int, exactly: bool = True) -> Combination | None:
        return combine(self.code, self._returned[job], 0, exactly)

    def forget(self, job: int) -> None:
        del self._returned[job]


def combine(code: Code, returned: Collection[int], slot: int, exactly: bool = True) -> Combination | None:
    """A decoding of one slot of a job."""
    decoding = code.decode(returned)
    if decoding is None and not exactly:
        decoding = code.approximate(returned)
    if decoding is None:
        return None
    columns = zip(decoding.workers, decoding.coefficients.T.tolist(), strict=True)
    return Combination(tuple(Term(worker, slot, tuple(each)) for worker, each in columns), decoding.error)
