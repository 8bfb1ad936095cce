"""One-way time of messages with gaps, between two ranks: ours, the MPI library's, and copies by hand.

    mpiexec -n 2 python -m benchmarks.pingpong [--rounds 21] [--only vector]

"ours" and "library" send the same datatype, through roundelay and through mpi4py alone; "array" sends the
same bytes as a strided NumPy array through roundelay; "hand" copies them to a contiguous buffer, sends
that with mpi4py, and copies back; "contiguous" sends as many bytes that lie together. The copies are part
of the time. Each row checks its bytes, and those between them, before it is timed.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import by_library, library_key, ratio
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.terminal import track

SAMPLE_SECONDS = 1e-3
LARGE_ROW = 16 << 10
TOTALS = tuple(64 << 2 * step for step in range(8))
RUNS = {"vector": (8, 64, 512, 4096), "indexed": (8, 24, 64)}

WORLD = PLAIN.COMM_WORLD
RANK, PEER = WORLD.rank, 1 - WORLD.rank

# Does a number of iterations together with the other rank.
Way = Callable[[int], None]


class Shape(NamedTuple):
    """Of a message: `blocks` runs of `run` bytes, chosen from twice as many that follow one another."""

    kind: str
    run: int
    blocks: int


class Setting:
    """Memory of one shape: blocks of doubles to send from and to receive in, and copies of the chosen ones.

    Attributes
    ----------
    places : int64 array of shape (blocks,)
        Which blocks are sent: every other one, or half of them in random order.
    outgoing, incoming : float64 array of shape (2 blocks, run / 8)
    dense_outgoing, dense_incoming : float64 array of shape (blocks, run / 8)
    """

    def __init__(self, shape: Shape) -> None:
        numbers = np.arange(2 * shape.blocks)
        scattered = np.random.default_rng(shape.blocks).permutation(numbers)
        self.shape = shape
        self.places = numbers[::2] if shape.kind == "vector" else scattered[: shape.blocks]
        self.outgoing = np.random.default_rng(RANK).random((2 * shape.blocks, shape.run // 8))
        self.incoming = np.zeros_like(self.outgoing)
        self.dense_outgoing = self.outgoing[self.places]
        self.dense_incoming = np.zeros_like(self.dense_outgoing)

    def datatype(self, mpi: Any) -> PLAIN.Datatype:
        """Datatype of the chosen blocks, made by the module `mpi`; the caller frees it."""
        length, places = self.shape.run // 8, self.places
        made: PLAIN.Datatype
        if self.shape.kind == "vector":
            made = mpi.DOUBLE.Create_vector(len(places), length, 2 * length)
        else:
            made = mpi.DOUBLE.Create_indexed_block(length, (places * length).tolist())
        return made.Commit()


def message_way(comm: PLAIN.Comm, outgoing: Any, incoming: Any) -> Way:
    """Ping-pong of buffer arguments that a communicator takes as they are."""

    def run(count: int) -> None:
        if RANK == 0:
            for _ in range(count):
                comm.Send(outgoing, PEER)
                comm.Recv(incoming, PEER)
        else:
            for _ in range(count):
                comm.Recv(incoming, PEER)
                comm.Send(outgoing, PEER)

    return run


def hand_way(setting: Setting) -> Way:
    """Ping-pong with a copy before each message and another one after it."""
    regular, places = setting.shape.kind == "vector", setting.places
    outgoing, incoming = setting.dense_outgoing, setting.dense_incoming

    def send() -> None:
        if regular:
            np.copyto(outgoing, setting.outgoing[::2])
        else:
            # With this mode, take writes into `out` without a buffer of its own.
            np.take(setting.outgoing, places, axis=0, out=outgoing, mode="clip")
        WORLD.Send(outgoing, PEER)

    def receive() -> None:
        WORLD.Recv(incoming, PEER)
        setting.incoming[slice(None, None, 2) if regular else places] = incoming

    return turns(send, receive)


def turns(send: Callable[[], None], receive: Callable[[], None]) -> Way:
    """Ping-pong of what sends one message and what receives one; rank 0 sends first."""

    def run(count: int) -> None:
        first, second = (send, receive) if RANK == 0 else (receive, send)
        for _ in range(count):
            first()
            second()

    return run


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Time one shape in all ways."""
    setting = Setting(shape)
    out, into = setting.outgoing, setting.incoming
    ours, plain = setting.datatype(MPI), setting.datatype(PLAIN)
    ways = {
        "ours": message_way(MPI.COMM_WORLD, [out, 1, ours], [into, 1, ours]),
        "library": message_way(WORLD, [out, 1, plain], [into, 1, plain]),
        "hand": hand_way(setting),
        "contiguous": message_way(WORLD, setting.dense_outgoing, setting.dense_incoming),
    }
    if shape.kind == "vector":
        ways["array"] = message_way(MPI.COMM_WORLD, out[::2], into[::2])
    check(setting, ways)
    samples = time_in_step(ways, rounds, alone=("library", "hand", "contiguous"))
    ours.Free()
    plain.Free()
    row = {
        "kind": shape.kind,
        "run_bytes": shape.run,
        "bytes": shape.run * shape.blocks,
        "microseconds": {name: 0.5e6 * statistics.median(times) for name, times in samples.items()},
        "library/ours": ratio(samples, "library", "ours"),
        "hand/ours": ratio(samples, "hand", "ours"),
        "ours/contiguous": ratio(samples, "ours", "contiguous"),
    }
    return row | ({"hand/array": ratio(samples, "hand", "array")} if "array" in samples else {})


def check(setting: Setting, ways: Mapping[str, Way]) -> None:
    """Compare what each way receives with what the other rank sends, and that the gaps stay as they were."""
    sent = np.random.default_rng(PEER).random(setting.outgoing.shape)[setting.places]
    expected = np.full_like(setting.incoming, -1.0)
    expected[setting.places] = sent
    for name, way in ways.items():
        setting.incoming[...] = setting.dense_incoming[...] = -1.0
        way(1)
        if name == "contiguous":
            good = np.array_equal(setting.dense_incoming, sent)
        else:
            good = np.array_equal(setting.incoming, expected)
        if not WORLD.allreduce(good, PLAIN.LAND):
            raise click.ClickException(f"{setting.shape}: {name} moves other bytes than were sent")


def time_in_step(ways: Mapping[str, Way], rounds: int, alone: Collection[str] = ()) -> dict[str, list[float]]:
    """Seconds an iteration of each way takes, as rank 0 sees it.

    Those named in `alone` are mpi4py's own, and call the MPI library itself.

    `rounds` samples of each, taken in turn and in changing order; both ranks begin each one together. As in
    `time_in_turn`, it finds the caches as it leaves them itself.
    """
    counts = {}
    for name, way in ways.items():
        with by_library(name in alone):
            counts[name] = _iterations(way)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            with by_library(name in alone):
                ways[name](1)
                samples[name].append(_sample(ways[name], counts[name]) / counts[name])
    return samples


def _iterations(way: Way) -> int:
    """How many iterations make a sample; rank 0 says it."""
    count = 1
    while True:
        # A rank that is put aside once must not make all samples of one iteration.
        spent = WORLD.bcast(min(_sample(way, count) for _ in range(2)))
        if spent >= SAMPLE_SECONDS:
            return count
        count = max(count + 1, int(count * 1.2 * SAMPLE_SECONDS / max(spent, 1e-6)))


def _sample(way: Way, count: int) -> float:
    WORLD.Barrier()
    start = perf_counter()
    way(count)
    return perf_counter() - start


def require_two_ranks() -> None:
    """Refuse to run on any other number of ranks."""
    if WORLD.size != 2:
        raise click.ClickException(f"expected 2 ranks, got {WORLD.size}: start me with mpiexec -n 2")


def shapes(only: str) -> list[Shape]:
    """List the shapes of a kind (all kinds if it is empty) that have two runs at least."""
    return [
        Shape(kind, run, total // run)
        for kind, runs in RUNS.items()
        for run in runs
        for total in TOTALS
        if total >= 2 * run and only in kind
    ]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over the rows of 16 KiB and more of each kind."""
    summary: dict[str, Any] = {}
    for kind in RUNS:
        large = [row for row in rows if row["kind"] == kind and row["bytes"] >= LARGE_ROW]
        if not large:
            continue
        summary[kind] = {"rows": len(large)}
        for name in ("library/ours", "hand/ours", "hand/array"):
            gains = [row[name] for row in large if name in row]
            if gains:
                summary[kind][f"geometric mean of {name}"] = statistics.geometric_mean(gains)
                summary[kind][f"smallest {name}"] = min(gains)
    return summary


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of rows and the summary."""
    names = ("ours", "array", "library", "hand", "contiguous")
    ratios = ("library/ours", "hand/ours", "hand/array", "ours/contiguous")
    table = Table("kind", "run B", "bytes", "ours us", *names[1:], *ratios, show_edge=False)
    for row in rows:
        times = row["microseconds"]
        table.add_row(
            row["kind"],
            f"{row['run_bytes']}",
            f"{row['bytes']}",
            *(f"{times[name]:.2f}" if name in times else "" for name in names),
            *(f"{row[name]:.2f}" if name in row else "" for name in ratios),
        )
    console = Console(width=140)
    console.print(table)
    for kind, figures in summarize(rows).items():
        console.print(kind, figures)


@click.command()
@results_folder
@click.option("--rounds", default=21, show_default=True, help="Samples of each way.")
@click.option("--only", default="", help="Only shapes whose kind contains this: vector or indexed.")
def main(rounds: int, only: str, output: Path) -> None:
    """Time messages with gaps and print ours beside the alternatives."""
    require_two_ranks()
    rows = [measure(shape, rounds) for shape in track(shapes(only), "measuring", visible=RANK == 0)]
    if RANK == 0:
        show(rows)
        results = {"rows": rows, "summary": summarize(rows)}
        write_json(output / f"pingpong-{library_key()}.json", results)


if __name__ == "__main__":
    main()
