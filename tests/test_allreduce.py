"""`roundelay.allreduce` and `Allreduce` by each algorithm, beside mpi4py's own."""

import ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_allclose, assert_array_equal

import roundelay
from roundelay import MPI
from roundelay.collectives.catalogue import Setting, members
from roundelay.collectives.reduction import MPI_CODES

pytestmark = pytest.mark.mpi

NAMES = [name for name in roundelay.algorithms("allreduce") if name != "native"]
INTEGERS = [np.dtype(code) for code in "bhilqBHILQ"]
FLOATS = [np.dtype(code) for code in "fdgFDG"]


def draw(comm, dtype, shape, seed=0):
    """Give this rank's array, small enough that no integer overflows."""
    rng = np.random.default_rng([comm.rank, seed, dtype.num])
    if dtype.kind in "iub":
        return rng.integers(0, 2 if dtype.kind == "b" else 3, shape).astype(dtype)
    array = rng.standard_normal(shape)
    return (array + 1j * rng.standard_normal(shape) if dtype.kind == "c" else array).astype(dtype)


def plain_allreduce(comm, array, op):
    result = np.empty_like(array)
    PLAIN.Intracomm(comm).Allreduce(array, result, op)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_operations(comm, name):
    cases = [(dtype, op) for dtype in INTEGERS for op in (MPI.SUM, MPI.PROD, MPI.MAX, MPI.MIN)]
    cases += [
        (dtype, op) for dtype in INTEGERS for op in (MPI.LAND, MPI.LOR, MPI.LXOR, MPI.BAND, MPI.BOR, MPI.BXOR)
    ]
    cases += [(np.dtype("?"), op) for op in (MPI.LAND, MPI.LOR, MPI.LXOR)]
    for seed, (dtype, op) in enumerate(cases):
        array = draw(comm, dtype, 37, seed)
        result = np.full_like(array, 1)
        roundelay.allreduce(comm, array, result, op, algorithm=name)
        assert_array_equal(result, plain_allreduce(comm, array, op), f"{dtype} {op.handle}")


@pytest.mark.parametrize("name", NAMES)
def test_floats_differ_by_their_order_only(comm, name):
    for dtype in FLOATS:
        for count in (0, 1, 2, 5, 1000):
            array = draw(comm, dtype, count)
            result = np.empty_like(array)
            roundelay.allreduce(comm, array, result, algorithm=name)
            exact = sum(np.asarray(comm.allgather(array)))
            bound = comm.size * np.finfo(dtype).eps * sum(np.abs(np.asarray(comm.allgather(array))))
            assert np.all(np.abs(result - exact) <= bound)
    for op in (MPI.MAX, MPI.MIN):
        array = draw(comm, np.dtype("d"), 100)
        result = np.empty_like(array)
        roundelay.allreduce(comm, array, result, op, algorithm=name)
        assert_array_equal(result, plain_allreduce(comm, array, op))


@pytest.mark.parametrize("name", NAMES)
def test_buffers(comm, name):
    """In place, with gaps, in Fortran order, in a list with a count, of no NumPy type."""
    array = np.arange(60.0).reshape(6, 10) + comm.rank
    total = comm.size * np.arange(60.0).reshape(6, 10) + comm.size * (comm.size - 1) / 2

    in_place = array.copy()
    roundelay.allreduce(comm, MPI.IN_PLACE, in_place, algorithm=name)
    assert_array_equal(in_place, total)

    gaps = np.zeros((12, 10))
    roundelay.allreduce(comm, array[:, ::2], gaps[::2, 1::2], algorithm=name)
    assert_array_equal(gaps[::2, 1::2], total[:, ::2])
    assert not gaps[1::2].any()
    assert not gaps[:, ::2].any()

    gaps[::2, 1::2] = array[:, ::2]
    roundelay.allreduce(comm, MPI.IN_PLACE, gaps[::2, 1::2], algorithm=name)
    assert_array_equal(gaps[::2, 1::2], total[:, ::2])

    fortran = np.zeros((6, 10), order="F")
    roundelay.allreduce(comm, np.asfortranarray(array), fortran, algorithm=name)
    assert_array_equal(fortran, total)

    part = np.zeros(60)
    roundelay.allreduce(comm, [array, 7, MPI.DOUBLE], [part, (7, 3), MPI.DOUBLE], algorithm=name)
    assert_array_equal(part[3:10], total.flat[:7])
    assert not part[:3].any()
    assert not part[10:].any()

    raw = bytearray(8)
    roundelay.allreduce(comm, [bytearray([comm.rank] * 8), MPI.UINT8_T], [raw, MPI.UINT8_T], algorithm=name)
    assert raw == bytes([sum(range(comm.size))] * 8)


@pytest.mark.parametrize("code", MPI_CODES)
def test_lists_on_some_ranks(comm, code):
    """An array has the same elements as a list with it, so that all ranks run the same algorithm."""
    array, result = np.ones(3, code), np.zeros(3, code)
    lists = [[array, 3], array, [array, array.dtype.char]], [[result, 3], result, [result, array.dtype.char]]
    op = MPI.LOR if code == "?" else MPI.SUM
    for shift in range(3):
        result[:] = 0
        out, into = lists[0][(comm.rank + shift) % 3], lists[1][comm.rank % 3]
        roundelay.allreduce(comm, out, into, op, algorithm=NAMES[0])
        assert_array_equal(result, np.full(3, 1 if code == "?" else comm.size, code))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(comm, name):
    array = np.arange(5, dtype=np.float16) * (comm.rank + 1)
    result = np.zeros_like(array)
    roundelay.allreduce(comm, array, result, algorithm=name)
    assert_array_equal(result, np.arange(5) * sum(range(1, comm.size + 1)))


@pytest.mark.parametrize("name", NAMES)
def test_brain_floats(comm, name):
    array = (np.arange(5) * (comm.rank + 1)).astype(ml_dtypes.bfloat16)
    result = np.zeros_like(array)
    roundelay.allreduce(comm, array, result, algorithm=name)
    assert_array_equal(result.astype(float), np.arange(5) * sum(range(1, comm.size + 1)))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_numbers_that_mpi_lacks_by_methods(comm, dtype):
    """Where an algorithm is asked for, also with gaps, but not beside integers as wide."""
    comm.Set_info(MPI.Info.Create(dict.fromkeys(["roundelay_allreduce", "roundelay_reduce_scatter"], "ring")))
    array = (np.arange(2 * comm.size) * (comm.rank + 1)).astype(dtype)
    expected = np.arange(2 * comm.size) * sum(range(1, comm.size + 1))
    wide = np.zeros((2 * comm.size, 2), dtype)
    wide[:, 1] = array
    for own in (array, wide[:, 1]):
        for result in (np.zeros_like(array), np.zeros_like(wide)[:, 0]):
            comm.Allreduce(own, result)
            assert_array_equal(result.astype(float), expected)
        part = np.zeros(2, dtype)
        comm.Reduce_scatter(own, part, [2] * comm.size)
        assert_array_equal(part.astype(float), expected[2 * comm.rank : 2 * comm.rank + 2])
    with pytest.raises((KeyError, ValueError)):
        comm.Allreduce(array, np.zeros(array.size, np.int16))


@pytest.mark.parametrize("name", NAMES)
def test_pairs(comm, name):
    pairs = np.zeros(9, np.dtype([("value", "d"), ("place", "i")], align=True))
    pairs["value"] = np.random.default_rng(comm.rank).integers(0, 3, 9)
    pairs["place"] = comm.rank
    for op in (MPI.MINLOC, MPI.MAXLOC):
        result, expected = np.zeros_like(pairs), np.zeros_like(pairs)
        roundelay.allreduce(comm, [pairs, MPI.DOUBLE_INT], [result, MPI.DOUBLE_INT], op, algorithm=name)
        PLAIN.Intracomm(comm).Allreduce([pairs, MPI.DOUBLE_INT], [expected, MPI.DOUBLE_INT], op)
        assert_array_equal(result, expected)


@pytest.mark.parametrize("commutes", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_own_operation(comm, name, commutes):
    """The largest number; or all numbers written one after another, which shows their order."""

    def fold(inbuf, inoutbuf, _datatype):
        left, right = (np.asarray(memoryview(each)).view(np.int64) for each in (inbuf, inoutbuf))
        digits = np.floor(np.log10(right)).astype(int) + 1
        right[:] = np.maximum(left, right) if commutes else left * 10**digits + right

    op = MPI.Op.Create(fold, commute=commutes)
    numbers = np.full(8, comm.rank + 1)
    result = np.zeros_like(numbers)
    keeps = any(each.ordered for each in members("allreduce", one_node(comm), name))
    if commutes or keeps or comm.size == 1:
        roundelay.allreduce(comm, numbers, result, op, algorithm=name)
        written = int("".join(str(rank + 1) for rank in range(comm.size)))
        assert_array_equal(result, comm.size if commutes else written)
    else:
        with pytest.raises(ValueError, match=f"no algorithm '{name}' that keeps the order of the ranks"):
            roundelay.allreduce(comm, numbers, result, op, algorithm=name)
    op.Free()


def test_setting_gives_way_to_the_order(comm):
    """An own operation that does not commute is reduced in order, whatever algorithm a setting asks for."""

    def fold(inbuf, inoutbuf, _datatype):
        left, right = (np.asarray(memoryview(each)).view(np.int64) for each in (inbuf, inoutbuf))
        right[:] = left * 10 + right

    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "ring"}))
    op = MPI.Op.Create(fold, commute=False)
    result = np.zeros(4, np.int64)
    comm.Allreduce(np.full(4, comm.rank + 1), result, op)
    comm.Iallreduce(np.full(4, comm.rank + 1), result, op).Wait()
    op.Free()
    if comm.size < 3:  # It is not associative.
        assert_array_equal(result, [1, 12][comm.size - 1])


def one_node(comm):
    return Setting(comm.size, 0, (tuple(range(comm.size)),))


@pytest.mark.parametrize("form", ["nonblocking", "persistent"])
@pytest.mark.parametrize("name", NAMES)
def test_forms(comm, name, form):
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": name}))
    # From the first blocking call on there is a communicator for messages, which nonblocking ones need.
    first = np.empty(1)
    comm.Allreduce(np.ones(1), first)
    sends = [np.arange(100.0) + comm.rank, np.arange(40.0).reshape(20, 2)[:, 1]]
    results = [np.zeros(100), np.zeros((20, 3))[:, 1]]
    expected = [plain_allreduce(comm, np.ascontiguousarray(send), MPI.SUM) for send in sends]
    if form == "nonblocking":
        requests = [comm.Iallreduce(send, result) for send, result in zip(sends, results, strict=True)]
        # In another order on each rank.
        for request in requests if comm.rank % 2 else requests[::-1]:
            request.Wait()
        assert_array_equal(results[0], expected[0])
        assert_array_equal(results[1], expected[1])
        return
    requests = [comm.Allreduce_init(send, result) for send, result in zip(sends, results, strict=True)]
    for _ in range(3):
        for result in results:
            result[...] = 0
        MPI.Prequest.Startall(requests)
        MPI.Request.Waitall(requests)
        assert_array_equal(results[0], expected[0])
        assert_array_equal(results[1], expected[1])
    for request in requests:
        request.Free()


@pytest.mark.parametrize(
    "complete", ["Waitall", "Waitany", "Waitsome", "Testall", "Testany", "Testsome", "Test"]
)
def test_completion(comm, complete):
    """A schedule's request beside one of mpi4py's own, in all ways to complete them."""
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "direct"}))
    comm.Allreduce(np.ones(1), np.empty(1))
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    total, got = np.zeros(50), np.zeros(4)
    requests = [comm.Iallreduce(np.arange(50.0), total), comm.Irecv(got, left)]
    comm.Send(np.full(4, float(comm.rank)), right)
    done: set[int] = set()
    while len(done) < 2:
        if complete == "Test":
            done |= {i for i, request in enumerate(requests) if request.Test()}
            continue
        result = getattr(MPI.Request, complete)(requests)
        if complete.endswith("all"):
            done |= {0, 1} if result is not False else set()
        elif complete.endswith("some"):
            done |= set(result or ())
        else:
            index, flag = result if isinstance(result, tuple) else (result, True)
            assert index in (0, 1) or not flag
            done |= {index} if flag else set()
    assert_array_equal(total, comm.size * np.arange(50.0))
    assert_array_equal(got, left)


def test_reproducible(comm):
    array = np.random.default_rng(comm.rank).standard_normal(1000).astype(np.float32)
    results = np.zeros((2, 1000), np.float32)
    for result in results:
        roundelay.allreduce(comm, array, result, reproducible=True)
    assert_array_equal(*results.view(np.uint32))
    for other in comm.allgather(results[0]):
        assert_array_equal(other.view(np.uint32), results[0].view(np.uint32))


def test_mpi4py_s_communicator(comm):
    result = np.empty(3)
    plain = PLAIN.Intracomm(comm).Dup()
    roundelay.allreduce(plain, np.ones(3), result, algorithm="star")
    plain.Free()
    assert_allclose(result, comm.size)


def test_communicators_are_freed(comm):
    """Communicators that a communicator needed are freed with it; MPICH has two thousand of them."""
    for _ in range(1100):
        short = comm.Dup()
        result = np.empty(1)
        roundelay.allreduce(short, np.ones(1), result, algorithm="direct")
        short.Free()
    assert result[0] == comm.size


def test_names():
    assert roundelay.algorithms("allreduce")[:2] == ["native", "ring"]
    with pytest.raises(ValueError, match="unknown operation 'fold'; expected one of allreduce, "):
        roundelay.algorithms("fold")


def test_unknown_algorithm(comm):
    with pytest.raises(ValueError, match="unknown algorithm 'rong'; expected one of auto, native, ring, "):
        roundelay.allreduce(comm, np.ones(1), np.empty(1), algorithm="rong")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("what", ["count", "dtype", "op", "algorithm"])
def test_ranks_that_disagree(comm, what):
    odd = comm.rank == 1
    array = np.ones(200 if odd and what == "count" else 100, "f4" if odd and what == "dtype" else "f8")
    op = MPI.MAX if odd and what == "op" else MPI.SUM
    name = "star" if odd and what == "algorithm" else "ring"
    with pytest.raises(ValueError, match="allreduce: ranks disagree"):
        roundelay.allreduce(comm, array, np.empty_like(array), op, algorithm=name)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["auto", "ring"])
def test_disagreement_later(comm, monkeypatch, name):
    """With ROUNDELAY_CHECK every call is compared, also of sizes that were reduced before."""
    for module in ("engine", "service"):
        monkeypatch.setattr(f"roundelay.collectives.{module}.checks_bounds", lambda: True)
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": name}))
    for count in (100, 101):
        comm.Allreduce(np.ones(count), np.empty(count))
    odd = comm.rank == 1
    count = 101 if odd else 100
    for send in (np.ones(count), np.array([None] * 100) if odd else np.ones(100)):
        with pytest.raises(ValueError, match="allreduce: ranks disagree"):
            comm.Allreduce(send, np.empty(send.size))
    result = np.empty(100)
    comm.Allreduce(np.ones(100), result)
    assert_array_equal(result, comm.size)


def test_refused_buffers(comm):
    locked = np.zeros(3)
    locked.flags.writeable = False
    for result in (locked, np.array([None] * 3)):
        with pytest.raises((BufferError, ValueError, TypeError, KeyError)):
            roundelay.allreduce(comm, np.ones(3), result, algorithm="ring")


def test_freed_communicator(comm):
    freed = comm.Dup()
    freed.Free()
    with pytest.raises(MPI.Exception):
        roundelay.allreduce(freed, np.ones(3), np.empty(3), algorithm="ring")
