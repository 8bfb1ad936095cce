"""Timing that all ranks do alike: until the median is steady, within a time that they agree on.

Ranks that time a message must send it equally often. They exchange what they measured after each batch of
samples, together with the time that has passed on rank 0, and so come to the same decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI

# Runs something a number of times; returns the mean seconds of one, or NaN where this rank took no part.
Run = Callable[[int], float]
Seconds = NDArray[np.float64]

SAMPLE_SECONDS = 200e-6
BATCH, FEWEST, MOST = 5, 10, 500
# A machine is slower for some milliseconds now and then: no median is steady before this time.
LEAST_SECONDS = 20e-3
# A row of sizes is gone through several times, because it may also be slower for a second; each time may take
# this share of what is left. The first one decides how far up it goes.
PASSES = (0.5, 0.5, 1.0)
# The relative standard error of a median that counts as steady.
STEADY = 0.02
WEIGHTY_BYTES = 64 << 10
# A longer message is assumed to cost in proportion to its size, but at most this many times as much.
STEEPEST = 16


class Sampler:
    """Times runs on all ranks of a communicator.

    Parameters
    ----------
    comm : Intracomm
        Communicator of mpi4py's own class that nothing else uses.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.elapsed = 0.0
        self._start = perf_counter()

    def sample(self, run: Run, seconds: float) -> Seconds:
        """Time a run until the median is steady or the time is over; the first one warms up.

        Parameters
        ----------
        run : callable
            What to time. All ranks are given the same counts.
        seconds : float
            Time for it, which is exceeded only if a few runs take longer.

        Returns
        -------
        (samples, ranks) array
            Seconds of one run; NaN in the columns of ranks that took no part. The same on all ranks.
        """
        start = self.elapsed
        end = start + seconds
        samples = self._together([run(1)])
        if np.nanmax(samples) > seconds / 4:
            return samples
        single = self._together([run(1) for _ in range(3)])
        once = float(np.nanmax(single, axis=1).min())
        count = int(np.clip(SAMPLE_SECONDS / max(once, 1e-9), 1, 4096))
        size = int(np.clip((end - self.elapsed) / (count * max(once, 1e-9)), 1, BATCH))
        samples = single if count == 1 else single[:0]
        while True:
            before = self.elapsed
            samples = np.vstack([samples, self._together([run(count) for _ in range(size)])])
            enough = len(samples) >= FEWEST and self.elapsed - start >= LEAST_SECONDS
            if enough and _error(samples) < STEADY:
                return samples
            if len(samples) >= MOST or self.elapsed + (self.elapsed - before) > end:
                return samples

    def ascend(
        self, prepare: Callable[[int], Run], sizes: Sequence[int], seconds: float
    ) -> dict[int, Seconds]:
        """Time runs of growing sizes, and leave off before one that would take too long.

        Parameters
        ----------
        prepare : callable
            Returns the run for a size in bytes.
        sizes : sequence of int
            Bytes, ascending.
        seconds : float
            Time for all of them.

        Returns
        -------
        dict
            Samples of each size that was reached; that of the first always is.
        """
        end = self.elapsed + seconds
        found: dict[int, Seconds] = {}
        for share in PASSES:
            self._pass(prepare, sizes, share * (end - self.elapsed), found)
            # A later pass must not add a size that was too long for the first one.
            sizes = list(found)
        return found

    def _pass(
        self, prepare: Callable[[int], Run], sizes: Sequence[int], seconds: float, found: dict[int, Seconds]
    ) -> None:
        end = self.elapsed + seconds
        last = 0
        for i, nbytes in enumerate(sizes):
            left = max(end - self.elapsed, 0.0)
            if found:
                known = nbytes if nbytes in found else last
                expected = longest(found[known])[0] * min(nbytes / known, STEEPEST)
                if 4 * expected > left:
                    return
            samples = self.sample(prepare(nbytes), left * first_share(sizes[i:]))
            found[nbytes] = np.vstack([found[nbytes], samples]) if nbytes in found else samples
            last = nbytes

    def _together(self, seconds: Sequence[float]) -> Seconds:
        everything = self.comm.allgather((list(seconds), perf_counter() - self._start))
        self.elapsed = everything[0][1]
        samples: Seconds = np.array([each for each, _ in everything]).T
        return samples


def first_share(sizes: Sequence[int]) -> float:
    """Share of the time for all sizes, in bytes, that belongs to the first.

    Longer messages get more time, but not so much more that none is left for the others.

    Examples
    --------
    >>> first_share([0, 64 << 10])
    0.3333333333333333
    """
    weights = [1 + (nbytes / WEIGHTY_BYTES) ** 0.5 for nbytes in sizes]
    return float(weights[0] / sum(weights))


def _error(samples: Seconds) -> float:
    """Relative standard error of the medians of the ranks, as it is for most ranks."""
    quartiles = np.percentile(taking_part(samples), [25, 50, 75], axis=0)
    # Of normally distributed samples: 1.253 standard deviations, each 0.741 quartile ranges.
    errors = 0.93 * (quartiles[2] - quartiles[0]) / quartiles[1] / np.sqrt(len(samples))
    return float(np.median(errors))


def taking_part(samples: Seconds) -> Seconds:
    """The columns of the ranks that took part."""
    columns: Seconds = samples[:, ~np.isnan(samples[0])]
    return columns


def typically(samples: Seconds) -> tuple[float, float]:
    """Median over the ranks that took part of their medians, and of their relative quartile ranges."""
    quartiles = np.percentile(taking_part(samples), [25, 50, 75], axis=0)
    return float(np.median(quartiles[1])), float(np.median((quartiles[2] - quartiles[0]) / quartiles[1]))


def longest(samples: Seconds) -> tuple[float, float]:
    """Median of the longest time on any rank, and its relative quartile range."""
    return typically(np.nanmax(samples, axis=1, keepdims=True))
