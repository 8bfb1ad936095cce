"""The runner of the tests, on small generated ones: agreement of ranks, the cut of a hang, the counts."""

import fcntl
import re
import subprocess
import sys
import textwrap
import time

import pytest

from tests import launch

pytestmark = pytest.mark.timeout_s(240)
# The limit of the generated tests; a rank that is cut waits a few seconds more for the others' tracebacks.
LIMIT = "pytestmark = [pytest.mark.mpi, pytest.mark.timeout_s(3)]"


@pytest.fixture
def run_tests(tmp_path):
    """Write a test file and run it with the runner; return its exit status, last line and whole output."""

    def run(source, *arguments, conftest=""):
        (tmp_path / "conftest.py").write_text(conftest)
        path = tmp_path / "test_generated.py"
        head = "import sys, threading, time\nimport pytest\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
        path.write_text(head + textwrap.dedent(source))
        result = subprocess.run(
            [sys.executable, "-m", "tests", *arguments, str(path)],
            cwd=launch.ROOT,
            env=launch.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout.splitlines()[-1], result.stdout

    return run


def test_counts_add_up_over_the_stages(run_tests):
    status, last, output = run_tests(
        """
        def test_serial(): pass

        @pytest.mark.mpi
        def test_any_size(): assert world.size in (1, 2, 3)

        @pytest.mark.mpi(min_size=3)
        def test_three(): assert world.size == 3

        @pytest.mark.mpi(min_size=9)
        def test_nine(): pass

        @pytest.mark.skip(reason="shown as skipped")
        def test_skipped(): pass

        @pytest.mark.xfail
        def test_expected_failure(): assert False
        """,
        "--ranks",
        "2,3",
    )
    # Serially the first two, on two ranks the second, on three ranks the second and the third.
    assert last == "5 passed, 0 failed, 3 skipped", output
    assert status == 0
    assert "SKIPPED test_nine" not in output
    assert re.search(r"SKIPPED \S*::test_nine \(1\)", output)


def test_serial_only_starts_no_ranks(run_tests):
    status, last, output = run_tests("def test_serial(): assert world.size == 1", "--serial-only")
    assert (status, last) == (0, "1 passed, 0 failed"), output
    assert "ranks" not in output.split("==== serial ====")[1].splitlines()[-1]


def test_failure_of_one_rank_is_every_ranks(run_tests):
    status, last, output = run_tests(
        """
        pytestmark = pytest.mark.mpi

        @pytest.mark.mpi(min_size=3)
        def test_middle_rank_fails():
            assert world.rank != 1, "only in the middle"

        @pytest.fixture
        def broken():
            if world.rank == 2:
                raise ValueError("setup broke")
            yield
            if world.rank == 0 and world.size > 1:
                raise ValueError("teardown broke")

        @pytest.mark.mpi(min_size=3)
        def test_setup(broken): pass

        @pytest.mark.mpi(min_size=2)
        def test_exit():
            if world.rank == 1: sys.exit("left early")

        def test_good(): world.Barrier()
        """,
        "--ranks",
        "3",
    )
    assert last == "2 passed, 3 failed", output
    assert status == 1
    first, second, third = re.split(r"---- 3 ranks, rank[12] ----", output)
    assert all("failed on rank 1: AssertionError: only in the middle" in report for report in (first, third))
    assert "def test_middle_rank_fails" in second
    assert all("failed on rank 2: ValueError: setup broke" in report for report in (first, second))
    assert all("failed on rank 1: SystemExit: left early" in report for report in (first, third))


def test_failure_after_the_test_is_every_ranks(run_tests):
    status, last, output = run_tests(
        """
        @pytest.fixture
        def broken():
            yield
            if world.rank == 1:
                raise ValueError("teardown broke")

        @pytest.mark.mpi(min_size=2)
        def test_teardown(broken): pass
        """,
        "--ranks",
        "2",
    )
    assert (status, last) == (1, "0 passed, 1 failed"), output
    assert "failed on rank 1: ValueError: teardown broke" in output


def test_skip_on_one_rank_is_a_failure(run_tests):
    status, last, output = run_tests(
        """
        @pytest.mark.mpi(min_size=2)
        def test_half():
            if world.rank == 0: pytest.skip("no such device here")
        """,
        "--ranks",
        "2",
    )
    assert (status, last) == (1, "0 passed, 1 failed"), output
    assert "skipped on rank 0: no such device here" in output


def test_expected_failure_of_one_rank_is_expected(run_tests):
    status, last, output = run_tests(
        """
        @pytest.mark.mpi(min_size=2)
        @pytest.mark.xfail
        def test_known():
            assert world.rank

        @pytest.mark.mpi
        def test_good(): pass
        """,
        "--ranks",
        "2",
    )
    assert (status, last) == (0, "2 passed, 0 failed, 1 skipped"), output


def test_different_tests_on_different_ranks_do_not_start(run_tests):
    status, last, output = run_tests(
        """
        pytestmark = pytest.mark.mpi

        def test_everywhere(): pass

        if world.rank == 1:
            def test_somewhere(): pass
        """,
        "--ranks",
        "2",
    )
    assert (status, last) == (1, "1 passed, 1 failed"), output
    assert "the ranks collected different tests" in output
    assert "test_somewhere" in output


def test_hang_is_cut_with_the_tracebacks_of_all_ranks(run_tests):
    status, last, output = run_tests(
        f"""
        {LIMIT}

        def wait_for_a_message_that_is_never_sent():
            world.recv(source=world.rank)

        def work_in_the_background():
            time.sleep(600)

        def test_hangs():
            if world.size == 1: return
            if world.rank == 0: assert False, "this rank went on"
            threading.Thread(target=work_in_the_background, daemon=True).start()
            wait_for_a_message_that_is_never_sent()

        def test_after_it(): pass
        """,
        "--ranks",
        "2",
    )
    # The rest of the stage runs in a new session.
    assert last == "3 passed, 1 failed", output
    assert status == 1
    assert re.search(r"FAILED \[2 ranks\] \S*::test_hangs", output)
    first, second = output.split("rank 0 of 2, ")[1].split("rank 1 of 2, ")
    assert "::test_hangs (call)" in first
    assert "failed on rank 0: AssertionError: this rank went on" in first
    assert "allgather" in first or "pytest_runtest_makereport" in first
    assert "::test_hangs (call)" in second
    assert "wait_for_a_message_that_is_never_sent" in second
    assert "work_in_the_background" in second


def test_serial_hang_is_cut(run_tests):
    status, last, output = run_tests(
        """
        @pytest.mark.timeout_s(1)
        def test_sleeps(): time.sleep(600)

        def test_after_it(): pass
        """,
        "--serial-only",
    )
    assert (status, last) == (1, "1 passed, 1 failed"), output
    assert "rank 0 of 1" in output
    assert "in test_sleeps" in output


def test_death_of_a_rank_ends_the_job(run_tests):
    status, last, output = run_tests(
        f"""
        {LIMIT}
        import os

        def test_dies():
            if world.rank == 1: os._exit(7)

        def test_after_it(): pass
        """,
        "--ranks",
        "2",
    )
    assert (status, last) == (1, "3 passed, 1 failed"), output
    assert re.search(r"FAILED \[2 ranks\] \S*::test_dies", output)


def test_message_left_behind_fails_the_test(run_tests):
    pytest.importorskip("roundelay")
    status, last, output = run_tests(
        """
        pytestmark = pytest.mark.mpi

        def test_tidy(comm):
            peer = (comm.rank + 1) % comm.size
            assert comm.sendrecv(comm.rank, peer) == (comm.rank - 1) % comm.size
            assert comm != world

        @pytest.mark.mpi(min_size=2)
        def test_untidy(comm):
            if comm.rank == 0: comm.send("nobody asked", 1, tag=5)

        def test_tidy_after_it(comm):
            assert comm.allreduce(1) == comm.size
        """,
        "--ranks",
        "2",
        conftest="from tests.conftest import comm",
    )
    assert (status, last) == (1, "4 passed, 1 failed"), output
    assert re.search(r"messages never received: \d+ bytes from rank 0, tag 5$", output, re.MULTILINE)


# A lock on a file goes with the process that holds it, so a free lock shows that the process is gone.
HOLD = (
    "import fcntl, os, sys, time; file = open(f'{sys.argv[1]}/{os.getpid()}', 'w');"
    "fcntl.flock(file, fcntl.LOCK_EX); time.sleep(600)"
)


def wait_for_locks(folder):
    """Wait until no process holds a lock in `folder`; return how many did."""
    paths = list(folder.iterdir())
    for path in paths:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    return len(paths)


def test_command_that_never_ends_is_stopped_with_its_children(tmp_path):
    parent = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", parent, "-c", HOLD, str(tmp_path)]
    assert launch.run(command, limit=5) is None
    assert wait_for_locks(tmp_path) == 1


def test_ranks_that_never_end_are_stopped(tmp_path):
    assert launch.run(launch.mpiexec(2, [sys.executable, "-c", HOLD, str(tmp_path)]), limit=5) is None
    assert wait_for_locks(tmp_path) == 2


def test_terminated_runner_ends_its_ranks(tmp_path):
    locks = tmp_path / "locks"
    locks.mkdir()
    path = tmp_path / "test_generated.py"
    path.write_text(
        "import pytest, sys\n"
        "@pytest.mark.mpi(min_size=2)\n"
        f"def test_hold():\n    sys.argv[1] = {str(locks)!r}\n    exec({HOLD!r}, {{}})\n"
    )
    command = [sys.executable, "-m", "tests", "--ranks", "2", str(path)]
    with subprocess.Popen(
        command, cwd=launch.ROOT, env=launch.environment(), stdin=subprocess.DEVNULL
    ) as runner:
        while len(list(locks.iterdir())) < 2:
            assert runner.poll() is None
            time.sleep(0.1)
        runner.terminate()
    assert wait_for_locks(locks) == 2


def test_progress_of_a_stage(run_tests):
    """Lines with the number of tests now and then, and no dots; a failure is shown at once."""
    status, last, output = run_tests(
        """
        @pytest.mark.parametrize("number", range(6))
        def test_slow(number):
            time.sleep(3)
            assert number != 1
        """,
        "--serial-only",
    )
    assert (status, last) == (1, "5 passed, 1 failed"), output
    assert re.search(r"^stage 1 of 1$", output, re.MULTILINE)
    assert re.search(r"^tests, serial: [2-5] of 6, 1 failed, [0-9]+ s$", output, re.MULTILINE)
    assert not re.search(r"^\.+(F|\s|$)", output, re.MULTILINE)


def test_quick_leaves_out_what_help_says():
    """Each subject and file that --quick leaves out is there, and the expected time is said."""
    from tests.__main__ import LEFT_OUT_OF_QUICK, left_out, parse

    shown = subprocess.run(
        [sys.executable, "-m", "tests", "--help"], cwd=launch.ROOT, capture_output=True, text=True, check=True
    )
    text = " ".join(shown.stdout.split())
    assert all(subject in text for subject in LEFT_OUT_OF_QUICK)
    assert "about 20 minutes on two cores" in text
    assert "without: " in text
    assert all((launch.ROOT / argument.partition("=")[2]).exists() for argument in left_out())
    quick, whole = parse(["--quick"]), parse([])
    assert (quick.sizes, whole.sizes) == ([None, 2], [None, 2, 3, 4])
    assert [quick.minutes, whole.minutes] == [2, 20]
    assert parse(["-k", "halo"]).minutes is None
