"""A round that runs: who has answered, whether it may end, and from which vectors its gradient is decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import perf_counter

import numpy as np

from .channel import Vector
from .code import Mask
from .crew import Crew, Place
from .info import Limits, RoundInfo, TooFewWorkers
from .scheme import Combination, Pattern
from .weighted import weighted_sum


class Round:
    """Since when a round runs, and who has answered.

    Parameters
    ----------
    scheme : str
        Its name, for errors.
    turn : int
    ranks : sequence of int
        Of each worker.
    """

    def __init__(self, scheme: str, turn: int, ranks: Sequence[int]) -> None:
        self.turn = turn
        self._scheme, self._ranks = scheme, ranks
        self._missing, self._are_missing = np.ones(len(ranks), np.bool_), bool(ranks)
        # Whether the pattern allows them to be missing, once it was asked.
        self._allowed: bool | None = None
        self._begun = perf_counter()
        self._first: float | None = None
        self._computed: dict[int, float] = {}

    def answer(self, worker: int, seconds: float) -> None:
        """Note that a worker is done, and how long it has computed."""
        self._computed[worker] = seconds
        self.excuse(worker)
        if self._first is None:
            self._first = perf_counter()

    def excuse(self, worker: int) -> None:
        """Note that a worker has nothing to do."""
        self._missing[worker] = False
        self._are_missing = bool(self._missing.any())
        self._allowed = None

    def missing(self) -> Mask:
        """Workers that have something to do and have not answered."""
        missing: Mask = self._missing.copy()
        return missing

    def verdict(self, pattern: Pattern, limits: Limits, silent: Collection[int]) -> tuple[bool, bool]:
        """Whether the round may end now, and whether what is due must be exact.

        Raises `TooFewWorkers` if it takes too long, or if only ranks that are `silent` are missing, unless
        the limits ask for something else.
        """
        now = perf_counter()
        if self._is_impatient(now, limits.patience) and self._is_allowed(pattern):
            # Results that were given up earlier may lack when all are here: nothing better will come.
            return True, self._are_missing
        is_late = limits.deadline is not None and now - self._begun >= limits.deadline
        ranks = self._ranks_of(self._missing) if is_late or silent else []
        if not is_late and not (ranks and set(ranks).issubset(silent)):
            return False, True
        approximates = self._approximates(ranks, limits)
        return approximates, not approximates

    def breaks_off(self, asked: Collection[int], limits: Limits, silent: Collection[int]) -> bool:
        """Whether to approximate what is due, where ranks have answered and do not send what they offered.

        Raises `TooFewWorkers` if only ranks that are `silent` are missing or `asked` for vectors, unless the
        limits ask for something else.
        """
        ranks = sorted({*self._ranks_of(self._missing), *asked})
        return bool(asked) and set(ranks).issubset(silent) and self._approximates(ranks, limits)

    def _approximates(self, ranks: Sequence[int], limits: Limits) -> bool:
        if limits.on_deadline == "raise":
            seconds = perf_counter() - self._begun
            raise TooFewWorkers(
                f"round {self.turn}: ranks {ranks} have not answered for {seconds:.1f} s, and "
                f"{self._scheme} cannot do without them"
            )
        return limits.on_deadline == "approximate"

    def _is_allowed(self, pattern: Pattern) -> bool:
        if self._allowed is None:
            self._allowed = not self._are_missing or pattern.allows(self.missing())
        return self._allowed

    def _is_impatient(self, now: float, patience: float) -> bool:
        """Whether stragglers need not be waited for any longer."""
        if not self._are_missing:
            return True
        return self._first is not None and now - self._begun >= (1 + patience) * (self._first - self._begun)

    def info(
        self, job: int, stream: int, combination: Combination, late: int, lost: Collection[int]
    ) -> RoundInfo:
        """The report on the round and on the gradient that was due."""
        return RoundInfo(
            job,
            stream,
            self.turn,
            perf_counter() - self._begun,
            tuple(self._ranks_of(self.missing())),
            {self._ranks[worker]: seconds for worker, seconds in self._computed.items()},
            late,
            tuple(lost),
            combination.error,
            combination.amplification,
        )

    def _ranks_of(self, missing: Mask) -> list[int]:
        return [self._ranks[worker] for worker in np.flatnonzero(missing).tolist()]


def decode(crew: Crew, combination: Combination, places: Sequence[Place], pieces: int) -> Vector:
    """The gradient of a job, as one vector, from vectors in places that are all here."""
    assert crew.signature is not None
    length = crew.signature.length(pieces)
    dtype = np.promote_types(np.dtype(crew.signature.dtypes[0]), np.float32)
    whole = np.empty(length * pieces, dtype)
    found = [crew.vector(place) for place in places]
    vectors = [vector for vector in found if vector is not None]
    for piece in range(pieces):
        weights = [term.weights[piece] for term in combination.terms]
        weighted_sum(vectors, weights, whole[piece * length : (piece + 1) * length])
    return whole
