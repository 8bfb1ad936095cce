"""100,000 operations over fresh datatypes leave handles and memory where they were."""

from pathlib import Path

import numpy as np
import pytest

from roundelay import MPI
from roundelay.comm import owned
from roundelay.datatypes import known

OPERATIONS = 100_000
WARM_UP = 5_000
# What the allocator may keep: far less than one handle, layout or stage for each operation would take.
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


@pytest.mark.timeout_s(120)
@pytest.mark.usefixtures("engine")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_fresh_datatypes_leave_nothing():
    exchange(WARM_UP)
    before, types = resident_bytes(), len(known._known)
    exchange(OPERATIONS // 2)
    owned.free_unused()
    assert len(known._known) == types
    assert not owned._unused
    assert resident_bytes() - before < ALLOWED_BYTES


def test_a_recycled_handle_is_read_anew():
    comm = MPI.COMM_SELF
    for stride in range(2, 40):
        datatype = MPI.INT.Create_vector(8, 1, stride).Commit()
        source, target = np.arange(400, dtype="i"), np.zeros(8, "i")
        comm.Sendrecv([source, 1, datatype], 0, 0, target, 0, 0)
        np.testing.assert_array_equal(target, source[: 8 * stride : stride])
        datatype.Free()
