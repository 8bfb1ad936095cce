"""Every member of the catalogue, executed over MPI, beside mpi4py's own result."""

from functools import partial

import numpy as np
import pytest
from mpi4py import MPI
from numpy.testing import assert_array_equal

from roundelay.collectives.catalogue import Setting, members
from roundelay.collectives.chosen import _BOUNDS_KEPT, Chosen
from roundelay.collectives.execute import Execution, bind, even_bounds
from roundelay.collectives.plan import make_plan
from roundelay.collectives.reduction import array_reduction, local_reduction
from roundelay.collectives.shared import PIECE_BYTES, SharedMemory, bind_shared, run_shared, share
from roundelay.comm.settings import OPERATIONS

pytestmark = pytest.mark.mpi

COUNTS = [0, 1, 2, 3, 17, 5000]
NODES = {"one node": lambda ranks: (tuple(range(ranks)),), "pairs": lambda ranks: pairs(range(ranks))}


def pairs(ranks):
    return tuple(tuple(ranks[i : i + 2]) for i in range(0, len(ranks), 2))


def root_first(nodes, root):
    """Give the nodes with the root's first, and the root first in it."""
    ordered = sorted(nodes, key=lambda ranks: root not in ranks)
    return tuple(tuple(sorted(ranks, key=lambda rank: (rank != root, rank))) for ranks in ordered)


def contribution(rank, count):
    return np.random.default_rng([rank, count]).integers(-1000, 1000, count)


def wanted(operation, rank, root, chunks, ranks):
    if operation == "reduce_scatter":
        return range(rank * chunks // ranks, (rank + 1) * chunks // ranks)
    return range(chunks if operation != "reduce" or rank == root else 0)


class Case:
    """An operation on all ranks: what each has before, and what it must have after.

    Parameters
    ----------
    comm, operation, root
        Where and what.
    count
        Elements of the whole vector.
    """

    def __init__(self, comm, operation, root, count):
        self.comm, self.operation, self.root, self.count = MPI.Intracomm(comm), operation, root, count
        self.bounds = even_bounds(count, comm.size)
        self.mine = slice(self.bounds[comm.rank], self.bounds[comm.rank + 1])

    def before(self):
        """Give this rank's vector; what it does not contribute is -7."""
        vector = contribution(self.comm.rank, self.count)
        if self.operation == "allgather":
            vector[: self.mine.start] = vector[self.mine.stop :] = -7
        if self.operation == "bcast" and self.comm.rank != self.root:
            vector[:] = -7
        return vector

    def after(self):
        """Give the part that counts, and its values, as mpi4py finds them."""
        vector, result = self.before(), np.zeros(self.count, np.int64)
        if self.operation in ("allreduce", "reduce_scatter"):
            self.comm.Allreduce(vector, result)
        elif self.operation == "reduce":
            self.comm.Reduce(vector, result, root=self.root)
        elif self.operation == "bcast":
            result[:] = vector
            self.comm.Bcast(result, self.root)
        else:
            counts = np.diff(self.bounds)
            self.comm.Allgatherv(vector[self.mine].copy(), [result, counts])
        if self.operation == "reduce" and self.comm.rank != self.root:
            return slice(0), result[:0]
        part = self.mine if self.operation == "reduce_scatter" else slice(None)
        return part, result[part]


def chunk_bounds(case, chunks):
    """Chunks of the vector; of each rank's part where the operation has such."""
    if case.operation not in ("allgather", "reduce_scatter"):
        return even_bounds(case.count, chunks)
    assert chunks == case.comm.size
    return case.bounds


def run(case, algorithm, vector, in_place):
    comm = case.comm
    schedule = algorithm.build()
    parts = wanted(case.operation, comm.rank, case.root, schedule.chunks, comm.size)
    plan = make_plan(schedule, comm.rank, in_place, parts)
    result = vector if in_place else np.full(case.count, -9)
    bound = bind(plan, chunk_bounds(case, schedule.chunks))
    Execution(bound, comm, vector, result, np.add).run()
    return result


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("nodes", NODES)
def test_members(comm, operation, nodes):
    for root in range(comm.size if operation in ("bcast", "reduce") else 1):
        layout = root_first(NODES[nodes](comm.size), root)
        for algorithm in members(operation, Setting(comm.size, root, layout)):
            for count in COUNTS:
                case = Case(comm, operation, root, count)
                part, expected = case.after()
                vector = case.before()
                kept = vector.copy()
                if operation in ("allreduce", "reduce", "reduce_scatter"):
                    assert_array_equal(run(case, algorithm, vector, False)[part], expected, str(algorithm))
                    assert_array_equal(vector, kept, f"{algorithm}: the send buffer is changed")
                assert_array_equal(run(case, algorithm, vector, True)[part], expected, str(algorithm))


@pytest.mark.parametrize("count", [*COUNTS, 3 * PIECE_BYTES // 8 + 5])
def test_shared_memory(comm, count):
    plain = MPI.Intracomm(comm)
    mapped = share(plain, SharedMemory.nbytes(comm.size))
    assert mapped is not None
    memory = SharedMemory(plain, mapped)
    for algorithm in members("allreduce", Setting(comm.size, 0, (tuple(range(comm.size)),)), "shared-memory"):
        schedule = algorithm.build()
        for in_place in (False, True):
            plan = make_plan(schedule, comm.rank, in_place, range(schedule.chunks))
            vector, expected = contribution(comm.rank, count), np.zeros(count, np.int64)
            plain.Allreduce(vector, expected)
            for _ in range(3):
                own = vector.copy()
                result = own if in_place else np.full(count, -9)
                bind_piece = partial(bind_in_chunks, plan, schedule.chunks)
                run_shared(bind_piece, memory, own, result, np.add)
                assert_array_equal(result, expected, str(algorithm))


def bind_in_chunks(plan, chunks, count):
    return bind_shared(plan, even_bounds(count, chunks))


def test_order_is_kept(comm):
    """An operation that does not commute: the composition of linear functions x -> a x + b."""

    def compose(inbuf, inoutbuf, _datatype):
        left, right = (
            np.asarray(memoryview(each)).view(np.int64).reshape(-1, 2) for each in (inbuf, inoutbuf)
        )
        right[:] = np.stack([left[:, 0] * right[:, 0], left[:, 0] * right[:, 1] + left[:, 1]], axis=1)

    op = MPI.Op.Create(compose, commute=False)
    pair = MPI.INT64_T.Create_contiguous(2).Commit()
    reduction = local_reduction(op, pair)
    own = np.stack([np.full(5, comm.rank + 2), np.arange(5) + 10 * comm.rank], axis=1)
    expected = own.copy()
    MPI.Intracomm(comm).Allreduce([own, 5, pair], [expected, 5, pair], op)
    for algorithm in members("allreduce", Setting(comm.size, 0, (tuple(range(comm.size)),))):
        if not algorithm.ordered:
            continue
        schedule = algorithm.build()
        plan = make_plan(schedule, comm.rank, False, range(schedule.chunks))
        result = np.zeros_like(own)
        flat_own, flat_result = (array.reshape(-1).view(reduction.dtype) for array in (own, result))
        bound = bind(plan, even_bounds(5, schedule.chunks))
        Execution(bound, MPI.Intracomm(comm), flat_own, flat_result, reduction.fold).run()
        assert_array_equal(result, expected, str(algorithm))
    pair.Free()
    op.Free()


def test_same_bits_everywhere(comm):
    """All ranks get the bits that the order of the schedule gives, and get them again."""
    own = np.random.default_rng(comm.rank).standard_normal(1000).astype(np.float32)
    reduction = array_reduction(MPI.SUM, own.dtype)
    assert reduction is not None
    for algorithm in members("allreduce", Setting(comm.size, 0, (tuple(range(comm.size)),))):
        schedule = algorithm.build()
        plan = make_plan(schedule, comm.rank, False, range(schedule.chunks))
        bound = bind(plan, even_bounds(own.size, schedule.chunks))
        results = np.zeros((2, own.size), np.float32)
        for result in results:
            Execution(bound, MPI.Intracomm(comm), own, result, reduction.fold).run()
        first, second = results.view(np.uint32)
        assert_array_equal(first, second, str(algorithm))
        for other in comm.allgather(first):
            assert_array_equal(other, first, str(algorithm))


def test_the_least_recently_used_bounds_are_dropped(comm):
    """A program with many sizes keeps the plan of the one that it calls again and again."""
    ring = members("allreduce", Setting(comm.size, 0, (tuple(range(comm.size)),)), "ring")[0]
    chosen = Chosen(ring, comm.rank, "allreduce", 0)
    often, once = chosen.bind(1000, False), chosen.bind(1001, False)
    for count in range(2 * _BOUNDS_KEPT):
        chosen.bind(count, False)
        assert chosen.bind(1000, False) is often
    assert chosen.bind(1001, False) is not once
