"""Collectives in jobs of their own that something goes wrong in: signals, and missing or wrong parts.

In a job, not in this process, because they break communicators, or differ in the environment.
"""

import subprocess
import textwrap

import pytest

from roundelay.collectives import table
from tests.jobs import job
from tests.test_examples import LIMIT_S, run

pytestmark = pytest.mark.timeout_s(3 * LIMIT_S)


# Signals


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("way", ["ring", "double-tree", "shared-memory"])
def test_exception_of_a_signal_handler(way, ranks):
    """The collective ends first, on all ranks, with and without gaps, and what comes later is right."""
    job(
        """
        import os, signal, time
        class Late(Exception): pass
        def handle(*_): raise Late
        signal.signal(signal.SIGUSR1, handle)
        world.Allreduce(np.ones(1), np.zeros(1))
        others = world.allgather(os.getpid())[:-1]
        is_last = world.rank == world.size - 1
        own, wide = np.full(60000, world.rank + 1.0), np.zeros((60000, 2))
        def interrupt():
            world.Barrier()
            if is_last:
                time.sleep(0.4)
                for process in others:
                    os.kill(process, signal.SIGUSR1)
                time.sleep(0.1)
        def check(result, seen):
            assert (result == world.size * (world.size + 1) / 2).all()
            assert seen == (not is_last), seen
        for result in (np.zeros(60000), wide[:, 1], np.zeros(60000)):
            interrupt()
            seen = 0
            try:
                world.Allreduce(own, result)
            except Late:
                seen += 1
            check(result, seen)
        result, seen = np.zeros(60000), 0
        interrupt()
        request = world.Iallreduce(own, result)
        while request:
            try:
                request.Wait()
            except Late:
                seen += 1
        check(result, seen)
        assert signal.getsignal(signal.SIGUSR1) is handle
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        """,
        ranks,
        ROUNDELAY_ALLREDUCE=way,
    )


def test_a_collective_that_cannot_end():
    """The communicator says so at the next call; others are as they were."""
    job(
        """
        import roundelay.collectives.engine as engine
        comm, result = world.Dup(), np.zeros(4)
        comm.Set_name("halo")
        def fail(*_, **__): raise MemoryError("no room")
        run, engine.Execution.run = engine.Execution.run, fail
        for kind in (MemoryError, RuntimeError):
            try:
                comm.Allreduce(np.ones(4), result)
            except kind as error:
                assert kind is MemoryError or "communicator halo of 2 ranks: broken by" in str(error), error
            else:
                raise SystemExit("not refused")
        engine.Execution.run = run
        other = world.Dup()
        other.Allreduce(np.ones(4), result)
        assert (result == world.size).all()
        comm.Free()
        """,
        ROUNDELAY_ALLREDUCE="ring",
    )


# Missing parts


def test_no_room_for_shared_memory_on_some_rank():
    """All ranks send messages instead, and one of them says so."""
    lines = job(
        """
        import resource, warnings
        if world.rank == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        total = np.zeros(100000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for comm in (world, world, world.Dup(), world.Split(0, -world.rank)):
                comm.Allreduce(np.ones(100000), total)
                assert (total == world.size).all()
        told = [str(each.message) for each in caught if "shared by 2 ranks" in str(each.message)]
        if world.rank == 0:
            assert "send messages instead" in told[0], told
            print(len(told))
        else:
            assert not told
        """,
        ROUNDELAY_ALLREDUCE="shared-memory",
    )
    assert lines == ["1"]


def test_attention_without_shared_memory():
    """Its ranks send messages where they asked to read in place."""
    lines = job(
        """
        import resource, warnings
        import roundelay
        if world.rank == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, resource.RLIM_INFINITY))
        q, k, v = np.random.default_rng(world.rank).standard_normal((3, 1, 2, 40, 8))
        expected = roundelay.attention(q, k, v, world, algorithm="ring")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = roundelay.attention(q, k, v, world, algorithm="shared-memory")
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
        if world.rank == 0:
            print(len([each for each in caught if "send messages instead" in str(each.message)]))
        """
    )
    assert lines == ["1"]


def test_little_room_for_shared_memory(tmp_path):
    """A job in a container with a small /dev/shm, where MPI's own memory lies elsewhere."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import numpy as np
            import roundelay
            import roundelay.collectives.shared as shared
            from roundelay import MPI
            import sys
            shared._FOLDER = sys.argv[1]
            comms, total = [MPI.COMM_WORLD.Dup() for _ in range(6)], np.zeros(100000)
            for comm in comms:
                roundelay.allreduce(comm, np.ones(100000), total, algorithm="shared-memory")
                assert (total == comm.size).all()
            """
        )
    )
    folder = tmp_path / "shm"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "roundelay-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        status, output, errors = run(program, folder, ranks=2)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert status == 0, output + errors
    assert errors.count("send messages instead") >= 1


@pytest.mark.parametrize("kind", ["pipe", "nobody's home", "folder", "foreign", "unreadable"])
def test_figures_that_cannot_be_read(tmp_path, monkeypatch, kind):
    """A choice is asked for, and the library's own is used on all ranks; one of them says why."""
    folder = "~nobody-has-this-name/x" if kind == "nobody's home" else str(tmp_path)
    monkeypatch.setenv("ROUNDELAY_CACHE_DIR", str(tmp_path))
    file = table.path()
    if kind == "pipe":
        subprocess.run(["mkfifo", str(file)], check=True)
    elif kind == "folder":
        file.mkdir()
    elif kind == "foreign":
        file.write_bytes(bytes(range(256)))
    elif kind == "unreadable":
        file.symlink_to("/proc/self/mem")
    lines = job(
        """
        import warnings
        total = np.zeros(3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for comm in (world, world.Dup(), world.Split(0, -world.rank)):
                comm.Allreduce(np.ones(3), total)
                assert (total == world.size).all()
        if world.rank == 0:
            print(len([each for each in caught if "roundelay measure" in str(each.message)]))
        """,
        ROUNDELAY_ALLREDUCE="auto",
        ROUNDELAY_CACHE_DIR=folder,
    )
    assert lines == ["1"]


def test_without_the_interposer():
    """The library runs what names no algorithm of ours; the rest is refused, on all ranks."""
    job(
        """
        import roundelay
        own, total = np.ones(3), np.zeros(3)
        for name in ("auto", "native"):
            roundelay.allreduce(world, own, total, algorithm=name)
            assert (total == world.size).all()
        for wanted in ({"algorithm": "ring"}, {"reproducible": True}):
            try:
                roundelay.allreduce(world, own, total, **wanted)
            except RuntimeError as error:
                assert "ROUNDELAY_DISABLE" in str(error), error
            else:
                raise AssertionError(wanted)
        """,
        ROUNDELAY_DISABLE="1",
    )


# Wrong arguments


@pytest.mark.parametrize(
    "wrong", ["object(), result", "own, result, MPI.Op.Create(add)", "own, result, MPI.MINLOC"]
)
@pytest.mark.parametrize("form", ["Allreduce", "Iallreduce", "Allreduce_init"])
def test_what_one_rank_has_wrong_in_a_checked_call(form, wrong):
    """All ranks raise, in the first call of a communicator, too; a nonblocking one has had one before."""
    job(
        f"""
        add = lambda left, right, datatype: None
        own, result = np.ones(3), np.zeros(3)
        if "{form}" == "Iallreduce":
            world.Allreduce(own, result)
        try:
            if world.rank:
                world.{form}({wrong})
            else:
                world.{form}(own, result)
        except ValueError as error:
            assert "ranks disagree" in str(error), error
        else:
            raise AssertionError("no rank noticed")
        """,
        ROUNDELAY_ALLREDUCE="ring",
        ROUNDELAY_CHECK="1",
    )
