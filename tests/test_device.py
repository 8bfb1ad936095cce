"""Reductions of arrays on a device: by CuPy where there is a GPU, by a stand-in for it everywhere."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI
from tests import device

pytestmark = pytest.mark.mpi


@pytest.fixture(params=device.PLACES)
def put(request, monkeypatch):
    """Copy an array of the host to the device."""
    yield from device.place(request.param, monkeypatch, device.module(), device.on_device)


ALGORITHMS = [name for name in roundelay.algorithms("allreduce") if name not in ("native", "hierarchical")]


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_allreduce(comm, put, name, count):
    own, result = put(np.arange(count) + comm.rank), put(np.zeros(count, int))
    roundelay.allreduce(comm, own, result, algorithm=name)
    assert_array_equal(result.get(), comm.size * np.arange(count) + sum(range(comm.size)))
    assert_array_equal(own.get(), np.arange(count) + comm.rank)


OPERATIONS = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "BXOR": np.bitwise_xor,
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_in_place(comm, put, op):
    each = [np.random.default_rng(rank).integers(1, 9, 37) for rank in range(comm.size)]
    result = put(each[comm.rank])
    roundelay.allreduce(comm, MPI.IN_PLACE, result, getattr(MPI, op), algorithm="ring")
    expected = each[0]
    for other in each[1:]:
        expected = OPERATIONS[op](expected, other)
    assert_array_equal(result.get(), expected)


@pytest.mark.mpi(min_size=2)
def test_an_array_into_itself(comm, put):
    array = put(np.arange(100) + comm.rank)
    roundelay.allreduce(comm, array, array, algorithm="ring")
    assert_array_equal(array.get(), comm.size * np.arange(100) + sum(range(comm.size)))


def test_half_precision(comm, put):
    """A type that MPI lacks."""
    result = put(np.zeros((3, 5), np.float16))
    roundelay.allreduce(comm, put(np.ones((3, 5), np.float16)), result, algorithm="reduce-scatter-allgather")
    assert_array_equal(result.get(), np.full((3, 5), comm.size, np.float16))


def test_reduce_to_each_root(comm, put):
    for root in range(comm.size):
        result = put(np.zeros(10)) if comm.rank == root else None
        roundelay.reduce(comm, put(np.full(10, comm.rank + 1.0)), result, root=root, algorithm="tree")
        if result is not None:
            assert_array_equal(result.get(), np.full(10, sum(range(1, comm.size + 1))))


def test_reduce_scatter(comm, put):
    own = put(np.arange(3.0 * comm.size))
    part, uneven = put(np.zeros(3)), put(np.zeros(3 * comm.size if comm.rank == 0 else 0))
    roundelay.reduce_scatter_block(comm, own, part, algorithm="ring")
    assert_array_equal(part.get(), comm.size * (3.0 * comm.rank + np.arange(3)))
    counts = [3 * comm.size] + [0] * (comm.size - 1)
    roundelay.reduce_scatter(comm, own, uneven, counts, algorithm="direct")
    if comm.rank == 0:
        assert_array_equal(uneven.get(), comm.size * np.arange(3.0 * comm.size))


def test_drop_in_method_and_its_other_forms(comm, put):
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "ring"}))
    own, result = put(np.arange(9.0)), put(np.zeros(9))
    comm.Allreduce(own, result)
    assert_array_equal(result.get(), comm.size * np.arange(9.0))
    again = put(np.zeros(9))
    comm.Iallreduce(own, again).Wait()
    assert_array_equal(again.get(), comm.size * np.arange(9.0))
    once_more = put(np.zeros(9))
    request = comm.Allreduce_init(own, once_more)
    for _ in range(2):
        request.Start()
        request.Wait()
        assert_array_equal(once_more.get(), comm.size * np.arange(9.0))
    request.Free()


def test_device_on_some_ranks_only(comm, put):
    place = put if comm.rank % 2 else np.asarray
    own, result = place(np.arange(50.0)), place(np.zeros(50))
    for name in ALGORITHMS:
        roundelay.allreduce(comm, own, result, algorithm=name)
        found = getattr(result, "get", lambda: result)()
        assert_array_equal(found, comm.size * np.arange(50.0))


def test_many_and_progressive(comm, put):
    gradients = [put(np.ones((2, 3))), put(np.ones(4, np.float32)), put(np.full(5, 2.0)), np.ones(3)]
    roundelay.allreduce_many(comm, gradients, algorithm="ring")
    for each, value in zip(gradients[:3], (1, 1, 2), strict=True):
        assert (each.get() == value * comm.size).all()
    assert (gradients[3] == comm.size).all()
    buffer = put(np.zeros(12))
    reduction = roundelay.ProgressiveAllreduce(comm, buffer, 3, algorithm="ring")
    for segment in (1, 0, 2):
        buffer[reduction.part(segment)] = 1.0
        reduction.ready(segment)
    reduction.wait()
    assert (buffer.get() == comm.size).all()


def test_without_cupy_the_library_has_it(comm, put, monkeypatch):
    own, result = put(np.arange(4.0)), put(np.zeros(4))
    monkeypatch.setitem(sys.modules, "cupy", None)
    if isinstance(own, device.Array):
        roundelay.allreduce(comm, own, result, algorithm="ring")
        assert_array_equal(result.get(), comm.size * np.arange(4.0))
