"""Paired timing: alternatives in turn within one run, medians and ratios."""

from __future__ import annotations

import platform
import random
import statistics
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from mpi4py import MPI

from roundelay.comm.interposer import library_alone

SAMPLE_SECONDS = 200e-6


def repetitions(call: Callable[[], Any]) -> int:
    """How many calls make a sample of about 200 microseconds."""
    call()
    count = 1
    while True:
        start = perf_counter()
        for _ in range(count):
            call()
        if (spent := perf_counter() - start) >= SAMPLE_SECONDS or count >= 1 << 20:
            return count
        count = max(count + 1, int(count * 1.2 * SAMPLE_SECONDS / max(spent, 1e-7)))


def time_in_turn(
    calls: Mapping[str, Callable[[], Any]], rounds: int, alone: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds a call of each alternative, `rounds` samples of each, taken in turn and in changing order.

    Those named in `alone` are mpi4py's own, and call the MPI library itself.

    Each sample begins with a call that is not timed, so that it finds the caches as it leaves them itself,
    and not as the alternative before it did.
    """
    counts = {}
    for name, call in calls.items():
        with by_library(name in alone):
            counts[name] = repetitions(call)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            call, count = calls[name], counts[name]
            with by_library(name in alone):
                call()
                start = perf_counter()
                for _ in range(count):
                    call()
                samples[name].append((perf_counter() - start) / count)
    return samples


def by_library(alone: bool) -> AbstractContextManager[None]:
    """Let mpi4py call the MPI library itself, if it is to be measured `alone`."""
    return library_alone() if alone else nullcontext()


def ratio(samples: Mapping[str, list[float]], slower: str, faster: str) -> float:
    """Median over the rounds of how many times longer `slower` took than `faster`."""
    return statistics.median(a / b for a, b in zip(samples[slower], samples[faster], strict=True))


def environment() -> dict[str, str]:
    """Libraries with their versions, and the processor."""
    library = MPI.Get_library_version().strip().splitlines()[0].split(",")[0]
    return {
        "library": " ".join(library.split()),
        "mpi4py": version("mpi4py"),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "python": platform.python_version(),
        "processor": processor(),
    }


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def library_key() -> str:
    """Short name of the running MPI library, for file names."""
    return MPI.get_vendor()[0].replace(" ", "").lower()
