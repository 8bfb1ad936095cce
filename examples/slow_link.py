"""A ring of ranks passes rows to its neighbours, as a stencil does; one link of the network may be slow.

``mpiexec -n 4 roundelay run --report found.json examples/slow_link.py``, or on emulated hosts with a slow
cable between two of them::

    python -m benchmarks.netlab --hosts 4 --slow-link 1-2:5 -- \
        roundelay run --report found.json examples/slow_link.py
    roundelay report found.json
"""

import sys
import time

import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 12.0

rows = np.random.default_rng(rank).standard_normal((66, 4096))
up, down = (rank - 1) % size, (rank + 1) % size
end = comm.bcast(time.monotonic() + seconds)
steps, heat = 0, np.zeros(1)
while comm.allreduce(time.monotonic(), MPI.MAX) < end:
    comm.Sendrecv(rows[-2], down, 1, rows[0], up, 1)
    comm.Sendrecv(rows[1], up, 2, rows[-1], down, 2)
    rows[1:-1] = (rows[:-2] + rows[1:-1] + rows[2:]) / 3
    comm.Allreduce(np.abs(rows[1:-1]).max(keepdims=True).reshape(1), heat, MPI.MAX)
    steps += 1
if rank == 0:
    print(f"{steps} steps on {size} ranks, {heat[0]:.3f} at most")
