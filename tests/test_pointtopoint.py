"""Every point-to-point method, with arrays that have gaps and with datatypes, from and to plain mpi4py."""

import array
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI
from roundelay.comm.interposer import library_alone
from tests.memory_order import as_received, as_sent

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

SENDS = [
    f"{mode}{form}"
    for mode in ("Send", "Bsend", "Ssend", "Rsend", "Isend", "Ibsend", "Issend", "Irsend")
    for form in ("", "_init")
    if not (mode.startswith("I") and form)
]
RECEIVES = ["Recv", "Irecv", "Recv_init", "Mprobe.Recv", "Mprobe.Irecv", "Improbe.Recv", "Improbe.Irecv"]
LIMIT_S = 30

# Each gives a view with gaps of memory that has the shape beside it.
VIEWS = {
    "column": ((5, 7), lambda a: a[:, 2]),
    "every other": ((30,), lambda a: a[::2]),
    "backwards": ((12,), lambda a: a[::-1]),
    "backwards in both": ((6, 8), lambda a: a[::-2, ::-3]),
    "box": ((4, 5, 6), lambda a: a[1:-1, 1:-1, 1:-1]),
    "face": ((4, 5, 6), lambda a: a[1:-1, 1:-1, 0]),
    "axes exchanged": ((3, 4, 5), lambda a: a.transpose(1, 2, 0)),
    "four dimensions": ((3, 4, 2, 5), lambda a: a[::2, 1:3, ::-1, 1::2]),
    "one element and one axis of stride": ((4, 6), lambda a: a[1:2, ::3]),
    "long": ((7, 3000), lambda a: a[:, 3:2600]),
    "many": ((900, 33), lambda a: a[:, 5]),
}


@pytest.fixture
def attached():
    """Memory for buffered sends."""
    MPI.Attach_buffer(bytearray(1 << 22))
    yield
    MPI.Detach_buffer()


def neighbours(comm):
    """Give the rank to send to and the one to receive from, in a ring that may be of one rank only."""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def plain(comm):
    """Give mpi4py's own communicator for the same ranks."""
    return PLAIN.Intracomm(comm)


def alone(function, comm, *arguments):
    """Call a function with mpi4py's own communicator, and with the MPI library itself beneath it."""
    with library_alone():
        return function(plain(comm), *arguments)


def make_view(name, rank, dtype=np.float64):
    """Give memory that only this rank has, and a view of it."""
    shape, view = VIEWS[name]
    memory = (np.arange(np.prod(shape)).reshape(shape) % 100 + 100 * rank).astype(dtype)
    return memory, view(memory)


def send(comm, kind, specification, dest, tag=0):
    """Send in one of the ways there are."""
    request = getattr(comm, kind)(specification, dest, tag)
    if kind.endswith("_init"):
        request.Start()
    if request is not None:
        request.Wait()
        request.free()


def receive(comm, kind, specification, source, tag=0):
    """Receive in one of the ways there are; give the status."""
    status = MPI.Status()
    method, _, of_message = kind.partition(".")
    if of_message:
        message, begin = None, time.monotonic()
        while message is None:
            assert time.monotonic() - begin < LIMIT_S
            message = getattr(comm, method)(source, tag)
        operation = getattr(message, of_message)
        operation(specification, status) if of_message == "Recv" else operation(specification).Wait(status)
        assert message == MPI.MESSAGE_NULL
    elif kind == "Recv":
        comm.Recv(specification, source, tag, status)
    else:
        request = getattr(comm, kind)(specification, source, tag)
        if kind == "Recv_init":
            request.Start()
        request.Wait(status)
        request.free()
    return status


def facts_of(status, *datatypes):
    """Give what a program can ask of a status."""
    counts = [(status.Get_count(datatype), status.Get_elements(datatype)) for datatype in datatypes]
    return status.source, status.tag, status.error, status.Is_cancelled(), counts


def get_from_left(comm, kind, specification, message):
    """Send `message` around with mpi4py alone, and receive it with `comm`; give the status."""
    right, left = neighbours(comm)
    request = plain(comm).Isend(message, right, 7)
    status = receive(comm, kind, specification, left, 7)
    request.Wait()
    return status


def put_right(comm, kind, specification, nbytes):
    """Send around with `comm`, and receive with mpi4py alone; give the bytes that arrived."""
    right, left = neighbours(comm)
    found, status = np.full(nbytes + 16, 255, np.uint8), PLAIN.Status()
    request = plain(comm).Irecv(found, left, 7)
    # Ready mode wants the receive to be there.
    comm.Barrier()
    send(comm, kind, specification, right, 7)
    request.Wait(status)
    return found[: status.Get_count(PLAIN.BYTE)]


# Arrays with gaps


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("kind", SENDS)
def test_send_an_array_with_gaps(comm, kind):
    for name in VIEWS:
        memory, view = make_view(name, comm.rank)
        before = memory.copy()
        _, expected = make_view(name, neighbours(comm)[1])
        found = put_right(comm, kind, view, view.nbytes)
        assert_array_equal(found.view(np.float64), as_sent(expected), name)
        assert_array_equal(memory, before, name)


@pytest.mark.parametrize("kind", RECEIVES)
def test_receive_into_an_array_with_gaps(comm, kind):
    left = neighbours(comm)[1]
    for name, (_, look) in VIEWS.items():
        memory, view = make_view(name, comm.rank)
        expected = memory.copy()
        look(expected)[...] = make_view(name, left + 50)[1]
        status = get_from_left(comm, kind, view, as_sent(make_view(name, comm.rank + 50)[1]))
        assert_array_equal(memory, expected, name)
        assert facts_of(status, MPI.DOUBLE) == (left, 7, MPI.SUCCESS, False, [(view.size, view.size)]), name


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kind", ["Sendrecv", "Isendrecv"])
def test_send_and_receive_arrays_with_gaps(comm, kind, name):
    (right, left), status = neighbours(comm), MPI.Status()
    _, view = make_view(name, comm.rank)
    memory = np.full((view.size, 3), -1.0)
    expected = memory.copy()
    expected[::-1, 1] = as_sent(make_view(name, left)[1])
    request = getattr(comm, kind)(view, right, 3, memory[::-1, 1], left, 3, *[status][: kind == "Sendrecv"])
    if request is not None:
        request.Wait(status)
    assert_array_equal(memory, expected)
    # MPICH 5.0.2 does not fill in the status of the nonblocking one.
    if kind == "Sendrecv":
        assert (status.source, status.tag, status.Get_count(MPI.DOUBLE)) == (left, 3, view.size)


@pytest.mark.parametrize(("sent", "received"), [(True, False), (False, True)])
@pytest.mark.parametrize("kind", ["Sendrecv", "Isendrecv"])
def test_send_and_receive_with_gaps_on_one_side(comm, kind, sent, received):
    right, left = neighbours(comm)
    memory, target = make_view("box", comm.rank)[1], np.full((12, 4), -1.0)
    outgoing = memory if sent else memory.copy()
    incoming = np.zeros(memory.size)
    into = target[: memory.size // 2, ::2] if received else incoming
    request = getattr(comm, kind)(outgoing, right, recvbuf=into, source=left)
    if request is not None:
        request.Wait()
    expected = make_view("box", left)[1].ravel()
    assert_array_equal(into.ravel(), expected)
    assert (target[:, 1::2] == -1).all()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kind", ["Sendrecv_replace", "Isendrecv_replace"])
def test_replace_an_array_with_gaps(comm, kind, name):
    (right, left), status = neighbours(comm), MPI.Status()
    memory, view = make_view(name, comm.rank)
    expected = memory.copy()
    VIEWS[name][1](expected)[...] = make_view(name, left)[1]
    request = getattr(comm, kind)(view, right, 2, left, 2, *[status][: kind == "Sendrecv_replace"])
    if request is not None:
        request.Wait(status)
    assert_array_equal(memory, expected)
    if kind == "Sendrecv_replace":
        assert (status.source, status.tag, status.Get_count(MPI.DOUBLE)) == (left, 2, view.size)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "q", "f4", "f8", "g", "F", "D", "G"])
def test_arrays_of_every_size_of_element(comm, dtype):
    right, left = neighbours(comm)
    _, view = make_view("backwards in both", comm.rank, dtype)
    received = np.zeros((2, *view.shape), dtype)
    comm.Sendrecv(view, right, 0, received[1, :, ::-1], left, 0)
    assert_array_equal(received[1, :, ::-1], make_view("backwards in both", left, dtype)[1])
    assert not received[0].any()
    message = np.arange(view.size).astype(dtype)
    status = get_from_left(comm, "Recv", view, message)
    assert_array_equal(view.ravel(), message)
    assert status.Get_count(MPI.Datatype.fromcode(dtype)) == view.size


class Foreign:
    """An array of another library, which is known by DLPack only."""

    def __init__(self, view):
        self.__dlpack__, self.__dlpack_device__ = view.__dlpack__, view.__dlpack_device__


class Subclass(np.ndarray):
    """An array of a class that is derived from NumPy's."""


WRAPPERS: dict[str, Callable[..., Any]] = {
    "memoryview": memoryview,
    "foreign": Foreign,
    "subclass": lambda view: view.view(Subclass),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_arrays_that_are_not_numpy_s_own(comm, wrapper):
    (right, left), wrap = neighbours(comm), WRAPPERS[wrapper]
    memory, view = make_view("column", comm.rank, np.int32)
    assert_array_equal(put_right(comm, "Send", wrap(view), 20).view(np.int32), make_view("column", left)[1])
    numbers = np.arange(5, dtype=np.int32) - 7
    expected = memory.copy()
    expected[:, 2] = numbers
    for kind in ("Recv", "Irecv"):
        memory[:, 2] = 0
        get_from_left(comm, kind, wrap(view), numbers)
        assert_array_equal(memory, expected)
    request = comm.Irecv(wrap(view[::2]), left)
    comm.Ssend(wrap(np.arange(6, dtype=np.int32)[1::2]), right)
    request.Wait()
    assert_array_equal(view[::2], [1, 3, 5])


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_arrays_without_elements(comm, shape):
    nothing = np.zeros([2 * length for length in shape])[(np.s_[::2],) * len(shape)]
    for kind in SENDS:
        if "bsend" not in kind.lower():
            assert put_right(comm, kind, nothing, 0).size == 0
    for kind in RECEIVES:
        assert get_from_left(comm, kind, nothing, np.empty(0)).Get_count(MPI.DOUBLE) == 0
    comm.Sendrecv(nothing, neighbours(comm)[0], 0, nothing, neighbours(comm)[1], 0)


def test_arrays_without_dimensions(comm):
    right, left = neighbours(comm)
    memory = np.full((3, 3), -1.0)
    comm.Sendrecv(np.array(comm.rank + 0.5), right, 0, memory[1, 2, ...], left, 0)
    expected = np.full((3, 3), -1.0)
    expected[1, 2] = left + 0.5
    assert_array_equal(memory, expected)


def test_elements_travel_in_the_order_of_memory(comm):
    """As mpi4py sends arrays in Fortran order, so are their slices sent."""
    right, left = neighbours(comm)
    fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4) + 100 * comm.rank)
    found = put_right(comm, "Send", fortran, 96).view(np.float64)
    assert_array_equal(found, np.arange(12.0).reshape(3, 4).T.ravel() + 100 * left)
    into = np.zeros((3, 4), order="F")
    get_from_left(comm, "Recv", into, np.arange(12.0))
    assert_array_equal(into.T.ravel(), np.arange(12.0))
    with_gaps = fortran[:2]
    assert not with_gaps.flags.forc
    found = put_right(comm, "Send", with_gaps, 64).view(np.float64)
    assert_array_equal(found, np.arange(8.0).reshape(2, 4).T.ravel() + 100 * left)
    comm.Sendrecv(np.arange(8.0), right, 0, into[:2], left, 0)
    assert_array_equal(into[:2].T.ravel(), np.arange(8.0))


def test_ghosts_of_a_domain_in_fortran_order(comm):
    """A slice with gaps goes into one without, when a domain of columns is divided among the ranks."""
    right, left = neighbours(comm)
    domain = np.zeros((7, 9), order="F")
    domain[1:-1, 1:-1] = np.arange(35.0).reshape(5, 7) + 100 * comm.rank
    ghosts = np.zeros((5, 2), order="F")
    comm.Sendrecv(domain[1:-1, 1:3], right, 0, ghosts, left, 0)
    assert_array_equal(ghosts, domain[1:-1, 1:3] + 100 * (left - comm.rank))


def test_a_broadcast_array_is_sent_as_often_as_it_shows(comm):
    view = np.broadcast_to(np.arange(3.0) + comm.rank, (4, 3))
    for kind in ("Send", "Isend", "Send_init"):
        found = put_right(comm, kind, view, view.nbytes)
        assert_array_equal(found.view(np.float64).reshape(4, 3), view - comm.rank + neighbours(comm)[1])


# Lists with an array with gaps

LISTED = {
    "count": lambda a: [a, a.size],
    "fewer": lambda a: [a, a.size - 3],
    "none": lambda a: [a, 0],
    "type": lambda a: [a, MPI.DOUBLE],
    "code": lambda a: [a, "d"],
    "tuple": lambda a: (a, MPI.DOUBLE),
    "count and displacement": lambda a: [a, (a.size - 4, 2)],
    "listed count and displacement": lambda a: [a, [a.size - 4, 2]],
    "displacement": lambda a: [a, (None, 3)],
    "count and type": lambda a: [a, 4, MPI.DOUBLE],
    "count and code": lambda a: (a, np.int64(4), "d"),
    "no count": lambda a: [a, None, MPI.DOUBLE],
    "all in pairs": lambda a: [a, (4, 2), MPI.DOUBLE],
    "all": lambda a: [a, 4, 2, "d"],
    "all without a count": lambda a: [a, None, 2, "d"],
    "bytes": lambda a: [a, MPI.BYTE],
    "some bytes": lambda a: [a, 27, 3, MPI.BYTE],
    "shorts": lambda a: [a, 13, MPI.SHORT],
    "pairs": lambda a: [a, 4, MPI.DOUBLE_INT],
}


@pytest.mark.parametrize("form", LISTED)
def test_send_a_list_with_an_array(comm, form):
    """The same elements are sent as of a contiguous copy."""
    for name, kind in product(("box", "every other", "axes exchanged"), ("Send", "Isend", "Send_init")):
        _, view = make_view(name, comm.rank)
        expected = alone(put_right, comm, kind, LISTED[form](as_sent(view)), view.nbytes)
        found = put_right(comm, kind, LISTED[form](view), view.nbytes)
        assert_array_equal(found, expected, f"{name}, {kind}")


@pytest.mark.parametrize("form", LISTED)
def test_receive_a_list_with_an_array(comm, form):
    """The same elements are written as in a contiguous copy; the rest keeps its values."""
    for name, kind in product(("box", "every other", "axes exchanged"), RECEIVES):
        memory, view = make_view(name, comm.rank)
        copy, expected = as_sent(view), memory.copy()
        message = (np.arange(24, dtype=np.uint8) + 1) if form != "none" else np.empty(0, np.uint8)
        statuses = [
            alone(get_from_left, comm, kind, LISTED[form](copy), message),
            get_from_left(comm, kind, LISTED[form](view), message),
        ]
        VIEWS[name][1](expected)[...] = as_received(view, copy)
        assert_array_equal(memory, expected, f"{name}, {kind}")
        first, second = (facts_of(status, MPI.BYTE, MPI.DOUBLE) for status in statuses)
        assert first == second, f"{name}, {kind}"


# Structured arrays


RECORD = np.dtype([("value", "f8"), ("index", "i4")], align=True)


def make_records(rank):
    records = np.zeros(10, RECORD)
    records["value"], records["index"] = np.arange(10) + rank / 8, np.arange(10) * 10 + rank
    return records


def test_a_field_of_a_structured_array(comm):
    right, left = neighbours(comm)
    records, found = make_records(comm.rank), make_records(-1)
    comm.Sendrecv(records["value"], right, 0, found["value"], left, 0)
    request = comm.Irecv(found["index"][::3], left, 1)
    comm.Send(records["index"][::-3], right, 1)
    request.Wait()
    assert_array_equal(found["value"], make_records(left)["value"])
    assert_array_equal(found["index"][::3], make_records(left)["index"][::-3])
    assert_array_equal(found["index"][1::3], make_records(-1)["index"][1::3])


def test_a_structured_array_as_bytes(comm):
    right, left = neighbours(comm)
    records, found = make_records(comm.rank), np.zeros(20, RECORD)
    comm.Sendrecv([records[::3], MPI.BYTE], right, 0, [found[::-5], MPI.BYTE], left, 0)
    assert_array_equal(found[::-5], make_records(left)[::3])
    assert not found["index"][1:4].any()


def test_a_structured_array_with_its_datatype(comm):
    from mpi4py.util.dtlib import from_numpy_dtype

    right, left = neighbours(comm)
    basic = from_numpy_dtype(RECORD)
    datatype = MPI.Datatype(basic).Commit()
    records, found = make_records(comm.rank), np.zeros(10, RECORD)
    comm.Sendrecv([records, datatype], right, 0, [found, datatype], left, 0)
    assert_array_equal(found, make_records(left))
    datatype.Free()


@pytest.mark.parametrize("kind", ["Send", "Isend", "Send_init"])
def test_a_bare_structured_array_is_refused_as_mpi4py_does(comm, kind):
    records = make_records(comm.rank)
    for communicator, view in ((plain(comm), records), (comm, records), (comm, records[::2])):
        with pytest.raises(KeyError):
            getattr(communicator, kind)(view, neighbours(comm)[0])


# Derived datatypes


def make_column():
    """Every fourth of 24 doubles."""
    return MPI.DOUBLE.Create_vector(6, 1, 4)


def make_resized():
    """Two doubles of five, also where instances follow one another."""
    with_gap = MPI.DOUBLE.Create_indexed([1, 1], [0, 3])
    resized = with_gap.Create_resized(0, 40)
    with_gap.Free()
    return resized


def make_backwards():
    """Blocks of doubles from the last to the first; the last one has a gap behind it."""
    blocks = MPI.DOUBLE.Create_indexed([2, 1, 3], [8, 5, 0])
    resized = blocks.Create_resized(0, 96)
    blocks.Free()
    return resized


def make_struct():
    """A short, a double and three bytes, with the gaps that C leaves between them."""
    struct = MPI.Datatype.Create_struct([1, 1, 3], [0, 8, 17], [MPI.SHORT, MPI.DOUBLE, MPI.BYTE])
    resized = struct.Create_resized(0, 24)
    struct.Free()
    return resized


def make_subarray():
    """A box in a box, of floats."""
    return MPI.FLOAT.Create_subarray([4, 5, 3], [2, 3, 2], [1, 1, 0])


def make_spread():
    """Blocks of unequal lengths, long ones among them."""
    blocks = MPI.INT.Create_indexed([1, 30, 2, 7, 16], [0, 4, 40, 45, 60])
    resized = blocks.Create_resized(0, 4 * 80)
    blocks.Free()
    return resized


DATATYPES = [make_column, make_resized, make_backwards, make_struct, make_subarray, make_spread]
# Bytes of the elements of one instance, repeated until there are enough.
ELEMENTS = {make_struct: [2, 8, 1, 1, 1], make_subarray: [4], make_spread: [4]}
# Each describes the memory by a datatype of which `n` instances fit in.
FORMS = {
    "type": lambda b, t, n: [b, t],
    "tuple": lambda b, t, n: (b, t),
    "no count": lambda b, t, n: [b, None, t],
    "count": lambda b, t, n: [b, n, t],
    "numpy's count": lambda b, t, n: (b, np.int32(n - 1), t),
    "pair": lambda b, t, n: [b, (n - 1, 1), t],
    "list": lambda b, t, n: [b, [n - 1, 1], t],
    "displacement": lambda b, t, n: [b, (None, 1), t],
    "four": lambda b, t, n: [b, n - 2, 2, t],
    "four without a count": lambda b, t, n: [b, None, 2, t],
    "none": lambda b, t, n: [b, 0, t],
}
HOLDERS = {
    "array": lambda a: a,
    "bytearray": lambda a: bytearray(a.tobytes()),
    "array.array": lambda a: array.array("B", a.tobytes()),
    "memoryview": lambda a: memoryview(bytearray(a.tobytes())),
    "doubles": lambda a: a.copy().view(np.float64).reshape(-1, 1),
}


@pytest.fixture(params=DATATYPES)
def datatype(request):
    """A committed datatype with gaps."""
    made = request.param().Commit()
    yield made
    made.Free()


def make_memory(datatype, instances, seed):
    """Give memory for some instances, with other bytes for another seed."""
    nbytes = instances * datatype.extent
    return ((np.arange(nbytes + -nbytes % 8) * 7 + seed) % 251).astype(np.uint8)[:nbytes]


@pytest.mark.usefixtures("attached")
def test_send_a_datatype(comm, datatype):
    memory = make_memory(datatype, 4, comm.rank)
    for form, specify in FORMS.items():
        specification = specify(memory, datatype, 4)
        expected = alone(put_right, comm, "Send", specification, 4 * datatype.size)
        for kind in SENDS:
            found = put_right(comm, kind, specification, 4 * datatype.size)
            assert_array_equal(found, expected, f"{kind}, {form}")


@pytest.mark.parametrize("kind", RECEIVES)
def test_receive_a_datatype(comm, kind, datatype):
    """Memory and status are as mpi4py alone would leave them."""
    for form, specify in FORMS.items():
        found, expected = (make_memory(datatype, 4, 11) for _ in range(2))
        instances = {"none": 0, "four": 2, "four without a count": 2}.get(form, 3)
        message = np.arange(instances * datatype.size, dtype=np.uint8)
        first = alone(get_from_left, comm, kind, specify(expected, datatype, 4), message)
        second = get_from_left(comm, kind, specify(found, datatype, 4), message)
        assert_array_equal(found, expected, form)
        assert facts_of(second, MPI.BYTE, datatype) == facts_of(first, MPI.BYTE, datatype), form


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_datatype_over_any_buffer(comm, datatype, holder):
    right, left = neighbours(comm)
    make, instances = HOLDERS[holder], 8
    results = []
    for communicator, without in ((plain(comm), library_alone()), (comm, nullcontext())):
        sent, received = (make(make_memory(datatype, instances, seed)) for seed in (comm.rank, 99))
        with without:
            communicator.Sendrecv([sent, datatype], right, 1, [received, datatype], left, 1)
            requests = [
                communicator.Isend([sent, (1, 2), datatype], right, 2),
                communicator.Irecv([received, (1, 3), datatype], left, 2),
            ]
            MPI.Request.Waitall(requests)
        results.append(bytes(received))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", ["Sendrecv_replace", "Isendrecv_replace"])
def test_replace_a_datatype(comm, kind, datatype):
    right, left = neighbours(comm)
    memory, expected = (make_memory(datatype, 3, comm.rank) for _ in range(2))
    # Not by the same method: MPICH 5.0.2's own Isendrecv_replace mistakes datatypes with gaps.
    sent = [memory.copy(), 3, datatype]
    with library_alone():
        plain(comm).Sendrecv(sent, right, 0, [expected, 3, datatype], left, 0)
    request = getattr(comm, kind)([memory, 3, datatype], right, 0, left, 0)
    if request is not None:
        request.Wait()
    assert_array_equal(memory, expected)


def test_absolute_addresses(comm):
    right, left = neighbours(comm)
    memory, status = np.full((4, 50), -1, np.intc), MPI.Status()
    first, last = np.arange(50, dtype=np.intc) + comm.rank, np.arange(50, dtype=np.intc) - comm.rank
    blocks = [MPI.Get_address(first), MPI.Get_address(last[40:]), MPI.Get_address(last)]
    sent = MPI.INT.Create_hindexed([30, 10, 5], blocks).Commit()
    rows = [MPI.Get_address(memory[row]) for row in (3, 1, 0)]
    received = MPI.Datatype.Create_struct([5, 20, 20], rows, [MPI.INT] * 3).Commit()
    for repeat in range(3):
        request = comm.Irecv([MPI.BOTTOM, 1, received], left, repeat)
        comm.Send([MPI.BOTTOM, 1, sent], right, repeat)
        request.Wait(status)
        assert status.Get_elements(received) == 45
        everything = np.r_[np.arange(30) + left, np.arange(40, 50) - left, np.arange(5) - left]
        assert_array_equal(memory[3, :5], everything[:5])
        assert_array_equal(memory[1, :20], everything[5:25])
        assert_array_equal(memory[0, :20], everything[25:])
        assert (memory[2] == -1).all()
        memory[:] = -1
    sent.Free()
    received.Free()


def test_a_datatype_over_part_of_a_matrix(comm):
    """A count that is given need not fit into the buffer that is given: programs rely on it."""
    right, left = neighbours(comm)
    matrix = np.arange(42.0).reshape(6, 7) + 100 * comm.rank
    column = MPI.DOUBLE.Create_vector(6, 1, 7).Commit()
    comm.Sendrecv([matrix[0, 5:6], 1, column], right, 0, [matrix[0, :1], 1, column], left, 0)
    expected = np.arange(42.0).reshape(6, 7) + 100 * comm.rank
    expected[:, 0] = np.arange(5, 42, 7) + 100 * left
    assert_array_equal(matrix, expected)
    column.Free()


# Messages that are shorter than the buffer


@pytest.mark.parametrize("kind", RECEIVES)
def test_a_short_message_into_an_array(comm, kind):
    for name in ("box", "backwards in both", "axes exchanged", "long"):
        for arrives in (0, 1, 5):
            memory, view = make_view(name, comm.rank)
            flat, expected = as_sent(view), memory.copy()
            flat[:arrives] = np.arange(arrives) - 9
            VIEWS[name][1](expected)[...] = as_received(view, flat)
            status = get_from_left(comm, kind, view, np.arange(float(arrives)) - 9)
            assert_array_equal(memory, expected)
            assert status.Get_count(MPI.DOUBLE) == status.Get_elements(MPI.DOUBLE) == arrives


@pytest.mark.parametrize("make", DATATYPES)
@pytest.mark.parametrize("kind", RECEIVES)
def test_a_short_message_into_a_datatype(comm, kind, make):
    """It ends between instances, or between the elements of one."""
    datatype = make().Commit()
    elements = ELEMENTS.get(make, [8])
    ends = np.cumsum(elements * (3 * datatype.size // sum(elements)))
    for end in (0, *ends[:5], ends[ends.size // 2], ends[-2]):
        found, expected = (make_memory(datatype, 3, 11) for _ in range(2))
        message = np.arange(end, dtype=np.uint8)
        first = alone(get_from_left, comm, kind, [expected, 3, datatype], message)
        second = get_from_left(comm, kind, [found, 3, datatype], message)
        assert_array_equal(found, expected, f"{end} bytes")
        assert facts_of(second, MPI.BYTE, datatype) == facts_of(first, MPI.BYTE, datatype), f"{end} bytes"
    datatype.Free()


@pytest.mark.parametrize("kind", ["Sendrecv", "Isendrecv"])
def test_a_short_message_in_an_exchange(comm, kind):
    (right, left), status = neighbours(comm), MPI.Status()
    memory = np.full((6, 4), -1.0)
    outgoing = np.arange(8.0)[:6:2]
    request = getattr(comm, kind)(outgoing, right, 0, memory[:, 1], left, 0, *[status][: kind == "Sendrecv"])
    if request is not None:
        request.Wait(status)
    expected = np.full((6, 4), -1.0)
    expected[:3, 1] = [0, 2, 4]
    assert_array_equal(memory, expected)
    assert kind == "Isendrecv" or status.Get_count(MPI.DOUBLE) == 3


# Persistent requests


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("kind", [kind for kind in SENDS if kind.endswith("_init")])
def test_persistent_requests_start_again(comm, kind, datatype):
    """Each start sends what is in the memory then, and each completion writes what came."""
    right, left = neighbours(comm)
    matrix, into = np.zeros((6, 4)), np.full((6, 4), -1.0)
    sent, received = (make_memory(datatype, 3, seed) for seed in (comm.rank, 200))
    receives = [comm.Recv_init(into[:, 1], left, 1), comm.Recv_init([received, 3, datatype], left, 2)]
    sends = [
        getattr(comm, kind)(matrix[::-1, 2], right, 1),
        getattr(comm, kind)([sent, 3, datatype], right, 2),
    ]
    for round_ in range(4):
        matrix[:, 2] = np.arange(6) + 10 * comm.rank + 100 * round_
        sent[:] = make_memory(datatype, 3, comm.rank + round_)
        before, expected = received.copy(), received.copy()
        message = make_memory(datatype, 3, left + round_)
        with library_alone():
            outgoing, incoming = [message, 3, datatype], [expected, 3, datatype]
            plain(comm).Sendrecv(outgoing, comm.rank, 9, incoming, comm.rank, 9)
        for request in receives:
            request.Start()
        assert_array_equal(received, before)
        comm.Barrier()
        MPI.Prequest.Startall(sends)
        MPI.Request.Waitall(sends + receives)
        assert_array_equal(into[:, 1], np.arange(6)[::-1] + 10 * left + 100 * round_)
        assert (into[:, [0, 2, 3]] == -1).all()
        assert_array_equal(received, expected)
    for request in sends + receives:
        assert request != MPI.REQUEST_NULL
        request.Free()
        assert request == MPI.REQUEST_NULL


# Who sends, and nobody


@pytest.mark.parametrize("kind", RECEIVES)
def test_any_source_and_any_tag(comm, kind):
    everyone = range(comm.size)
    requests = [comm.Isend(make_view("column", comm.rank)[1], rank, 20 + comm.rank) for rank in everyone]
    heard = []
    for _ in everyone:
        memory = np.full((5, 3), -1.0)
        status = receive(comm, kind, memory[:, 1], MPI.ANY_SOURCE, MPI.ANY_TAG)
        assert status.tag == 20 + status.source
        assert_array_equal(memory[:, 1], make_view("column", status.source)[1])
        assert (memory[:, ::2] == -1).all()
        heard.append(status.source)
    MPI.Request.Waitall(requests)
    assert sorted(heard) == list(everyone)
    # In ready mode and with a probe a message could be taken for another test's.
    comm.Barrier()


@pytest.mark.usefixtures("attached")
def test_nobody_at_the_other_end(comm, datatype):
    """Then neither mpi4py nor the layer looks at the buffer, and it keeps its values."""
    _, view = make_view("box", comm.rank)
    before, status = view.copy(), MPI.Status()
    memory = make_memory(datatype, 3, 1)
    frozen = np.broadcast_to(np.zeros(2), (3, 2))
    for specification in (view, [view, 3], [memory, datatype], None, "no buffer at all", frozen):
        for kind in SENDS:
            send(comm, kind, specification, MPI.PROC_NULL)
        for kind in RECEIVES:
            status = receive(comm, kind, specification, MPI.PROC_NULL, MPI.ANY_TAG)
            assert status.Get_count(MPI.BYTE) == 0
        comm.Sendrecv(specification, MPI.PROC_NULL, 0, specification, MPI.PROC_NULL, 0, status)
        assert (status.source, status.tag) == (MPI.PROC_NULL, MPI.ANY_TAG)
        comm.Isendrecv(specification, MPI.PROC_NULL, 0, specification, MPI.PROC_NULL).Wait()
    assert_array_equal(view, before)
    assert_array_equal(memory, make_memory(datatype, 3, 1))


@pytest.mark.mpi(min_size=2)
def test_one_end_of_a_line(comm):
    """A line that is not periodic: its ends send to nobody, and hear from nobody."""
    line = comm.Create_cart([comm.size], periods=[False])
    left, right = line.Shift(0, 1)
    memory = np.full((4, 3), -1.0)
    line.Sendrecv(np.full((4, 2), float(line.rank))[:, 0], right, 0, memory[:, 1], left, 0)
    assert (memory[:, 1] == (-1 if line.rank == 0 else line.rank - 1)).all()
    before = np.arange(8.0).reshape(4, 2) + line.rank
    swapped = before.copy()
    line.Sendrecv_replace(swapped[:, 0], right, 0, left, 0)
    expected = before.copy()
    if line.rank:
        expected[:, 0] -= 1
    assert_array_equal(swapped, expected)
    line.Free()


# Matched messages


def test_a_matched_message_is_ours(comm):
    right, left = neighbours(comm)
    request = comm.Isend(np.arange(6.0)[::2], right, 4)
    status = MPI.Status()
    message = comm.Mprobe(left, 4, status)
    assert type(message) is MPI.Message
    assert status.Get_count(MPI.DOUBLE) == 3
    memory = np.zeros((3, 2))
    message.Recv(memory[:, 1])
    request.Wait()
    assert_array_equal(memory, [[0, 0], [0, 2], [0, 4]])
    assert message == MPI.MESSAGE_NULL
    assert comm.Improbe(left, 4) is None


@pytest.mark.parametrize("method", ["Probe", "Iprobe"])
def test_a_message_that_its_class_probes(comm, method):
    right, left = neighbours(comm)
    request = comm.Isend(np.arange(6.0)[::2], right, 4)
    message, begin = None, time.monotonic()
    while message is None:
        assert time.monotonic() - begin < LIMIT_S
        message = getattr(MPI.Message, method)(comm, left, 4)
    memory = np.zeros((3, 2))
    message.Irecv(memory[:, 1]).Wait()
    request.Wait()
    assert_array_equal(memory[:, 1], [0, 2, 4])


def test_a_message_from_nobody(comm):
    memory = np.zeros((3, 2))
    for message in (comm.Mprobe(MPI.PROC_NULL), comm.Improbe(MPI.PROC_NULL), MPI.MESSAGE_NO_PROC):
        status = MPI.Status()
        message.Recv(memory[:, 1], status)
        assert status.source == MPI.PROC_NULL
    MPI.MESSAGE_NO_PROC.Irecv(memory[:, 1]).Wait()
    assert MPI.MESSAGE_NO_PROC != MPI.MESSAGE_NULL
    assert not memory.any()


# Objects


def test_objects_and_buffers_of_the_lower_case(comm):
    """Pickled messages go through untouched, arrays with gaps included."""
    right, left = neighbours(comm)
    view = make_view("box", comm.rank)[1]
    found = comm.sendrecv({"view": view, "from": comm.rank}, right, source=left)
    assert found["from"] == left
    assert_array_equal(found["view"], make_view("box", left)[1])
    requests = [comm.irecv(None, left, 5), comm.isend(view[0], right, 5)]
    assert_array_equal(MPI.Request.waitall(requests)[0], make_view("box", left)[1][0])
    request = comm.isend("matched", right, 6)
    assert comm.mprobe(left, 6).recv() == "matched"
    request.wait()
