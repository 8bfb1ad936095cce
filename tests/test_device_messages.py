"""Messages of arrays on a device, with and without gaps: on a GPU where there is one, and on a stand-in."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import MPI
from roundelay.comm import device as staging
from roundelay.comm import settings
from tests import device

pytestmark = pytest.mark.mpi

VIEWS = {
    "whole": lambda array: array,
    "rows": lambda array: array[1:3],
    "column": lambda array: array[:, 2],
    "every other": lambda array: array[::2, 1::3],
    "transposed": lambda array: array.T,
    "reversed": lambda array: array[::-1],
    "empty": lambda array: array[:0],
}


def numbers(rank, *shape):
    return np.arange(np.prod(shape), dtype=float).reshape(shape) + 100 * rank


@pytest.fixture
def dest(comm):
    return (comm.rank + 1) % comm.size


@pytest.fixture
def source(comm):
    return (comm.rank - 1) % comm.size


@pytest.fixture(params=VIEWS)
def arrays(request, put, comm, source):
    """The sent array, the view that receives it, the array under that view, and its content afterwards."""
    view = VIEWS[request.param]
    into, expected = put(numbers(-1, 6, 8)), numbers(-1, 6, 8)
    view(expected)[...] = view(numbers(source, 6, 8))
    return view(put(numbers(comm.rank, 6, 8))), view(into), into, expected


def test_sendrecv(comm, dest, source, arrays):
    own, view, into, expected = arrays
    comm.Sendrecv(own, dest, 3, view, source, 3)
    assert_array_equal(into.get(), expected)


def test_nonblocking(comm, dest, source, arrays):
    own, view, into, expected = arrays
    MPI.Request.Waitall([comm.Irecv(view, source, 3), comm.Isend(own, dest, 3)])
    assert_array_equal(into.get(), expected)


def test_persistent(comm, dest, source, arrays):
    own, view, into, expected = arrays
    requests = [comm.Recv_init(view, source, 3), comm.Send_init(own, dest, 3)]
    for _ in range(2):
        view[...] = 0
        MPI.Prequest.Startall(requests)
        MPI.Request.Waitall(requests)
        assert_array_equal(into.get(), expected)
    for request in requests:
        request.Free()


@pytest.mark.parametrize("view", ["whole", "every other"])
def test_short_message_leaves_the_rest(comm, put, view):
    into, expected, status = put(numbers(0, 6, 8)), numbers(0, 6, 8), MPI.Status()
    request = comm.Isend(put(np.full(5, 7.0)), comm.rank)
    comm.Recv(VIEWS[view](into), comm.rank, status=status)
    request.Wait()
    VIEWS[view](expected).flat[:5] = 7
    assert status.Get_count(MPI.DOUBLE) == 5
    assert_array_equal(into.get(), expected)


def test_datatypes(comm, dest, source, put):
    """A count of a predefined one, and a derived one: the rest of the array stays as it is."""
    every_other = MPI.DOUBLE.Create_vector(4, 1, 2).Commit()
    for count, datatype, places in ((3, MPI.DOUBLE, slice(3)), (1, every_other, slice(0, 8, 2))):
        own, into, expected = put(numbers(comm.rank, 8)), put(numbers(-1, 8)), numbers(-1, 8)
        comm.Sendrecv([own, count, datatype], dest, 0, [into, count, datatype], source, 0)
        expected[places] = numbers(source, 8)[places]
        assert_array_equal(into.get(), expected)
    every_other.Free()


def test_between_host_and_device(comm, dest, source, put):
    there, here, total = put(np.zeros(8)), np.zeros(8), np.zeros(8)
    comm.Sendrecv(put(numbers(comm.rank, 8)), dest, 0, here, source, 0)
    comm.Sendrecv(numbers(comm.rank, 8), dest, 0, there, source, 0)
    assert_array_equal(here, numbers(source, 8))
    assert_array_equal(there.get(), numbers(source, 8))
    # The first call with some number of bytes asks more of the arguments than the others.
    for _ in range(3):
        comm.Allreduce(put(numbers(comm.rank, 8)), total)
        assert_array_equal(total, sum(numbers(rank, 8) for rank in range(comm.size)))


def test_receive_array_that_overlaps(comm, put):
    if isinstance(put(np.zeros(1)), device.Array):
        twice = device.Array(np.lib.stride_tricks.as_strided(np.zeros(4), (3, 4), (0, 8)))
    else:
        twice = device.cupy_or_skip().lib.stride_tricks.as_strided(put(np.zeros(4)), (3, 4), (0, 8))
    with pytest.raises(ValueError, match="elements that overlap"):
        comm.Recv(twice, comm.rank)


def test_what_the_library_is_handed(monkeypatch):
    """The user's setting counts, else the library's answer; one library has no function for it."""
    read = settings.hands_over_gpu_memory.__wrapped__
    for value, expected in (("1", True), ("0", False), ("", None)):
        monkeypatch.setenv("ROUNDELAY_GPU_DIRECT", value)
        assert read() is expected
    ask = staging.library_reads_gpu.__wrapped__
    monkeypatch.setattr(staging, "hands_over_gpu_memory", lambda: False)
    assert not ask()
    monkeypatch.setattr(staging, "hands_over_gpu_memory", lambda: None)
    monkeypatch.setattr(staging, "_QUERIES", ("MPIX_Nothing",))
    monkeypatch.delenv("MPICH_GPU_SUPPORT_ENABLED", raising=False)
    kinds = MPI.COMM_WORLD.Get_info().Get("mpi_memory_alloc_kinds") or ""
    assert ask() == ("cuda" in kinds or "rocm" in kinds)
    monkeypatch.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert ask()


def test_broadcast(comm, put):
    for root in range(comm.size):
        array, expected = put(numbers(comm.rank, 6, 8)), numbers(comm.rank, 6, 8)
        comm.Bcast(array[:, ::2], root)
        expected[:, ::2] = numbers(root, 6, 8)[:, ::2]
        assert_array_equal(array.get(), expected)


def test_gathering(comm, put):
    ranks = range(comm.size)
    everything = put(np.zeros((comm.size, 6, 4)))
    comm.Allgather(put(numbers(comm.rank, 6, 8))[:, ::2], everything)
    assert_array_equal(everything.get(), [numbers(rank, 6, 8)[:, ::2] for rank in ranks])
    counts = [rank + 1 for rank in ranks]
    uneven = put(np.zeros(sum(counts)))
    comm.Allgatherv(put(np.full(comm.rank + 1, float(comm.rank))), [uneven, counts])
    assert_array_equal(uneven.get(), np.repeat(ranks, counts))
    received = put(np.zeros((comm.size, 3)))
    comm.Alltoall(put(numbers(comm.rank, comm.size, 3)), received)
    assert_array_equal(received.get(), [numbers(rank, comm.size, 3)[comm.rank] for rank in ranks])


def test_reductions(comm, put):
    totals = sum(numbers(rank, 6, 8) for rank in range(comm.size))
    own, total = put(numbers(comm.rank, 6, 8)), put(np.zeros((6, 8)))
    comm.Allreduce(own, total)
    assert_array_equal(total.get(), totals)
    comm.Allreduce(MPI.IN_PLACE, own[::2])
    expected = numbers(comm.rank, 6, 8)
    expected[::2] = totals[::2]
    assert_array_equal(own.get(), expected)
