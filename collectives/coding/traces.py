"""Traces: how long each worker takes in each round, recorded or drawn."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import require

Seconds = NDArray[np.float64]
# Errors that NumPy raises for a file that is no archive of arrays, or a broken one.
_UNREADABLE = (AttributeError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Trace:
    """Seconds that workers took in rounds, and how they grow with the load.

    Parameters
    ----------
    seconds : (rounds, workers) array of float64
        Time of each worker in each round.
    load : float
        The share of the data that each worker computed meanwhile.
    slope : float, or (rounds, workers) array
        Seconds by which a worker takes longer for all of the data than for none: of all workers in all
        rounds, or of each, where slowness multiplies what is computed.

    Raises
    ------
    ValueError
        For another shape, for what is not a number, not finite or negative.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, arXiv 2211.13802, appendix (load-adjusted delays).
    """

    seconds: Seconds
    load: float
    slope: float | Seconds

    def __post_init__(self) -> None:
        shape = self.seconds.shape
        require(len(shape) == 2 and min(shape) > 0, f"seconds of shape {shape}: expected (rounds, workers)")
        for name, values in (
            ("seconds", self.seconds),
            ("slope", np.asarray(self.slope)),
            ("load", self.load),
        ):
            wrong = ~(np.isfinite(values) & (np.asarray(values) >= 0))
            if np.any(wrong):
                where = tuple(map(int, np.argwhere(np.atleast_1d(wrong))[0]))
                found = np.atleast_1d(values)[where]
                raise ValueError(f"{name} at {where} are {found}: expected finite numbers from 0 on")
        require(
            np.shape(self.slope) in ((), shape),
            f"slope of shape {np.shape(self.slope)}: expected a number, or {shape}",
        )

    @property
    def rounds(self) -> int:
        """How many rounds it has."""
        return len(self.seconds)

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return int(self.seconds.shape[1])

    def at(self, loads: NDArray[np.float64] | float) -> Seconds:
        """Seconds of all workers in all rounds, (rounds, workers), if their loads were others."""
        return np.maximum(self.seconds + (loads - self.load) * self.slope, 0.0)

    def first(self, rounds: int) -> Trace:
        """Its first rounds, or all if there are fewer."""
        slope = self.slope[:rounds] if isinstance(self.slope, np.ndarray) else self.slope
        return Trace(self.seconds[:rounds], self.load, slope)

    def save(self, file: str | PathLike[str]) -> None:
        """Write it to a file of NumPy's, with the arrays seconds, load and slope."""
        with Path(file).open("wb") as opened:
            np.savez_compressed(opened, seconds=self.seconds, load=self.load, slope=self.slope)

    @staticmethod
    def read(file: str | PathLike[str]) -> Trace:
        """Read what `save` wrote; raises `ValueError` for a file that is something else."""
        names = "seconds", "load", "slope"
        try:
            with Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                seconds, load, slope = (np.asarray(arrays[name], np.float64) for name in names)
        except _UNREADABLE as error:
            raise ValueError(
                f"{file}: expected arrays {', '.join(names)} in NumPy's npz format: {error}"
            ) from None
        try:
            require(load.ndim == 0, f"load of shape {load.shape}: expected a number")
            return Trace(seconds, float(load), slope if slope.ndim else float(slope))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None


# Drawn traces -------------------------------------------------------------------------------------


def markov_trace(  # noqa: PLR0913
    workers: int,
    rounds: int,
    *,
    share: float = 0.05,
    stay: float = 0.09,
    factors: tuple[float, float] = (2.0, 3.5),
    base: float = 0.62,
    jitter: float = 0.05,
    slope: float = 2.2,
    seed: int = 0,
) -> Trace:
    """Workers that straggle independently, in some rounds, by a factor: a chain of two states for each.

    Parameters
    ----------
    workers, rounds : int
    share : float
        Share of the rounds that a worker straggles in.
    stay : float
        Probability that a straggler straggles in the next round, too.
    factors : (float, float)
        By what a straggler's time is multiplied: even between these.
    base : float
        Seconds of a worker that does not straggle, for the load of uncoded data.
    jitter : float
        By what parts of it a time is longer than that, on average: exponentially distributed, as a floor and
        a tail of times recorded on cloud functions suggest.
    slope : float
        Seconds for all of the data on one worker, which slowness does not multiply.
    seed : int
    """
    rng = np.random.default_rng(seed)
    slow = two_states(rng, workers, rounds, share, stay)
    seconds = base * np.where(slow, rng.uniform(*factors, slow.shape), 1.0)
    return Trace(seconds * _jitter(rng, jitter, slow.shape), 1 / workers, slope)


def gilbert_elliott_trace(  # noqa: PLR0913
    workers: int,
    rounds: int,
    *,
    share: float = 0.05,
    stay: float = 0.5,
    factors: tuple[float, float] = (2.0, 3.5),
    base: float = 0.62,
    jitter: float = 0.05,
    slope: float = 2.2,
    seed: int = 0,
) -> Trace:
    """Workers whose stragglers compute more slowly, and so lose time in proportion to their load.

    The arguments are those of `markov_trace`, but the factor multiplies the time of what is computed, too.
    """
    rng = np.random.default_rng(seed)
    slow = two_states(rng, workers, rounds, share, stay)
    factor = np.where(slow, rng.uniform(*factors, slow.shape), 1.0) * _jitter(rng, jitter, slow.shape)
    return Trace((base + slope / workers) * factor, 1 / workers, slope * factor)


def pareto_trace(
    workers: int,
    rounds: int,
    *,
    shape: float = 3.0,
    base: float = 0.62,
    slope: float = 2.2,
    seed: int = 0,
) -> Trace:
    """Times with a heavy tail, which fall off with a power: P(more than t) = (base / t) ^ shape."""
    rng = np.random.default_rng(seed)
    return Trace(base * (1 + rng.pareto(shape, (rounds, workers))), 1 / workers, slope)


def two_states(
    rng: np.random.Generator, workers: int, rounds: int, share: float, stay: float
) -> NDArray[np.bool_]:
    """Who is in the rarer of two states, (rounds, workers), from the stationary distribution on."""
    require(
        0 <= share < 1 and 0 <= stay <= 1,
        f"share {share}, stay {stay}: expected probabilities, share below 1",
    )
    enter = share * (1 - stay) / (1 - share)
    require(
        enter <= 1, f"share {share}, stay {stay}: a straggler would have to stay longer for so large a share"
    )
    states = np.empty((rounds, workers), np.bool_)
    states[0] = rng.random(workers) < share
    for turn in range(1, rounds):
        states[turn] = rng.random(workers) < np.where(states[turn - 1], stay, enter)
    return states


def _jitter(rng: np.random.Generator, jitter: float, shape: tuple[int, ...]) -> Seconds:
    # Times have a floor and a tail.
    return 1 + rng.exponential(jitter, shape)
