"""Coded gradients beside workers that are away: they sleep, burn the processor, or are stopped.

    python -m tests.test_coded_stragglers

stops workers for 30 s, on 3 and 4 ranks, and prints how many rounds went on meanwhile and the longest.
"""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from roundelay import MPI, coding
from roundelay.collectives.coding.worker import Worker
from tests import launch
from tests.straggling import Straggling, be_away, direct, load, slope, train

# More than the MPI libraries keep for a rank that does not receive them.
ROUNDS = 800
ALLOWED_BYTES, ALLOWED_FILES = 4 << 20, 8
LIMIT_S = 60.0

pytestmark = pytest.mark.timeout_s(LIMIT_S + 10)


@pytest.fixture
def way(request, monkeypatch):
    """Parameters and vectors in memory that the ranks show each other, or in messages."""
    if request.param == "sent":
        monkeypatch.delattr(os, "memfd_create", raising=False)


def away(*cases):
    """Kinds of stragglers, and ways of what is sent."""
    return pytest.mark.parametrize(("kind", "way"), [case.split() for case in cases], indirect=["way"])


def check(comm, account, rounds):
    """Rounds went on without those that were away, who then took part again, and nothing has piled up."""
    if comm.rank == 0:
        assert account.without >= rounds
        assert account.is_back
        assert account.grown_bytes < ALLOWED_BYTES
        assert account.grown_files < ALLOWED_FILES


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep shown", "burn sent", "stop shown", "stop sent")
def test_rounds_go_on_without_one(comm, kind):
    """Parameters of 64 KiB would take 50 MB if each round kept them."""
    scheme = coding.scheme("gc", comm.size - 1, stragglers=1)
    straggling = Straggling(comm, kind, (comm.size - 1,))
    check(comm, train(straggling, scheme, ROUNDS, size=8192), ROUNDS)


@pytest.mark.mpi(min_size=4)
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_rounds_go_on_without_all_that_the_code_tolerates(comm, kind):
    late = tuple(range(2, comm.size))
    scheme = coding.scheme("gc", comm.size - 1, stragglers=len(late))
    check(comm, train(Straggling(comm, kind, late), scheme, ROUNDS), ROUNDS)


@pytest.mark.mpi(min_size=3)
def test_another_master(comm):
    scheme = coding.scheme("gc", comm.size - 1, stragglers=1)
    straggling = Straggling(comm, "stop", (0,))
    account = train(straggling, scheme, ROUNDS, master=comm.size - 1)
    assert account.is_back == (comm.rank == comm.size - 1)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("stop sent")
def test_selective_repeat_goes_on_without_one(comm, kind):
    """Its code stands one in every round."""
    scheme = coding.scheme("sr-sgc", comm.size - 1, burst=1, window=2, stragglers=1)
    check(comm, train(Straggling(comm, kind, (1,)), scheme, ROUNDS), ROUNDS)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("stop sent")
def test_multiplexed_jobs_wait_for_one_that_is_away_for_longer_than_a_burst(comm, kind):
    scheme = coding.scheme("m-sgc", comm.size - 1, burst=1, window=2, stragglers=1)
    straggling = Straggling(comm, kind, (1,))
    if comm.rank == 1:
        straggling.let_back_in(2)
    account = train(straggling, scheme, 1)
    assert account.is_back == (comm.rank == 0)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_one_too_many_is_named(comm, kind):
    """And nobody else: all of them, though they are away one after the other."""
    late = (1, comm.size - 1)
    straggling = Straggling(comm, kind, late, after=20 + 5 * comm.rank)
    scheme = coding.scheme("gc", comm.size - 1, stragglers=1)
    named = rf"ranks \[1, {comm.size - 1}\] have not answered for"
    with straggling.over(), pytest.raises(coding.TooFewWorkers, match=named):
        train(straggling, scheme, ROUNDS, lost_after=1.0)


@pytest.mark.mpi(min_size=3)
def test_those_that_answer_and_send_nothing_are_named(comm, monkeypatch):
    """All of them: what is asked of one is then asked of the next, whose answer was counted before."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    late = tuple(range(1, comm.size))
    straggling = Straggling(comm, "sleep", late)

    def send(worker, wanted, usual=Worker._send):
        if wanted.job < 20:
            usual(worker, wanted)
        else:
            be_away("sleep", straggling.until)

    monkeypatch.setattr(Worker, "_send", send)
    monkeypatch.setattr(straggling, "gradient", slope)
    scheme = coding.scheme("gc", comm.size - 1, stragglers=comm.size - 2)
    named = rf"ranks \[{', '.join(map(str, late))}\] have not answered for"
    with straggling.over(), pytest.raises(coding.TooFewWorkers, match=named):
        train(straggling, scheme, ROUNDS, lost_after=1.0)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_the_next_training_begins_without_one_that_is_still_away(comm, kind):
    """By the same object, as for another epoch; it takes part in that once it is back."""
    scheme, weights = coding.scheme("gc", comm.size - 1, stragglers=1), np.ones(4)
    straggling, came_back = Straggling(comm, kind, (1,)), False
    coded = coding.CodedGradients(comm, scheme, straggling.gradient, load, weights)
    for epoch in range(3):
        for total, info in coded.rounds(100_000):
            assert_allclose(total, direct(weights, scheme), rtol=1e-6)
            weights *= 0.9999
            came_back = epoch > 0 and 1 in info.computed
            if epoch == 1 and info.job == 50:
                straggling.let_back()
            if came_back or (epoch == 0 and info.job == 200):
                break
        assert came_back == (comm.rank == 0 and epoch > 0)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep sent")
def test_a_master_that_does_something_else_loses_nobody(comm, kind):
    """Its work takes longer than a worker's may."""
    scheme, weights = coding.scheme("gc", comm.size - 1, stragglers=1), np.ones(100_000)
    straggling = Straggling(comm, kind, ())
    coded = coding.CodedGradients(comm, scheme, straggling.gradient, load, weights, lost_after=1.0)
    for _, info in coded.rounds(4):
        assert not info.lost
        time.sleep(1.5)


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_others_take_over_from_one_that_is_lost(comm, kind):
    """It comes back while they train."""
    lost: set[int] = set()
    workers, weights = comm.size - 1, np.ones(4)
    straggling = Straggling(comm, kind, (workers,))
    coded = coding.CodedGradients(
        comm,
        coding.scheme("uncoded", workers),
        straggling.gradient,
        load,
        weights,
        lost_after=1.0,
        replan=lambda left: coding.scheme("uncoded", left),
    )
    for total, info in coded.rounds(ROUNDS):
        lost.update(info.lost)
        left = coding.scheme("uncoded", workers - bool(lost))
        assert_allclose(total, direct(weights, left), rtol=1e-6)
        weights *= 0.999
        if info.job == ROUNDS // 2:
            straggling.let_back()
    assert lost == ({workers} if comm.rank == 0 else set())


@pytest.mark.mpi(min_size=3)
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_ranks_that_take_turns_wait_when_one_is_to_decode(comm, kind):
    scheme, weights = coding.scheme("gc", comm.size, stragglers=1), np.ones(8192)
    straggling = Straggling(comm, kind, (1,))
    if comm.rank == 1:
        straggling.let_back_in(2)
    coded = coding.CodedGradients(comm, scheme, straggling.gradient, load, weights, master=None)
    for _ in range(2):
        for total, _ in coded.rounds(50):
            assert_allclose(total, direct(weights, scheme), rtol=1e-6)
            weights *= 0.999
    assert len({each.tobytes() for each in comm.allgather(weights)}) == 1


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("stragglers", [0, 1])
@pytest.mark.usefixtures("way")
@away("sleep shown", "stop sent")
def test_of_ranks_that_take_turns_the_lost_one_is_named(comm, kind, stragglers):
    """By all, be it another rank's turn to decode or its own.

    Whoever still waits for the outcome that the lost rank was about to send has not answered either.
    """
    scheme, weights = coding.scheme("gc", comm.size, stragglers=stragglers), np.ones(4)
    straggling = Straggling(comm, kind, (1,))
    coded = coding.CodedGradients(
        comm, scheme, straggling.gradient, load, weights, master=None, lost_after=1.0
    )
    with (
        straggling.over(),
        pytest.raises(coding.TooFewWorkers, match=r"ranks \[(0, )?1(, \d)*\] have not answered"),
    ):
        # More than a rank that is quick does before another process has stopped the lost one.
        list(coded.rounds(20_000))


# How a job ends -----------------------------------------------------------------------------------


def run(*arguments, ranks=3, limit=LIMIT_S, options=(), under=()):
    """Run a job of `tests.straggling`; return its exit status and all that it prints."""
    command = [sys.executable, *under, "-m", "tests.straggling", *arguments]
    with subprocess.Popen(
        [launch.find_mpiexec(), *options, "-n", str(ranks), *command],
        cwd=launch.ROOT,
        env=launch.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        finally:
            launch.stop_group(process)
    return process.returncode, output.decode(errors="replace")


def test_a_straggler_that_comes_back_after_the_end_is_told():
    status, output = run("ends", "--sent")
    assert status == 0, output
    assert all(f"rank {rank} has come to the end" in output for rank in range(3)), output


@pytest.mark.parametrize("arguments", [["gone"], ["gone", "--sent"], ["finalize"]])
def test_a_job_whose_straggler_is_stopped_for_good_ends_and_names_it(arguments):
    """Also when the program ends MPI itself."""
    status, output = run(*arguments, "--seconds", "2")
    assert status != 0
    assert "rank 0 has come to the end" in output
    assert "ranks [1] have not come to the end of coded gradients in 2 s" in output


def test_an_error_of_the_program_ends_the_job_when_the_straggler_is_back():
    status, output = run("raise")
    assert status != 0
    assert "ZeroDivisionError" in output
    assert all(f"rank {rank} has come to the end" in output for rank in (1, 2)), output


def test_a_lost_worker_ends_the_job_and_is_named():
    status, output = run("lost", "--seconds", "2", "--sent")
    assert status != 0
    assert "ranks [1] have not answered for" in output
    assert "ranks [1] have not come to the end of coded gradients in 2 s" in output


# Ranks that are known to be gone: they are not waited for, though `lost_after` is a minute ---------


def ended(job, kind, **named):
    """Run a job that loses rank 1; give what the others say of it."""
    status, output = run(job, "--kind", kind, ranks=4, **named)
    seconds = [float(found) for found in re.findall(r"rank [023] in ([\d.]+) s", output)]
    assert len(seconds) == 3, (status, output)
    # A machine that does much else may be slow.
    assert max(seconds) < 30, output
    return output


GONE = {
    "replan": r"rank 0 went on without \[1\]",
    "uncoded": r"rank 0 ended: round \d+: ranks \[1\] have not answered",
    "turns": r"rank 0 ended: round \d+: ranks \[1\] have not answered",
}


@pytest.mark.skipif(MPI.get_vendor()[0] != "Open MPI", reason="needs Open MPI, for ULFM")
@pytest.mark.parametrize("job", ["tolerate", *GONE])
def test_a_rank_that_is_killed_is_lost_at_once(job):
    output = ended(job, "die", options=("--with-ft", "ulfm"))
    assert re.search(GONE.get(job, GONE["replan"]), output), output


@pytest.mark.parametrize("job", GONE)
def test_a_rank_that_the_monitor_finds_stuck_is_lost_at_once(job):
    """It comes back when the others have come to the end."""
    output = ended(job, "stop", under=("-m", "roundelay", "run", "--monitor"))
    assert "rank 1 is stopped by a signal" in output
    assert re.search(GONE[job], output), output


if __name__ == "__main__":
    for ranks, late, kind in ((3, 1, "stop"), (3, 1, "sleep"), (4, 2, "stop"), (4, 2, "burn")):
        for how in ([], ["--sent"]):
            print(f"{ranks} ranks, {late} away ({kind}), {'sent' if how else 'shown'}:", flush=True)
            status, output = run("soak", "--kind", kind, "--late", str(late), *how, ranks=ranks, limit=300)
            print(output, end="", flush=True)
            assert status == 0
