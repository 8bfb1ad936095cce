"""The calls of a job as a trace for https://ui.perfetto.dev and chrome://tracing.

The format is that of Chrome's trace events: complete events, one process for each rank, times in
microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .report_file import Call, Report


def trace_of(report: Report) -> dict[str, Any]:
    """Give the trace, as JSON has it."""
    return {
        "displayTimeUnit": "ms",
        "otherData": {"program": " ".join(report.argv), "ranks": report.size, "started": report.started},
        "traceEvents": [*_names(report), *_calls(report), *_findings(report)],
    }


def _names(report: Report) -> Iterator[dict[str, Any]]:
    hosts = {each.rank: each.host for each in report.ranks}
    for rank in sorted(report.timeline):
        label = f"rank {rank}" + (f" on {hosts[rank]}" if rank in hosts else "")
        yield {"ph": "M", "pid": rank, "tid": 0, "name": "process_name", "args": {"name": label}}
        yield {"ph": "M", "pid": rank, "tid": 0, "name": "process_sort_index", "args": {"sort_index": rank}}
        yield {"ph": "M", "pid": rank, "tid": 0, "name": "thread_name", "args": {"name": "MPI"}}


def _calls(report: Report) -> Iterator[dict[str, Any]]:
    for rank, calls in sorted(report.timeline.items()):
        for call in calls:
            end = report.seconds if call.end is None else call.end
            yield {
                "ph": "X",
                "pid": rank,
                "tid": 0,
                "name": call.function,
                "cat": "MPI",
                "ts": round(call.begin * 1e6, 3),
                "dur": round(max(end - call.begin, 0.0) * 1e6, 3),
                "args": _arguments(call),
            }


def _arguments(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {"communicator": call.comm}
    if call.sequence:
        found["sequence"] = call.sequence
    if call.dest >= 0:
        found["root" if call.sequence else "to"] = call.dest
    if call.source != -1:
        found["from"] = "any" if call.source == -2 else call.source
    if call.bytes >= 0:
        found["bytes"] = call.bytes
    if call.end is None:
        found["state"] = "under way when the report was written"
    return found


def _findings(report: Report) -> Iterator[dict[str, Any]]:
    for each in report.findings:
        yield {
            "ph": "i",
            "s": "g",
            "pid": each.ranks[0] if each.ranks else 0,
            "tid": 0,
            "name": each.sentence,
            "cat": "verdict",
            "ts": round(each.time * 1e6, 3),
            "args": {"kind": each.kind, "ranks": list(each.ranks)},
        }
