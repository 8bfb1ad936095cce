"""Operations over fresh datatypes and changing shapes leave handles, tables and memory where they were.

More of them: ``python -m tests.test_leaks --operations 200000``.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roundelay import MPI
from roundelay.comm import owned
from roundelay.comm.interposer import interposer
from roundelay.datatypes import known

OPERATIONS = 100_000
# All shapes that there are, so that the table of arrays is as full as it gets.
WARM_UP = 10_000
# The allocator may keep this: far less than one handle, layout or stage for each operation would take.
ALLOWED_BYTES = 8 << 20
PAGE = 4096


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def exchange(times: int) -> None:
    """Send fresh datatypes of several sizes to this rank itself, some staged and some left to the library."""
    comm = MPI.COMM_SELF
    source, target = np.zeros((64, 64)), np.zeros((64, 64))
    places = [7 * i for i in range(40)]
    for i in range(times):
        if i % 10:
            datatype = MPI.DOUBLE.Create_vector(64, 4 + i % 20, 64).Commit()
        else:
            datatype = MPI.DOUBLE.Create_indexed_block(1 + i % 5, places).Commit()
        comm.Sendrecv([source, 1, datatype], 0, 0, [target, 1, datatype], 0, 0)
        datatype.Free()


def exchange_shapes(times: int) -> None:
    """Send arrays of thousands of shapes, in requests that are waited for, persistent or freed early."""
    comm, source, target = MPI.COMM_SELF, np.zeros((64, 160)), np.zeros((64, 160))
    for i in range(times):
        rows, columns = 2 + i % 61, 1 + i % 79
        sent, received = source[:rows, : 2 * columns : 2], target[:rows, 1 : 2 * columns : 2]
        if i % 3 == 0:
            MPI.Request.Waitall([comm.Irecv(received, 0), comm.Isend(sent, 0)])
        elif i % 3 == 1:
            request = comm.Recv_init(received, 0)
            request.Start()
            comm.Send(sent, 0)
            request.Wait()
            request.Free()
        else:
            comm.Irecv(received, 0).Free()
            comm.Isend(sent, 0).Free()
            comm.Barrier()


def tables() -> dict[str, int]:
    """Return how many there are of what is kept."""
    gc.collect()
    owned.free_unused()
    return {**interposer().counts(), "known": len(known._known), "unused": len(owned._unused)}


def grown(exchanging: Callable[[int], None], operations: int) -> tuple[dict[str, int], int]:
    """Return by how much the tables, and the memory in bytes, grow with a number of operations."""
    exchanging(WARM_UP)
    before, used = tables(), resident_bytes()
    exchanging(operations)
    after = tables()
    return {name: after[name] - before[name] for name in after}, resident_bytes() - used


@pytest.mark.timeout_s(120)
@pytest.mark.usefixtures("engine")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("exchanging", [exchange, exchange_shapes])
def test_nothing_is_left(exchanging):
    entries, nbytes = grown(exchanging, OPERATIONS // 2)
    assert not any(entries.values()), entries
    assert nbytes < ALLOWED_BYTES


def test_a_recycled_handle_is_read_anew():
    comm = MPI.COMM_SELF
    for stride in range(2, 40):
        datatype = MPI.INT.Create_vector(8, 1, stride).Commit()
        source, target = np.arange(400, dtype="i"), np.zeros(8, "i")
        comm.Sendrecv([source, 1, datatype], 0, 0, target, 0, 0)
        np.testing.assert_array_equal(target, source[: 8 * stride : stride])
        datatype.Free()


def main(argv: list[str]) -> int:
    """Make operations of both kinds, and print what has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.test_leaks", description=__doc__)
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="of each kind (default 100000)")
    options = parser.parse_args(argv)
    left = 0
    for exchanging in (exchange, exchange_shapes):
        entries, nbytes = grown(exchanging, options.operations)
        left += any(entries.values()) or nbytes >= ALLOWED_BYTES
        print(f"{options.operations} operations by {exchanging.__name__}: {entries}, {nbytes >> 10} KiB more")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
