"""Limits that a master is given for waiting, and its report on a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import require

ON_DEADLINE = ("wait", "approximate", "raise")


class WorkerError(RuntimeError):
    """An exception in a worker's gradient function, or results that do not fit together; on all ranks."""


class TooFewWorkers(RuntimeError):
    """The results that arrived within the deadline do not determine the gradient; on all ranks."""


@dataclass(frozen=True)
class Limits:
    """How long the master waits.

    Attributes
    ----------
    patience : float
        After the first worker, relative to its time, before the others may be counted as stragglers.
    deadline : float, optional
        Seconds of a round; what then happens says `on_deadline`.
    on_deadline : {"wait", "approximate", "raise"}
    lost_after : float
        Seconds of waiting after which a worker that does not answer is counted out.
    """

    patience: float
    deadline: float | None
    on_deadline: str
    lost_after: float

    def __post_init__(self) -> None:
        require(self.patience >= 0, f"patience {self.patience}: expected 0 or more")
        require(
            self.deadline is None or self.deadline > 0, f"deadline {self.deadline}: expected seconds above 0"
        )
        require(
            self.on_deadline in ON_DEADLINE,
            f"on_deadline {self.on_deadline!r}: expected one of {', '.join(ON_DEADLINE)}",
        )
        require(self.lost_after > 0, f"lost_after {self.lost_after}: expected seconds above 0")


@dataclass(frozen=True)
class RoundInfo:
    """How a gradient came about.

    Attributes
    ----------
    job, stream : int
        Which gradient it is, and of which model.
    turn : int
        The round that it was decoded in.
    seconds : float
        How long that round took.
    missing : tuple of int
        Ranks that were not waited for.
    computed : dict
        Seconds that each rank that answered in time has computed.
    late : int
        Vectors so far that came after their round and could still be used.
    lost : tuple of int
        Ranks that are known to be gone, or have not answered for so long that they are counted out.
    error : float
        By how much the weight of a partition's gradient differs from 1, at most; rounding, for an exact code.
    amplification : float
        Largest sum of absolute weights: by what errors of single workers may have grown.
    """

    job: int
    stream: int
    turn: int
    seconds: float
    missing: tuple[int, ...]
    computed: dict[int, float]
    late: int
    lost: tuple[int, ...]
    error: float
    amplification: float
