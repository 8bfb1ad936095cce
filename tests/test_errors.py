"""Refused arguments raise on the rank that asked, and leave the communicator as it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import MPI

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]


@pytest.fixture
def usable(comm):
    """Give the communicator, and afterwards show that messages still match on it."""
    yield comm
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received = np.zeros((4, 3))
    comm.Sendrecv(np.arange(8.0)[::2] + comm.rank, right, 0, received[:, 1], left, 0)
    assert_array_equal(received[:, 1], np.arange(0, 8, 2) + left)


def read_only(array):
    array.flags.writeable = False
    return array


def overlapping():
    return np.lib.stride_tricks.as_strided(np.zeros(10), (3, 4), (8, 8))


REFUSED: dict[str, tuple[Callable[[], Any], Any]] = {
    "read-only": (lambda: read_only(np.zeros((4, 4)))[:, 1], BufferError),
    "objects": (lambda: np.array([[None] * 4] * 4)[:, 1], (BufferError, KeyError)),
    "big-endian": (lambda: np.zeros((4, 4), ">f8")[:, 1], BufferError),
    "overlapping": (overlapping, ValueError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_receive_array(usable, name):
    make, error = REFUSED[name]
    calls = {
        "Recv": lambda array: usable.Recv(array, 0),
        "Irecv": lambda array: usable.Irecv(array, 0),
        "Recv_init": lambda array: usable.Recv_init(array, 0),
        "Sendrecv": lambda array: usable.Sendrecv(np.zeros(4), 0, 0, array, 0, 0),
        "Allgather": lambda array: usable.Allgather(np.zeros(1), array),
        "Allreduce": lambda array: usable.Allreduce(np.zeros(4), array),
        "listed": lambda array: usable.Recv([array, array.size], 0),
    }
    for call in calls.values():
        with pytest.raises(error):
            call(make())


@pytest.mark.parametrize("name", ["objects", "big-endian"])
def test_send_array(usable, name):
    make, error = REFUSED[name]
    for call in (usable.Send, usable.Isend, usable.Send_init):
        with pytest.raises(error):
            call(make(), 0)


def test_not_a_buffer(usable):
    for buffer in (object(), 3.0, "text"):
        with pytest.raises(TypeError):
            usable.Send(buffer, 0)
        with pytest.raises(TypeError):
            usable.Recv(buffer, 0)


def test_derived_datatype_on_a_view(usable):
    """A view has no memory between its elements that a datatype could describe."""
    column = MPI.DOUBLE.Create_vector(4, 1, 4).Commit()
    with pytest.raises(BufferError):
        usable.Send([np.zeros((4, 4))[:, ::2], 1, column], 0)
    column.Free()


def test_freed_datatype(usable):
    column = MPI.DOUBLE.Create_vector(4, 1, 4).Commit()
    memory = np.zeros((4, 4))
    usable.Sendrecv([memory, 1, column], usable.rank, 0, [memory, 1, column], usable.rank, 0)
    column.Free()
    with pytest.raises(MPI.Exception):
        usable.Send([memory, 1, column], usable.rank)


@pytest.mark.parametrize("count", [-1, 2.5, "many"])
def test_wrong_count(usable, count):
    column = MPI.DOUBLE.Create_vector(40, 20, 40).Commit()
    with pytest.raises((ValueError, TypeError)):
        usable.Send([np.zeros((40, 40)), count, column], usable.rank)
    column.Free()


def test_message_longer_than_the_layout(usable):
    rank = usable.rank
    memory = np.full((8, 3), -1.0)
    request = usable.Isend(np.arange(20.0), rank, 5)
    with pytest.raises(MPI.Exception) as refusal:
        usable.Recv(memory[:, 1], rank, 5)
    assert refusal.value.Get_error_class() == MPI.ERR_TRUNCATE
    request.Wait()
    assert (memory[:, ::2] == -1).all()
