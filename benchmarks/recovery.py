"""Jobs that lose ranks: how soon they go on, whether anything is lost, and what a commit costs.

    python -m benchmarks.recovery kills [--kills 100] [--seed 0]
    mpiexec -n 2 python -m benchmarks.recovery commit [--mebibytes 64]

The first needs Open MPI with ULFM. It starts jobs one after the other, each of which loses one or two ranks
at random moments that the seed decides: anywhere, within milliseconds of the beginning of a commit, or while
the others recover. The result of each is compared, bit by bit, with that of a single process. The second
times steps of computing with a commit, with the copy alone, and with neither, in turn. It runs with any MPI
library.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from itertools import count
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import click
import numpy as np

from benchmarks.results import results_folder, write_json
from tests import launch

SCENARIOS = (["anytime"], ["commit"], ["anytime", "recovery"], ["commit", "recovery"])
LIMIT_S = 60.0
TURNS = 15
# Computing between a commit and the wait for it, in steps with a collective each.
STEPS, STEP_MIB = 20, 4


@click.group(help=__doc__)
def main() -> None:
    """Choose what is measured."""


# Kills --------------------------------------------------------------------------------------------


def start_job(ranks: int, kinds: list[str], seed: int, sends: bool) -> dict[str, Any]:
    """Run a job that loses ranks, and give what it found."""
    lines: list[str] = []
    began = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", "tests.recovery_job", "--folder", folder, "--seed", str(seed)]
        arguments += [word for kind in kinds for word in ("--kill", kind)]
        arguments += ["--send", "--ballast", str(1 << 20)] if sends else []
        command = [launch.find_mpiexec(), "--with-ft", "ulfm", "-n", str(ranks), sys.executable, *arguments]
        status = launch.run(command, LIMIT_S, line=lines.append)
    results = [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]
    if status != 0 or len(results) != 1:
        return {"failed": f"status {status}", "seed": seed, "lost": [], "output": lines[-30:]}
    return {**results[0], "ranks": ranks, "kinds": kinds, "sends": sends, "job_seconds": monotonic() - began}


@main.command()
@click.option("--kills", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--ranks", default="3,4,8", show_default=True, help="Numbers of ranks, in turn.")
@click.option("--seed", default=0, show_default=True, help="Of the first job.")
@results_folder
def kills(kills: int, ranks: str, seed: int, output: Path) -> None:
    """Kill ranks until a number of kills is reached."""
    sizes = [int(size) for size in ranks.split(",")]
    jobs: list[dict[str, Any]] = []
    killed = 0
    for number in count():
        if killed >= kills:
            break
        size, kinds = sizes[number % len(sizes)], SCENARIOS[number // len(sizes) % len(SCENARIOS)]
        job = start_job(size, kinds, seed + number, sends=number // 2 % 2 == 1)
        jobs.append(job)
        killed += max(1, len(job["lost"]))
        summary = job.get("failed") or ("right" if job["right"] else "WRONG")
        print(
            f"{killed:4d} kills, job {number}: {size} ranks, {'+'.join(kinds)}, lost {job['lost']}, "
            f"{1e3 * job.get('seconds', 0):.0f} ms, {summary}",
            flush=True,
        )
    results = summarize(jobs)
    print(json.dumps({name: value for name, value in results.items() if name != "jobs"}, indent=1))
    write_json(output / "recovery-openmpi.json", results)
    sys.exit(1 if results["failed"] or results["wrong"] or results["lost_commits"] else 0)


def summarize(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over all jobs."""
    ended = [job for job in jobs if "failed" not in job]
    seconds = [each["seconds"] for job in ended for each in job["recoveries"] if each["lost"]]
    return {
        "kills": sum(len(job["lost"]) for job in ended),
        "recoveries": len(seconds),
        "failed": len(jobs) - len(ended),
        "wrong": sum(not job["right"] for job in ended),
        "lost_commits": sum(job["lost_commits"] for job in ended),
        "begun_again": sum(job["fresh"] for job in ended),
        "seconds_median": statistics.median(seconds) if seconds else None,
        "seconds_worst": max((job["seconds"] for job in ended), default=None),
        "jobs": jobs,
    }


# Commits ------------------------------------------------------------------------------------------


@main.command()
@click.option("--mebibytes", default=64, show_default=True, help="Of each rank.")
@click.option("--send", is_flag=True, help="Send copies also on a node.")
@results_folder
def commit(mebibytes: int, send: bool, output: Path) -> None:
    """Time commits beside the copy itself."""
    import roundelay
    from benchmarks.measure import library_key
    from roundelay import MPI

    comm = MPI.COMM_WORLD
    field = np.random.default_rng(comm.rank).random((mebibytes << 20) // 8)
    target, work = np.empty_like(field), np.ones((STEP_MIB << 20) // 8)
    protected = roundelay.Protected(comm, [field], share=not send)

    def compute() -> None:
        for _ in range(STEPS):
            np.multiply(work, 1.0, out=work)
            comm.allreduce(1)

    def copy() -> None:
        np.copyto(target, field)

    def commit() -> None:
        protected.commit(0)

    def copy_and_compute() -> None:
        copy()
        compute()

    def commit_and_compute() -> None:
        protected.commit(0)
        compute()
        protected.wait()

    def timed(function: Any) -> float:
        comm.Barrier()
        start = perf_counter()
        function()
        # The slowest counts.
        return comm.allreduce(perf_counter() - start, MPI.MAX)

    for each in (copy, commit, commit, protected.wait, compute):
        each()
    # Either copy takes from the caches what the computing has there.
    calls = {"copy": copy, "copy, steps": copy_and_compute, "commit, steps, wait": commit_and_compute}
    times: dict[str, list[float]] = {name: [] for name in ("steps", "commit", *calls)}
    for _ in range(TURNS):
        times["steps"].append(timed(compute))
        for name, call in calls.items():
            times[name].append(timed(call))
        times["commit"].append(timed(commit))
        protected.wait()
    check(protected, field)
    if comm.rank == 0:
        medians = {name: statistics.median(each) for name, each in times.items()}
        steps = medians["steps"]
        ratios = {
            "commit": medians["commit"] / medians["copy"],
            "all that a commit adds": (medians["commit, steps, wait"] - steps)
            / (medians["copy, steps"] - steps),
        }
        print(json.dumps({"seconds": medians, "ratio to the copy": ratios}, indent=1))
        name = f"commit-{comm.size}-{library_key()}{'-send' * send}.json"
        write_json(
            output / name, {"mebibytes": mebibytes, "seconds": medians, "ratios": ratios, "times": times}
        )


def check(protected: Any, field: Any) -> None:
    """Compare what is recovered with what was committed."""
    recovered = protected.recover(protected.comm)
    assert (recovered.arrays[0] == field).all()


if __name__ == "__main__":
    main()
