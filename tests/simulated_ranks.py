"""Ranks of jobs that never run: what a record has of their calls, messages and requests."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roundelay.comm.monitor.memory import ANY_CLASS, NO_RANK, TIMED_PEER

FUNCTIONS = (
    "Send", "Ssend", "Isend", "Issend", "Recv", "Irecv", "Probe", "Iprobe", "Sendrecv", "Wait", "Waitall",
    "Waitany", "Test", "Bcast", "Reduce", "Allreduce", "Barrier", "Allgather", "Ibarrier", "Iallreduce",
    "Comm_dup", "Finalize",
)  # fmt: skip
NUMBER = {name: number for number, name in enumerate(FUNCTIONS)}
WORLD = 1
ANY = -1
EAGER = 4096
SYNCHRONISING = ("Allreduce", "Barrier", "Allgather", "Ibarrier", "Iallreduce", "Comm_dup")

Program = Generator[tuple[Any, ...], Any, None]


def class_of(comm: int, tag: int) -> int:
    """The class by which a record counts messages."""
    return ANY_CLASS if tag < 0 else (comm * 31 + tag) * 2654435761 % 2**32 >> 29


@dataclass(eq=False)
class Message:
    """One that was sent."""

    source: int
    dest: int
    comm: int
    tag: int
    done: Callable[[], None] | None


@dataclass(eq=False)
class Request:
    """One that is not complete, or not completed by the program."""

    function: str
    comm: int = WORLD
    dest: int = NO_RANK
    source: int = NO_RANK
    tag: int = 0
    size: int = 8
    sequence: int = 0
    started: float = 0.0
    done: bool = False
    awaited: bool = False
    message: Message | None = None
    probes: bool = False
    ordinal: int = 0


@dataclass(eq=False)
class Rank:
    """A rank and its record."""

    number: int
    size: int
    program: Program
    state: str = "running"
    since: float = 0.0
    advanced: int = 0
    finalizing: int = 0
    call: dict[str, Any] | None = None
    waiting: Callable[[], bool] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    # Ends of messages that calls have completed, and the seconds spent in calls.
    messages: list[dict[str, Any]] = field(default_factory=list)
    inside: float = 0.0
    requests: list[Request] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.peers = np.zeros(self.size, TIMED_PEER)


def rows(entries: list[dict[str, Any]], dtype: np.dtype) -> np.ndarray:
    """Rows with zero in the fields that an entry does not have."""
    found = np.zeros(len(entries), dtype)
    for row, entry in zip(found, entries, strict=True):
        for name, value in entry.items():
            row[name] = value
    return found


def row_of(request: Request) -> dict[str, Any]:
    """What a record has of a request."""
    sends = request.function in ("Isend", "Issend")
    kind = class_of(request.comm, request.tag)
    return {
        "handle": id(request), "started": request.started, "bytes": request.size, "comm": request.comm,
        "sequence": request.sequence, "dest": request.dest, "source": request.source, "tag": request.tag,
        "function": NUMBER[request.function], "sent_class": kind if sends else ANY_CLASS,
        "received_class": kind, "active": 1, "awaited": int(request.awaited),
        "receives": int(request.function == "Irecv"), "collective": int(request.sequence > 0),
    }  # fmt: skip
