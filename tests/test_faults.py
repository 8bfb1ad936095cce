"""Faults that are injected on purpose, and what the monitor says of them and of programs without any."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import faults
from benchmarks.fault_jobs import Outcome, descendants
from roundelay import MPI
from roundelay.testing import environment, inject
from roundelay.testing.environment import Fault, InjectionError, parse
from tests import launch

pytestmark = pytest.mark.timeout_s(120)


# What the variable may say


def test_faults_are_read_and_written():
    text = "stop:call=Allreduce:rank=2:after=50"
    assert parse(text) == [Fault("stop", "Allreduce", (2,), after=50)]
    assert str(parse(text)[0]) == text
    assert [fault.kind for fault in parse(" skip:call=Bcast ; slow:call=Bcast:factor=2;")] == ["skip", "slow"]
    assert parse("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("halt:call=Bcast", "'halt': expected kill, stop"),
        ("stop", r"'stop': expected also call= \(a method of a communicator"),
        ("slow:call=Bcast", r"expected also factor= \(a factor of 1 or more"),
        ("slow:call=Bcast:factor=0.5", "'factor=0.5' of 'slow:.*expected a factor of 1 or more"),
        ("stop:call=Bcast:rank=x", "'rank=x' of 'stop:.*expected a rank, or several with commas"),
        ("stop:call=Bcast:after=-1", "expected a number of calls"),
        ("hang:call=Bcast:seconds=soon", "expected seconds"),
        ("stop:call=Bcast:seconds=1", "expected one of rank, call, after, times"),
        ("stop:call=Bcats", "call 'Bcats': expected a method of a communicator"),
        ("stop:call=__init__", "expected a method of a communicator"),
        ("wrong-root:call=Allreduce", "expected a call among Bcast, "),
        ("wrong-op:call=Bcast", "expected a call among Allreduce, "),
    ],
)
def test_what_is_expected_instead(text, message):
    with pytest.raises(InjectionError, match=message):
        parse(text)


# Calls within a block


@pytest.mark.mpi
def test_a_skipped_call(comm):
    total = np.zeros(3)
    with inject.skip("Allreduce"):
        assert comm.Allreduce(np.ones(3), total) is None
    assert (total == 0).all()
    comm.Allreduce(np.ones(3), total)
    assert (total == comm.size).all()
    assert "Allreduce" not in vars(MPI.Cartcomm)


@pytest.mark.mpi
def test_wrong_arguments(comm):
    """All ranks pass the same, so that the calls end."""
    total = np.zeros(3)
    with inject.wrong_op("Allreduce"):
        comm.Allreduce(np.ones(3), total)
    assert (total == 1).all()
    with inject.wrong_count("Allreduce"):
        comm.Allreduce(np.full(3, 2.0), total)
    assert total.tolist() == [2.0 * comm.size, 2.0 * comm.size, 1.0]
    with inject.wrong_root("Bcast"):
        received = np.full(1, float(comm.rank))
        comm.Bcast(received, root=comm.size - 1)
    assert received[0] == 0
    with inject.wrong_call("Allreduce", "Barrier"):
        comm.Allreduce(None, None)


@pytest.mark.mpi(min_size=2)
def test_only_one_rank(comm):
    with inject.skip("Barrier", rank=MPI.COMM_WORLD.size), inject.skip("Bcast", rank=0):
        comm.Barrier()
        if MPI.COMM_WORLD.rank == 0:
            comm.Bcast(np.ones(1))
        assert inject.is_meant(0) == (MPI.COMM_WORLD.rank == 0)


def test_what_cannot_be_wrong():
    world = MPI.COMM_WORLD
    with inject.wrong_root("Barrier"), pytest.raises(ValueError, match="expected one that has a root: Bcast"):
        world.Barrier()
    with inject.wrong_count("Allreduce"), pytest.raises(ValueError, match="expected an array of one element"):
        world.Allreduce(np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match=r"ranks \[1\]: expected two or more"):
        inject.receive_cycle(world, [1])
    with pytest.raises(ValueError, match=r"factor 0\.5: expected 1 or more"):
        inject.slow(0.5)
    with pytest.raises(inject.InjectedError, match="no more disk"):
        inject.fail(message="no more disk")


def test_slow_blocks_and_functions():
    @inject.slow(3.0)
    def work():
        time.sleep(0.02)

    begin = time.perf_counter()
    work()
    with inject.slow(3.0, rank=1):
        pass
    assert time.perf_counter() - begin >= 0.06


@pytest.mark.parametrize("hang", [inject.hang, inject.hang_in_c])
def test_hanging_for_a_while(hang):
    begin = time.perf_counter()
    hang(rank=1)
    hang(seconds=0.1)
    assert time.perf_counter() - begin >= 0.09


def test_faults_can_be_armed_and_are_announced(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUNDELAY_INJECT_LOG", str(tmp_path / "log"))
    calls = []
    for name in ("Barrier", "Send"):
        monkeypatch.setattr(
            MPI.Intracomm, name, lambda *arguments: calls.append(arguments[1:]), raising=False
        )
    environment.arm(
        parse("skip:call=Barrier:after=1:times=2;late:call=Send:peer=1:seconds=0.01;kill:call=Send:rank=1")
    )
    for _ in range(4):
        MPI.COMM_WORLD.Barrier()
    for peer in (0, 1, 1):
        MPI.COMM_WORLD.Send("array", peer)
    assert calls == [(), (), ("array", 0), ("array", 1), ("array", 1)]
    announced = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [entry["fault"] for entry in announced] == ["skip", "skip", "late"]
    assert {entry["rank"] for entry in announced} == {0}


# Programs that are not changed


def run_with(fault, program, ranks=1):
    command = [sys.executable, "-m", "roundelay", "run", "-c", program]
    return subprocess.run(
        command if ranks == 1 else launch.mpiexec(ranks, command),
        env={**launch.environment(), "ROUNDELAY_INJECT": fault},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PROGRAM = """
from mpi4py import MPI
import sys
for step in range(5):
    total = MPI.COMM_WORLD.allreduce(step)
    print(step, flush=True)
assert "roundelay.testing" in sys.modules
"""


def test_a_program_that_is_not_changed():
    assert run_with("hang:call=allreduce:seconds=0.01", PROGRAM).stdout.split() == list("01234")
    killed = run_with("kill:call=allreduce:after=2:rank=0", PROGRAM)
    assert killed.stdout.split() == ["0", "1"]
    assert killed.returncode == -signal.SIGKILL
    failed = run_with("fail:call=allreduce:after=3", PROGRAM)
    assert failed.stdout.split() == ["0", "1", "2"]
    assert "InjectedError: injected" in failed.stderr


def test_a_variable_that_makes_no_sense():
    refused = run_with("halt", PROGRAM)
    assert refused.returncode != 0
    assert "\nroundelay: ROUNDELAY_INJECT: 'halt': expected kill, stop" in f"\n{refused.stderr}"
    assert "Traceback" not in refused.stderr


def test_nothing_is_loaded_without_the_variable():
    program = "import sys; from roundelay import MPI; assert 'roundelay.testing' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# What the benchmark makes of a report


def outcome(*verdicts, injected=((2, 10.0),)):
    return Outcome(
        verdicts=[dict(zip(("kind", "ranks", "time"), verdict, strict=True)) for verdict in verdicts],
        injected=[{"fault": "stop", "rank": rank, "time": moment} for rank, moment in injected],
    )


def test_verdicts_are_compared_with_what_was_injected():
    case = faults.CASES["stopped"]
    right, other = ("stuck", [2], 11.5), ("stuck", [1], 11.0)
    assert faults.judge(case, outcome(right))[:3] == (1.5, [], 0)
    assert faults.judge(case, outcome(right, ("dead", [2], 12.0)))[:3] == (1.5, [], 1)
    assert faults.judge(case, outcome(other, right))[:3] == (1.5, ["stuck [1]: "], 0)
    assert faults.judge(case, outcome(other))[:3] == (None, ["stuck [1]: "], 0)
    assert faults.judge(case, outcome())[:3] == (None, [], 0)
    assert faults.judge(case, outcome(right, injected=())).seconds is None


def test_a_deadlock_may_include_those_who_wait_for_it():
    case = faults.CASES["cycle"]
    injected = ((0, 10.0), (1, 10.5))
    assert faults.judge(case, outcome(("deadlock", [0, 1, 2], 11.0), injected=injected)).seconds == 0.5
    assert faults.judge(case, outcome(("deadlock", [0], 11.0), injected=injected)).seconds is None


# The whole, in short: `python -m benchmarks.faults` has the figures


@pytest.mark.parametrize("name", ["stopped", "wrong-op", "knot"])
def test_a_fault_is_named(name):
    before = descendants()
    ended, finding = faults.run_case(name, ranks=3, seed=os.getpid() % 100)
    assert finding.seconds is not None, (ended.verdicts, ended.injected, ended.output)
    assert not finding.wrong
    assert not ended.left
    assert set(descendants()) <= set(before)


def test_no_alarm_in_random_programs():
    (row,) = faults.run_programs(100, 20_000, 100, (4,))
    assert (row["false alarms"], row["status"]) == (0, 0), row["verdicts"]


def test_no_alarm_in_honest_work():
    row = faults.run_clean(10.0, ranks=4)
    assert (row["false alarms"], row["status"]) == (0, 0), row["verdicts"]
