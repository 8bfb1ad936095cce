"""Traces of trainings that run: how long each worker took in each round."""

from __future__ import annotations

import numpy as np

from .errors import require
from .info import RoundInfo
from .scheme import Scheme
from .traces import Trace


class Recorder:
    """Collects the times of workers, and makes a trace of them.

    Parameters
    ----------
    ranks : sequence of int
        Of the workers.

    Examples
    --------
    Two rounds by a scheme whose worker computes all of the data, and one by one with half of it:

    >>> from roundelay.coding import RoundInfo, scheme
    >>> recorder = Recorder([1, 2])
    >>> for job, load, seconds in ((0, 1, 0.5), (1, 1, 0.6), (2, 0, 0.3)):
    ...     info = RoundInfo(job, 0, job, seconds, (), {1: seconds, 2: seconds}, 0, (), 0.0, 1.0)
    ...     recorder.add(info, scheme("gc", 2, stragglers=load))
    >>> trace = recorder.trace()
    >>> trace.seconds.shape, round(float(trace.slope), 3)
    ((3, 2), 0.5)
    """

    def __init__(self, ranks: list[int]) -> None:
        self._ranks = list(ranks)
        self._rounds: list[tuple[float, list[float]]] = []

    def add(self, info: RoundInfo, scheme: Scheme) -> None:
        """Take note of a round, and of the scheme that ran. Who was missing took at least as long as it."""
        times = [info.computed.get(rank, info.seconds) for rank in self._ranks]
        self._rounds.append((float(scheme.load), times))

    def trace(self, slope: float | None = None) -> Trace:
        """All rounds so far, at the load of the first.

        Parameters
        ----------
        slope : float, optional
            Seconds by which a worker takes longer for all of the data than for none. If not given, it is
            fitted to the medians of rounds with different loads.

        Raises
        ------
        ValueError
            If there are no rounds, or no slope and rounds of one load only.
        """
        require(bool(self._rounds), "no rounds were recorded")
        loads = np.array([load for load, _ in self._rounds])
        seconds = np.array([times for _, times in self._rounds])
        if slope is None:
            different = np.unique(loads)
            require(
                different.size > 1,
                f"all rounds had the load {different[0]:.4g}: give the slope, or record others, too",
            )
            medians = [float(np.median(seconds[loads == load])) for load in different]
            slope = max(0.0, float(np.polyfit(different, medians, 1)[0]))
        at_first = seconds + (loads[0] - loads)[:, np.newaxis] * slope
        return Trace(np.maximum(at_first, 0.0), float(loads[0]), slope)
