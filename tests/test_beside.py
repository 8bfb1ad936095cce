"""Other packages that call MPI in the same process, in compiled code, while roundelay's operations go on."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import MPI

numba = pytest.importorskip("numba")
numba_mpi = pytest.importorskip("numba_mpi", reason="numba-mpi is not installed")

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]


@numba.njit
def exchange(sent, received, right, left, tag):
    """Send around by requests that mpi4py knows nothing of."""
    code, receiving = numba_mpi.irecv(received, left, tag)
    other, sending = numba_mpi.isend(sent, right, tag)
    return code + other + numba_mpi.wait(receiving) + numba_mpi.wait(sending)


@numba.njit
def add(sent, total):
    """Reduce over all ranks."""
    return numba_mpi.allreduce(sent, total)


def test_numba_mpi():
    world = MPI.COMM_WORLD
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    column = MPI.DOUBLE.Create_vector(5000, 1, 2).Commit()
    for round_ in range(20):
        ours = np.full((2, 5000, 2), -1.0)
        requests = [world.Irecv(ours[0, ::-1, 0], left, 1), world.Irecv([ours[1], 1, column], left, 2)]
        sent, received, total = np.arange(5000.0) + world.rank + round_, np.zeros(5000), np.zeros(5000)
        assert exchange(sent, received, right, left, 3) == numba_mpi.SUCCESS
        requests.append(world.Isend([np.repeat(sent, 2), 1, column], right, 1))
        assert add(sent, total) == numba_mpi.SUCCESS
        requests.append(world.Isend(np.repeat(sent, 2)[::2], right, 2))
        MPI.Request.Waitall(requests)
        expected = np.arange(5000.0) + left + round_
        assert_array_equal(received, expected)
        assert_array_equal(ours[0, ::-1, 0], expected)
        assert_array_equal(ours[1, :, 0], expected)
        assert (ours[..., 1] == -1).all()
        ranks = np.arange(world.size)
        assert_array_equal(total, world.size * (np.arange(5000.0) + round_) + ranks.sum())
    column.Free()
