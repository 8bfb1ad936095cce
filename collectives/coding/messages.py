"""Messages between the master and the workers.

A worker offers its vectors, and the master pulls those that it needs: what is late is not sent, and each
vector that is has memory of its own. Nobody sends a worker anything to compute with before it has answered:
it never sees parameters change under its hands.
"""

from __future__ import annotations

from typing import NamedTuple

from .arrays import Signature
from .info import RoundInfo
from .scheme import Partition, Task
from .shown import Shown


class Start(NamedTuple):
    """Compute for a round.

    The parameters of the jobs in `parameters` follow with these tags, or are shown there. `partitions` are
    those that were not named before. Vectors of jobs before `first_open` may be dropped.
    """

    era: int
    turn: int
    tasks: tuple[Task, ...]
    partitions: list[Partition]
    first_open: int
    parameters: dict[int, int | Shown]


class Pull(NamedTuple):
    """Send a vector, with a tag."""

    era: int
    job: int
    slot: int
    tag: int


class Abandon(NamedTuple):
    """The round that a worker computes for is over; said once of each."""

    era: int
    turn: int


class Stop(NamedTuple):
    """There are no more rounds, or none because of an error."""

    error: Exception | None


class Report(NamedTuple):
    """Result of a worker in a round.

    The tasks that are done, as pairs of job and slot, each with where its vector is shown, if it is.
    """

    era: int
    turn: int
    done: dict[tuple[int, int], Shown | None]
    signature: Signature | None
    seconds: float


class Failure(NamedTuple):
    """The traceback of an exception in a worker."""

    text: str


class Outcome(NamedTuple):
    """A round's gradient is decoded: a number of elements of a dtype follow, with a tag."""

    info: RoundInfo
    signature: Signature
    length: int
    dtype: str
    tag: int
