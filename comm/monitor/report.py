"""The report of a job in JSON: its verdicts, its ranks, and of their history as much as a page can draw.

::

    {"roundelay": FORMAT,
     "verdicts": [{"kind", "ranks", "hosts", "sentence", "since", "evidence", "witness", "stacks", "time",
                   "date"}, ...],
     "job": {"size", "argv", "started", "seconds", "watcher_seconds", "ended", "dropped",
             "ranks": [{"rank", "host", "process", "state", "ended_by", "waiting", "doing"}, ...]},
     "history": {"columns": names of what each call in a timeline has,
                 "ranks": {"0": {"calls", "waited", "bytes_sent", "bytes_received", "messages_sent",
                                 "messages_received", "timeline": [[...], ...]}, ...}}}

Times are seconds since the watcher began, but for "started", "date" and "watcher_seconds", for which it has
computed; `waited` and the like are lists by peer. A call that was under way when the report was written has
no end, null. Ranks of peers below zero mean none, -1, and any, -2. "dropped" counts what came from outsiders.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .members import Member
from .snapshot import RankView
from .verdict import Verdict

# Of the report. It changes when a reader of the one before would be led astray.
FORMAT = 1
COLUMNS = ("begin", "end", "function", "comm", "sequence", "dest", "source", "bytes")
# Of each rank: calls that are kept, of one poll and in all.
_CALLS_OF_POLL = 16
_POLLS = 128


def now_as_date() -> str:
    """The time of day, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def entry_of(verdict: Verdict, time: float) -> dict[str, Any]:
    """A verdict, as the report has it."""
    return {
        "kind": verdict.kind,
        "ranks": list(map(int, verdict.ranks)),
        "hosts": list(verdict.hosts),
        "sentence": verdict.sentence,
        "since": round(float(verdict.since), 3),
        "evidence": dict(verdict.evidence),
        "witness": verdict.witness,
        "stacks": {str(rank): stack for rank, stack in verdict.stacks.items()},
        "time": round(time, 3),
        "date": now_as_date(),
    }


class History:
    """A sample of the calls of each rank, the latest of each poll."""

    def __init__(self) -> None:
        self._calls: dict[int, deque[np.ndarray]] = {}

    def add(self, views: Iterable[RankView]) -> None:
        """Keep some of what has ended."""
        for view in views:
            if len(view.calls):
                kept = self._calls.setdefault(view.rank, deque(maxlen=_POLLS))
                # A copy does not keep all of the others.
                kept.append(view.calls[-_CALLS_OF_POLL:].copy())

    def summary(self, view: RankView, functions: tuple[str, ...], begin: float) -> dict[str, Any]:
        """What the report has of a rank."""
        peers = view.peers
        rows = [
            _row(call, functions, begin) for calls in self._calls.get(view.rank, ()) for call in calls
        ] + [_row(call, functions, begin) for call in view.under_way]
        return {
            "calls": view.advanced,
            "waited": np.round(peers["waited"], 6).tolist(),
            "bytes_sent": peers["bytes_sent"].tolist(),
            "bytes_received": peers["bytes_received"].tolist(),
            "messages_sent": peers["sent"].sum(1, dtype=np.int64).tolist(),
            "messages_received": peers["received"].sum(1, dtype=np.int64).tolist(),
            "timeline": rows,
        }


def _row(call: np.void, functions: tuple[str, ...], begin: float) -> list[Any]:
    end = float(call["left"])
    number = int(call["function"])
    return [
        round(float(call["entered"]) - begin, 6),
        round(end - begin, 6) if end else None,
        functions[number] if number < len(functions) else str(number),
        *(int(call[name]) for name in COLUMNS[3:]),
    ]


def rank_of(member: Member) -> dict[str, Any]:
    """What is known of a rank's process."""
    member.process.learn_end()
    return {
        "rank": member.rank,
        "host": member.host,
        "process": member.process.number,
        "state": member.last.state if member.last else "running",
        "ended_by": member.process.ended_by,
        "waiting": round(member.polls_inside / max(member.polls, 1), 3),
        "doing": _call_in(member.last, member.functions),
    }


def rank_of_view(view: RankView, functions: tuple[str, ...], waiting: float) -> dict[str, Any]:
    """The same of a rank on another node."""
    return {
        "rank": view.rank,
        "host": view.host,
        "process": view.process,
        "state": view.state,
        "ended_by": view.ended_by,
        "waiting": round(waiting, 3),
        "doing": _call_in(view, functions),
    }


def rank_unreachable(rank: int, host: str) -> dict[str, Any]:
    """The same of a rank on a node that nothing is heard of."""
    found = {"rank": rank, "host": host, "process": 0, "state": "unreachable"}
    return {**found, "ended_by": "", "waiting": 0.0, "doing": None}


def _call_in(view: RankView | None, functions: tuple[str, ...]) -> dict[str, Any] | None:
    """The call that a rank is in, or None outside of MPI."""
    if view is None or not len(view.under_way):
        return None
    call = view.under_way[0]
    number = int(call["function"])
    return {
        "function": functions[number] if number < len(functions) else str(number),
        "sequence": int(call["sequence"]),
        "seconds": round(view.time - float(call["entered"]), 3),
    }


def write(path: str, report: Mapping[str, Any]) -> None:
    """Write a report at once: whoever reads the file finds this one or the one before.

    Raises
    ------
    OSError
        There is no room, or no such folder.
    """
    partial = f"{path}.{os.getpid()}.part"
    try:
        with Path(partial).open("w") as file:
            json.dump({"roundelay": FORMAT, **report}, file, default=_plain)
            file.write("\n")
        Path(partial).replace(path)
    except BaseException as error:
        with suppress(OSError):
            Path(partial).unlink()
        if isinstance(error, OSError):
            # The user has given this name, and never heard of the other.
            raise OSError(error.errno, error.strerror, path) from error
        raise


def _plain(value: Any) -> Any:
    """What NumPy has found, as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
