"""An ordinary mpi4py program, in which nothing is said of roundelay but here.

It prints the same with and without the layer in place, on any number of ranks:

    mpiexec -n 4 roundelay run examples/unmodified_mpi4py.py
    mpiexec -n 4 python examples/unmodified_mpi4py.py
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI


def share_settings(comm: MPI.Intracomm) -> str:
    """Share Python objects: one rank has the settings, and each reports what it made of them."""
    settings = {"name": "demonstration", "weights": [1, 2, 3]} if comm.rank == 0 else None
    settings = comm.bcast(settings)
    total = comm.allreduce(comm.rank * sum(settings["weights"]))
    names = comm.gather(f"{settings['name']} {comm.rank}")
    return f"{', '.join(names or [])}; total {total}"


def estimate_pi(comm: MPI.Intracomm, intervals: int = 2000) -> str:
    """Add the parts of the integral of 4 / (1 + x^2), each rank its share."""
    x = (np.arange(comm.rank, intervals, comm.size) + 0.5) / intervals
    part, pi = np.array((4.0 / (1.0 + x * x)).sum() / intervals), np.empty(())
    comm.Allreduce(part, pi, op=MPI.SUM)
    return f"pi is about {pi:.6f}"


def pass_columns(comm: MPI.Intracomm, rows: int = 5, columns: int = 4) -> str:
    """Pass the last column of a matrix to the right, into the first column there."""
    matrix = np.arange(rows * columns, dtype=np.float64).reshape(rows, columns) + 100 * comm.rank
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    column = MPI.DOUBLE.Create_vector(rows, 1, columns).Commit()
    # The datatype goes on from the element where the buffer begins.
    comm.Sendrecv([matrix[0, -1:], 1, column], right, recvbuf=[matrix, 1, column], source=left)
    column.Free()
    sums = np.empty(comm.size)
    comm.Gather(np.array(matrix.sum()), sums)
    return f"sums of the matrices {sums}"


def smooth(comm: MPI.Intracomm, points: int = 6, steps: int = 20) -> str:
    """Average each point of a periodic line with its neighbours, some of which other ranks hold."""
    line = comm.Create_cart([comm.size], periods=[True])
    left, right = line.Shift(0, 1)
    u = np.zeros(points + 2)
    u[1:-1] = 1.0 + np.sin(np.arange(points) + points * line.rank)
    total = line.allreduce(u[1:-1].sum())
    for _ in range(steps):
        requests = [
            line.Irecv(u[:1], left, tag=1),
            line.Irecv(u[-1:], right, tag=2),
            line.Isend(u[-2:-1], right, tag=1),
            line.Isend(u[1:2], left, tag=2),
        ]
        MPI.Request.Waitall(requests)
        u[1:-1] = 0.25 * u[:-2] + 0.5 * u[1:-1] + 0.25 * u[2:]
    spread = line.allreduce(u[1:-1].max(), MPI.MAX) - line.allreduce(u[1:-1].min(), MPI.MIN)
    kept = abs(line.allreduce(u[1:-1].sum()) - total) < 1e-12 * total
    line.Free()
    return f"a line of {points * comm.size} points: spread {spread:.6f}, total kept: {kept}"


def collect_uneven(comm: MPI.Intracomm) -> str:
    """Collect one number from rank 0, two from rank 1 and so on."""
    counts = np.arange(1, comm.size + 1)
    mine = np.full(comm.rank + 1, comm.rank, dtype="i")
    everything = np.empty(counts.sum(), dtype="i")
    comm.Gatherv(mine, [everything, (counts, np.cumsum(counts) - counts), MPI.INT])
    return f"collected {everything}"


def main() -> None:
    """Run each part, and print what rank 0 has to say."""
    comm = MPI.COMM_WORLD
    for part in (share_settings, estimate_pi, pass_columns, smooth, collect_uneven):
        answer = part(comm)
        if comm.rank == 0:
            print(f"{part.__name__}: {answer}", flush=True)


if __name__ == "__main__":
    main()
