"""The switches that a user sets in the environment."""

import subprocess
import sys

import pytest

from tests import launch

LEAVES_ITS_BUFFER = """
import numpy as np
from roundelay import MPI
column = MPI.DOUBLE.Create_vector(4, 1, 4).Commit()
memory, target = np.arange(16.0).reshape(4, 4), np.zeros(4)
try:
    MPI.COMM_SELF.Sendrecv([memory[0, :1], 1, column], 0, 0, target, 0, 0)
except ValueError as error:
    print("refused", "0 to 104" in str(error) and "8 bytes" in str(error))
else:
    print("sent", target.tolist() == [0, 4, 8, 12])
"""


@pytest.mark.parametrize(("check", "outcome"), [("1", "refused True"), ("", "sent True")])
def test_a_layout_that_leaves_its_buffer(check, outcome):
    """mpi4py does not check an explicit count, and programs rely on it; ROUNDELAY_CHECK does."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_ITS_BUFFER],
        env=launch.environment() | {"ROUNDELAY_CHECK": check},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.strip() == outcome, done.stderr
