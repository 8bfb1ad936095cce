"""What the ranks of a job were doing at one moment, as the verdicts read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .memory import TIMED_MESSAGE


@dataclass(frozen=True)
class RankView:
    """One rank: its process, and the part of its record that is of interest.

    Parameters
    ----------
    rank, process : int
        In MPI_COMM_WORLD, and of the system.
    host : str
    state : str
        "running": a thread of the process or of its children has run or waited for a disk lately; "idle";
        "stopped" (SIGSTOP); "traced" (by a debugger); "dead"; "ended": it has left MPI_Finalize and is gone.
    idle : float
        Seconds since when it is idle or stopped; 0 in the other states.
    time : float
        When this was read, in seconds of the node's monotonic clock, as all times here.
    finalizing : int
        1 inside MPI_Finalize, 2 after it.
    advanced : int
        How many calls this process has begun or ended that were no mere look whether something has come.
    under_way : ndarray of TIMED_CALL
        The calls that its threads are in; `left` is 0.
    calls : ndarray of TIMED_CALL
        Those that have ended since the snapshot before, the oldest first. Where the ring was too short, the
        newest of them.
    comms : ndarray of COMM
        The communicators of more than one rank that it has used.
    members : mapping of int to ndarray of int
        Ranks of each of them, in ascending order, by its id.
    requests : ndarray of TIMED_REQUEST
        Those that it has not completed, and persistent ones.
    peers : ndarray of TIMED_PEER
        What it has exchanged with each rank of the job since the start.
    lost : int
        How many communicators, requests and threads did not fit into the record.
    threads : int
        How many threads of it have called MPI and are still there.
    unnamed : int
        Messages that it has received without MPI having told the record from whom, or with which tag.
    cpu : float
        Seconds of processor time that it has used, by which it is known whether it had its turn lately;
        negative where that is not known.
    ended_by : str
        "SIGKILL", "exit status 1" or nothing, where that is not known.
    messages : ndarray of TIMED_MESSAGE
        Ends of messages that calls have completed since the snapshot before.
    """

    rank: int
    process: int
    host: str
    state: str
    idle: float
    time: float
    finalizing: int
    advanced: int
    under_way: np.ndarray
    calls: np.ndarray
    comms: np.ndarray
    members: Mapping[int, np.ndarray]
    requests: np.ndarray
    peers: np.ndarray
    lost: int
    threads: int = 1
    unnamed: int = 0
    cpu: float = -1.0
    ended_by: str = ""
    messages: np.ndarray = field(default_factory=lambda: np.zeros(0, TIMED_MESSAGE))

    def as_ended(self) -> RankView:
        """The same of a rank that has left MPI before it was gone."""
        return replace(self, state="ended", idle=0.0)


@dataclass(frozen=True)
class Snapshot:
    """All ranks that are heard of, at about the same moment.

    Parameters
    ----------
    time : float
        Of the master's monotonic clock.
    gap : float
        Seconds since the snapshot before; much more than the usual ones after the machine was suspended.
    size : int
        Ranks of the job.
    ranks : mapping of int to RankView
        By rank. A rank that is on a node that is not heard of is missing.
    functions : tuple of str
        Names of MPI's functions by the numbers that the records have.
    """

    time: float
    gap: float
    size: int
    ranks: Mapping[int, RankView]
    functions: tuple[str, ...]
