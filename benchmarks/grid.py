"""Calls of MPI by problems of two dimensions: derived datatypes under roundelay beside copies by hand.

    mpiexec -n 2 python -m benchmarks.grid [--rounds 51] [--only life]

The calls are those that "Do MPI Derived Datatypes Actually Help?" (Adefemi, arXiv 2511.13804) compares:
nonblocking messages, neighbourhood collectives and persistent messages. The problems are like those of its
programs, and a transpose (`benchmarks.problems`). "ours" and "library" exchange the same datatypes, through
roundelay and through mpi4py alone; "array" exchanges the same bytes as slices through roundelay, where the
call takes them; "hand" copies them with NumPy to and from contiguous buffers that it keeps, and sends those
with mpi4py. The copies are part of the time, which is that of one exchange. Each cell checks all bytes of the
arrays before it is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import by_library, library_key, ratio
from benchmarks.pingpong import RANK, WORLD, Way, time_in_step
from benchmarks.problems import PROBLEMS, Array, Exchange, Problem, Side
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.terminal import track

SIZES = (64, 256, 1024, 4096)
# How many times as long as the copies by hand datatypes under roundelay may take.
TARGET = 1.05
# Those that are mpi4py alone.
ALONE = ("library", "hand")

Step = Callable[[], object]


class Packed:
    """Contiguous buffers for sides of an exchange, made once, and the copies between them and the array.

    Attributes
    ----------
    memory : array of shape (elements,)
        All buffers, one after another.
    buffers : list of arrays
        One for each side: a part of `memory`, or the side's own place if it lies together and is not copied.
    """

    def __init__(self, sides: list[Side], all_together: bool) -> None:
        copied = [side.place for side in sides if all_together or not side.is_run]
        ends = list(accumulate(place.size for place in copied))
        self.memory = np.empty(ends[-1], copied[0].dtype)
        parts = [
            self.memory[end - place.size : end].reshape(place.shape)
            for place, end in zip(copied, ends, strict=True)
        ]
        self._copies = list(zip(copied, parts, strict=True))
        left = iter(parts)
        self.buffers = [next(left) if all_together or not side.is_run else side.place for side in sides]

    def pack(self) -> None:
        """Copy from the array."""
        for place, part in self._copies:
            np.copyto(part, place)

    def unpack(self) -> None:
        """Copy into the array."""
        for place, part in self._copies:
            np.copyto(place, part)


class Ways:
    """All ways to do an exchange; what they need is freed when `stack` ends."""

    def __init__(self, exchange: Exchange, stack: ExitStack) -> None:
        self._exchange = exchange
        self._stack = stack

    def messages(self, start: Callable[..., Step]) -> dict[str, Way]:
        """Those that exchange messages, which `start` makes for a module from what is sent and received."""
        typed = [self._typed(sides) for sides in self._exchange]
        slices = [numbered([side.place for side in sides], sides) for sides in self._exchange]
        packed = [Packed(sides, all_together=False) for sides in self._exchange]
        by_hand = [numbered(each.buffers, sides) for each, sides in zip(packed, self._exchange, strict=True)]
        ways = {"ours": repeated(start(MPI, *typed, self._stack))}
        with by_library(True):
            ways["library"] = repeated(start(PLAIN, *typed, self._stack))
            step = start(PLAIN, *by_hand, self._stack)
        ways["hand"] = repeated(packed[0].pack, step, packed[1].unpack)
        # A slice is sent in the order of its memory.
        if all(place.strides == tuple(sorted(place.strides, reverse=True)) for place in self._places()):
            ways["array"] = repeated(start(MPI, *slices, self._stack))
        return ways

    def neighbours(self) -> dict[str, Way]:
        """Those that call neighbourhood collectives, which take slices for all neighbours together only."""
        sends, receives = (self._blocks(sides) for sides in self._exchange)
        outgoing, incoming = (Packed(sides, all_together=True) for sides in self._exchange)
        counts = [[side.place.size for side in sides] for sides in self._exchange]
        ours = self._graph(MPI)
        with by_library(True):
            plain = self._graph(PLAIN)
        packed = [outgoing.memory, counts[0]], [incoming.memory, counts[1]]
        return {
            "ours": repeated(lambda: ours.Neighbor_alltoallw(sends, receives)),
            "library": repeated(lambda: plain.Neighbor_alltoallw(sends, receives)),
            "hand": repeated(outgoing.pack, lambda: plain.Neighbor_alltoallv(*packed), incoming.unpack),
        }

    def _places(self) -> list[Array]:
        return [side.place for sides in self._exchange for side in sides]

    def _typed(self, sides: list[Side]) -> list[tuple[Any, int, int]]:
        flat = [side.memory.reshape(-1)[side.offset // side.place.itemsize :] for side in sides]
        return numbered(
            [[each, 1, self._datatype(side)] for each, side in zip(flat, sides, strict=True)], sides
        )

    def _blocks(self, sides: list[Side]) -> list[Any]:
        offsets = [side.offset for side in sides]
        return [sides[0].memory, ([1] * len(sides), offsets), [self._datatype(side) for side in sides]]

    def _datatype(self, side: Side) -> PLAIN.Datatype:
        datatype = side.datatype()
        self._stack.callback(datatype.Free)
        return datatype

    def _graph(self, mpi: Any) -> PLAIN.Distgraphcomm:
        sends, receives = ([side.peer for side in sides] for sides in self._exchange)
        graph: PLAIN.Distgraphcomm = mpi.COMM_WORLD.Create_dist_graph_adjacent(receives, sends)
        self._stack.callback(graph.Free)
        return graph


def numbered(buffers: list[Any], sides: list[Side]) -> list[tuple[Any, int, int]]:
    """Buffer, rank and tag of each message."""
    return [(buffer, side.peer, tag) for tag, (buffer, side) in enumerate(zip(buffers, sides, strict=True))]


def nonblocking(mpi: Any, sends: list[Any], receives: list[Any], _: ExitStack) -> Step:
    """Exchange by `Irecv`, `Isend` and `Waitall`."""
    comm, wait = mpi.COMM_WORLD, mpi.Request.Waitall
    return lambda: wait([comm.Irecv(*each) for each in receives] + [comm.Isend(*each) for each in sends])


def persistent(mpi: Any, sends: list[Any], receives: list[Any], stack: ExitStack) -> Step:
    """Exchange by `Startall` and `Waitall` of requests that `Recv_init` and `Send_init` have made."""
    comm, start, wait = mpi.COMM_WORLD, mpi.Prequest.Startall, mpi.Request.Waitall
    requests = [comm.Recv_init(*each) for each in receives] + [comm.Send_init(*each) for each in sends]
    for request in requests:
        stack.callback(request.Free)

    def step() -> None:
        start(requests)
        wait(requests)

    return step


CALLS: dict[str, Callable[[Ways], dict[str, Way]]] = {
    "nonblocking": lambda ways: ways.messages(nonblocking),
    "neighbours": Ways.neighbours,
    "persistent": lambda ways: ways.messages(persistent),
}


def repeated(*steps: Step) -> Way:
    """Do steps, one after another, a number of times."""

    def run(count: int) -> None:
        for _ in range(count):
            for step in steps:
                step()

    return run


class Cell(NamedTuple):
    """A problem of one size, and a call."""

    problem: str
    size: int
    call: str


def measure(cell: Cell, rounds: int) -> dict[str, Any]:
    """Time one cell in all ways."""
    problem = PROBLEMS[cell.problem]
    exchange = problem(RANK, WORLD.size, cell.size)
    with ExitStack() as stack:
        ways = CALLS[cell.call](Ways(exchange, stack))
        check(cell, exchange, expected(problem, cell.size), ways)
        samples = time_in_step(ways, rounds, alone=ALONE)
    row = {
        **cell._asdict(),
        "messages": len(exchange.sends),
        "bytes": sum(side.place.nbytes for side in exchange.sends),
        "largest": max(side.place.nbytes for side in exchange.sends),
        "microseconds": {name: 1e6 * statistics.median(times) for name, times in samples.items()},
    }
    return row | {f"{name}/hand": ratio(samples, name, "hand") for name in samples if name != "hand"}


def expected(problem: Problem, size: int) -> Array:
    """Receiving array after an exchange, made without one: each rank's numbers are known."""
    mine = problem(RANK, WORLD.size, size)
    theirs = {peer: problem(peer, WORLD.size, size) for peer in {side.peer for side in mine.receives}}
    for number, side in enumerate(mine.receives):
        side.place[...] = theirs[side.peer].sends[number].place
    return mine.receives[0].memory


def check(cell: Cell, exchange: Exchange, wanted: Array, ways: dict[str, Way]) -> None:
    """Compare the receiving array, after an exchange by each way, with what it should be."""
    for name, way in ways.items():
        for side in exchange.receives:
            side.place[...] = 0
        with by_library(name in ALONE):
            way(1)
        if not WORLD.allreduce(np.array_equal(exchange.receives[0].memory, wanted), PLAIN.LAND):
            raise click.ClickException(f"{cell}: {name} moves other bytes than were sent")


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all cells."""
    taken = {
        name: [row[name] for row in rows if name in row]
        for name in ("ours/hand", "library/hand", "array/hand")
    }
    return {
        "cells": len(rows),
        "target": TARGET,
        "cells beyond the target": sum(value > TARGET for value in taken["ours/hand"]),
        **{
            f"geometric mean of {name}": statistics.geometric_mean(each)
            for name, each in taken.items()
            if each
        },
        **{f"largest {name}": max(each) for name, each in taken.items() if each},
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of cells and the summary."""
    names = ("ours", "array", "library", "hand")
    ratios = ("ours/hand", "array/hand", "library/hand")
    table = Table("problem", "size", "call", "bytes", "ours us", *names[1:], *ratios, show_edge=False)
    for row in rows:
        times = row["microseconds"]
        table.add_row(
            row["problem"],
            f"{row['size']}",
            row["call"],
            f"{row['bytes']}",
            *(f"{times[name]:.1f}" if name in times else "" for name in names),
            *(f"{row[name]:.2f}" if name in row else "" for name in ratios),
        )
    console = Console(width=140)
    console.print(table)
    console.print(summarize(rows))


@click.command()
@results_folder
@click.option("--rounds", default=51, show_default=True, help="Samples of each way.")
@click.option("--only", default="", help="Only problems whose name contains this.")
@click.option("--largest", default=SIZES[-1], show_default=True, help="The largest size.")
def main(rounds: int, only: str, largest: int, output: Path) -> None:
    """Time exchanges of derived datatypes and print them beside copies by hand."""
    if WORLD.size % 2:
        raise click.ClickException(
            f"expected an even number of ranks, got {WORLD.size}: start me with mpiexec -n 2"
        )
    cells = [
        Cell(problem, size, call)
        for problem in PROBLEMS
        for size in SIZES
        for call in CALLS
        if only in problem and size <= largest
    ]
    rows = [measure(cell, rounds) for cell in track(cells, "measuring", visible=RANK == 0)]
    if RANK == 0:
        show(rows)
        write_json(
            output / f"grid-{WORLD.size}-{library_key()}.json", {"rows": rows, "summary": summarize(rows)}
        )


if __name__ == "__main__":
    main()
