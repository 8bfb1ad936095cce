"""Collectives in jobs of their own: who asks for an algorithm, and what may be missing.

In a job, not in this process, because they use up communicators, or differ in the environment.
"""

import subprocess
import sys
import textwrap

import pytest

from roundelay.collectives import table
from roundelay.comm.settings import OPERATIONS
from tests import launch
from tests.test_examples import BOTH_WAYS, LIMIT_S, run, run_well

pytestmark = pytest.mark.timeout_s(3 * LIMIT_S)

WAYS = ["ring", "shared-memory", "auto"]
ASKED = [{}, {"ROUNDELAY_ALLREDUCE": "ring"}, {"ROUNDELAY_ALLREDUCE": "auto"}]


def job(program, ranks=2, **environment):
    """Run a program that knows nothing of roundelay, under it; give what it prints, in lines."""
    begin = "import numpy as np\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
    text = begin + textwrap.dedent(program)
    return run_well(*BOTH_WAYS[0], "-c", text, ranks=ranks, **environment).split("\n")[:-1]


# Who asks


def test_ranks_without_the_layer():
    """Nothing is sent that the program did not ask for."""
    program = "from mpi4py import MPI; assert MPI.COMM_WORLD.allreduce(1) == 2; import numpy as np\n"
    program += "total = np.zeros(1)\nfor _ in range(3): MPI.COMM_WORLD.Allreduce(np.ones(1), total)\n"
    program += "assert total[0] == 2, total"
    mine = [sys.executable, *BOTH_WAYS[0], "-c", program]
    line = [*launch.mpiexec(1, mine), ":", "-n", "1", sys.executable, "-c", program]
    assert launch.run(line, LIMIT_S) == 0


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.get("ROUNDELAY_ALLREDUCE", "nothing"))
def test_processes_of_another_world(tmp_path, asked):
    """A process that was spawned may run without roundelay, whatever the environment asks for."""
    program = tmp_path / "spawn.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            import numpy as np
            from mpi4py import MPI
            child = "child" in sys.argv
            arguments = [__file__, "child"]
            world, total = MPI.COMM_WORLD, np.zeros(1)
            inter = MPI.Comm.Get_parent() if child else world.Spawn(sys.executable, arguments, 1)
            merged = inter.Merge(child)
            for comm in (merged, merged.Dup(), merged.Split(0, -merged.rank)):
                comm.Allreduce(np.ones(1), total)
                assert total[0] == comm.size, total
            if not child:
                world.Allreduce(np.ones(1), total)
                assert total[0] == world.size, total
            inter.Disconnect()
            """
        )
    )
    # Open MPI's jobs reach each other by TCP only.
    run_well(*BOTH_WAYS[0], program, ranks=2, OMPI_MCA_btl="self,sm,tcp", **asked)


def test_a_name_that_only_one_rank_has():
    """In a call, in the environment, and in a communicator's info: an error on all ranks, and no hang."""
    program = """
        import os, sys
        os.environ["ROUNDELAY_ALLREDUCE"] = sys.argv[1] if rank else "ring"
        import numpy as np
        import roundelay
        from roundelay import MPI
        world, result = MPI.COMM_WORLD, np.zeros(2)
        try:
            world.Allreduce(np.ones(2), result)
        except ValueError as error:
            assert "rank 0 asks for 'ring', rank 1 for " in str(error), error
        else:
            raise SystemExit("not refused")
        comm = world.Dup()
        comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "star"}))
        comm.Allreduce(np.ones(2), result)
        assert (result == world.size).all()
        try:
            roundelay.allreduce(comm, np.ones(2), result, algorithm="rong" if rank else "ring")
        except ValueError as error:
            assert "ranks disagree" in str(error), error
        else:
            raise SystemExit("not refused")
        """
    head = "from mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\n"
    for name in ("rong", "star"):
        run_well("-c", head + textwrap.dedent(program), name, ranks=2)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unknown_name(operation):
    program = """
        calls = {
            "allreduce": lambda: world.Allreduce(np.ones(2), np.zeros(2)),
            "reduce": lambda: world.Reduce(np.ones(2), np.zeros(2)),
            "reduce_scatter": lambda: world.Reduce_scatter_block(np.ones(2 * world.size), np.zeros(2)),
            "allgather": lambda: world.Allgather(np.ones(2), np.zeros(2 * world.size)),
            "bcast": lambda: world.Bcast(np.ones(2)),
        }
        import sys
        for _ in range(2):
            try:
                calls[sys.argv[1]]()
            except ValueError as error:
                assert f"{sys.argv[1]}: unknown algorithm 'rong'" in str(error), error
            else:
                raise SystemExit("not refused")
        """
    begin = "import numpy as np\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
    text = begin + textwrap.dedent(program)
    for ranks in (1, 2):
        environment = {f"ROUNDELAY_{operation.upper()}": "rong"}
        run_well(*BOTH_WAYS[0], "-c", text, operation, ranks=ranks, **environment)


# Communicators


def test_many_communicators():
    """Some 2,000 are all that MPICH has: one of ours for each would use them up."""
    job(
        """
        total = np.zeros(3)
        for number in range(1100):
            comm = world.Split(number % 2, world.rank)  # dropped, not freed
            comm.Allreduce(np.ones(3), total)
            assert (total == comm.size).all()
        for number in range(500):
            for key in (world.rank, -world.rank):
                comm = world.Split(0, key)
                comm.Allreduce(np.ones(3), total)
                comm.Free()
                assert (total == world.size).all()
        """,
        ROUNDELAY_ALLREDUCE="direct",
    )


def test_no_communicators_left():
    """Where MPI has no communicator for messages, its own collective is used."""
    job(
        """
        import warnings
        world.Barrier()
        kept = []
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                while len(kept) < 2100:
                    kept.append(world.Dup())
            except MPI.Exception:
                pass
            total = np.zeros(3)
            for _ in range(3):
                kept[-1].Allreduce(np.ones(3), total)
                assert (total == world.size).all()
        """,
        ROUNDELAY_ALLREDUCE="ring",
    )


def test_freed_with_something_under_way():
    """A communicator may be freed before its collectives are complete."""
    job(
        """
        comm = world.Split(0, -world.rank)
        total, later = np.zeros(3), np.zeros(50000)
        for _ in range(20):
            comm.Allreduce(np.ones(3), total)
            request = comm.Iallreduce(np.ones(50000), later)
            comm.Free()
            comm = world.Split(0, -world.rank)
            comm.Allreduce(np.full(3, 2.0), total)
            assert (total == 2 * world.size).all()
            request.Wait()
            assert (later == world.size).all()
        """,
        ROUNDELAY_ALLREDUCE="ring",
    )


@pytest.mark.parametrize("way", WAYS)
def test_two_threads(way):
    """Ranks begin on two communicators in opposite orders, each in a thread of its own."""
    job(
        """
        import threading, time
        for trial in range(5):
            comms = [world.Dup(), world.Dup(), world.Split(0, world.rank), world.Split(0, -world.rank)]
            results = [np.zeros(4) for _ in comms]
            def work(place):
                time.sleep(0.05 * ((place + world.rank) % 2))
                for _ in range(10):
                    comms[place].Allreduce(np.full(4, place + 1.0), results[place])
            threads = [threading.Thread(target=work, args=(place,)) for place in range(len(comms))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for place, result in enumerate(results):
                assert (result == (place + 1) * world.size).all(), (place, result)
            for comm in comms:
                comm.Free()
        """,
        ROUNDELAY_ALLREDUCE=way,
    )


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


def test_more_under_way_than_tags():
    """Messages of two operations with the same tags are not taken for one another's."""
    job(
        """
        for _ in range(3):
            total = np.zeros(5)
            world.Allreduce(np.ones(5), total)
            results = [np.zeros(5) for _ in range(600)]
            requests = [
                world.Iallreduce(np.full(5, float(number + world.rank)), result)
                for number, result in enumerate(results)
            ]
            MPI.Request.Waitall(requests)
            for number, result in enumerate(results):
                assert (result == 3 * number + 3).all(), (number, result)
        """,
        ranks=3,
        ROUNDELAY_ALLREDUCE="ring",
    )


def test_more_persistent_than_tags():
    """Also started in another order on each rank, and again when earlier ones are freed."""
    job(
        """
        import random
        from roundelay import ProgressiveAllreduce
        order = random.Random(world.rank)
        for _ in range(2):
            results = [np.zeros(5) for _ in range(600)]
            requests = [
                world.Allreduce_init(np.full(5, float(number + world.rank)), result)
                for number, result in enumerate(results)
            ]
            for _ in range(2):
                for request in order.sample(requests, len(requests)):
                    request.Start()
                MPI.Request.Waitall(requests)
                for number, result in enumerate(results):
                    assert (result == 3 * number + 3).all(), (number, result)
                    result[:] = 0
            for request in requests:
                request.Free()
        gradient = np.arange(600.0) + world.rank
        reduction = ProgressiveAllreduce(world, gradient, segments=600)
        for segment in order.sample(range(600), 600):
            reduction.ready(segment)
        reduction.wait()
        assert (gradient == 3 * np.arange(600) + 3).all()
        """,
        ranks=3,
        ROUNDELAY_ALLREDUCE="ring",
    )
