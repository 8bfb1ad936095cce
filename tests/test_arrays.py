"""Arrays of every dtype and class: what mpi4py takes of a contiguous array, it takes of one with gaps."""

import array
from itertools import product
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI
from tests.memory_order import as_sent

pytestmark = pytest.mark.mpi
SIZES = [4, 3000]


def neighbours(comm):
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


class Subclass(np.ndarray):
    """An array that NumPy makes of itself."""


class Copying(np.ndarray):
    """An array of which no index gives a view."""

    def __getitem__(self, key):
        return np.array(super().__getitem__(key))


def calls(comm):
    """Every kind of call, of an array to be sent and one to be received into, with an element a rank."""
    size = comm.size
    right, left = neighbours(comm)
    return {
        "Sendrecv": lambda s, r: comm.Sendrecv(s, right, 0, r, left, 0),
        "Isendrecv": lambda s, r: comm.Isendrecv(s, right, 0, r, left, 0).Wait(),
        "Isend and Recv": lambda s, r: (request := comm.Isend(s, right), comm.Recv(r, left), request.Wait()),
        "Irecv and Send": lambda s, r: (request := comm.Irecv(r, left), comm.Send(s, right), request.Wait()),
        "Bcast": lambda s, r: comm.Bcast(s if comm.rank == 0 else r),
        "Gather": lambda s, r: comm.Gather(s[: len(s) // size], r),
        "Scatter": lambda s, r: comm.Scatter(s, r[: len(r) // size]),
        "Allgather": lambda s, r: comm.Allgather(s[: len(s) // size], r),
        "Alltoall": comm.Alltoall,
        "Ialltoall": lambda s, r: comm.Ialltoall(s, r).Wait(),
        "Allreduce": comm.Allreduce,
        "Iallreduce": lambda s, r: comm.Iallreduce(s, r).Wait(),
        "Reduce": comm.Reduce,
        "Reduce_scatter_block": lambda s, r: comm.Reduce_scatter_block(s, r[: len(r) // size]),
        "Scan": comm.Scan,
        "Exscan": comm.Exscan,
    }


# Elements that mpi4py refuses


REFUSED = ["S5", "U3", "V6", "M8[s]", "m8[us]", ">f8", "O", [("x", "f8"), ("k", "i4")]]


@pytest.mark.parametrize("dtype", REFUSED, ids=str)
@pytest.mark.parametrize("items", SIZES)
def test_elements_that_mpi4py_refuses(comm, dtype, items):
    """Every call raises what it raises for a contiguous array, on all ranks, before anything is sent."""
    dense = np.zeros(items * comm.size, dtype)
    with pytest.raises((KeyError, BufferError)) as refusal:
        type(comm).plain(comm).Sendrecv(dense, comm.rank, 0, np.empty_like(dense), comm.rank, 0)
    for name, call in calls(comm).items():
        for step in (2, -1):
            send, receive = (np.zeros(2 * len(dense), dtype)[::step][: len(dense)] for _ in "sr")
            with pytest.raises(refusal.type):
                call(send, receive)
            pytest.fail(f"{name}, {step}: received") if comm.Iprobe() else None


@pytest.mark.parametrize("dtype", ["S1", "U1", "e", "g", "G", "?"])
@pytest.mark.parametrize("items", SIZES)
def test_elements_that_it_takes(comm, dtype, items):
    right, left = neighbours(comm)
    view = (np.arange(items) % 2 + comm.rank % 2).astype(dtype).repeat(2)[::-2]
    received, status = np.zeros((items, 2), dtype), MPI.Status()
    comm.Sendrecv(view, right, 0, received[:, 1], left, 0, status)
    assert_array_equal(received[:, 1], (np.arange(items) % 2 + left % 2).astype(dtype)[::-1])
    assert not received[:, 0].astype(bool).any()
    assert status.Get_count(MPI.BYTE) == view.nbytes


# Fields of records


def packed(*fields):
    return np.dtype(list(fields))


RECORDS = {
    "complex128 beside a float64": np.dtype([("w", "c16"), ("e", "f8")], align=True),
    "complex64 beside an int32": packed(("w", "c8"), ("k", "i4")),
    "float64 beside an int32": packed(("w", "f8"), ("i", "i4")),
    "float64 after a bool": packed(("ok", "?"), ("w", "f8")),
    "int16 among bytes": packed(("a", "u1"), ("w", "i2"), ("b", "S4")),
    "long double among bytes": packed(("w", "g"), ("b", "u1")),
}
SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "all": ((3000,), np.s_[:]),
    "one": ((1,), np.s_[:]),
    "few": ((4,), np.s_[::2]),
    "backwards": ((3000,), np.s_[::-3]),
    "columns": ((500, 6), np.s_[:, :3]),
    "rows, backwards": ((500, 6), np.s_[::-1, 1::2]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("record", RECORDS)
def test_fields_of_records(comm, record, shape):
    """Their strides are no multiples of the elements' sizes, and their elements may lie anywhere."""
    (extents, cut), dtype = SHAPES[shape], RECORDS[record]
    memory = np.zeros(extents, dtype)
    view = memory[cut]["w"]
    view[...] = np.arange(view.size).reshape(view.shape) % 97 + comm.rank
    plain = view.copy()
    for name, call in calls(comm).items():
        if name in ("Gather", "Scatter", "Allgather", "Alltoall", "Ialltoall", "Reduce_scatter_block"):
            continue
        received, expected = np.zeros(extents, dtype), np.zeros_like(plain)
        call(view, received[cut]["w"])
        calls(PLAIN.COMM_WORLD)[name](plain, expected)
        whole = np.zeros(extents, dtype)
        whole[cut]["w"] = expected
        assert_array_equal(received, whole, name)
        dense = np.zeros_like(plain)
        call(view, dense)
        assert_array_equal(dense, expected, name)


def test_reinterpreted_arrays(comm):
    """Pairs of columns as complex numbers: the stride is 1.5 times their size."""
    right, left = neighbours(comm)
    for rows, step in product((4, 3000), (1, -1, 2)):
        table = np.arange(3.0 * rows).reshape(rows, 3) + comm.rank
        pairs = table[:, :2].view(complex)[::step]
        received = np.zeros((rows, 3))
        comm.Sendrecv(pairs, right, 0, received[:, 1:].view(complex)[::step], left, 0)
        expected = np.zeros((rows, 3))
        expected[::step, 1:] = (table + left - comm.rank)[::step, :2]
        assert_array_equal(received, expected)


@pytest.mark.parametrize("items", [1, 2, 3000])
def test_elements_off_their_boundaries(comm, items):
    """Of one element and of many, with gaps and without, beside a datatype and alone."""
    for name, call in calls(comm).items():
        count = items * comm.size
        send, receive = (np.zeros(8 * count + 1, np.uint8)[1:].view(float) for _ in "sr")
        assert not send.flags.aligned
        send[:] = np.arange(count) % 89 + comm.rank
        plain, expected = send.copy(), np.zeros(count)
        calls(PLAIN.COMM_WORLD)[name](plain, expected)
        call(send, receive)
        assert_array_equal(receive, expected, name)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a, MPI.DOUBLE]], ids=["bare", "with a datatype"])
def test_elements_off_their_boundaries_in_a_schedule(comm, wrap):
    """On one rank only: the others send and receive what lies on its boundaries."""
    send, receive = (np.zeros(8 * 6 + 1, np.uint8)[1:].view(float) for _ in "sr")
    if comm.rank == comm.size - 1:
        send, receive = send.copy(), receive.copy()
    send[:] = comm.rank + np.arange(6)
    total = comm.size * np.arange(6) + sum(range(comm.size))
    for algorithm in ("ring", "star"):
        roundelay.allreduce(comm, wrap(send), wrap(receive), algorithm=algorithm)
        assert_array_equal(receive, total)
        receive[:] = send
        roundelay.allreduce(comm, MPI.IN_PLACE, wrap(receive), algorithm=algorithm)
        assert_array_equal(receive, total)


# Classes of arrays


def strided(count, kind):
    """Give memory of twice the count, zeros, and what shows every other element of it."""
    memory: Any = np.zeros(2 * count)
    view = memory[::2]
    if kind == "memoryview":
        return memory, memoryview(memory)[::2]
    if kind == "array.array":
        rows = array.array("d", bytes(16 * count))
        return np.frombuffer(rows), memoryview(rows)[::2]
    classes = {"ndarray": np.ndarray, "matrix": np.matrix, "masked": np.ma.MaskedArray}
    return memory, view.view(classes.get(kind) or {"subclass": Subclass, "copying": Copying}[kind])


CLASSES = ["ndarray", "subclass", "copying", "matrix", "masked", "memoryview", "array.array"]


@pytest.mark.parametrize("items", SIZES)
@pytest.mark.parametrize(("sent", "received"), [(a, b) for a, b in product(CLASSES, CLASSES) if a != b])
def test_two_classes_in_one_call(comm, sent, received, items):
    """Each side is looked at by itself: whatever the other one is, and wherever only the root has one."""
    count = items * comm.size
    for name, call in calls(comm).items():
        if {"matrix", "copying"} & {sent, received} and name not in (
            "Sendrecv",
            "Bcast",
            "Allreduce",
            "Alltoall",
        ):
            # Their slices are of other shapes, or copies.
            continue
        plain, expected = np.arange(float(count)) + comm.rank, np.zeros(count)
        out, view = strided(count, sent)
        out[::2] = plain
        memory, into = strided(count, received)
        calls(PLAIN.COMM_WORLD)[name](plain, expected)
        call(view, into)
        assert_array_equal(memory[::2], expected, name)
        assert not memory[1::2].any()


@pytest.mark.parametrize("shape", ["box", "transposed", "backwards", "broadcast"])
def test_the_order_is_that_of_memory_in_every_call(comm, shape):
    """As NumPy's `ravel(order="K")` gives it."""
    views = {
        "box": lambda a: a[:, 1:3],
        "transposed": lambda a: a.T[::2],
        "backwards": lambda a: a[::-1, ::-2],
        "broadcast": lambda a: np.broadcast_to(a[:, :1], (4, 6)).T,
    }
    orders: Any = "CF"
    for order, (name, call) in product(orders, calls(comm).items()):
        memory = np.array(np.arange(24.0).reshape(4, 6) + comm.rank, order=order)
        message = as_sent(views[shape](memory))
        message = message[: len(message) // comm.size * comm.size]
        if len(message) < views[shape](memory).size or name in ("Gather", "Scatter", "Allgather"):
            continue
        if name == "Reduce_scatter_block":
            continue
        expected, received = np.zeros_like(message), np.zeros((len(message), 2))
        calls(PLAIN.COMM_WORLD)[name](message, expected)
        call(views[shape](memory), received[:, 1])
        assert_array_equal(received[:, 1], expected, f"{name}, order {order}")
