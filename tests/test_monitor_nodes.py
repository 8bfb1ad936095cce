"""Watchers of several nodes, each with hosts of its own on the emulated cluster."""

import json
import sys
import time

import pytest

from benchmarks.netlab import Lab, unavailable

pytest.importorskip("zmq", reason="needs pyzmq: pip install '.[monitor]'")
REASON = unavailable()
pytestmark = [pytest.mark.timeout_s(150), pytest.mark.skipif(REASON is not None, reason=str(REASON))]

STUCK = """
import sys, time
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
total = np.zeros(1)
end = time.monotonic() + 20
for step in range(40):
    if step == 20 and comm.rank == 2:
        time.sleep(600)  # Here it is stuck.
    comm.Allreduce(np.ones(1), total)
"""
GOES_ON = """
import sys, time
from mpi4py import MPI
comm = MPI.COMM_WORLD
time.sleep(float(sys.argv[1]))
comm.Barrier()
"""
SHIFTS = """
import sys, time
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
out, into = np.ones(100), np.empty(100)
end = comm.bcast(time.monotonic() + 16)
while comm.allreduce(time.monotonic(), MPI.MAX) < end:
    for by in (1, -1):
        comm.Sendrecv(out, (comm.rank + by) % comm.size, 1, into, (comm.rank - by) % comm.size, 1)
"""


def command(program, report, *more):
    return [sys.executable, "-m", "roundelay", "run", "--report", str(report), *more, str(program)]


@pytest.fixture
def lab():
    with Lab(hosts=3, delay=0.001, rate=1e7) as found:
        yield found


def test_a_rank_on_another_node_is_named_with_its_stack(lab, tmp_path):
    program, path = tmp_path / "stuck.py", tmp_path / "found.json"
    program.write_text(STUCK)
    begun = time.monotonic()
    result = lab.run(command(program, path, "--on-hang", "abort"), ranks=3, timeout=60)
    assert time.monotonic() - begun < 40
    assert result.status != 0
    found = json.loads(path.read_text())
    verdict = found["verdicts"][0]
    assert (verdict["kind"], verdict["ranks"], verdict["hosts"]) == ("stuck", [2], ["h2"])
    assert "stuck.py" in verdict["stacks"]["2"]
    assert "stuck.py:10" in verdict["sentence"]
    assert [rank["host"] for rank in found["job"]["ranks"]] == ["h0", "h1", "h2"]
    assert sorted(found["history"]["ranks"]) == ["0", "1", "2"]


def test_a_lost_host_is_unreachable_and_not_dead(lab, tmp_path):
    program, path = tmp_path / "goes_on.py", tmp_path / "found.json"
    program.write_text(GOES_ON)
    process = lab.start([*command(program, path), "9"], ranks=3)
    time.sleep(4.0)
    lab.cut(0, 2)
    time.sleep(4.5)
    lab.restore(0, 2)
    result = lab.finish(process, timeout=60)
    assert result.status == 0, result.output + result.errors
    lines = [line for line in result.errors.splitlines() if line.startswith("roundelay:")]
    assert lines == ["roundelay: h2 cannot be reached, nor rank 2 on it, which need not be dead"]
    assert json.loads(path.read_text())["verdicts"] == []


def test_nothing_is_said_of_a_job_that_ends_well(lab, tmp_path):
    program, path = tmp_path / "goes_on.py", tmp_path / "found.json"
    program.write_text(GOES_ON)
    result = lab.run([*command(program, path), "2"], ranks=3, timeout=60)
    assert (result.status, result.errors) == (0, "")
    found = json.loads(path.read_text())
    assert found["verdicts"] == []
    assert [rank["state"] for rank in found["job"]["ranks"]] == ["ended"] * 3


def test_a_slow_link_between_hosts_is_named(lab, tmp_path):
    program, path = tmp_path / "shifts.py", tmp_path / "found.json"
    program.write_text(SHIFTS)
    process = lab.start(command(program, path), ranks=3)
    time.sleep(4.0)
    lab.slow_link(0, 2, 8)
    assert lab.finish(process, timeout=60).status == 0
    (verdict,) = json.loads(path.read_text())["verdicts"]
    assert (verdict["kind"], verdict["ranks"]) == ("slow-link", [0, 2])
    assert verdict["evidence"]["ratio"] > 1.5
