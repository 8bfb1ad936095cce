"""An allreduce whose network changes while it runs: what is chosen, when that changes, and what it gains.

    python -m benchmarks.watching [--bytes 1024] [--slow-link 1-6:8 | --slow-host 3:8]

makes an emulated cluster (see `benchmarks.netlab`), calls `Allreduce` over and over, slows a link or a host
after the first quarter of the calls, and times what is chosen in the end beside what was chosen first and the
MPI library's own, in turn. `roundelay measure` must have been run on such a cluster before.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from benchmarks.netlab.lab import Lab, LabError
from benchmarks.netlab.timetable import Change, parse_change
from benchmarks.netlab.units import parse_rate, parse_seconds
from benchmarks.results import results_folder, write

QUARTER = "a quarter is done"
ROUNDS = 25


def work(nbytes: int, calls: int) -> None:
    """Be one rank."""
    import numpy as np
    from mpi4py import MPI as PLAIN

    import roundelay
    from benchmarks.allreduce import CALLS, sample
    from benchmarks.measure import environment, library_key
    from roundelay import MPI
    from roundelay.collectives.processes import Wanted
    from roundelay.collectives.service import service_of

    world, comm = PLAIN.COMM_WORLD, MPI.COMM_WORLD
    own, result = np.full(nbytes // 8, float(world.rank)), np.empty(nbytes // 8)
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "auto"}))
    comm.Allreduce(own, result)
    choice = service_of(comm).choose(Wanted("allreduce", nbytes))

    def chosen() -> str:
        return "native" if choice.current is None else str(choice.current.algorithm)

    first = chosen()
    static = "native" if choice.current is None else choice.current.algorithm.name
    times, names = [], []
    for call in range(calls):
        if call == calls // 4 and world.rank == 0:
            print(QUARTER, flush=True)
        start = perf_counter()
        comm.Allreduce(own, result)
        times.append(round(perf_counter() - start, 6))
        names.append(chosen())
        assert (result == world.size * (world.size - 1) / 2).all()
    ways = {
        "auto": lambda: comm.Allreduce(own, result),
        "static": lambda: roundelay.allreduce(comm, own, result, algorithm=static),
        "native": lambda: world.Allreduce(own, result),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            samples[name].append(sample(run, CALLS))
    if world.rank == 0:
        found = {
            "environment": environment(),
            "library": library_key(),
            "bytes": nbytes,
            "first": first,
            "last": chosen(),
            "seconds": {name: statistics.median(each) for name, each in samples.items()},
            "calls": {"seconds": times, "choice": names},
        }
        print(json.dumps(found), flush=True)


def observe(lab: Lab, change: Change, nbytes: int, calls: int) -> dict[str, Any]:
    """Start the ranks, change the network when they ask for it, and give what they found."""
    be_a_rank = f"from benchmarks.watching import work; work({nbytes}, {calls})"
    process = lab.start([sys.executable, "-c", be_a_rank])
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == QUARTER:
            change.apply(lab)
    ended = lab.finish(process)
    if ended.status or not lines:
        raise LabError(f"the ranks ended with status {ended.status}: {ended.errors[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@click.command()
@results_folder
@click.option("--bytes", "nbytes", default=1024, show_default=True)
@click.option("--calls", default=2000, show_default=True)
@click.option("--slow-link", default="1-6:8", show_default=True, metavar="I-J:FACTOR")
@click.option("--slow-host", default=None, metavar="I:FACTOR", help="In place of a link.")
@click.option("--hosts", default=8, show_default=True)
@click.option("--delay", default="2ms", show_default=True)
@click.option("--rate", default="300mbit", show_default=True)
def main(
    nbytes: int,
    calls: int,
    slow_link: str,
    slow_host: str | None,
    hosts: int,
    delay: str,
    rate: str,
    output: Path,
) -> None:
    """Watch one allreduce."""
    change = parse_change(f"slow-host={slow_host}" if slow_host else f"slow-link={slow_link}")
    with Lab(hosts, parse_seconds(delay), parse_rate(rate)) as lab:
        found = observe(lab, change, nbytes, calls)
    found["change"] = slow_host or slow_link
    seconds = found["seconds"]
    print(f"{nbytes} B, slowed: {found['change']}: {found['first']}, then {found['last']}")
    for name, each in seconds.items():
        print(f"  {name:7}{1e3 * each:8.2f} ms, {each / seconds['auto']:.2f} times as long as auto")
    kind = "host" if slow_host else "link"
    write(output / f"watching-{kind}-{nbytes}-{found['library']}.json", found, indent=None)


if __name__ == "__main__":
    main()
