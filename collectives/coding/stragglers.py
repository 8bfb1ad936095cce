"""Models of who straggles when: what a sequential scheme is designed for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .code import Mask


class StragglerModel(ABC):
    """A condition on every window of consecutive rounds.

    Attributes
    ----------
    window : int
        Rounds of a window.
    """

    window: int

    @abstractmethod
    def allows(self, rounds: Mask) -> bool:
        """Whether a window, (rounds, workers), at most `window` rounds long, keeps the condition.

        If it does, so does each part of it, and each window with fewer stragglers.
        """

    def conforms(self, pattern: Mask) -> bool:
        """Whether all windows of a pattern, (rounds, workers), keep the condition."""
        starts = range(max(1, len(pattern) - self.window + 1))
        return all(self.allows(pattern[start : start + self.window]) for start in starts)


@dataclass(frozen=True)
class Bursty(StragglerModel):
    """In every window at most `most` workers straggle, each only within `burst` consecutive rounds.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, "Sequential Gradient Coding", arXiv 2211.13802, section 2.

    Examples
    --------
    >>> model = Bursty(burst=1, window=2, most=1)
    >>> pattern = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=bool)
    >>> model.conforms(pattern[:3]), model.conforms(pattern)
    (True, False)
    """

    burst: int
    window: int
    most: int

    def allows(self, rounds: Mask) -> bool:
        affected = rounds.any(axis=0)
        if np.count_nonzero(affected) > self.most:
            return False
        if len(rounds) <= self.burst:
            return True
        seen = rounds[:, affected]
        first = seen.argmax(axis=0)
        last = len(seen) - 1 - seen[::-1].argmax(axis=0)
        return bool((last - first < self.burst).all())


@dataclass(frozen=True)
class Arbitrary(StragglerModel):
    """In every window at most `most` workers straggle, each in at most `times` rounds."""

    times: int
    window: int
    most: int

    def allows(self, rounds: Mask) -> bool:
        counts = rounds.sum(axis=0)
        return bool(np.count_nonzero(counts) <= self.most and counts.max(initial=0) <= self.times)


@dataclass(frozen=True)
class PerRound(StragglerModel):
    """In every round at most `most` workers straggle, whichever they are."""

    most: int
    window: int = 1

    def allows(self, rounds: Mask) -> bool:
        return bool((rounds.sum(axis=1) <= self.most).all())
