"""Collectives in jobs of their own: who asks for an algorithm, and communicators that come and go.

In a job, not in this process, because they use up communicators, or differ in the environment.
"""

import sys
import textwrap

import pytest

from roundelay.comm.settings import OPERATIONS
from tests import launch
from tests.jobs import job
from tests.test_examples import BOTH_WAYS, LIMIT_S, run_well

pytestmark = pytest.mark.timeout_s(3 * LIMIT_S)

WAYS = ["ring", "shared-memory", "auto"]
ASKED = [{}, {"ROUNDELAY_ALLREDUCE": "ring"}, {"ROUNDELAY_ALLREDUCE": "auto"}]


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
    run_well(*BOTH_WAYS[0], program, ranks=2, **asked)


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
