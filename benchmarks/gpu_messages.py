"""One-way time of messages of arrays on a GPU, between two ranks: ours, and copies by hand.

    mpiexec -n 2 python -m benchmarks.gpu_messages [--rounds 21]

"ours" sends and receives views of CuPy's arrays through roundelay. "hand" is what a program does for its MPI
library: of one that reads the memory of a GPU, a contiguous copy there; of another, a copy on the host, by
`cupy.asnumpy` and `cupy.asarray`. Both ranks use the same GPU if there is one only. Each row checks its bytes
before it is timed.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import library_key, ratio
from benchmarks.packages import require_cupy
from benchmarks.pingpong import (
    PEER,
    RANK,
    WORLD,
    Way,
    message_way,
    require_two_ranks,
    time_in_step,
    turns,
)
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.comm.device import library_reads_gpu

EDGE = 512


class Row(NamedTuple):
    """A part of a cube of 512 x 512 x 512 float32."""

    label: str
    part: tuple[Any, ...]


ALL = slice(None)
ROWS = (
    Row("contiguous, 2 KiB", (1, 1)),
    Row("contiguous, 64 KiB", (1, slice(32))),
    Row("plane of x, contiguous", (1,)),
    Row("plane of y, runs of 2 KiB", (ALL, 1)),
    Row("plane of z, single elements", (ALL, ALL, 1)),
    Row("contiguous, 16 MiB", (slice(16),)),
    Row("16 planes of y", (ALL, slice(16))),
    Row("16 planes of z", (ALL, ALL, slice(16))),
)


def hand_way(outgoing: Any, incoming: Any) -> Way:
    """Ping-pong with a contiguous copy of each message, where the MPI library can read it."""
    import cupy

    comm, direct = PLAIN.COMM_WORLD, library_reads_gpu()
    room = cupy.empty(incoming.shape, incoming.dtype) if direct else np.empty(incoming.shape, incoming.dtype)

    def send() -> None:
        copy = cupy.ascontiguousarray(outgoing) if direct else cupy.asnumpy(outgoing)
        cupy.cuda.get_current_stream().synchronize()
        comm.Send(copy, PEER)

    def receive() -> None:
        comm.Recv(room, PEER)
        incoming[...] = cupy.asarray(room)
        cupy.cuda.get_current_stream().synchronize()

    return turns(send, receive)


def check(label: str, ways: dict[str, Way], cube: Any, part: tuple[Any, ...], expected: Any) -> None:
    """Compare all bytes, also those that are not received into."""
    import cupy

    for name, way in ways.items():
        cube[...] = -1
        way(1)
        right = cupy.full_like(cube, -1)
        right[part] = expected
        if not (cube == right).all():
            raise SystemExit(f"{label}, {name}: wrong bytes")


def measure(row: Row, rounds: int, cubes: tuple[Any, Any]) -> dict[str, Any]:
    """Time one row."""
    outgoing, incoming = (cube[row.part] for cube in cubes)
    ways = {
        "ours": message_way(MPI.COMM_WORLD, outgoing, incoming),
        "hand": hand_way(outgoing, incoming),
    }
    # The other rank's values differ from this one's by the difference of the ranks.
    check(row.label, ways, cubes[1], row.part, outgoing + (PEER - RANK))
    samples = time_in_step(ways, rounds)
    micros = {name: 1e6 * statistics.median(each) / 2 for name, each in samples.items()}
    return {
        "part": row.label,
        "bytes": int(outgoing.nbytes),
        "microseconds": micros,
        "speed-up": ratio(samples, "hand", "ours"),
    }


@click.command()
@results_folder
@click.option("--rounds", default=21, show_default=True, help="Samples of each way.")
def main(rounds: int, output: Path) -> None:
    """Time messages of arrays on a GPU, and write the results as JSON."""
    cupy = require_cupy()
    require_two_ranks()
    own = cupy.arange(EDGE**3, dtype=np.int32).reshape(EDGE, EDGE, EDGE)
    own %= 1 << 20
    cubes = own.astype(np.float32) + np.float32(RANK), cupy.zeros((EDGE, EDGE, EDGE), np.float32)
    results = [measure(row, rounds, cubes) for row in ROWS]
    gpu = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    if WORLD.rank:
        return
    direct = library_reads_gpu()
    table = Table(title=f"{gpu}, {MPI.get_vendor()[0]}, {'direct' if direct else 'staged on the host'}")
    for column in ("part", "KiB", "ours [us]", "by hand [us]", "speed-up", "ours [GB/s]"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for each in results:
        ours, hand = (each["microseconds"][name] for name in ("ours", "hand"))
        rate = each["bytes"] / ours / 1e3
        cells = (
            f"{each['bytes'] >> 10}",
            f"{ours:.1f}",
            f"{hand:.1f}",
            f"{each['speed-up']:.2f}",
            f"{rate:.2f}",
        )
        table.add_row(each["part"], *cells)
    Console().print(table)
    path = output / f"gpu-messages-{library_key()}.json"
    write_json(path, {"gpu": gpu, "cupy": cupy.__version__, "direct": direct, "rows": results})


if __name__ == "__main__":
    main()
