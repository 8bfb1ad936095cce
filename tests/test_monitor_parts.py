"""The parts of the monitor: records, states of processes, stacks."""

import json
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click.core
import numpy as np
import pytest

import roundelay
from roundelay.comm.monitor import memory, report, saying
from roundelay.comm.monitor.clock import Clock
from roundelay.comm.monitor.findings import Findings
from roundelay.comm.monitor.process_table import ProcessTable
from roundelay.comm.monitor.processes import Process
from roundelay.comm.monitor.reading import OtherVersion, Record
from roundelay.comm.monitor.stacks import CallSites
from roundelay.comm.monitor.start import Options
from roundelay.comm.monitor.verdict import Verdict
from tests.test_examples import LIMIT_S, run

pytestmark = pytest.mark.timeout_s(LIMIT_S + 20)


def test_structures_are_those_of_the_record():
    from roundelay.comm.interposer import interposer

    sizes = {name: getattr(memory, name).itemsize for name in interposer().record_sizes()}
    assert interposer().record_sizes() == sizes


def make_record(version=memory.VERSION, ranks=3):
    """A record of a rank that has done nothing, and a descriptor of it."""
    file = os.memfd_create("record")
    head = np.zeros(1, memory.HEAD)
    head["version"], head["ranks"], head["ticks"], head["nanoseconds"] = version, ranks, 1, 1
    os.truncate(file, memory.size_of(ranks))
    os.pwrite(file, head.tobytes(), 0)
    return file


def test_a_thread_that_sleeps_is_interrupted():
    """Not another one in its place, which happens when it is still to handle another signal."""
    text = """
import signal, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGUSR2, lambda *_: print("awake", flush=True))
for _ in range(4):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as child:
        try:
            process = Process(child.pid, ProcessTable())
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for _ in range(50):
                time.sleep(0.005)
                assert process.interrupt(signal.SIGUSR1)
                assert process.interrupt(signal.SIGUSR2)
                assert select.select([child.stdout], [], [], 10)[0]
                assert child.stdout.readline() == "awake\n"
        finally:
            child.kill()


def test_a_record_of_another_version():
    file = make_record(version=memory.VERSION + 1)
    with pytest.raises(OtherVersion, match=f"of version {memory.VERSION}, found"):
        Record(file, ("Send",))
    os.close(file)


def test_calls_are_read_once_and_in_order():
    file = make_record()
    record = Record(file, ("Send", "Test"))
    clock = Clock(lambda: 10**9, (1, 0))
    lane_at = memory.HEAD.itemsize
    lane = np.zeros(1, memory.LANE)

    def write(begun, ended):
        calls = lane["calls"][0]
        for number in range(max(1, ended - memory.CALLS + 1), begun + 1):
            call = calls[number % memory.CALLS]
            call["number"], call["entered"], call["left"] = number, number, number if number <= ended else 0
        lane["begun"], lane["ended"], lane["advanced"] = begun, ended, ended
        os.pwrite(file, lane.tobytes(), lane_at)

    def view():
        return record.view("here", "running", 0.0, 0.0, clock)

    assert len(view().calls) == 0
    write(3, 3)
    assert view().calls["number"].tolist() == [1, 2, 3]
    write(5, 4)
    found = view()
    assert found.calls["number"].tolist() == [4]
    assert found.under_way["number"].tolist() == [5]
    assert found.advanced == 5
    again = view()
    assert len(again.calls) == 0
    assert again.under_way["number"].tolist() == [5]
    write(5000, 5000)
    numbers = view().calls["number"]
    assert numbers[-1] == 5000
    assert memory.CALLS - 2 <= len(numbers) <= memory.CALLS
    os.close(file)


ENDS = """
import json, os, time
import numpy as np
from roundelay import MPI
from roundelay.comm.interposer import interposer
from roundelay.comm.monitor.clock import Clock
from roundelay.comm.monitor.reading import Record
comm = MPI.COMM_WORLD
other, size = 1 - comm.rank, comm.size
file = os.memfd_create("record")
interposer().start_record(file, comm.rank, size, comm.handle)
clock = Clock(interposer().ticks, (interposer().ticks(), time.monotonic_ns()))
record = Record(file, tuple(interposer().functions()))
out, into = np.ones(8), np.empty((3, 8))
comm.Sendrecv(out, other, 1, into[0], other, 1)
if comm.rank == 0:
    time.sleep(0.8)
    comm.Send(out, 1, 2)
    for _ in range(2):
        comm.Isend(out, 1, 3).Wait()
else:
    requests = [comm.Irecv(into[0], 0, 2), comm.Irecv(into[1], MPI.ANY_SOURCE, MPI.ANY_TAG)]
    MPI.Request.Waitall([*requests, comm.Irecv(into[2], 0, 3)])
receive = comm.Recv_init(into[0], other, 4)
for _ in range(2):
    receive.Start()
    request = comm.Ibarrier()
    comm.Send(out, other, 4)
    MPI.Request.Waitall([receive, request])
receive.Free()
messages = record.view("here", "running", 0.0, 0.0, clock).messages
rows = [[int(row[name]) for name in ("sent", "peer", "tag", "ordinal", "mixed")] for row in messages]
seconds = [float(row["left"] - row["entered"]) for row in messages]
waits = [float(row["left"] - row["started"]) for row in messages]
for each in range(size):
    comm.Barrier()
    if comm.rank == each:
        print(json.dumps([rows, seconds, waits]), flush=True)
    time.sleep(0.2)
"""


def test_both_ends_of_messages_are_recorded():
    status, output, errors = run("-c", ENDS, ranks=2)
    assert status == 0, output + errors
    (first, _, _), (second, seconds, waits) = map(json.loads, output.splitlines())
    persistent = [
        [[1, peer, 4, 0, 0], [0, peer, 4, 0, 1], [1, peer, 4, 1, 0], [0, peer, 4, 1, 1]] for peer in (1, 0)
    ]
    assert first == [
        [1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [1, 1, 2, 0, 0],
        [1, 1, 3, 0, 0],
        [1, 1, 3, 1, 0],
        *persistent[0],
    ]
    assert second == [
        [1, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 2, 0, 0],
        [0, 0, 3, 0, 0],
        [0, 0, 3, 1, 0],
        *persistent[1],
    ]
    # All that one call has completed has its times.
    assert seconds[2] == seconds[3] == seconds[4]
    assert 0.15 < seconds[2] <= min(waits[2:5])


def test_states_of_processes():
    table = ProcessTable()
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(100)"],
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    process = Process(child.pid, table)

    def look(seconds):
        end = time.monotonic() + seconds
        while True:
            found = process.look(time.monotonic(), False)
            if time.monotonic() > end:
                return found
            time.sleep(0.05)

    state, idle = look(0.5)
    assert state == "idle"
    assert 0.3 < idle < 1
    assert process.look(time.monotonic(), True) == ("running", 0.0)
    os.kill(child.pid, signal.SIGSTOP)
    state, stopped = look(0.3)
    assert state == "stopped"
    assert 0.1 < stopped < 1
    assert process.cpu() > 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    process.end(time.monotonic())
    assert (process.ended_by, process.look(time.monotonic(), False)[0]) == ("SIGKILL", "dead")
    assert process.cpu() < 0
    assert not process.send(signal.SIGTERM)
    child.communicate()
    process.close()


def test_a_child_that_computes_keeps_a_process_busy():
    text = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    child = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
    try:
        process = Process(child.pid, ProcessTable())
        time.sleep(1)
        process.look(time.monotonic(), False)
        time.sleep(1.2)
        assert process.look(time.monotonic(), False)[0] == "running"
        process.close()
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_the_line_of_the_program():
    import mpi4py

    import roundelay

    stack = f"""Thread 0x00007f0000000001 (most recent call first):
  File "other.py", line 1 in other

Current thread 0x00007f0000000002 (most recent call first):
  File "{Path(mpi4py.__file__).parent}/run.py", line 5 in run
  File "{Path(roundelay.__file__).parent}/comm/methods.py", line 6 in call
  File "{os.__file__}", line 7 in listdir
  File "src/mpi4py/MPI.src/Comm.pyx", line 8 in Allreduce
  File "/home/user/solve.py", line 88 in solve
  File "/home/user/main.py", line 9 in <module>
"""
    assert CallSites().find(stack) == "solve.py:88"
    assert CallSites().find("Current thread 0x1 (most recent call first):\n  <no Python frame>") == ""
    assert CallSites().find("no stack: it is dead") == ""
    ended = f'''Current thread 0x1 (most recent call first):
  File "{click.core.__file__}", line 911 in exit
  File "{roundelay.__path__[0]}/__main__.py", line 7 in main
  File "<frozen runpy>", line 88 in _run_code
'''
    assert CallSites().find(ended) == ""


@pytest.fixture
def pipe(monkeypatch):
    """Standard error, and what reads it."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as reader, os.fdopen(write_end, "w") as writer:
        monkeypatch.setattr(saying, "sys", SimpleNamespace(stderr=writer))
        yield reader


def seconds_to_carry():
    """How long the watcher waits when it has said something."""
    begin = time.monotonic()
    saying.say("rank 1 is dead")
    saying.wait_until_carried()
    return time.monotonic() - begin


def test_the_watcher_waits_until_what_it_said_is_read(pipe, monkeypatch):
    monkeypatch.setattr(saying, "_SECONDS_TO_CARRY", 10.0)
    said = []
    reader = threading.Timer(0.2, lambda: said.append(pipe.read(100)))
    reader.start()
    assert 0.1 < seconds_to_carry() < 5
    reader.join()
    assert said == [b"roundelay: rank 1 is dead\n"]


def test_the_watcher_waits_no_longer_for_one_who_does_not_read(pipe):
    assert 0.5 < seconds_to_carry() < 5


@pytest.mark.parametrize("is_open", [True, False])
def test_nothing_is_waited_for_where_there_is_no_pipe(tmp_path, monkeypatch, is_open):
    with (tmp_path / "errors").open("w") as file:
        monkeypatch.setattr(saying, "sys", SimpleNamespace(stderr=file if is_open else None))
        assert seconds_to_carry() < 0.5
    assert (tmp_path / "errors").read_text() == "roundelay: rank 1 is dead\n" * is_open


def test_a_place_that_is_not_known_is_left_out():
    """Of a rank that has gone on, or has ended."""
    nodes: Any = SimpleNamespace(stacks_of=lambda ranks: {})
    sentence = "Barrier on rank 0 at {0}, and Bcast on rank 1, now at {1}, and Reduce on rank 2, now at {2}"
    stacks = {
        0: "no stack: it is dead",
        1: "no stack: it is in MPI_Finalize",
        2: '  File "a.py", line 3 in b',
    }
    verdict = Verdict("mismatch", (0, 1, 2), sentence, 0.0, {}, None, stacks=stacks)
    found = Findings(Options(), {}, nodes, lambda: None).complete(verdict)
    assert (
        found.sentence
        == "Barrier on rank 0 at an unknown line, and Bcast on rank 1, and Reduce on rank 2, now at a.py:3"
    )


def test_a_report_that_cannot_be_written_is_named_as_the_user_did(tmp_path):
    path = str(tmp_path / "nowhere" / "report.json")
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{re.escape(path)}'$"):
        report.write(path, {})


def test_an_error_of_a_job_that_hangs_is_pickled():
    error = pickle.loads(pickle.dumps(roundelay.HangError(Verdict("stuck", (1,), "it hangs", 1.0, {}, None))))
    assert type(error) is roundelay.HangError
    assert (str(error), error.verdict.ranks) == ("it hangs", (1,))
