"""A job with the fault monitor on an emulated cluster, one link of which becomes slow."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.fault_jobs import SECONDS_AFTER_VERDICT, Outcome, monitored, read_lines, read_verdicts
from benchmarks.netlab.lab import Lab

DELAY = 0.004
RATE = 100e6 / 8
FACTOR = 3.0
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_OF_HEALTH = (1.0, 3.0)


def run_on_links(
    program: Sequence[str],
    ranks: int,
    folder: Path,
    limit: float,
    is_found: Callable[[list[dict[str, Any]]], bool],
) -> Outcome:
    """Run a program that says "ready" with one rank on each host, and slow down a link then.

    The last of the program's arguments is the seed.
    """
    if find_spec("zmq") is None:
        raise RuntimeError("a job on several hosts needs pyzmq: python -m pip install pyzmq")
    report, log = folder / "report.json", folder / "injected.jsonl"
    draw = random.Random(int(program[-1]))
    one, other = draw.sample(range(ranks), 2)
    start = time.monotonic()
    with Lab(ranks, DELAY, RATE) as lab:
        process = lab.start(monitored(report, program))
        assert process.stdout is not None
        watchdog = threading.Timer(limit, lab.stop)
        watchdog.start()
        try:
            for line in process.stdout:
                if line.strip() == "ready":
                    break
            time.sleep(draw.uniform(*SECONDS_OF_HEALTH))
            lab.slow_link(one, other, FACTOR)
            entry = {"fault": "slow-link", "rank": one, "peer": other, "time": time.time()}
            log.write_text(json.dumps(entry) + "\n", encoding="utf-8")
            while (
                process.poll() is None
                and time.monotonic() < start + limit
                and not is_found(read_verdicts(report)[0])
            ):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            time.sleep(SECONDS_AFTER_VERDICT)
            verdicts, has_report = read_verdicts(report)
            lab.stop()
            ended = lab.finish(process, limit)
        finally:
            watchdog.cancel()
    return Outcome(
        verdicts=verdicts,
        injected=read_lines(log),
        seconds=time.monotonic() - start,
        status=ended.status,
        output=ended.output + ended.errors,
        has_report=has_report,
    )
