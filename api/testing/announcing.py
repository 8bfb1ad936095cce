"""When a fault was injected: a line in the file that `ROUNDELAY_INJECT_LOG` names, for whoever measures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from ..datatypes.plain import MPI

VARIABLE = "ROUNDELAY_INJECT_LOG"


def announce(kind: str, **details: int) -> None:
    """Write the fault, the rank and the time (seconds since the epoch) as a line of JSON, with details.

    It is a system call of its own, done before the fault: a process that is killed has said so.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps({"fault": kind, "rank": MPI.COMM_WORLD.Get_rank(), "time": time.time(), **details})
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


def announcing_once(kind: str) -> Callable[[], None]:
    """What announces a fault that lasts when it is first called."""
    announced: list[str] = []

    def tell() -> None:
        if not announced:
            announced.append(kind)
            announce(kind)

    return tell
