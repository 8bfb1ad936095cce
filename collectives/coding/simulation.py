"""Simulation: how long a training takes by a scheme, if workers take as long as in a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .code import Mask
from .errors import require
from .scheme import Pattern, Scheme
from .traces import Seconds, Trace

# How long a round waits after its first worker, relative to that worker's time: the values that `recommend`
# tries for schemes with a delay, whose rounds must not call too many stragglers, and the one that it finds
# most often. In the paper it is 1.
PATIENCES = (0.0, 0.1, 0.2, 0.5)
PATIENCE = 0.2


def usual_patience(scheme: Scheme) -> float:
    """Without delay 0: such rounds need not spare stragglers for those to come."""
    return PATIENCE if scheme.delay else 0.0


@dataclass(frozen=True)
class Simulated:
    """A training that was simulated.

    Attributes
    ----------
    rounds : (rounds,) array of float64
        Seconds of each round.
    missing : (rounds, workers) array of bool
        Who was not waited for.
    waited : int
        Rounds that went on after the patience was over, for the pattern of stragglers was not allowed.
    """

    rounds: Seconds
    missing: Mask
    waited: int

    @property
    def seconds(self) -> float:
        """Time of all rounds."""
        return float(self.rounds.sum())


def simulate(
    scheme: Scheme,
    trace: Trace,
    jobs: int,
    *,
    patience: float | None = None,
    wait_for_all: bool = False,
    report: Callable[[int], object] | None = None,
) -> Simulated:
    """Simulate the rounds of a training: those after the end of the trace are as its first ones again.

    A round goes on until `patience` is over, and then for as long as the workers that are missing are not
    allowed to by the scheme's pattern.

    Parameters
    ----------
    scheme : Scheme
        For as many workers as the trace has.
    trace : Trace
    jobs : int
    patience : float, optional
        How long after its first worker a round waits for others, relative to the first one's time (mu); as
        long as in a training over MPI if not given.
    wait_for_all : bool
        Whether a round that cannot end then waits for all workers, as published, or for the fewest.
    report : callable, optional
        Called with the number of rounds done.

    Raises
    ------
    ValueError
        If the trace has another number of workers, and for negative numbers.

    References
    ----------
    Krishnan, Ebrahimi, Khisti 2022, arXiv 2211.13802, section 4.

    Examples
    --------
    >>> from roundelay.collectives.coding.catalogue import scheme
    >>> from roundelay.collectives.coding.traces import markov_trace
    >>> trace = markov_trace(workers=16, rounds=80)
    >>> uncoded, coded = scheme("uncoded", 16), scheme("gc", 16, stragglers=3)
    >>> simulate(coded, trace, 80).seconds < simulate(uncoded, trace, 80).seconds
    True
    """
    require(
        scheme.workers == trace.workers,
        f"a trace of {trace.workers} workers: the scheme is for {scheme.workers}",
    )
    require(jobs >= 0, f"{jobs} jobs: expected 0 or more")
    if patience is None:
        patience = usual_patience(scheme)
    require(patience >= 0, f"patience {patience}: expected 0 or more")
    times = trace.at(np.array(scheme.loads, np.float64))
    deadlines = (1 + patience) * times.min(axis=1)
    pattern, rounds = scheme.pattern(), jobs + scheme.delay
    seconds, missing, waited = np.zeros(rounds), np.zeros((rounds, scheme.workers), np.bool_), 0
    for turn in range(rounds):
        row, deadline = times[turn % trace.rounds], float(deadlines[turn % trace.rounds])
        seconds[turn] = end = round_end(row, deadline, pattern, wait_for_all)
        missing[turn] = row > end
        waited += end > deadline
        pattern.close(missing[turn])
        if report is not None:
            report(turn + 1)
    return Simulated(seconds, missing, waited)


def round_end(row: Seconds, deadline: float, pattern: Pattern, wait_for_all: bool) -> float:
    """When a round ends whose workers finish at the times of a row."""
    if not (row > deadline).any():
        return float(row.max())
    if pattern.allows(row > deadline):
        return deadline
    if wait_for_all:
        return float(row.max())
    ends = np.unique(row[row > deadline])
    low, high = 0, len(ends) - 1
    # Fewer missing workers are allowed where more are: halve the interval.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pattern.allows(row > ends[middle]) else (middle + 1, high)
    return float(ends[low])
