"""Reading a report that a watcher wrote; `comm/monitor/report.py` says what is in it.

Whoever has written it: what is not as it should be is an error that says where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..report import COLUMNS, FORMAT


class NotAReport(ValueError):
    """A file that no watcher of this version has written."""


@dataclass(frozen=True)
class Finding:
    """A verdict of the report: as `Verdict`, and when it was found, in seconds since the watcher began."""

    kind: str
    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    sentence: str
    since: float
    evidence: Mapping[str, Any]
    witness: int | None
    stacks: Mapping[int, str]
    time: float


@dataclass(frozen=True)
class RankState:
    """A rank as it was when the report was written.

    `waiting` is its share of time inside MPI, `doing` the call that it was in, in words.
    """

    rank: int
    host: str
    process: int
    state: str
    ended_by: str
    waiting: float
    doing: str


@dataclass(frozen=True)
class Call:
    """A call of MPI: when it began and ended, None while it is under way, and what it was."""

    begin: float
    end: float | None
    function: str
    comm: int
    sequence: int
    dest: int
    source: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """A report.

    Parameters
    ----------
    size : int
        Ranks of the job.
    argv : tuple of str
        The program.
    started : str
        Date and time.
    seconds : float
        From then until the report was written.
    ended : bool
        Whether the job had ended then.
    findings : tuple of Finding
    ranks : tuple of RankState
    waited, messages : ndarray
        Seconds that the rank of the row has waited for messages of that of the column, and how many came.
    timeline : mapping of int to tuple of Call
        Some calls of each rank.
    dropped : mapping of str to int
        Connections and messages of outsiders that the watcher has dropped, by the reason.
    """

    size: int
    argv: tuple[str, ...]
    started: str
    seconds: float
    ended: bool
    findings: tuple[Finding, ...]
    ranks: tuple[RankState, ...]
    waited: np.ndarray
    messages: np.ndarray
    timeline: Mapping[int, tuple[Call, ...]]
    dropped: Mapping[str, int]


# More than any machine has, and few enough for a square matrix.
_MOST_RANKS = 1 << 14


def read_report(path: str | Path) -> Report:
    """Read a report.

    Raises
    ------
    NotAReport
        If it is none, or of another version.
    OSError
    """
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotAReport(f"{path} is no report: {_short(str(error))}") from error
    if not isinstance(found, dict) or not {"verdicts", "job"} <= found.keys():
        raise NotAReport(
            f"{path} is no report: expected one written by roundelay run --monitor --report FILE"
        )
    version = found.get("roundelay")
    if version != FORMAT:
        raise NotAReport(
            f"{path} is a report of version {_short(repr(version))}: expected {FORMAT}; read it with the"
            " roundelay that wrote it"
        )
    try:
        return _report(found)
    except NotAReport as error:
        raise NotAReport(f"{path} is no complete report: {error}") from error


def _report(found: Mapping[str, Any]) -> Report:
    job, history = _get(found, "job", dict), found.get("history", {})
    size = _get(job, "size", int)
    if not 0 <= size <= _MOST_RANKS:
        raise NotAReport(f"size {size}: expected 0 to {_MOST_RANKS}")
    if not isinstance(history, dict):
        raise NotAReport("history: expected an object")
    ranks = history.get("ranks", {})
    if not isinstance(ranks, dict):
        raise NotAReport("history.ranks: expected an object")
    waited, messages, timeline = np.zeros((size, size)), np.zeros((size, size)), {}
    columns = history.get("columns", list(COLUMNS))
    if ranks and columns != list(COLUMNS):
        raise NotAReport(f"history.columns {_short(repr(columns))}: expected {list(COLUMNS)}")
    for key, each in ranks.items():
        rank = _rank(key, size)
        waited[rank] = _numbers(_get(each, "waited", list), size)
        messages[rank] = _numbers(_get(each, "messages_received", list), size)
        timeline[rank] = tuple(map(_call, _get(each, "timeline", list)))
    return Report(
        size=size,
        argv=tuple(map(str, _get(job, "argv", list))),
        started=_get(job, "started", str),
        seconds=_number(job, "seconds"),
        ended=bool(job.get("ended", False)),
        findings=tuple(_finding(each, size) for each in _get(found, "verdicts", list)),
        ranks=tuple(_rank_state(each, size) for each in _get(job, "ranks", list)),
        waited=waited,
        messages=messages,
        timeline=timeline,
        dropped=_counts(job.get("dropped", {})),
    )


def _counts(found: Any) -> dict[str, int]:
    if not isinstance(found, dict):
        raise NotAReport(f"dropped {_short(repr(found))}: expected an object")
    return {str(name): _get(found, name, int) for name in found}


def _finding(found: Any, size: int) -> Finding:
    witness = found.get("witness") if isinstance(found, dict) else None
    return Finding(
        kind=_get(found, "kind", str),
        ranks=tuple(_rank(each, size) for each in _get(found, "ranks", list)),
        hosts=tuple(map(str, found.get("hosts") or ())),
        sentence=_get(found, "sentence", str),
        since=_number(found, "since"),
        evidence=_get(found, "evidence", dict),
        witness=None if witness is None else _rank(witness, size),
        stacks={_rank(key, size): str(stack) for key, stack in _get(found, "stacks", dict).items()},
        time=_number(found, "time"),
    )


def _rank_state(found: Any, size: int) -> RankState:
    doing = found.get("doing") if isinstance(found, dict) else None
    words = ""
    if doing is not None:
        sequence = _get(doing, "sequence", int)
        number = f" #{sequence}" if sequence else ""
        call, seconds = f"{_get(doing, 'function', str)}{number}", _number(doing, "seconds")
        # Of a rank that is gone, nobody has counted for how long.
        is_gone = found.get("state") == "dead"
        words = f"was in {call}" if is_gone else f"{call} since {seconds:.1f} s"
    return RankState(
        rank=_rank(_get(found, "rank", int), size),
        host=_get(found, "host", str),
        process=_get(found, "process", int),
        state=_get(found, "state", str),
        ended_by=str(found.get("ended_by") or ""),
        waiting=_number(found, "waiting"),
        doing=words,
    )


def _call(row: Any) -> Call:
    if not isinstance(row, list) or len(row) != len(COLUMNS):
        raise NotAReport(f"a call {_short(repr(row))}: expected {list(COLUMNS)}")
    begin, end, function, *rest = row
    if not isinstance(function, str) or not all(type(each) is int for each in rest):
        raise NotAReport(f"a call {_short(repr(row))}: expected a name and integers")
    first, last = _numbers([begin, begin if end is None else end], 2)
    return Call(float(first), None if end is None else float(last), function, *rest)


def _get(found: Any, name: str, kind: type) -> Any:
    if not isinstance(found, dict):
        raise NotAReport(f"{_short(repr(found))}: expected an object with {name!r}")
    value = found.get(name)
    if type(value) is not kind:
        raise NotAReport(f"{name} {_short(repr(value))}: expected {kind.__name__}")
    return value


def _number(found: Any, name: str) -> float:
    value = found.get(name) if isinstance(found, dict) else None
    return float(_numbers([value], 1, name)[0])


def _numbers(values: Sequence[Any], count: int, name: str = "numbers") -> list[float]:
    if len(values) != count or not all(type(each) in (int, float) and isfinite(each) for each in values):
        raise NotAReport(f"{name} {_short(repr(values))}: expected {count} finite numbers")
    return [float(each) for each in values]


def _rank(value: Any, size: int) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) >= size:
        raise NotAReport(f"rank {_short(text)} of {size}")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
