"""Time that roundelay adds to messages that need none of it: contiguous NumPy arrays, beside mpi4py alone.

    mpiexec -n 2 python -m benchmarks.overhead [--rounds 400] [--monitor]

"Send, Recv" is a ping-pong, and its time the one-way time, which contains one call of each. The other modes
are exchanges, in which both ranks send and receive at once, and collectives; their time is that of one of
them, and `bytes` are those for each rank. The time added is the median over the rounds of the difference
between two samples taken one right after the other.

With `--monitor` it is what the record of the fault monitor adds to a call of 8 bytes: both samples go through
roundelay, one with the record and one without it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import by_library, library_key
from benchmarks.pingpong import PEER, RANK, WORLD, Way, message_way, require_two_ranks, time_in_step
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.comm.interposer import interposer
from roundelay.terminal import track

SIZES = (0, *(1 << 2 * step for step in range(11)))
# Sizes up to this are also taken together: the time added does not depend on the size, the noise does.
SMALL = 1 << 10
# What the record is measured at, and what it may add to a call.
RECORDED_BYTES = 8
RECORD_LIMIT = 0.1

Bytes = NDArray[np.uint8]


class Mode(NamedTuple):
    """A way to send contiguous arrays, made for an MPI module.

    Attributes
    ----------
    trips
        How many one-way trips an iteration is.
    sends, receives
        To and from how many ranks the buffers have bytes.
    calls
        How many calls of MPI follow one another in a trip.
    """

    make: Callable[[Any, Bytes, Bytes], Way]
    trips: int = 1
    sends: int = 1
    receives: int = 1
    calls: int = 1


def send_recv(mpi: Any, outgoing: Bytes, incoming: Bytes) -> Way:
    """Ping-pong of `Send` and `Recv`."""
    return message_way(mpi.COMM_WORLD, outgoing, incoming)


def isend_irecv(mpi: Any, outgoing: Bytes, incoming: Bytes) -> Way:
    """Exchange by `Irecv`, `Isend` and `Waitall`."""
    comm, request = mpi.COMM_WORLD, mpi.Request

    def run(count: int) -> None:
        for _ in range(count):
            request.Waitall([comm.Irecv(incoming, PEER), comm.Isend(outgoing, PEER)])

    return run


def sendrecv(mpi: Any, outgoing: Bytes, incoming: Bytes) -> Way:
    """Exchange by `Sendrecv`."""
    comm = mpi.COMM_WORLD

    def run(count: int) -> None:
        for _ in range(count):
            comm.Sendrecv(outgoing, PEER, 0, incoming, PEER, 0)

    return run


def bcast(mpi: Any, _outgoing: Bytes, incoming: Bytes) -> Way:
    """`Bcast` from rank 0."""
    comm = mpi.COMM_WORLD

    def run(count: int) -> None:
        for _ in range(count):
            comm.Bcast(incoming)

    return run


def collective(name: str) -> Callable[[Any, Bytes, Bytes], Way]:
    """Give a way to call the method of that name, which has a buffer to send and one to receive in."""

    def make(mpi: Any, outgoing: Bytes, incoming: Bytes) -> Way:
        comm = mpi.COMM_WORLD
        # Not bound: as in `comm.Allreduce(...)`, nothing is made for a call.
        method = getattr(type(comm), name)

        def run(count: int) -> None:
            for _ in range(count):
                method(comm, outgoing, incoming)

        return run

    return make


MODES = {
    "Send, Recv": Mode(send_recv, trips=2, calls=2),
    "Isend, Irecv, Waitall": Mode(isend_irecv, calls=3),
    "Sendrecv": Mode(sendrecv),
    "Bcast": Mode(bcast),
    "Allreduce": Mode(collective("Allreduce")),
    "Allgather": Mode(collective("Allgather"), receives=2),
    "Reduce": Mode(collective("Reduce")),
    "Gather": Mode(collective("Gather"), receives=2),
    "Alltoall": Mode(collective("Alltoall"), sends=2, receives=2),
}


def measure(name: str, nbytes: int, rounds: int) -> tuple[dict[str, Any], list[float]]:
    """Time one mode at one size; return the row, and the microseconds added in each round."""
    mode = MODES[name]
    outgoing = np.random.default_rng(RANK).integers(0, 256, mode.sends * nbytes, np.uint8)
    incoming = np.empty(mode.receives * nbytes, np.uint8)
    ways = {
        "plain": mode.make(PLAIN, outgoing, incoming),
        "ours": mode.make(MPI, outgoing, incoming),
    }
    check(f"{name}, {nbytes} bytes", ways, incoming)
    samples = {
        way: [1e6 * seconds / mode.trips for seconds in times]
        for way, times in time_in_step(ways, rounds, alone=("plain",)).items()
    }
    added = [ours - plain for ours, plain in zip(samples["ours"], samples["plain"], strict=True)]
    row = {
        "mode": name,
        "bytes": nbytes,
        "microseconds": {way: statistics.median(times) for way, times in samples.items()},
        "added": spread(added),
    }
    return row, added


def check(what: str, ways: dict[str, Way], incoming: Bytes) -> None:
    """Compare what each way receives with what mpi4py alone does."""
    received = {}
    for name, way in ways.items():
        incoming[:] = RANK
        with by_library(name == "plain"):
            way(1)
        received[name] = incoming.copy()
    if not WORLD.allreduce(np.array_equal(received["ours"], received["plain"]), PLAIN.LAND):
        raise click.ClickException(f"{what}: roundelay moves other bytes than mpi4py")


def spread(added: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(added, (0.25, 0.5, 0.75)).tolist()
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def start_recording() -> None:
    """Begin a record that nobody reads, and pause it."""
    module = interposer()
    file = os.memfd_create("record")
    module.start_record(file, RANK, WORLD.size, WORLD.handle)
    os.close(file)
    module.go_on_recording(False)


def recording(on: bool, way: Way) -> Way:
    """A way with the record on, or off."""
    go_on = interposer().go_on_recording

    def run(count: int) -> None:
        go_on(on)
        way(count)
        go_on(False)

    return run


def measure_record(name: str, rounds: int) -> dict[str, Any]:
    """Time one mode with and without the record."""
    mode = MODES[name]
    outgoing = np.full(mode.sends * RECORDED_BYTES, RANK, np.uint8)
    incoming = np.empty(mode.receives * RECORDED_BYTES, np.uint8)
    way = mode.make(MPI, outgoing, incoming)
    samples = {
        key: [1e6 * seconds / mode.trips for seconds in times]
        for key, times in time_in_step(
            {"off": recording(False, way), "on": recording(True, way)}, rounds
        ).items()
    }
    added = [on - off for on, off in zip(samples["on"], samples["off"], strict=True)]
    return {
        "mode": name,
        "bytes": RECORDED_BYTES,
        "calls": mode.calls,
        "microseconds": {key: statistics.median(times) for key, times in samples.items()},
        "added": spread(added),
        "added a call": statistics.median(added) / mode.calls,
        # Where the cores are shared with others, these tell more than medians.
        "added a call, fastest tenth": (tenth(samples["on"]) - tenth(samples["off"])) / mode.calls,
    }


def tenth(times: list[float]) -> float:
    """The time than which a tenth of the samples are shorter."""
    return float(np.quantile(times, 0.1))


def show_record(rows: list[dict[str, Any]]) -> None:
    """Print what the record adds."""
    table = Table(
        "mode", "off us", "on us", "added us", "quartiles", "calls", "added a call", show_edge=False
    )
    for row in rows:
        times, added = row["microseconds"], row["added"]
        table.add_row(
            row["mode"],
            f"{times['off']:.3f}",
            f"{times['on']:.3f}",
            f"{added['median']:.3f}",
            f"{added['lower quartile']:.3f} to {added['upper quartile']:.3f}",
            f"{row['calls']}",
            f"{row['added a call']:.3f}",
            f"{row['added a call, fastest tenth']:.3f}",
        )
    console = Console(width=110)
    console.print(table)
    worst = max(row["added a call"] for row in rows)
    console.print(f"at most {worst:.3f} us added to a call; the limit is {RECORD_LIMIT} us")


def show(rows: list[dict[str, Any]], summary: dict[str, dict[str, float]]) -> None:
    """Print the table of rows and the summary."""
    table = Table("mode", "bytes", "mpi4py us", "roundelay us", "added us", "quartiles", show_edge=False)
    for row in rows:
        times, added = row["microseconds"], row["added"]
        table.add_row(
            row["mode"],
            f"{row['bytes']}",
            f"{times['plain']:.3f}",
            f"{times['ours']:.3f}",
            f"{added['median']:.3f}",
            f"{added['lower quartile']:.3f} to {added['upper quartile']:.3f}",
        )
    console = Console(width=110)
    console.print(table)
    for name, added in summary.items():
        console.print(f"{name}: {added['median']:.3f} us added, over all sizes up to {SMALL} bytes")


@click.command()
@results_folder
@click.option("--rounds", default=400, show_default=True, help="Pairs of samples.")
@click.option("--monitor", is_flag=True, help="Measure what the record of the fault monitor adds.")
def main(rounds: int, monitor: bool, output: Path) -> None:
    """Time contiguous messages and print what roundelay adds to them."""
    require_two_ranks()
    if monitor:
        start_recording()
        recorded = [measure_record(name, rounds) for name in track(MODES, "measuring", visible=RANK == 0)]
        if RANK == 0:
            show_record(recorded)
            write_json(output / f"overhead-monitor-{library_key()}.json", {"rows": recorded})
        return
    rows: list[dict[str, Any]] = []
    added_small: dict[str, list[float]] = {name: [] for name in MODES}
    combinations = [(name, nbytes) for name in MODES for nbytes in SIZES]
    for name, nbytes in track(combinations, "measuring", visible=RANK == 0):
        row, added = measure(name, nbytes, rounds)
        rows.append(row)
        if nbytes <= SMALL:
            added_small[name] += added
    if RANK == 0:
        summary = {name: spread(added) for name, added in added_small.items()}
        show(rows, summary)
        results = {"rows": rows, "small": {"up to bytes": SMALL, "added": summary}}
        write_json(output / f"overhead-{library_key()}.json", results)


if __name__ == "__main__":
    main()
