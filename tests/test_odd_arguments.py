"""Arguments that mpi4py accepts and few programs write, in collectives by an algorithm."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI

pytestmark = pytest.mark.mpi


def odd(comm):
    """Whether this rank writes its arguments in the odd way; others write them in the usual one."""
    return comm.rank % 2 == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["ring", "star", "shared-memory"])
def test_one_array_sent_and_received(comm, name):
    array = np.full(4, comm.rank + 1.0)
    roundelay.allreduce(comm, array, array, algorithm=name)
    assert_array_equal(array, comm.size * (comm.size + 1) / 2)


@pytest.mark.mpi(min_size=2)
def test_arrays_that_overlap(comm):
    memory = np.full(6, comm.rank + 1.0)
    roundelay.allreduce(comm, memory[:4], memory[2:], algorithm="ring")
    assert_array_equal(memory[2:], comm.size * (comm.size + 1) / 2)


def test_blocks_of_a_datatype_that_begins_later(comm):
    datatype = MPI.DOUBLE.Create_indexed([3], [2]).Commit()
    result = np.zeros(3 * comm.size + 2)
    counts, places = [1] * comm.size, list(range(comm.size))
    out, into = np.full(3, comm.rank + 1.0), [result, counts, places, datatype]
    roundelay.allgatherv(comm, out, into, algorithm="ring")
    assert_array_equal(result[2:], np.repeat(np.arange(comm.size) + 1.0, 3))
    datatype.Free()


def test_blocks_apart_of_a_datatype_without_gaps(comm):
    datatype = MPI.DOUBLE.Create_contiguous(3).Create_resized(0, 32).Commit()
    result = np.zeros((comm.size, 4))
    usual = np.zeros((comm.size, 3))
    into = [result, [1] * comm.size, list(range(comm.size)), datatype] if odd(comm) else usual
    roundelay.allgatherv(comm, np.full(3, comm.rank + 1.0), into, algorithm="ring")
    assert_array_equal(result[:, :3] if odd(comm) else usual, np.repeat([np.arange(comm.size) + 1.0], 3, 0).T)
    datatype.Free()


def test_no_blocks_at_all_of_a_datatype_with_gaps(comm):
    """Ranks keep in step: the next collective is right, too."""
    datatype = MPI.INT.Create_resized(0, 8).Commit()
    empty, none = np.zeros(0, "i"), [0] * comm.size
    into = [empty, none, none, datatype if odd(comm) else MPI.INT]
    roundelay.allgatherv(comm, empty, into, algorithm="ring")
    result = np.zeros(comm.size)
    roundelay.allgather(comm, np.array([comm.rank + 1.0]), result, algorithm="ring")
    assert_array_equal(result, np.arange(comm.size) + 1.0)
    datatype.Free()


def test_persistent_ones_start_in_any_order(comm):
    sent = [np.full(5, 10.0 * i + comm.rank) for i in range(3)]
    received = [np.zeros(5) for _ in range(3)]
    named = comm.Dup(MPI.Info.Create({"roundelay_allreduce": "ring"}))
    requests = [named.Allreduce_init(*pair) for pair in zip(sent, received, strict=True)]
    for _ in range(2):
        for request in requests if odd(comm) else requests[::-1]:
            request.Start()
        MPI.Request.Waitall(requests)
        for i in range(3):
            assert_array_equal(received[i], comm.size * 10.0 * i + sum(range(comm.size)))
            received[i][:] = 0
    for request in requests:
        request.Free()
    named.Free()


def test_a_displacement_beyond_the_array(comm):
    array, result = np.zeros(10), np.zeros(10)
    with pytest.raises(ValueError, match="displacement"):
        roundelay.allreduce(
            comm, [array, (2, 1000), MPI.DOUBLE], [result, (2, 1000), MPI.DOUBLE], algorithm="ring"
        )
    column = MPI.DOUBLE.Create_vector(2000, 1, 2).Commit()
    with pytest.raises(ValueError, match="displacement"):
        comm.Send([array, (1, 1000), column], comm.rank)
    column.Free()


def test_the_count_of_a_block(comm):
    array, result = np.full(3 * comm.size, comm.rank + 1.0), np.zeros(3)
    out = [array, 3, MPI.DOUBLE] if odd(comm) else array
    roundelay.reduce_scatter_block(comm, out, result, algorithm="direct")
    assert_array_equal(result, comm.size * (comm.size + 1) / 2)


@pytest.mark.parametrize("nothing", [[None, 0, MPI.DOUBLE], [None, MPI.DOUBLE]])
def test_none_for_nothing(comm, nothing):
    counts = [0 if rank % 2 else 3 for rank in range(comm.size)]
    result = np.zeros(sum(counts))
    roundelay.allgatherv(comm, nothing if odd(comm) else np.ones(3), [result, counts], algorithm="ring")
    assert_array_equal(result, 1)


def test_very_many_runs(comm):
    count = 1_200_000
    places = np.cumsum(np.random.default_rng(0).integers(2, 4, count)).astype("i")
    datatype = MPI.DOUBLE.Create_indexed_block(1, places.tolist()).Commit()
    wide, dense = np.zeros(places[-1] + 1), np.arange(float(count))
    buffer = [wide, 1, datatype] if odd(comm) else dense
    roundelay.bcast(comm, buffer, 0, algorithm="tree")
    assert_array_equal(wide[places] if odd(comm) else dense, np.arange(float(count)))
    datatype.Free()


def test_bytes_off_their_boundary(comm):
    memory = memoryview(bytearray(84))[4:] if odd(comm) else np.ones(10)
    result = np.zeros(10)
    for name in ("ring", "reduce-scatter-allgather", "star"):
        roundelay.allreduce(comm, [memory, MPI.DOUBLE], result, algorithm=name)
        assert_array_equal(result, (comm.size + 1) // 2)
