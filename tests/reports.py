"""Reports of jobs that never were, for what shows them."""

import json
import random
from pathlib import Path
from typing import Any

from roundelay.comm.monitor.report import COLUMNS, FORMAT

FUNCTIONS = ("Allreduce", "Irecv", "Isend", "Waitall", "Barrier", "Get_count")


def report(
    size: int = 4, *, calls: int = 60, seed: int = 0, link: tuple[int, int] = (1, 2)
) -> dict[str, Any]:
    """A halo exchange and an allreduce in turn, with one slow link."""
    draw = random.Random(seed)
    source, dest = (rank % size for rank in link)
    ranks, states = {}, []
    for rank in range(size):
        peers = [(rank - 1) % size, (rank + 1) % size]
        waited, messages, time, timeline = [0.0] * size, [0] * size, draw.uniform(0, 0.01), []
        for number in range(1, calls // 3 + 1):
            slow = rank == dest
            for name, peer, seconds in (
                ("Isend", peers[1], 0.001),
                ("Recv", peers[0], (0.03 if slow else 0.008) * draw.uniform(0.9, 1.1)),
                ("Allreduce", -1, (0.004 if slow else 0.026) * draw.uniform(0.9, 1.1)),
            ):
                ends = {"Isend": (peer, -1), "Recv": (-1, peer)}.get(name, (-1, -1))
                sequence = number if name == "Allreduce" else 0
                timeline.append([round(time, 6), round(time + seconds, 6), name, 1, sequence, *ends, 65536])
                time += seconds + 0.001
                if name == "Recv":
                    waited[peer] += seconds
                    messages[peer] += 1
        ranks[str(rank)] = {
            "calls": len(timeline),
            "waited": waited,
            "bytes_sent": [65536 * each for each in messages],
            "bytes_received": [65536 * each for each in messages],
            "messages_sent": messages,
            "messages_received": messages,
            "timeline": timeline,
        }
        states.append(
            {
                "rank": rank,
                "host": f"h{rank // 2}",
                "process": 4000 + rank,
                "state": "running",
                "ended_by": None,
                "waiting": round(draw.uniform(0.2, 0.6), 3),
                "doing": {"function": "Allreduce", "sequence": 20, "seconds": 0.01} if rank % 2 else None,
            }
        )
    return {
        "roundelay": FORMAT,
        "verdicts": [slow_link(source, dest), stuck(min(3, size - 1))],
        "job": {
            "size": size,
            "argv": ["solve.py", "--steps", "900"],
            "started": "2026-03-02T10:15:00.000+00:00",
            "seconds": 1.0 + time,
            "ended": True,
            "ranks": states,
        },
        "history": {"columns": list(COLUMNS), "ranks": ranks},
    }


def slow_link(source: int, dest: int) -> dict[str, Any]:
    """A verdict."""
    return {
        "kind": "slow-link",
        "ranks": [source, dest],
        "hosts": ["h0", "h1"],
        "sentence": f"messages from rank {source} to rank {dest} take 3.8 times as long as others",
        "since": 0.7,
        "evidence": {"factor": 3.8, "messages": 20, "median_ms": 8.0},
        "witness": None,
        "stacks": {},
        "time": 0.9,
        "date": "2026-03-02T10:15:00.900+00:00",
    }


def stuck(rank: int) -> dict[str, Any]:
    """Another one."""
    return {
        "kind": "stuck",
        "ranks": [rank],
        "hosts": ["h1"],
        "sentence": f"the others wait in Allreduce #20 at solve.py:88; rank {rank} is at io.py:31",
        "since": 4.1,
        "evidence": {"places": {str(rank): "io.py:31"}},
        "witness": 0,
        "stacks": {
            str(rank): 'File "io.py", line 31 in read\nFile "solve.py", line 80 in step',
            "0": 'File "solve.py", line 88 in step',
        },
        "time": 1.4,
        "date": "2026-03-02T10:15:01.400+00:00",
    }


def save(found: Any, path: Path) -> Path:
    """Write a report."""
    path.write_text(json.dumps(found))
    return path
