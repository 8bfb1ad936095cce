"""Requests that a program frees, cancels or drops: what they receive comes, and nothing stays at the end."""

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI
from tests import launch

LENGTH = 6000


def plain_wait(comm):
    """Wait for a request that is mpi4py's own."""
    MPI.Request.Waitall([PLAIN.Intracomm(comm).Ibarrier()])


# Calls after which a program can know that what was sent before has arrived.
TELLERS = {
    "Barrier": lambda comm: comm.Barrier(),
    "barrier": lambda comm: comm.barrier(),
    "allreduce": lambda comm: comm.allreduce(1),
    "Allgather": lambda comm: comm.Allgather(np.zeros(1), np.zeros(comm.size)),
    "Allgather with gaps": lambda comm: comm.Allgather(np.zeros(4)[::2], np.zeros(4 * comm.size)[::2]),
    "Waitall": plain_wait,
}
WAYS = {
    "Free": lambda request: request.Free(),
    "free": lambda request: request.free(),
    "drop": lambda request: None,
}


def neighbours(comm):
    """Give the rank to send to and the one to receive from, in a ring that may be of one rank only."""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


@pytest.mark.mpi
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("teller", TELLERS)
def test_what_a_freed_receive_got(comm, way, teller):
    right, left = neighbours(comm)
    memory = np.full((4, LENGTH, 2), -1.0)
    every_other = MPI.DOUBLE.Create_vector(LENGTH, 1, 2).Commit()
    persistent = comm.Recv_init(memory[2, ::-1, 0], left, 2)
    persistent.Start()
    requests = [
        comm.Irecv(memory[0, ::-1, 0], left, 0),
        comm.Irecv([memory[1], 1, every_other], left, 1),
        persistent,
    ]
    del persistent
    for request in requests:
        WAYS[way](request)
        assert way == "drop" or request == MPI.REQUEST_NULL
    del request
    requests.clear()
    gc.collect()
    every_other.Free()
    for tag in range(3):
        comm.Send(np.arange(float(LENGTH)) + tag, right, tag)
    comm.Barrier()
    TELLERS[teller](comm)
    expected = np.arange(float(LENGTH))
    assert_array_equal(memory[0, ::-1, 0], expected)
    assert_array_equal(memory[1, :, 0], expected + 1)
    assert_array_equal(memory[2, ::-1, 0], expected + 2)
    assert (memory[:3, :, 1] == -1).all()
    assert (memory[3] == -1).all()


@pytest.mark.mpi(min_size=2)
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("receive", ["Recv", "Recv with gaps", "recv", "Sendrecv", "Irecv"])
def test_a_later_message_tells(comm, receive):
    """Messages between two ranks come in their order."""
    memory, later = np.full((LENGTH, 2), -1.0), np.zeros((LENGTH, 2))
    if comm.rank == 0:
        comm.Irecv(memory[::-1, 0], 1, 1).Free()
        comm.send(None, 1, 0)
        if receive == "Recv":
            comm.Recv(later[:, :], 1, 2)
        elif receive == "Recv with gaps":
            comm.Recv(later[::-1, 0], 1, 2)
        elif receive == "recv":
            comm.recv(source=1, tag=2)
        elif receive == "Sendrecv":
            comm.Sendrecv(np.zeros(0), MPI.PROC_NULL, 0, later, 1, 2)
        else:
            comm.Irecv(later[::-1, 0], 1, 2).Wait()
        assert_array_equal(memory[::-1, 0], np.arange(float(LENGTH)))
    elif comm.rank == 1:
        comm.recv(source=0, tag=0)
        comm.Send(np.arange(float(LENGTH)), 0, 1)
        if receive == "recv":
            comm.send(None, 0, 2)
        else:
            comm.Send(np.zeros(LENGTH), 0, 2)


@pytest.mark.mpi
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_receive(comm, way):
    memory = np.full((LENGTH, 2), -1.0)
    request = comm.Irecv(memory[::-1, 0], comm.rank, 1)
    request.Cancel()
    WAYS[way](request)
    del request
    comm.Barrier()
    comm.Sendrecv(np.zeros(LENGTH), comm.rank, 1, memory[::-1, 1], comm.rank, 1)
    assert (memory[:, 0] == -1).all()
    assert not memory[:, 1].any()


def test_a_freed_request_is_null():
    comm = MPI.COMM_SELF
    memory = np.full((LENGTH, 2), -1.0)
    request = comm.Irecv(memory[::-1, 0], 0)
    request.Free()
    assert request == MPI.REQUEST_NULL
    assert not request
    request.Wait()
    assert MPI.Request.Testall([request])
    with pytest.raises(MPI.Exception):
        request.Free()
    with pytest.raises(MPI.Exception):
        request.Cancel()
    request.free()
    comm.Send(np.zeros(LENGTH), 0)
    comm.Barrier()
    assert not memory[:, 0].any()


# The end


PROLOGUE = """
import gc
import time
import numpy as np
from roundelay import MPI

comm = MPI.COMM_WORLD
right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size

def run(program):
    memory = np.full((6000, 2), -1.0)
    program(memory, memory[::-1, 0], np.zeros((6000, 2))[::-1, 0])
"""
PROGRAMS = {
    "receives": [
        "comm.Irecv(view, left, 1).Free()",
        "comm.Irecv(view, left, 1)",
        "q = comm.Irecv(view, left, 1); q.Cancel(); q.Wait()",
        "q = comm.Irecv(view, left, 1); q.Cancel(); q.Free()",
        "q = comm.Irecv(view, left, 1); q.Cancel()",
        "q = [comm.Irecv(view, left, 1)]; q.append(q)",
    ],
    "receives that are complete": [
        "q = comm.Irecv(view, left); comm.Send(other, right); comm.Barrier(); q.Free()",
        "q = comm.Irecv(view, left); comm.Send(other, right); comm.Barrier()",
        """
        q = comm.Irecv(view, left)
        comm.Send(other, right)
        while not q.Get_status():
            pass
        assert not view.any()
        q.Wait()
        """,
    ],
    "persistent requests": [
        "comm.Recv_init(view, left, 1); comm.Send_init(view, right, 1)",
        "comm.Recv_init(view, left, 1).Free(); comm.Send_init(view, right, 1).free()",
        "q = comm.Recv_init(view, left, 1); q.Start(); q.Free()",
        "q = comm.Recv_init(view, left, 1); q.Start()",
        "q = comm.Recv_init(view, left, 1); q.Start(); q.Cancel(); q.Free()",
        "q = comm.Recv_init(view, left); q.Start(); comm.Send(other, right); q.Wait()",
        "q = comm.Send_init(view, right); q.Start(); comm.Recv(other, left); q.Free()",
        """
        try:
            comm.Bcast_init(view, 0)
        except NotImplementedError:
            pass
        """,
    ],
    "sends and collectives": [
        "comm.Isend(view, right).Free(); comm.Recv(other, left); assert (other == -1).all()",
        "comm.Issend(view, right); comm.Recv(other, left); assert (other == -1).all()",
        "comm.Ibcast(view, 0); comm.Barrier()",
        "comm.Iallgather(view, np.zeros((comm.size * 6000, 2))[::-1, 0]); comm.Barrier()",
    ],
    "finalized by the program": ["comm.Irecv(view, left).Free(); MPI.Finalize()"],
    "an exit": ["comm.Irecv(view, left).Free(); raise SystemExit"],
}


def run_program(folder, snippets, ranks):
    """Run each snippet in a function of its own, in one program; return the exit status and the output."""
    program = folder / "program.py"
    functions = [
        f"@run\ndef program(memory, view, other):\n{textwrap.indent(textwrap.dedent(snippet), '    ')}"
        for snippet in snippets
    ]
    program.write_text("\n".join([PROLOGUE, *functions]))
    result = subprocess.run(
        launch.mpiexec(ranks, [sys.executable, str(program)]),
        cwd=folder,
        env=launch.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_left_at_the_end(tmp_path, name, ranks):
    # MPICH counts what is left, and says so.
    assert run_program(tmp_path, PROGRAMS[name], ranks) == (0, "")


def test_a_send_that_is_received_at_the_end(tmp_path):
    """Its memory stays while MPI is finalized."""
    send = """
    if comm.rank == 0:
        comm.Issend(view, right).Free()
    else:
        time.sleep(2)
        comm.Recv(other, left)
        assert (other == -1).all()
        print("received", flush=True)
    """
    status, output = run_program(tmp_path, [send], 2)
    assert status == 0
    # MPICH counts such a send as left, and says so before or after.
    assert [line for line in output.splitlines() if "pending" not in line] == ["received"]
