"""`roundelay top`: a job that runs, one that ends, and those that it cannot show."""

import os
import pty
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from rich.console import Console

from roundelay.top import picture
from tests import launch
from tests.test_examples import LIMIT_S, run

pytestmark = pytest.mark.timeout_s(2 * LIMIT_S + 20)

# Rank 1 comes when it may.
PROGRAM = """
import sys, time
from pathlib import Path
from mpi4py import MPI
# In one piece, or the lines of both ranks may be mixed.
sys.stdout.write("begin\\n")
sys.stdout.flush()
while MPI.COMM_WORLD.rank == 1 and not Path(sys.argv[1]).exists():
    time.sleep(0.02)
MPI.COMM_WORLD.Barrier()
"""


@contextmanager
def job(folder):
    """A job of two ranks, of which one waits for the other; give its process, and the file that ends it."""
    gate = folder / "gate"
    line = [sys.executable, "-m", "roundelay", "run", "--monitor", "-c", PROGRAM, str(gate)]
    with subprocess.Popen(
        launch.mpiexec(2, line),
        env=launch.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):
                assert process.stdout.readline() == "begin\n"
            yield process, gate
        finally:
            launch.stop_group(process)


def top(*arguments):
    status, output, errors = run("-m", "roundelay", "top", *arguments)
    return status, output, errors.removeprefix("Error: ")


def test_a_job_of_one_rank():
    state = {
        "verdicts": [],
        "job": {"argv": ["solve.py"], "size": 1, "seconds": 3.0, "ranks": [], "dropped": {}},
    }
    console = Console(width=80)
    with console.capture() as shown:
        console.print(picture(state))
    assert shown.get().startswith("solve.py: 1 rank, 3 s")


def test_a_job_that_runs(tmp_path):
    with job(tmp_path) as (process, gate):
        end = time.monotonic() + 20
        while "Barrier" not in (shown := top(process.pid))[1]:
            assert time.monotonic() < end, shown
        status, output, errors = shown
        assert (status, errors) == (0, "")
        head, names, first, second, *_ = output.splitlines()
        assert head.startswith(f"-c {gate}: 2 ranks, ")
        assert names.split() == ["rank", "host", "process", "state", "in", "MPI", "does", "for"]
        assert first.split()[0] == "0"
        assert "Barrier #1" in first
        assert second.split()[0] == "1"
        assert "outside MPI" in second
        # The process of a rank names the job as well as that of mpiexec.
        rank = second.split()[2]
        assert "2 ranks" in top("--once", rank)[1]
        gate.touch()
        assert process.wait(20) == 0
        status, _, errors = top(rank)
        assert status == 1
        assert errors.strip() == f"there is no process {rank}: the job has ended"


def test_the_table_at_a_terminal_ends_with_the_job(tmp_path):
    with job(tmp_path) as (process, gate):
        ours, theirs = pty.openpty()
        line = [sys.executable, "-m", "roundelay", "top", str(process.pid)]
        with subprocess.Popen(
            line, env={**os.environ, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
        ) as shown:
            os.close(theirs)
            text = b""
            while b"outside MPI" not in text:
                text += os.read(ours, 65536)
            gate.touch()
            assert shown.stderr is not None
            assert shown.stderr.read() == b"the job has ended\n"
            assert shown.wait(20) == 0
            os.close(ours)
        assert process.wait(20) == 0


def test_a_process_that_is_in_no_job():
    status, _, errors = top(os.getpid())
    assert status == 1
    assert f"process {os.getpid()} is in no monitored job" in errors


def test_a_process_of_another_user():
    """Process 1 is root's, and root may start one of somebody else's."""
    other = subprocess.Popen(["sleep", "60"], user=65534) if os.getuid() == 0 else None
    try:
        number = 1 if other is None else other.pid
        assert top(number) == (1, "", f"process {number} belongs to another user\n")
    finally:
        if other is not None:
            other.kill()
            other.wait()
