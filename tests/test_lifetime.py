"""Memory and datatypes live until MPI is done with them, and no longer, whatever the request is."""

import gc
import threading
import weakref

import numpy as np
import pytest

from roundelay import MPI
from roundelay.comm.interposer import interposer

LENGTH = 3000
# As layouts.c has it.
ARRAYS_KEPT = 4096
pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

# How a buffer lies in memory.
SHAPES = {
    "dense": lambda memory: memory[0],
    "strided": lambda memory: memory[:LENGTH, 0],
    "reversed": lambda memory: memory[:LENGTH, 0][::-1],
    "short": lambda memory: memory[:20, 0],
    "listed": lambda memory: [memory[0], LENGTH // 2, MPI.DOUBLE],
}


def begin(comm, form, buffer):
    """Begin a nonblocking or persistent operation on a buffer, which nothing but its request may keep."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if form == "Irecv":
        return comm.Irecv(buffer, left)
    if form == "Issend":
        return comm.Issend(buffer, right)
    if form == "Recv_init":
        request = comm.Recv_init(buffer, left)
    elif form == "Ssend_init":
        request = comm.Ssend_init(buffer, right)
    elif form == "Ibcast":
        return comm.Ibcast(buffer, comm.size - 1)
    else:
        return comm.Iscan(MPI.IN_PLACE, buffer)
    request.Start()
    return request


def end(comm, form, count):
    """Do the other half of a message."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if form in {"Irecv", "Recv_init"}:
        comm.Send(np.zeros(count), right)
    elif form in {"Issend", "Ssend_init"}:
        comm.Recv(np.zeros(count), left)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["Irecv", "Issend", "Recv_init", "Ssend_init", "Ibcast", "Iscan"])
def test_a_buffer_lives_as_long_as_its_request(comm, form, shape):
    memory = np.zeros((2, LENGTH) if shape in {"dense", "listed"} else (LENGTH, 2))
    buffer = SHAPES[shape](memory)
    count = len(buffer) if isinstance(buffer, np.ndarray) else buffer[1]
    alive = weakref.ref(memory)
    # The collector looks at what comes from now on, and at nothing that other tests have left.
    gc.freeze()
    request = begin(comm, form, buffer)
    del memory, buffer
    gc.collect()
    # A scan of a single rank may be complete when it starts.
    assert alive() is not None or (form == "Iscan" and comm.size == 1)
    end(comm, form, count)
    request.Wait()
    if form.endswith("_init"):
        assert alive() is not None
        request.Free()
    del request
    gc.collect()
    assert alive() is None


def test_a_request_in_a_cycle_keeps_its_array(comm):
    """The collector takes what a request keeps before it ends the request, whose message is yet to come."""
    interposer().set_limits(-1, -1, -1, -1)
    memory = np.zeros((LENGTH, 2))
    alive = weakref.ref(memory)
    gc.freeze()
    requests: list[object] = [comm.Irecv(memory[:, 1], comm.rank)]
    requests.append(requests)
    del memory, requests
    gc.collect()
    assert alive() is not None
    comm.Send(np.zeros(LENGTH), comm.rank)
    for _ in range(1000):
        # Whenever MPI is called, it may notice that the message has come.
        comm.Sendrecv(np.zeros(1), comm.rank, 1, np.zeros(1), comm.rank, 1)
        if alive() is None:
            break
    assert alive() is None


def test_datatypes_of_the_layer_live_as_long_as_a_request(comm):
    """More layouts than are remembered come in between."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received = np.full((40, 8), -1.0)
    request = comm.Recv_init(received[:, 1], left, 0)
    request.Start()
    for i in range(ARRAYS_KEPT + 100):
        comm.Sendrecv(np.zeros((2, 2 + i))[:, 0], comm.rank, 1, np.zeros((2, 2 + i))[:, 0], comm.rank, 1)
    assert interposer().counts()["arrays"] <= ARRAYS_KEPT
    for round_ in range(3):
        if round_:
            request.Start()
        comm.Send(np.full(40, float(round_)), right)
        request.Wait()
        assert (received[:, 1] == round_).all()
        assert (received[:, 0] == -1).all()
    request.Free()


@pytest.mark.skipif(
    MPI.Query_thread() < MPI.THREAD_MULTIPLE, reason="the MPI library was not started for many threads"
)
@pytest.mark.timeout_s(120)
def test_threads_forget_layouts_at_once(comm):
    """Each makes datatypes that are soon forgotten, derived and of arrays, while the others free theirs."""
    communicators = [comm.Dup() for _ in range(8)]
    errors = []

    def work(mine):
        try:
            right, left = (mine.rank + 1) % mine.size, (mine.rank - 1) % mine.size
            for i in range(60):
                vector = MPI.DOUBLE.Create_vector(3, 1, 2 + i % 50).Commit()
                sent, received = np.arange(1000.0) + i, np.full((3, 2 + i), -1.0)
                mine.Sendrecv([sent, 1, vector], right, 0, received[:, 0], left, 0)
                vector.Free()
                np.testing.assert_array_equal(received[:, 0], sent[: 3 * (2 + i % 50) : 2 + i % 50])
                mine.Isend(sent[: 2 * (i + 2) : 2], right, 1)
                mine.Recv(received[0], left, 1)
                np.testing.assert_array_equal(received[0], sent[: 2 * (i + 2) : 2])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in communicators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for communicator in communicators:
        communicator.Free()


@pytest.mark.mpi
@pytest.mark.parametrize(
    "name", ["Allgatherv", "Reduce", "Allreduce", "Reduce_scatter_block", "Reduce_scatter", "Bcast", "Scan"]
)
def test_persistent_collectives_keep_their_arrays(comm, name):
    """Until their requests are freed, also those that mpi4py makes without them."""
    arrays = [np.zeros(comm.size), np.zeros(comm.size)]
    if name == "Allgatherv":
        arrays[0] = np.zeros(1)
    elif "scatter" in name:
        arrays[1] = np.zeros(1)
    request = getattr(comm, f"{name}_init")(*arrays[: 1 if name == "Bcast" else 2])
    memory = [weakref.ref(each) for each in arrays[: 1 if name == "Bcast" else 2]]
    del arrays
    gc.collect()
    assert all(each() is not None for each in memory)
    request.Start()
    request.Wait()
    assert all(each() is not None for each in memory)
    request.Free()
    del request
    gc.collect()
    assert all(each() is None for each in memory)
