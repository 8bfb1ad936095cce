"""Stragglers on purpose: the same worker is as slow in the same round of every run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from time import perf_counter, sleep

import numpy as np
from numpy.typing import NDArray

from .errors import require

KINDS = ("sleep", "burn", "stop")
# How often a worker that is slow on purpose looks whether it is still waited for.
_STEP_SECONDS = 1e-3


class Injection:
    """Makes one worker slow in some rounds.

    Parameters
    ----------
    seconds : sequence of float
        By how long this worker is slower in each round; after the last one, as from the first one on.
    kind : {"sleep", "burn", "stop"}
        How: by sleeping, by computing on its processor, or stopped by SIGSTOP and let go on by SIGCONT.

    Examples
    --------
    Rank 2 is slower by half a second in every tenth round:

    >>> from roundelay import MPI
    >>> injection = Injection([0.5] + 9 * [0.0]) if MPI.COMM_WORLD.rank == 2 else None
    """

    def __init__(self, seconds: NDArray[np.float64] | list[float], kind: str = "sleep") -> None:
        self.seconds = np.asarray(seconds, np.float64)
        require(
            self.seconds.ndim == 1 and self.seconds.size > 0 and bool((self.seconds >= 0).all()),
            f"seconds {seconds}: expected a row of numbers from 0 on",
        )
        require(kind in KINDS, f"kind {kind!r}: expected one of {', '.join(KINDS)}")
        self.kind = kind

    def straggle(self, turn: int, look_up: Callable[[], None]) -> None:
        """Be slow in a round; `look_up` is called now and then, and may raise."""
        seconds = float(self.seconds[turn % self.seconds.size])
        if self.kind == "stop" and seconds > 0:
            _stop(seconds)
            return
        end = perf_counter() + seconds
        while (left := end - perf_counter()) > 0:
            look_up()
            if self.kind == "sleep":
                sleep(min(left, _STEP_SECONDS))


def _stop(seconds: float) -> None:
    """Stop this process; a child lets it go on, again and again, for it may be too early the first time."""
    script = f"sleep {seconds}; while kill -CONT {os.getpid()}; do sleep 0.05; done"
    waker = subprocess.Popen(["/bin/sh", "-c", script])
    os.kill(os.getpid(), signal.SIGSTOP)
    waker.kill()
    waker.wait()
