"""Reduce, Reduce_scatter(_block), Allgather(v) and Bcast, as functions and methods, beside mpi4py's own."""

import contextlib
import weakref
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

import roundelay
from roundelay import MPI
from roundelay.collectives.figures import Table
from roundelay.collectives.service import service_of
from roundelay.comm.interposer import interposer
from roundelay.comm.settings import OPERATIONS

pytestmark = pytest.mark.mpi

DTYPES = [np.dtype(code) for code in "bhilqBHILQfdFD"]
DRAWS = 12


def names(operation):
    return [name for name in roundelay.algorithms(operation) if name != "native"]


def drawn(comm, seed, shape, dtype):
    """Give small whole numbers, of which sums are exact and no product is too large."""
    return np.random.default_rng([comm.rank, seed]).integers(0, 3, shape).astype(dtype)


def cases(comm):
    """Give dtypes, operations, and counts for each rank, zeros among them; the same on all ranks."""
    rng = np.random.default_rng(comm.size)
    for seed in range(DRAWS):
        dtype = DTYPES[rng.integers(len(DTYPES))]
        operations = [MPI.SUM, MPI.PROD] if dtype.kind == "c" else [MPI.SUM, MPI.PROD, MPI.MAX, MPI.MIN]
        if dtype.kind in "iu":
            operations += [MPI.BAND, MPI.BXOR, MPI.LOR]
        counts = rng.integers(0, [1, 5, 40, 3000][seed % 4], comm.size)
        yield seed, dtype, operations[rng.integers(len(operations))], counts.tolist()


@pytest.mark.parametrize("name", names("reduce"))
def test_reduce(comm, name):
    for seed, dtype, op, counts in cases(comm):
        root, array = seed % comm.size, drawn(comm, seed, sum(counts), dtype)
        kept, expected = array.copy(), np.zeros_like(array)
        PLAIN.Intracomm(comm).Reduce(array, expected, op, root)
        result = np.zeros_like(array) if comm.rank == root else None
        roundelay.reduce(comm, array, result, op, root, algorithm=name)
        assert_array_equal(array, kept)
        if comm.rank == root:
            assert_array_equal(result, expected)
        in_place = MPI.IN_PLACE if comm.rank == root else array
        roundelay.reduce(comm, in_place, array if comm.rank == root else None, op, root, algorithm=name)
        assert_array_equal(array, expected if comm.rank == root else kept)


@pytest.mark.parametrize("name", names("reduce_scatter"))
def test_reduce_scatter(comm, name):
    for seed, dtype, op, counts in cases(comm):
        array = drawn(comm, seed, sum(counts), dtype)
        kept, expected = array.copy(), np.zeros(counts[comm.rank], dtype)
        PLAIN.Intracomm(comm).Reduce_scatter(array, expected, counts, op)
        for given in (counts, None):
            result = np.zeros_like(expected)
            roundelay.reduce_scatter(comm, array, result, given, op, algorithm=name)
            assert_array_equal(result, expected)
            assert_array_equal(array, kept)
        roundelay.reduce_scatter(comm, MPI.IN_PLACE, array, counts, op, algorithm=name)
        assert_array_equal(array[: counts[comm.rank]], expected)


@pytest.mark.parametrize("name", names("reduce_scatter"))
def test_reduce_scatter_block(comm, name):
    for seed, dtype, op, counts in cases(comm):
        each = max(counts)
        array, expected = drawn(comm, seed, each * comm.size, dtype), np.zeros(each, dtype)
        PLAIN.Intracomm(comm).Reduce_scatter_block(array, expected, op)
        result = np.zeros_like(expected)
        roundelay.reduce_scatter_block(comm, array, result, op, algorithm=name)
        assert_array_equal(result, expected)
        in_place = array.copy()
        roundelay.reduce_scatter_block(comm, MPI.IN_PLACE, in_place, op, algorithm=name)
        assert_array_equal(in_place[:each], expected)


@pytest.mark.parametrize("name", names("allgather"))
def test_allgather(comm, name):
    for seed, dtype, _, counts in cases(comm):
        each = max(counts)
        array, expected = drawn(comm, seed, each, dtype), np.zeros((comm.size, each), dtype)
        PLAIN.Intracomm(comm).Allgather(array, expected)
        result = np.zeros_like(expected)
        roundelay.allgather(comm, array, result, algorithm=name)
        assert_array_equal(result, expected)
        result[...] = 0
        result[comm.rank] = array
        roundelay.allgather(comm, MPI.IN_PLACE, result, algorithm=name)
        assert_array_equal(result, expected)


@pytest.mark.parametrize("name", names("allgather"))
def test_allgatherv(comm, name):
    """Blocks one after another, inferred, and in reverse order with gaps between them."""
    for seed, dtype, _, counts in cases(comm):
        array = drawn(comm, seed, counts[comm.rank], dtype)
        reverse = [sum(counts[rank + 1 :]) + 2 * (comm.size - rank) for rank in range(comm.size)]
        for spec in ([counts], [(counts, reverse)], [counts, reverse, dtype.char]):
            results = np.full((2, sum(counts) + 2 * comm.size + 2), 1, dtype)
            PLAIN.Intracomm(comm).Allgatherv(array, [results[0], *spec])
            roundelay.allgatherv(comm, array, [results[1], *spec], algorithm=name)
            assert_array_equal(*results)
            roundelay.allgatherv(comm, MPI.IN_PLACE, [results[1], *spec], algorithm=name)
            assert_array_equal(*results)


@pytest.mark.parametrize("name", names("bcast"))
def test_bcast(comm, name):
    for seed, dtype, _, counts in cases(comm):
        root = seed % comm.size
        array = drawn(comm, seed, sum(counts), dtype)
        expected = comm.bcast(array, root)
        array.flags.writeable = comm.rank != root
        roundelay.bcast(comm, array, root, algorithm=name)
        assert_array_equal(array, expected)


def test_datatypes_of_each_rank_s_own(comm):
    """The same bytes are moved, whatever datatype each rank names; the library would move some of them."""
    column = MPI.DOUBLE.Create_vector(6, 1, 5).Commit()
    pair = MPI.DOUBLE.Create_contiguous(2).Commit()
    apart = MPI.DOUBLE.Create_indexed([6], [3]).Commit()
    matrix = np.arange(30.0).reshape(6, 5) * (comm.rank == 0)
    ways = [
        ([matrix, 1, column], matrix[:, 0]),
        (matrix[:, 1], matrix[:, 1]),
        ([matrix, 3, pair], matrix.ravel()[:6]),
        ([matrix, 1, apart], matrix.ravel()[3:9]),
        ([matrix, (6, 12), MPI.DOUBLE], matrix.ravel()[12:18]),
    ]
    sent = np.arange(0.0, 30.0, 5.0)
    for shift in range(len(ways)):
        matrix[...] = 0
        spec, part = ways[(comm.rank + shift) % len(ways)]
        if comm.rank == 0:
            part[...] = sent
        roundelay.bcast(comm, spec, algorithm="star")
        assert_array_equal(part, sent)
        roundelay.bcast(comm, [np.zeros(0), 0, MPI.DOUBLE] if comm.rank else np.zeros(0), algorithm="star")
        part[...] = comm.rank
        result = np.zeros((comm.size, 6))
        roundelay.allgather(comm, spec, result, algorithm="ring")
        assert_array_equal(result, np.repeat(np.arange(comm.size), 6).reshape(comm.size, 6))
    for datatype in (column, pair, apart):
        datatype.Free()


def test_received_into_datatypes(comm):
    column = MPI.INT.Create_vector(4, 1, comm.size).Create_resized(0, 4).Commit()
    table = np.zeros((4, comm.size), "i")
    roundelay.allgather(comm, np.arange(4, dtype="i") + comm.rank, [table, 1, column], algorithm="direct")
    assert_array_equal(table, np.add.outer(np.arange(4), np.arange(comm.size)))
    table[...] = 0
    counts, displacements = [1] * comm.size, list(range(comm.size))
    spec = [table, counts, displacements, column]
    roundelay.allgatherv(comm, np.arange(4, dtype="i") + comm.rank, spec, algorithm="ring")
    assert_array_equal(table, np.add.outer(np.arange(4), np.arange(comm.size)))


@pytest.mark.parametrize("commutes", [True, False])
def test_own_operation(comm, commutes):
    """All numbers written one after another, which shows their order."""

    def fold(inbuf, inoutbuf, _datatype):
        left, right = (np.asarray(memoryview(each)).view(np.int64) for each in (inbuf, inoutbuf))
        digits = np.floor(np.log10(right)).astype(int) + 1
        right[:] = np.maximum(left, right) if commutes else left * 10**digits + right

    op = MPI.Op.Create(fold, commute=commutes)
    numbers = np.full(comm.size, comm.rank + 1)
    written = comm.size if commutes else int("".join(str(rank + 1) for rank in range(comm.size)))
    result = np.zeros_like(numbers)
    roundelay.reduce(comm, numbers, result, op, root=comm.size - 1, algorithm="star")
    assert_array_equal(result, written if comm.rank == comm.size - 1 else 0)
    roundelay.reduce_scatter_block(comm, numbers, result[:1], op, algorithm="direct")
    assert result[0] == written
    op.Free()


def test_setting_gives_way_to_the_order(comm):
    """A tree keeps the order of the ranks for the first root only; for another one the setting gives way."""

    def fold(inbuf, inoutbuf, _datatype):
        left, right = (np.asarray(memoryview(each)).view(np.int64) for each in (inbuf, inoutbuf))
        right[:] = left * 10 ** (np.floor(np.log10(right)).astype(int) + 1) + right

    comm.Set_info(MPI.Info.Create({"roundelay_reduce": "tree"}))
    op = MPI.Op.Create(fold, commute=False)
    written = int("".join(str(rank + 1) for rank in range(comm.size)))
    for root in range(comm.size):
        result = np.zeros(3, np.int64)
        comm.Reduce(np.full(3, comm.rank + 1), result, op, root)
        assert_array_equal(result, written if comm.rank == root else 0)
    op.Free()


def test_methods_by_name(comm):
    """The key of each operation in the info, and what each method then gives."""
    keys = {f"roundelay_{operation}": names(operation)[0] for operation in ("bcast", "reduce", "allgather")}
    comm.Set_info(MPI.Info.Create(keys | {"roundelay_reduce_scatter": "direct"}))
    everyone, counts = np.zeros(2 * comm.size), [2] * comm.size
    mine = np.full(2, float(comm.rank))
    for _ in range(2):
        comm.Allgather(mine, everyone)
        comm.Allgatherv(mine, [everyone, counts])
        comm.Bcast(everyone, root=comm.size - 1)
        assert_array_equal(everyone, np.repeat(np.arange(comm.size), 2))
        part = np.zeros(2)
        comm.Reduce_scatter_block(everyone, part)
        assert_array_equal(part, comm.size * comm.rank)
        comm.Reduce_scatter(sendbuf=everyone, recvbuf=part, recvcounts=counts, op=MPI.MAX)
        assert_array_equal(part, comm.rank)
        comm.Reduce(mine, part, op=MPI.MAX, root=0)
        assert_array_equal(part, comm.size - 1 if comm.rank == 0 else comm.rank)


@pytest.mark.parametrize("way", ["nothing measured", "library", "star"])
def test_methods_called_with_names(comm, monkeypatch, way):
    """By mpi4py's names of the arguments, on all ways that a call may take."""
    service = service_of(comm)
    processes = service.processes
    monkeypatch.setattr(processes, "_decisions", {})
    if way == "library":
        # The measured times are so short that it is taken, and remembered.
        fast, slow = [[8, 1e-12], [1 << 20, 1e-12]], [[8, 1.0], [1 << 20, 1.0]]
        table = Table(
            native={operation: {str(comm.size): fast} for operation in OPERATIONS},
            trials={operation: {str(comm.size): {"star": slow}} for operation in OPERATIONS},
        )
        monkeypatch.setattr(processes, "table", table)
    known = interposer().counts()["choices"]
    for operation in OPERATIONS:
        comm.Set_info(MPI.Info.Create({f"roundelay_{operation}": "star" if way == "star" else "auto"}))
    left = comm.size == 1 or way == "nothing measured"
    assert all(service.leaves(operation) == left for operation in OPERATIONS)
    mine, part, all_of_it = np.full(1, float(comm.rank)), np.zeros(1), np.zeros(comm.size)
    total, counts = sum(range(comm.size)), [1] * comm.size
    for _ in range(3):
        comm.Allreduce(sendbuf=mine, recvbuf=part, op=MPI.SUM)
        assert part[0] == total
        comm.Allgather(sendbuf=mine, recvbuf=all_of_it)
        comm.Allgatherv(sendbuf=mine, recvbuf=[all_of_it, counts])
        comm.Bcast(buf=all_of_it, root=0)
        assert_array_equal(all_of_it, np.arange(comm.size))
        comm.Reduce_scatter_block(sendbuf=all_of_it, recvbuf=part, op=MPI.SUM)
        comm.Reduce_scatter(sendbuf=all_of_it, recvbuf=part, recvcounts=counts, op=MPI.SUM)
        assert part[0] == comm.size * comm.rank
        comm.Reduce(sendbuf=mine, recvbuf=part, op=MPI.MAX, root=0)
        assert part[0] == (comm.size - 1 if comm.rank == 0 else comm.size * comm.rank)
    if way == "library" and comm.size > 1:
        assert interposer().counts()["choices"] - known == 7


def test_methods_with_gaps(comm):
    """Without a choice, and with one: strided arrays go as they do by mpi4py's own from contiguous ones."""
    for name in ("native", "star"):
        operations = ("bcast", "reduce", "allgather", "reduce_scatter")
        comm.Set_info(MPI.Info.Create({f"roundelay_{each}": name for each in operations}))
        wide = np.zeros((comm.size, 3, 4))
        mine = np.full((3, 4), comm.rank, float)[:, ::2]
        comm.Allgather(mine, wide[:, :, ::2])
        assert_array_equal(wide[:, :, 0], np.repeat(np.arange(comm.size), 3).reshape(-1, 3))
        assert not wide[:, :, 1].any()
        comm.Bcast(wide[0, :, 1::2], root=0)
        comm.Reduce(mine, wide[0, :, 1::2] if comm.rank == 0 else None)
        assert_array_equal(wide[0, :, 1], sum(range(comm.size)) if comm.rank == 0 else 0)


@pytest.mark.mpi(min_size=2)
def test_ranks_that_disagree(comm):
    count = 3 if comm.rank == 1 else 4
    with pytest.raises(ValueError, match="bcast: ranks disagree"):
        roundelay.bcast(comm, np.zeros(count), algorithm="star")
    with pytest.raises(ValueError, match="allgather: unknown algorithm 'rong'; expected one of auto, native"):
        roundelay.allgather(comm, np.zeros(1), np.zeros(comm.size), algorithm="rong")
    root = 1 if comm.rank == 1 else 0
    with pytest.raises(ValueError, match="reduce: ranks disagree"):
        roundelay.reduce(comm, np.zeros(4), np.zeros(4), root=root, algorithm="tree")


def test_a_root_that_is_none(comm):
    for name in ("auto", "star"):
        with pytest.raises(PLAIN.Exception):
            roundelay.bcast(comm, np.zeros(1), root=comm.size, algorithm=name)


def library_is_fast(comm, monkeypatch):
    """Let figures say that the MPI library is the fastest, and ask for the choice."""
    fast, slow = [[8, 1e-12], [1 << 20, 1e-12]], [[8, 1.0], [1 << 20, 1.0]]
    processes = service_of(comm).processes
    monkeypatch.setattr(processes, "_decisions", {})
    figures = Table(
        native={operation: {str(comm.size): fast} for operation in OPERATIONS},
        trials={operation: {str(comm.size): {"star": slow}} for operation in OPERATIONS},
    )
    monkeypatch.setattr(processes, "table", figures)
    comm.Set_info(MPI.Info.Create({f"roundelay_{operation}": "auto" for operation in OPERATIONS}))


def views(array):
    """Other objects with the elements of an array: with gaps, and of other classes."""
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    yield array
    yield wide[..., 0]
    yield array.copy().view(np.matrix)
    yield memoryview(array.copy())
    yield array.copy()


def test_what_is_remembered_depends_on_both_buffers(comm, monkeypatch):
    """After calls with contiguous arrays were left to the library, others of the same size are right, too."""
    library_is_fast(comm, monkeypatch)
    size, total = comm.size, sum(range(comm.size))
    mine, all_of_it, counts = np.full(2, float(comm.rank)), np.repeat(np.arange(float(size)), 2), [2] * size
    calls = {
        "Allreduce": (comm.Allreduce, mine, np.full(2, float(total)), ()),
        "Allgather": (comm.Allgather, mine, all_of_it, ()),
        "Reduce": (comm.Reduce, mine, np.full(2, float(total)), (MPI.SUM, 0)),
        "Reduce_scatter_block": (comm.Reduce_scatter_block, all_of_it, size * mine, ()),
        "Reduce_scatter": (comm.Reduce_scatter, all_of_it, size * mine, (counts,)),
    }
    for name, (call, send, expected, rest) in calls.items():
        for _ in range(2):
            for own in views(send):
                for result in views(np.zeros_like(expected)):
                    call(own, result, *rest)
                    if name != "Reduce" or comm.rank == 0:
                        assert_array_equal(np.asarray(result).ravel(), expected, f"{name} {own!r} {result!r}")
    for _ in range(2):
        for own in views(mine):
            for result in views(np.zeros(2 * size)):
                comm.Allgatherv(own, [result, counts])
                assert_array_equal(np.asarray(result).ravel(), all_of_it)
        for result in views(mine.copy()):
            comm.Bcast(result, root=0)
            assert_array_equal(np.asarray(result).ravel(), 0)
    for dtype in (">f8", "f8", ">f8"):
        with contextlib.suppress(KeyError, ValueError, BufferError):
            result = np.zeros(2, dtype)
            comm.Allreduce(np.full(2, 1.0, dtype), result)
            assert_array_equal(result, size)


def test_an_operation_that_is_none(comm):
    """Refused as mpi4py refuses it, with and without an algorithm."""
    refused: list[Any] = [None, "sum", 3]
    for name in ("native", "star"):
        operations = ("allreduce", "reduce", "reduce_scatter")
        comm.Set_info(MPI.Info.Create({f"roundelay_{each}": name for each in operations}))
        for op in refused:
            for form in ("Allreduce", "Iallreduce", "Allreduce_init", "Reduce", "Reduce_scatter_block"):
                with pytest.raises(TypeError):
                    getattr(comm, form)(np.ones(comm.size), np.zeros(comm.size), op=op)
            with pytest.raises(TypeError):
                roundelay.allreduce(comm, np.ones(3), np.zeros(3), op)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("known", [True, False])
def test_figures_of_unknown_algorithms(comm, monkeypatch, known):
    """Measurements of a later version do not keep this one from a reproducible sum."""
    curve = [[8, 1e-9], [1 << 20, 1e-9]]
    trials = {"spiral of 7": curve} | ({"ring": curve} if known else {})
    figures = Table(
        native={"allreduce": {str(comm.size): curve}}, trials={"allreduce": {str(comm.size): trials}}
    )
    processes = service_of(comm).processes
    monkeypatch.setattr(processes, "_decisions", {})
    monkeypatch.setattr(processes, "table", figures)
    result = np.zeros(4)
    roundelay.allreduce(comm, np.ones(4), result, reproducible=True)
    assert_array_equal(result, comm.size)
    result = np.zeros(4, np.float16)
    roundelay.allreduce(comm, np.ones(4, np.float16), result)
    assert_array_equal(result, comm.size)
    with pytest.raises(ValueError, match="algorithm 'native' is the MPI library's own"):
        roundelay.allreduce(comm, np.ones(4), np.zeros(4), algorithm="native", reproducible=True)


def test_arrays_live_until_completion(comm):
    """A nonblocking allreduce, by a schedule and by the library, keeps what is passed to it."""
    for name in ("ring", "native"):
        comm.Set_info(MPI.Info.Create({"roundelay_allreduce": name}))
        comm.Allreduce(np.ones(1), np.zeros(1))
        gone: list[int] = []
        requests = []
        for wrap in (lambda array: array, lambda array: [array, MPI.DOUBLE], lambda array: array[::2]):
            for _ in range(2):
                buffers = [np.ones(50000), np.zeros(50000)]
                for buffer in buffers:
                    weakref.finalize(buffer, gone.append, 1)
                requests.append(comm.Iallreduce(*map(wrap, buffers)))
                del buffers, buffer
        # Of a single rank they are complete when they start.
        assert not gone or comm.size == 1
        MPI.Request.Waitall(requests)
