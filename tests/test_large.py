"""Messages of more than 2 GiB, whose length a count of MPI 3 cannot tell."""

from pathlib import Path

import numpy as np
import pytest

from roundelay import MPI

LENGTH = 275_000_000
# The array that is sent, the one received into, the stage, and what MPI needs itself.
NEEDED = 4 * 8 * LENGTH


def available_bytes():
    """Memory that can be used without swapping, as Linux estimates it; 0 elsewhere."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def wait_for(comm, view):
    """Receive by a request."""
    request = comm.Irecv(view, 0)
    status = MPI.Status()
    request.Wait(status)
    return status


def receive(comm, view):
    """Receive at once."""
    status = MPI.Status()
    comm.Recv(view, 0, status=status)
    return status


@pytest.mark.timeout_s(240)
@pytest.mark.skipif(available_bytes() < NEEDED, reason=f"needs {NEEDED >> 30} GiB of free memory")
@pytest.mark.parametrize("form", [receive, wait_for])
def test_a_long_message_with_gaps(form):
    comm = MPI.COMM_SELF
    sent, memory = np.zeros(LENGTH), np.full(LENGTH, -1.0)
    sent[:3], sent[-3:] = [1, 2, 3], [7, 8, 9]
    request = comm.Isend(sent, 0)
    status = form(comm, memory[::-1])
    request.Wait()
    assert status.Get_elements(MPI.BYTE) == memory.nbytes
    assert memory[:3].tolist() == [9, 8, 7]
    assert memory[-3:].tolist() == [3, 2, 1]
    assert not memory[3:-3].any()
