"""A job that is watched: what is said of it when a rank dies or hangs, and what is left of it all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from roundelay.comm.monitor.process_table import ProcessTable
from tests import launch
from tests.test_examples import LIMIT_S, run

pytestmark = pytest.mark.timeout_s(2 * LIMIT_S + 20)
WATCHED = ["-m", "roundelay", "run", "--monitor"]

FAULTS = """
import ctypes, os, signal, sys, time
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
mode = sys.argv[1]
def delay_watcher():
    import subprocess
    from pathlib import Path
    from roundelay.comm.monitor import start
    name = start._state.connection.getpeername()[1:]
    (watcher,) = (
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if name in path.read_bytes().split(bytes(1))
    )
    os.kill(int(watcher), signal.SIGSTOP)
    subprocess.Popen(["/bin/sh", "-c", f"sleep 2; kill -CONT {watcher}"], start_new_session=True)
sent, received = np.ones(4), np.empty(4)
for _ in range(5):
    comm.Allreduce(sent, received)
    time.sleep(0.02)
if mode.startswith("late-"):
    mode = mode[5:]
    if comm.rank == 0:
        delay_watcher()
    comm.Barrier()
if mode == "deadlock":
    comm.Recv(received, (comm.rank + 1) % comm.size)
if comm.rank == 1:
    print("begin", time.time(), flush=True)
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if mode == "sleep":
        while True:
            time.sleep(0.1)
    if mode == "lock":
        sleep = ctypes.PyDLL(None).sleep
        while True:
            sleep(1000)
    if mode == "skip":
        comm.Barrier()
    if mode == "count":
        sent, received = np.ones(1000), np.empty(1000)
    if mode == "raise":
        raise ArithmeticError("only here")
elif mode == "count":
    sent, received = np.ones(1001), np.empty(1001)
if mode == "all":
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
for _ in range(5):
    comm.Allreduce(sent, received)
    time.sleep(0.02)
print("done", flush=True)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "faults.py"
    path.write_text(FAULTS)
    return path


def read_report(file):
    """The last report of a job: a watcher may still write it when mpiexec has ended, but not for long."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with suppress(OSError):
            found = json.loads(file.read_text())
            if found["job"]["ended"]:
                return found
        time.sleep(0.05)
    raise AssertionError(f"there is no {file}")


def watch(program, mode, *options, ranks=3):
    """Run the program, and give status, report, what was said, and seconds until the first verdict."""
    file = program.parent / "report.json"
    status, output, errors = run(*WATCHED, "--report", file, *options, program, mode, ranks=ranks)
    found = read_report(file)
    assert not list(program.parent.glob("*.part"))
    begins = [float(line.split()[1]) for line in output.splitlines() if line.startswith("begin")]
    seconds = None
    if begins and found["verdicts"]:
        from datetime import datetime

        seconds = datetime.fromisoformat(found["verdicts"][0]["date"]).timestamp() - begins[0]
    return status, found, output + errors, seconds


def line_of(text):
    """Where a line of the program is, as a verdict says it."""
    numbers = [number for number, line in enumerate(FAULTS.splitlines(), 1) if line.strip() == text]
    return f"faults.py:{numbers[-1]}"


def watchers():
    """The processes that are watchers of jobs that began here."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            mine = str(sys.executable).encode() == words[0]
            if mine and b"roundelay.comm.monitor.watcher" in words:
                found.append(int(path.parent.name))
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    """Nothing of the monitor is left in shared memory, or in the process table, with which sockets go."""
    before = set(Path("/dev/shm").iterdir()), set(watchers())
    yield
    end = time.monotonic() + 5
    left: set[object] = {None}
    while left and time.monotonic() < end:
        files = {path for path in Path("/dev/shm").iterdir() if "roundelay" in path.name}
        left = (files - before[0]) | (set(watchers()) - before[1])
        time.sleep(0.05)
    assert not left


# Jobs that go well


def test_a_normal_end(program):
    status, found, text, _ = watch(program, "none")
    assert status == 0
    assert found["verdicts"] == []
    assert "roundelay:" not in text
    job = found["job"]
    assert job["ended"]
    assert job["size"] == 3
    assert job["argv"][1:] == ["none"]
    assert [rank["state"] for rank in job["ranks"]] == ["ended"] * 3
    for rank in "012":
        calls = [row for row in found["history"]["ranks"][rank]["timeline"] if row[2] == "Allreduce"]
        assert [row[4] for row in calls] == list(range(1, 11))
        assert all(0 < row[1] - row[0] < 10 for row in calls)
        assert all(row[7] == 32 for row in calls)


def test_no_warning_at_the_end():
    """Python's of what is still open."""
    text = "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()"
    command = ["-W", "always::ResourceWarning", *WATCHED, "-c", text]
    status, output, errors = run(*command, ranks=2)
    assert (status, output, errors) == (0, "", "")


def test_what_a_rank_has_exchanged(tmp_path):
    text = """
from mpi4py import MPI
comm = MPI.COMM_WORLD
if comm.rank == 0:
    for _ in range(5):
        comm.Send(bytearray(100), 1)
else:
    for _ in range(5):
        comm.Recv(bytearray(100), 0)
"""
    file = tmp_path / "report.json"
    status, output, errors = run(*WATCHED, "--report", file, "-c", text, ranks=2)
    assert status == 0, output + errors
    first, second = (read_report(file)["history"]["ranks"][rank] for rank in "01")
    assert first["bytes_sent"] == [0, 500]
    assert second["bytes_received"] == [500, 0]
    assert second["messages_received"] == [5, 0]
    assert second["waited"][0] > 0 == second["waited"][1]


def test_threads_make_communicators_in_any_order(tmp_path):
    """Each of one of its own, for other collectives than the other thread."""
    text = """
import random, threading, time
from mpi4py import MPI
def work(parent, share, seed):
    draw = random.Random(seed + 2 * MPI.COMM_WORLD.rank)
    for _ in range(20):
        time.sleep(draw.uniform(0, 0.01))
        child = parent.Split(0, parent.rank)
        grandchild = child.Dup()
        share(grandchild)
        grandchild.Free()
        child.Free()
parents = [MPI.COMM_WORLD.Dup() for _ in range(2)]
kinds = [lambda comm: comm.Barrier(), lambda comm: comm.Bcast(bytearray(8))]
threads = [threading.Thread(target=work, args=each) for each in zip(parents, kinds, (0, 1))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    file = tmp_path / "report.json"
    status, output, errors = run(*WATCHED, "--report", file, "-c", text, ranks=2)
    assert status == 0, output + errors
    assert read_report(file)["verdicts"] == []


@pytest.mark.parametrize("end", ["request.Free()", "request.Wait(status)"])
def test_a_message_that_was_cancelled_is_no_leak(tmp_path, end):
    """Where the library cannot cancel it, it is received."""
    text = f"""
from mpi4py import MPI
status = MPI.Status()
request = MPI.COMM_SELF.Issend(bytearray(100), 0)
request.Cancel()
if request.Get_status(status) and status.Is_cancelled():
    {end}
else:
    MPI.COMM_SELF.Recv(bytearray(100), 0)
    request.Wait()
sent, received = bytearray(10), bytearray(10)
MPI.COMM_SELF.Isend(sent, 0).Free()
MPI.COMM_SELF.Recv(received, 0)
"""
    file = tmp_path / "report.json"
    status, output, errors = run(*WATCHED, "--report", file, "-c", text, ranks=1)
    assert status == 0, output + errors
    found = read_report(file)
    assert found["verdicts"] == []
    assert found["history"]["ranks"]["0"]["bytes_sent"] in ([10], [110])


@pytest.mark.parametrize("way", ["variable", "function", "late"])
def test_other_ways_to_ask(tmp_path, way):
    begin = {
        "variable": "from roundelay import MPI",
        "function": "from roundelay import MPI, monitor; assert monitor()",
        "late": "import mpi4py; mpi4py.rc.initialize = False\nfrom roundelay import MPI; MPI.Init()",
    }[way]
    text = f"""
{begin}
import roundelay, sys
MPI.COMM_WORLD.Barrier()
assert roundelay.monitor(report=sys.argv[1])
{"MPI.Finalize()" if way == "late" else ""}
"""
    variables = {} if way == "function" else {"ROUNDELAY_MONITOR": "1"}
    file = tmp_path / "report.json"
    status, output, errors = run("-c", text, file, ranks=2, **variables)
    assert status == 0, output + errors
    found = read_report(file)
    assert found["history"]["ranks"]["0"]["timeline"][0][2] == "Barrier"


def test_communicators_older_than_the_record_may_be_used_in_any_order(tmp_path):
    """And so may those that are made of them."""
    text = """
import sys, time
from roundelay import MPI, monitor
world = MPI.COMM_WORLD
old = [world.Dup() for _ in range(2)]
assert monitor(report=sys.argv[1])
for make in (lambda comm: comm, lambda comm: comm.Dup()):
    first, second = map(make, old)
    if world.rank:
        first, second = second, first
    order = (1, 2) if world.rank == 0 else (2, 1)
    other = 1 - world.rank
    requests = [first.Isend(bytearray(8), other, order[0]), second.Isend(bytearray(8), other, order[1])]
    for comm, tag in ((first, order[0]), (second, order[1])):
        comm.Recv(bytearray(8), other, tag)
    MPI.Request.Waitall(requests)
    begin = {1: lambda comm: comm.Ibarrier(), 2: lambda comm: comm.Ibcast(bytearray(16), 0)}
    requests = [begin[order[0]](first), begin[order[1]](second)]
    time.sleep(0.5)
    MPI.Request.Waitall(requests)
"""
    file = tmp_path / "report.json"
    status, output, errors = run("-c", text, file, ranks=2)
    assert status == 0, output + errors
    assert read_report(file)["verdicts"] == []


def test_the_communicator_that_is_watched_is_judged_though_it_is_older(tmp_path):
    text = """
import sys, time
from roundelay import MPI, monitor
comm = MPI.COMM_WORLD.Dup()
assert monitor(comm, report=sys.argv[1])
if comm.rank:
    # The watcher begins only now.
    time.sleep(4)
comm.Barrier()
"""
    file = tmp_path / "report.json"
    status, output, errors = run("-c", text, file, ranks=2)
    assert status == 0, output + errors
    assert [(each["kind"], each["ranks"]) for each in read_report(file)["verdicts"]] == [("stuck", [1])]


def test_a_job_that_ends_before_its_watcher_has_begun(tmp_path):
    file = tmp_path / "report.json"
    text = "from roundelay import MPI, monitor; import sys; monitor(report=sys.argv[1])"
    text += "; import os, signal; MPI.COMM_WORLD.rank != 1 or os.kill(os.getpid(), signal.SIGKILL)"
    status, _, _ = run("-c", text, file, ranks=2)
    assert status != 0
    found = read_report(file)
    assert [rank["rank"] for rank in found["job"]["ranks"]] == [0, 1]


def test_a_program_that_never_initializes_is_told_once():
    text = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI"
    status, output, errors = run(*WATCHED, "-c", text, ranks=2)
    assert status == 0, output + errors
    assert errors.count("was not monitored") == 1


def test_a_disabled_layer_says_so_once():
    text = "from mpi4py import MPI"
    status, output, errors = run(*WATCHED, "-c", text, ranks=2, ROUNDELAY_DISABLE="1")
    assert status == 0, output + errors
    assert errors.count("not monitored: ROUNDELAY_DISABLE is set") == 1


# Ranks that die


def test_a_rank_that_is_killed(program):
    status, found, text, seconds = watch(program, "kill")
    assert status != 0
    (verdict,) = found["verdicts"]
    assert (verdict["kind"], verdict["ranks"]) == ("dead", [1])
    # By which signal is not known if the watcher began after its end.
    assert re.search(r"rank 1 on .* is dead, outside MPI( \(SIGKILL\))?$", verdict["sentence"])
    assert verdict["stacks"]["1"] == "no stack: it is dead"
    assert found["job"]["ended"]
    assert f"roundelay: {verdict['sentence']}" in text
    assert 0 <= seconds < 1


def test_a_rank_that_raises(program):
    status, found, _, seconds = watch(program, "raise")
    assert status != 0
    (verdict,) = found["verdicts"]
    assert (verdict["kind"], verdict["ranks"]) == ("dead", [1])
    place = line_of('raise ArithmeticError("only here")')
    assert verdict["sentence"].endswith(f"ends the job: ArithmeticError: only here, at {place}")
    assert 0 <= seconds < 1


def test_a_rank_that_aborts(tmp_path):
    text = """
import time
from mpi4py import MPI
time.sleep(0.3)
if MPI.COMM_WORLD.rank == 1:
    MPI.COMM_WORLD.Abort(3)
MPI.COMM_WORLD.Barrier()
"""
    file = tmp_path / "report.json"
    status, _, _ = run(*WATCHED, "--report", file, "-c", text, ranks=3)
    assert status != 0
    (verdict,) = read_report(file)["verdicts"]
    assert (verdict["kind"], verdict["ranks"], verdict["evidence"]["failure"]) == ("dead", [1], "MPI_Abort")


def test_all_ranks_killed(program):
    """The watcher writes its report, and is gone."""
    status, found, _, _ = watch(program, "all")
    assert status != 0
    assert found["job"]["ended"]
    assert found["verdicts"][0]["kind"] == "dead"
    assert {rank["state"] for rank in found["job"]["ranks"]} == {"dead"}


@contextmanager
def begun(program, ranks, mode="sleep"):
    """A job of which one rank hangs; give mpiexec, the report, and what has been said, in a file."""
    file, said = program.parent / "report.json", program.parent / "said.txt"
    command = [sys.executable, *WATCHED, "--report", str(file), str(program), mode]
    with said.open("wb") as errors:
        job = subprocess.Popen(
            launch.mpiexec(ranks, command),
            env=launch.environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert job.stdout is not None
    try:
        assert job.stdout.readline().startswith(b"begin")
        yield job, file, said
    finally:
        launch.stop_group(job)
        job.stdout.close()


def test_a_job_that_is_killed_with_its_mpiexec(program):
    with begun(program, ranks=2) as (job, file, _):
        # Open MPI's ranks outlive it.
        for process in (job.pid, *ProcessTable().descendants(job.pid, [str(job.pid)])):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        job.wait()
        assert {rank["state"] for rank in read_report(file)["job"]["ranks"]} == {"dead"}


def test_a_job_that_somebody_ends(program):
    """No rank is to blame for that."""
    with begun(program, ranks=4) as (job, file, said):
        time.sleep(0.5)
        job.terminate()
        job.wait()
        found = read_report(file)
        assert {rank["state"] for rank in found["job"]["ranks"]} == {"dead"}
        # Where mpiexec has collected a rank before the watcher has seen how it ended, it could have died.
        assert [each for each in found["verdicts"] if each["evidence"]["ended_by"]] == []
        # Open MPI's mpiexec carries no more output by then.
        lines = [line for line in said.read_text().splitlines() if line.startswith("roundelay:")]
        assert len(lines) <= 1
        wanted = r"all ranks were ended by SIGTERM, rank \d first|rank \d on \S+ is dead, outside MPI$"
        assert all(re.search(wanted, line) for line in lines)


def test_a_job_with_a_stopped_rank_that_somebody_ends(program):
    """It ends by another signal than the others."""
    with begun(program, ranks=3, mode="stop") as (job, file, _):
        time.sleep(2.5)
        job.terminate()
        job.wait()
        found = read_report(file)
    # Nobody has died on his own.
    assert [(each["kind"], each["ranks"]) for each in found["verdicts"]] == [("stuck", [1])]


# Ranks that hang


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        ("stop", "is stopped by a signal, outside MPI"),
        ("sleep", f"is at {line_of('time.sleep(0.1)')}, outside MPI"),
        ("lock", f"is at {line_of('sleep(1000)')}, outside MPI"),
    ],
)
def test_a_rank_that_hangs(program, mode, place):
    status, found, text, seconds = watch(program, mode, "--on-hang", "abort", ranks=4)
    assert status != 0
    (verdict,) = found["verdicts"]
    assert (verdict["kind"], verdict["ranks"]) == ("stuck", [1])
    waiting = line_of("comm.Allreduce(sent, received)")
    assert verdict["sentence"].startswith(
        f"3 of 4 ranks wait in Allreduce #6 at {waiting}; rank 1 {place}, since "
    )
    assert 1 <= verdict["since"] < 3
    assert 0.9 < seconds < 3
    assert "faults.py" in verdict["stacks"][str(verdict["witness"])]
    said = "no stack: it is stopped, and answers no signal" if mode == "stop" else "faults.py"
    assert said in verdict["stacks"]["1"]
    assert verdict["sentence"] in text


def test_a_skipped_collective(program):
    status, found, _, seconds = watch(program, "skip", "--on-hang", "abort")
    assert status != 0
    verdict = found["verdicts"][0]
    assert (verdict["kind"], verdict["ranks"]) == ("mismatch", [1])
    assert line_of("comm.Barrier()") in verdict["sentence"]
    assert line_of("comm.Allreduce(sent, received)") in verdict["sentence"]
    assert seconds < 2


def test_a_wrong_count(program):
    """An MPI library may end the job then, and has to wait until all have said where they are."""
    _, found, _, _ = watch(program, "count", "--on-hang", "abort", ranks=4)
    verdict = found["verdicts"][0]
    assert (verdict["kind"], verdict["ranks"]) == ("mismatch", [1])
    # Rank 1 may have gone on, or even have come to its end.
    assert re.search(
        r" on ranks 0, 2 and 3(, now)? at faults\.py:\d+, .* on rank 1((, now)? at faults\.py:\d+)?$",
        verdict["sentence"],
    )


@pytest.mark.parametrize(("mode", "kind"), [("late-count", "mismatch"), ("late-raise", "dead")])
def test_what_a_watcher_says_that_comes_late_is_heard(program, mode, kind):
    """The rank that ends the job waits for it, and mpiexec hands nothing on after that."""
    _, found, text, _ = watch(program, mode, "--on-hang", "abort")
    verdict = found["verdicts"][0]
    assert (verdict["kind"], verdict["ranks"]) == (kind, [1])
    assert text.count(f"roundelay: {verdict['sentence']}\n") == 1


def test_a_count_that_fails_before_all_have_come(tmp_path):
    """The mismatch is known when the last rank comes, and the failure follows from it."""
    text = """
import time
import numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
comm.Barrier()
if comm.rank == 2:
    time.sleep(0.15)
# Open MPI may write beyond the count before it fails.
comm.Bcast(np.ones(1000)[: 100 if comm.rank == 1 else 1000], 0)
comm.Barrier()
"""
    file = tmp_path / "report.json"
    status, output, errors = run(*WATCHED, "--report", file, "-c", text, ranks=3)
    assert status != 0, output + errors
    first = read_report(file)["verdicts"][0]
    assert (first["kind"], first["ranks"]) == ("mismatch", [1])


def test_a_deadlock(program):
    status, found, _, _ = watch(program, "deadlock", "--on-hang", "abort")
    assert status != 0
    verdict = found["verdicts"][0]
    assert (verdict["kind"], verdict["ranks"]) == ("deadlock", [0, 1, 2])
    assert verdict["sentence"].count(line_of("comm.Recv(received, (comm.rank + 1) % comm.size)")) == 3


def test_an_exception_in_a_rank_that_hangs(program):
    status, found, text, _ = watch(program, "sleep", "--on-hang", "raise")
    assert status != 0
    assert [verdict["kind"] for verdict in found["verdicts"]] == ["stuck"]
    assert f"HangError: {found['verdicts'][0]['sentence']}" in text


def test_ranks_that_hang_in_mpi_are_ended_later(program):
    """A deadlock has no rank in which an exception could be raised."""
    status, found, text, _ = watch(program, "deadlock", "--on-hang", "raise")
    assert status != 0
    assert "ending the job, which hangs" in text
    assert found["job"]["seconds"] > found["verdicts"][0]["time"] + 4


CALLED_BACK = """
import sys, time
import roundelay
from roundelay import MPI
comm = MPI.COMM_WORLD
heard = []
roundelay.monitor(comm, on_verdict=heard.append)
if comm.rank == 1:
    while not heard:
        time.sleep(0.1)
comm.Barrier()
assert [(each.kind, each.ranks) for each in heard] == [("stuck", (1,))], heard
"""


def test_a_function_is_called(tmp_path):
    status, output, errors = run("-c", CALLED_BACK, ranks=3)
    assert status == 0, output + errors
    assert errors.count("roundelay: ") == 1
