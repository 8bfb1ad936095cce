"""Progress: a bar on a terminal, plain lines where what is printed ends in a file or pipe."""

import os
import pty
import subprocess
import sys

import pytest

from tests import launch

WORK = """
import time
from roundelay.terminal import track
for _ in track(range(8), "working"):
    time.sleep(0.1)
print("done")
"""
SLOW = WORK.replace("range(8)", "range(6)").replace("0.1", "1.1")

pytestmark = pytest.mark.timeout_s(120)


def environment(**more):
    kept = {name: value for name, value in launch.environment().items() if name not in ("NO_COLOR", "TERM")}
    return {**kept, "TERM": "xterm", **more}


def on_terminal(command, **more):
    """Run a command whose output is a terminal, and give what that is told."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment(**more)
    ):
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux's end of a terminal that nobody writes to any more.
                break
            if not part:
                break
            told += part
    os.close(ours)
    return told.decode()


def captured(command, **more):
    result = subprocess.run(command, env=environment(**more), stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout


def test_a_terminal_gets_a_bar():
    told = on_terminal([sys.executable, "-c", WORK])
    assert "\x1b[" in told
    assert "8/8" in told
    assert told.rstrip().endswith("done")


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_may_not_be_drawn_on(setting):
    assert on_terminal([sys.executable, "-c", WORK], **setting) == "done\r\n"


@pytest.mark.parametrize("ranks", [None, 1])
def test_a_pipe_gets_lines(ranks):
    """Also behind the mpiexec of Open MPI, which gives its ranks a terminal."""
    line = [sys.executable, "-c", SLOW]
    told = captured(line if ranks is None else launch.mpiexec(ranks, line))
    assert "\x1b" not in told
    first, *_, last = told.splitlines()
    assert first.startswith("working: 5 of 6, ")
    assert last == "done"


def test_a_short_piece_of_work_prints_nothing():
    assert captured([sys.executable, "-c", WORK]) == "done\n"


def test_what_is_not_visible_and_what_stops_early():
    code = """
from roundelay.terminal import track
print(list(track(iter("abc"), "reading", total=3)), list(track([1, 2], "adding", visible=False)))
for each in track(iter(range(100)), "looking"):
    break
"""
    assert captured([sys.executable, "-c", code]) == "['a', 'b', 'c'] [1, 2]\n"
