"""The defects of TEMPI that concern communication, each as a test that it would fail."""

import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import MPI

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.usefixtures("engine")]

EVERY_OTHER = np.s_[::2]
WAITS = ["Wait", "Waitall", "Waitany", "Waitsome", "Test", "Testall", "Testany", "Testsome", "Get_status"]
LIMIT_S = 30


def make_every_other(elements):
    """Make the datatype of every other one of ``2 * elements`` ints, whose instances follow one another."""
    vector = MPI.INT.Create_vector(elements, 1, 2)
    datatype = vector.Create_resized(0, 8 * elements).Commit()
    vector.Free()
    return datatype


def receive(comm, kind, specification, source, tag, status=None):
    """Receive in one of the ways there are."""
    if kind == "Recv":
        comm.Recv(specification, source, tag, status)
    elif kind == "Irecv":
        comm.Irecv(specification, source, tag).Wait(status)
    elif kind == "Mrecv":
        comm.Mprobe(source, tag).Recv(specification, status)
    elif kind == "Imrecv":
        comm.Mprobe(source, tag).Irecv(specification).Wait(status)
    else:
        request = comm.Recv_init(specification, source, tag)
        request.Start()
        request.Wait(status)
        request.Free()


RECEIVES = ["Recv", "Irecv", "Recv_init", "Mrecv", "Imrecv"]


@pytest.mark.parametrize("arrives", [0, 1, 4, 7, 8, 11, 12])
@pytest.mark.parametrize("kind", RECEIVES)
def test_tempi_8_a_short_message_unpacks_what_arrived(comm, kind, arrives):
    """Fewer ints than the three instances of four hold: whole instances, and a part of one."""
    if comm.rank == 0:
        comm.Send(np.arange(1, arrives + 1, dtype=np.intc), 1, 3)
    elif comm.rank == 1:
        datatype = make_every_other(4)
        numbers, status = np.full(24, -1, np.intc), MPI.Status()
        receive(comm, kind, [numbers, 3, datatype], 0, 3, status)
        expected = np.full(24, -1)
        expected[EVERY_OTHER][:arrives] = np.arange(1, arrives + 1)
        assert_array_equal(numbers, expected)
        assert status.Get_elements(datatype) == status.Get_count(MPI.INT) == arrives
        assert status.Get_count(datatype) == (MPI.UNDEFINED if arrives % 4 else arrives // 4)
        datatype.Free()


@pytest.mark.parametrize("arrives", [0, 3, 10, 12])
@pytest.mark.parametrize("kind", RECEIVES)
def test_tempi_8_a_short_message_into_an_array(comm, kind, arrives):
    if comm.rank == 0:
        comm.Send(np.arange(1, arrives + 1, dtype=np.intc), 1)
    elif comm.rank == 1:
        matrix = np.full((4, 6), -1, np.intc)
        receive(comm, kind, matrix[:, 1:4], 0, 0)
        expected = np.full(12, -1)
        expected[:arrives] = np.arange(1, arrives + 1)
        assert_array_equal(matrix[:, 1:4].ravel(), expected)
        matrix[:, 1:4] = -1
        assert (matrix == -1).all()


@pytest.mark.parametrize("kind", RECEIVES)
def test_tempi_8_any_source_and_any_tag(comm, kind):
    datatype = make_every_other(5)
    if comm.rank:
        comm.Send([np.arange(10, dtype=np.intc) + 100 * comm.rank, 1, datatype], 0, comm.rank)
    else:
        heard = set()
        for _ in range(1, comm.size):
            numbers, status = np.zeros(10, np.intc), MPI.Status()
            receive(comm, kind, [numbers, 1, datatype], MPI.ANY_SOURCE, MPI.ANY_TAG, status)
            assert status.source == status.tag
            assert_array_equal(numbers[EVERY_OTHER], np.arange(0, 10, 2) + 100 * status.source)
            assert not numbers[1::2].any()
            heard.add(status.source)
        assert heard == set(range(1, comm.size))
    datatype.Free()


@pytest.mark.parametrize("kind", RECEIVES)
def test_tempi_8_proc_null(comm, kind):
    datatype = make_every_other(5)
    numbers, status = np.arange(10, dtype=np.intc), MPI.Status()
    for specification in ([numbers, 1, datatype], numbers[EVERY_OTHER]):
        comm.Send(specification, MPI.PROC_NULL)
        comm.Isend(specification, MPI.PROC_NULL).Wait()
        receive(comm, kind, specification, MPI.PROC_NULL, MPI.ANY_TAG, status)
        # MPICH 5.0.2 says ANY_SOURCE of a persistent one.
        assert kind == "Recv_init" or status.source == MPI.PROC_NULL
        assert status.Get_count(MPI.INT) == 0
        comm.Sendrecv(specification, MPI.PROC_NULL, 0, specification, MPI.PROC_NULL, 0, status)
        assert status.source == MPI.PROC_NULL
    datatype.Free()
    assert_array_equal(numbers, np.arange(10))


def derive_communicators(comm):
    """Make communicators in which ranks are numbered otherwise than in the one they come from."""
    size, rank = comm.size, comm.rank
    backwards = comm.group.Incl(list(reversed(range(size))))
    yield comm.Split(0, -rank)
    yield comm.Create(backwards)
    yield comm.Create_group(backwards)
    yield comm.Create_cart([size], periods=[True])
    yield comm.Create_dist_graph_adjacent([(rank - 1) % size], [(rank + 1) % size])
    backwards.Free()


def test_tempi_8_other_communicators(comm):
    datatype = make_every_other(6)
    for derived in derive_communicators(comm):
        right, left = (derived.rank + 1) % derived.size, (derived.rank - 1) % derived.size
        sent, received = np.full(12, derived.rank, np.intc), np.full(12, -1, np.intc)
        request = derived.Irecv([received, 1, datatype], left, 4)
        derived.Send([sent, 1, datatype], right, 4)
        request.Wait()
        assert_array_equal(received, [left, -1] * 6)
        received[:] = -1
        derived.Sendrecv(sent[EVERY_OTHER], right, 5, received[EVERY_OTHER], left, 5)
        assert_array_equal(received, [left, -1] * 6)
        derived.Free()
    datatype.Free()


def until(step):
    """Call ``step`` until it gives something true."""
    deadline = time.monotonic() + LIMIT_S
    while not (result := step()):
        assert time.monotonic() < deadline, f"nothing completed within {LIMIT_S} s"
    return result


def complete(kind, requests):
    """Complete requests in one of the ways there are."""
    left = len(requests)
    if kind == "Wait":
        for request in requests:
            request.Wait()
    elif kind == "Waitall":
        MPI.Request.Waitall(requests)
    elif kind == "Testall":
        until(lambda: MPI.Request.Testall(requests))
    elif kind in ("Test", "Get_status"):
        for request in requests:
            until(getattr(request, kind))
            request.Wait()
    while kind in ("Waitany", "Testany", "Waitsome", "Testsome") and left:
        left -= complete_some(kind, requests)


def complete_some(kind, requests):
    """Complete at least one request, and say how many were."""
    if kind == "Waitany":
        assert MPI.Request.Waitany(requests) != MPI.UNDEFINED
        return 1
    if kind == "Testany":
        until(lambda: MPI.Request.Testany(requests)[1])
        return 1
    if kind == "Waitsome":
        return len(MPI.Request.Waitsome(requests) or ())
    return len(until(lambda: MPI.Request.Testsome(requests)))


@pytest.mark.parametrize("free_early", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("kind", WAITS)
def test_tempi_9_requests_complete_in_every_way(comm, kind, persistent, free_early):
    """Datatypes, strided arrays and plain buffers wait together, also when the datatype is freed already."""
    peer = comm.rank ^ 1
    if max(peer, comm.rank) >= comm.size:
        return
    datatype = make_every_other(50)
    sent = np.arange(400, dtype=np.intc).reshape(4, 100) + 1000 * comm.rank
    received = np.full((4, 100), -1, np.intc)
    send, recv = (comm.Send_init, comm.Recv_init) if persistent else (comm.Isend, comm.Irecv)
    requests = [
        recv([received[0], 1, datatype], peer, 0),
        recv(received[1, ::2], peer, 1),
        recv(received[2], peer, 2),
        recv([received[3], 1, datatype], peer, 3),
        send([sent[0], 1, datatype], peer, 0),
        send(sent[1, ::2], peer, 1),
        send(sent[2], peer, 2),
        send([sent[3], 1, datatype], peer, 3),
    ]
    if free_early:
        datatype.Free()
    for round_ in range(2 if persistent else 1):
        if persistent:
            received[:] = -1
            sent += round_
            MPI.Prequest.Startall(requests)
        complete(kind, requests)
        expected = np.arange(400).reshape(4, 100) + 1000 * peer + round_
        expected[[0, 1, 3], 1::2] = -1
        assert_array_equal(received, expected)
    for request in requests:
        if request:
            request.Free()
    if not free_early:
        datatype.Free()


def test_tempi_9_a_buffer_lives_until_completion(comm):
    """The only references to buffers and datatypes are the requests'."""
    peer = comm.rank ^ 1
    if max(peer, comm.rank) >= comm.size:
        return

    def start(tag):
        datatype = make_every_other(1000)
        request = comm.Isend([np.arange(2000, dtype=np.intc) + tag, 1, datatype], peer, tag)
        datatype.Free()
        return request

    requests = [start(tag) for tag in range(10)]
    received = np.zeros((10, 1000), np.intc)
    for tag in range(10):
        comm.Recv(received[tag], peer, tag)
    MPI.Request.Waitall(requests)
    assert_array_equal(received, np.arange(0, 2000, 2) + np.arange(10)[:, None])


def test_tempi_10_a_communicator_s_handle_is_used_again(comm):
    """Knowledge of a freed communicator must not be applied to the next one with its handle."""
    datatype = make_every_other(8)
    handles = set()
    for round_ in range(30):
        derived = comm.Split(0, comm.rank if round_ % 2 else -comm.rank)
        handles.add(derived.handle)
        right, left = (derived.rank + 1) % derived.size, (derived.rank - 1) % derived.size
        received = np.full(16, -1, np.intc)
        derived.Sendrecv(
            [np.full(16, derived.rank + round_, np.intc), 1, datatype],
            right,
            0,
            [received, 1, datatype],
            left,
            0,
        )
        assert_array_equal(received, [left + round_, -1] * 8)
        spread = np.full(2 * derived.size, -1, np.intc)
        derived.Allgather([np.array([derived.rank], np.intc), MPI.INT], spread[EVERY_OTHER])
        assert_array_equal(spread, np.stack([np.arange(derived.size), [-1] * derived.size], axis=1).ravel())
        derived.Free()
    assert len(handles) < 30
    datatype.Free()


def test_tempi_10_a_datatype_s_handle_is_used_again(comm):
    peer = comm.rank ^ 1
    if max(peer, comm.rank) >= comm.size:
        return
    numbers, handles = np.arange(64, dtype=np.intc), set()
    for round_ in range(60):
        stride = 2 + round_ % 5
        datatype = MPI.INT.Create_vector(8, 1, stride).Commit()
        handles.add(datatype.handle)
        received = np.full(64, -1, np.intc)
        comm.Sendrecv([numbers, 1, datatype], peer, 0, [received, 1, datatype], peer, 0)
        datatype.Free()
        expected = np.full(64, -1)
        expected[: 8 * stride : stride] = numbers[: 8 * stride : stride]
        assert_array_equal(received, expected, f"round {round_}")
    assert len(handles) < 60
