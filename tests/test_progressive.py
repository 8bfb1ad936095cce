"""Arrays reduced while they are produced, and many arrays reduced together."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("name", ["auto", "ring", "star", "reduce-scatter-allgather"])
@pytest.mark.parametrize("segments", [1, 4, 30])
def test_segments_in_any_order(comm, name, segments):
    buffer = np.zeros(25)
    reduction = roundelay.ProgressiveAllreduce(comm, buffer, segments, algorithm=name)
    for segment in np.random.default_rng(comm.rank).permutation(segments):
        part = reduction.part(segment)
        buffer[part] = np.arange(25)[part] + comm.rank
        reduction.ready(segment)
    reduction.wait()
    assert_array_equal(buffer, comm.size * np.arange(25) + sum(range(comm.size)))


def test_progress_without_calls(comm):
    """Segments are reduced while the program is busy elsewhere, or waits for something else."""
    buffer = np.full(1000, comm.rank + 1.0)
    reduction = roundelay.ProgressiveAllreduce(comm, buffer, 2, algorithm="ring")
    reduction.ready(comm.rank % 2)
    reduction.ready(1 - comm.rank % 2)
    if comm.rank == 0:
        # The other ranks come to this message only after their wait.
        for source in range(1, comm.size):
            comm.Recv(np.empty(1), source)
        reduction.wait()
    else:
        reduction.wait()
        comm.Send(np.empty(1), 0)
    assert_array_equal(buffer, sum(range(1, comm.size + 1)))


def test_segments_that_are_missing_or_twice_ready(comm):
    reduction = roundelay.ProgressiveAllreduce(comm, np.zeros(4), 2)
    with pytest.raises(ValueError, match=r"segments \[0, 1\]: not ready"):
        reduction.wait()
    reduction.ready(0)
    with pytest.raises(ValueError, match="segment 0: ready already"):
        reduction.ready(0)
    reduction.ready(1)
    reduction.wait()


def test_refused_buffers(comm):
    for buffer in (np.zeros((2, 2)), np.zeros(8)[::2]):
        with pytest.raises(ValueError, match="expected a flat contiguous array"):
            roundelay.ProgressiveAllreduce(comm, buffer, 1)
    with pytest.raises(ValueError, match="segments 0: expected at least 1"):
        roundelay.ProgressiveAllreduce(comm, np.zeros(3), 0)
    with pytest.raises(ValueError, match="algorithm of roundelay's, got 'native'"):
        roundelay.ProgressiveAllreduce(comm, np.zeros(3), 1, algorithm="native")


@pytest.mark.parametrize("name", ["auto", "native", "direct"])
def test_many_arrays(comm, name):
    arrays = [
        np.full((3, 4), comm.rank, "f8"),
        np.full(7, comm.rank, "i4"),
        np.full((5, 6), comm.rank, "f8")[::2, 1:4],
        np.full((), comm.rank, "f8"),
        np.empty(0),
        np.full((2, 3), comm.rank, "i4", order="F"),
        np.full(3 << 20, comm.rank, "f4"),
    ]
    roundelay.allreduce_many(comm, arrays, algorithm=name)
    for array in arrays:
        assert_array_equal(array, sum(range(comm.size)))
    roundelay.allreduce_many(comm, arrays, MPI.MAX, algorithm=name)
    for array in arrays:
        assert_array_equal(array, sum(range(comm.size)))
    roundelay.allreduce_many(comm, [])


def test_many_arrays_one_of_which_is_locked(comm):
    locked = np.zeros(3)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match=r"array 1 of shape \(3,\) cannot be written"):
        roundelay.allreduce_many(comm, [np.ones(2), locked])
