"""The way in beneath mpi4py, what is refused there, what it keeps, and what there is without it."""

import gc
import subprocess
import sys

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI
from roundelay.comm.interposer import interposer, library_alone, why_not
from tests import launch


def run(program, **environment):
    """Run a program in a process of its own, which must end well, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=launch.environment() | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def counted(name):
    """Return how many there are, of what other tests have left behind too."""
    gc.collect()
    return interposer().counts()[name]


SENDS_ITSELF_A_COLUMN = """
import numpy as np
column = MPI.DOUBLE.Create_vector(4000, 1, 4).Commit()
sent, received = np.arange(16000.0).reshape(4000, 4), np.zeros((4000, 4))
MPI.COMM_SELF.Sendrecv([sent, 1, column], 0, 0, [received, 1, column], 0, 0)
assert (received[:, 0] == sent[:, 0]).all() and not received[:, 1:].any()
from roundelay.comm.interposer import interposer
print(interposer().counts()["datatypes"])
"""


@pytest.mark.parametrize(
    "imports",
    [
        "from roundelay import MPI",
        "from mpi4py import MPI; import roundelay.MPI",
        "import roundelay.MPI; from mpi4py import MPI",
    ],
)
def test_any_order_of_imports(imports):
    assert run(imports + SENDS_ITSELF_A_COLUMN) == "1"


SMALL = """
import sys
import numpy as np
from roundelay import MPI
from roundelay.comm.interposer import interposer
column = MPI.DOUBLE.Create_vector(4, 1, 6).Commit()
sent, received = np.arange(24.0).reshape(4, 6), np.zeros((4, 6))
MPI.COMM_SELF.Sendrecv([sent, 1, column], 0, 0, [received, 1, column], 0, 0)
MPI.COMM_SELF.Irecv([received, 1, column], 0, 1)
MPI.COMM_SELF.Send([sent, 1, column], 0, 1)
assert (received[:, 0] == sent[:, 0]).all()
print(interposer().counts()["datatypes"], "numba" in sys.modules)
"""


def test_small_messages_ask_nothing():
    """The library moves them whatever their datatype is, of which a program may make one for each message."""
    assert run(SMALL) == "0 False"


def test_disabled():
    program = "from roundelay import MPI\nfrom roundelay.comm.interposer import why_not\nprint(why_not())"
    assert run(program, ROUNDELAY_DISABLE="1") == "ROUNDELAY_DISABLE is set"


WITHOUT = """
import numpy as np
import roundelay.comm.interposer as module
module.why_not = lambda: "for this test"
module.interposer.cache_clear()
from roundelay import MPI
comm = MPI.COMM_SELF
sent, received = np.arange(24.0).reshape(4, 6), np.zeros((4, 6))
comm.Sendrecv(sent[:, ::2], 0, 0, received[:, ::2], 0, 0)
request = comm.Irecv(received[:, 1::2], 0, 1)
comm.Send(buf=sent[:, 1::2], dest=0, tag=1)
request.Wait()
assert (received == sent).all()
comm.Bcast(sent[:, ::2], root=0)
try:
    comm.Allgather(sent[:, ::2], received[:, ::2])
except BufferError:
    print("refused")
"""


def test_without_an_interposer_the_library_moves_arrays():
    assert run(WITHOUT) == "refused"


def test_objects_of_mpi4py_gain_with_datatypes_and_refuse_gaps():
    comm, memory, found = PLAIN.COMM_SELF, np.arange(16000.0).reshape(4000, 4), np.zeros((4000, 4))
    column = PLAIN.DOUBLE.Create_vector(4000, 1, 4).Commit()
    before = counted("datatypes")
    comm.Sendrecv([memory, 1, column], 0, 0, [found, 1, column], 0, 0)
    assert interposer().counts()["datatypes"] == before + 1
    column.Free()
    assert interposer().counts()["datatypes"] == before
    assert_array_equal(found[:, 0], memory[:, 0])
    with pytest.raises(BufferError):
        comm.Send(memory[:, 0], 0)


@pytest.mark.parametrize("call", ["Send", "Isend", "Send_init", "Recv", "Irecv"])
def test_a_datatype_over_an_array_with_gaps(call):
    column, before = MPI.DOUBLE.Create_vector(2, 1, 2).Commit(), counted("operations")
    with pytest.raises(BufferError, match="cannot be combined with a derived datatype"):
        getattr(MPI.COMM_SELF, call)([np.zeros((4, 4))[:, 1], 1, column], 0)
    column.Free()
    assert counted("operations") == before


def test_overlapping_elements():
    before = counted("operations")
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(4), (3, 2), (8, 8))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) and strides \(8, 8\) has elements that overlap"):
        MPI.COMM_SELF.Irecv(overlapping, 0)
    assert counted("operations") == before


def test_nothing_is_kept():
    comm = MPI.COMM_SELF
    gc.collect()
    before = interposer().counts()
    for length in range(1, 200):
        datatype = MPI.DOUBLE.Create_vector(length, 2, 3).Commit()
        memory, found = np.arange(3.0 * 3 * length), np.zeros(3 * 3 * length)
        request = comm.Irecv([found, 3, datatype], 0)
        comm.Send([memory, 3, datatype], 0)
        request.Wait()
        datatype.Free()
    gc.collect()
    after = interposer().counts()
    assert after["arrays"] <= 4096
    assert {name: after[name] for name in ("datatypes", "operations", "orphans")} == {
        name: before[name] for name in ("datatypes", "operations", "orphans")
    }


def test_two_objects_of_one_request():
    found = np.zeros((3, 2))
    first = MPI.COMM_SELF.Irecv(found[:, 1], 0)
    second = MPI.Request(first)
    del first
    gc.collect()
    MPI.COMM_SELF.Send(np.arange(3.0), 0)
    second.Wait()
    assert_array_equal(found, [[0, 0], [0, 1], [0, 2]])


def test_an_interposer_is_in_its_place_but_for_comparisons():
    assert why_not() == ""
    column, memory = MPI.DOUBLE.Create_vector(4000, 1, 4).Commit(), np.arange(16000.0)
    before, packed = counted("datatypes"), np.zeros(4000)
    with library_alone():
        column.Pack(memory[:15997], packed, 0, MPI.COMM_SELF)
        with pytest.raises(BufferError):
            MPI.COMM_SELF.Send(memory[::2], 0)
    assert interposer().counts()["datatypes"] == before
    column.Pack(memory[:15997], packed, 0, MPI.COMM_SELF)
    assert interposer().counts()["datatypes"] == before + 1
    assert_array_equal(packed, memory[::4])
    column.Free()


LEAVES_ITS_BUFFER = """
import numpy as np
from roundelay import MPI
pair = MPI.DOUBLE.Create_contiguous(2).Commit()
for call in (
    lambda: MPI.COMM_SELF.Alltoallv([np.zeros(3), [1], [1], pair], [np.zeros(2), [1], [0], pair]),
    lambda: MPI.COMM_SELF.Alltoallw([np.zeros(2), [1], [0], [pair]], [np.zeros(2), [1], [8], [pair]]),
    lambda: MPI.COMM_SELF.Bcast([np.zeros(3), 4, MPI.DOUBLE]),
    lambda: MPI.COMM_SELF.Send_init([np.zeros(3), 2, pair], 0),
):
    try:
        call()
    except ValueError as error:
        print(str(error).partition(",")[0])
"""


def test_checked_bounds():
    assert run(LEAVES_ITS_BUFFER, ROUNDELAY_CHECK="1").splitlines() == [
        "message: 1 instances of the datatype touch bytes 16 to 32",
        "message: 1 instances of the datatype touch bytes 8 to 24",
        "message: 4 instances of the datatype touch bytes 0 to 32",
        "message: 2 instances of the datatype touch bytes 0 to 32",
    ]


@pytest.mark.mpi
@pytest.mark.parametrize("call", ["Reduce_scatter", "Ireduce_scatter"])
def test_calls_that_mpi4py_makes_before(comm, call):
    """Without counts, it gathers them first, with buffers of its own."""
    own, result = np.arange(4.0 * comm.size).reshape(-1, 2), np.zeros((2, 3))
    expected = comm.size * own[2 * comm.rank : 2 * comm.rank + 2, 0]
    for out, into in ((own[:, 0], result[:, 1]), (own[:, 0].copy(), result[:, 2]), (own[:, 0], np.zeros(2))):
        request = getattr(comm, call)(out, into)
        if request is not None:
            request.Wait()
        assert_array_equal(into, expected)
    assert not result[:, 0].any()


@pytest.mark.mpi
def test_handles_that_requests_share(comm):
    """MPICH has one for all sends that are complete when they start: each unpacks what is its own."""
    found, sent = np.zeros((8, 5000, 2)), np.arange(5000.0)
    requests = [comm.Isend(np.repeat(sent + tag, 2)[::2], comm.rank, tag) for tag in range(8)]
    requests += [comm.Irecv(found[tag, :, 1], comm.rank, tag) for tag in range(8)]
    while len(requests) > 1:
        requests.pop(int(MPI.Request.Waitany(requests)))
    requests[0].Wait()
    assert_array_equal(found[:, :, 1], sent + np.arange(8)[:, None])
    assert not found[:, :, 0].any()


def test_a_request_that_an_old_object_still_has():
    """MPI uses handles again: the end of an object whose operation is over means nothing."""
    comm, found = MPI.COMM_SELF, np.zeros((5000, 2))
    old = comm.Irecv(found[:, 0], 0, 1)
    copy = MPI.Request.fromhandle(old.handle)
    comm.Send(np.ones(5000), 0, 1)
    old.Wait()
    fresh = comm.Irecv(found[:, 1], 0, 2)
    del copy
    gc.collect()
    comm.Send(np.full(5000, 2.0), 0, 2)
    fresh.Wait()
    assert_array_equal(found, [[1.0, 2.0]] * 5000)


def test_elements_off_their_boundaries_under_a_datatype():
    comm, pair = MPI.COMM_SELF, MPI.DOUBLE.Create_vector(2, 1, 2).Commit()
    memory = np.ndarray((4,), float, bytearray(40), 4)
    memory[:], found = np.arange(4.0), np.zeros(4)
    comm.Sendrecv([memory, 1, pair], 0, 0, [found, 1, pair], 0, 0)
    assert_array_equal(found, [0, 0, 2, 0])
    pair.Free()


@pytest.mark.parametrize("dtype", ["O", [("Other", "i4"), ("any", "O")]])
def test_references_to_objects_are_never_copied(dtype):
    array = np.zeros(6, dtype)[::2]
    with pytest.raises(BufferError):
        MPI.COMM_SELF.Send([array, MPI.BYTE], 0)
    with pytest.raises(KeyError):
        MPI.COMM_SELF.Send(array, 0)
    numbers = np.zeros(6, [("Other", "i4"), ("O", "i4")])[::2]
    found = np.ones_like(numbers)
    MPI.COMM_SELF.Sendrecv([numbers, MPI.BYTE], 0, 0, [found, MPI.BYTE], 0, 0)
    assert (found == numbers).all()


WITHOUT_MEMORY = """
import resource
from pathlib import Path
import numpy as np
from roundelay import MPI
from roundelay.comm.interposer import interposer

interposer().set_limits(-1, -1, -1, -1)
found, requests = np.zeros((5000, 2)), [MPI.REQUEST_NULL] * 3_000_000
requests[-1] = MPI.COMM_SELF.Irecv(found[:, 1], 0)
MPI.COMM_SELF.Send(np.ones(5000), 0)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
# Enough for mpi4py's own copy of the handles, and not for what is kept of each request.
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    MPI.Request.{call}(requests)
except MPI.Exception as error:
    assert error.Get_error_class() == MPI.ERR_NO_MEM, error
    print("no memory")
assert requests[-1] != MPI.REQUEST_NULL and not found.any()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
requests[-1].Wait()
assert found[:, 1].all() and not found[:, 0].any()
"""


@pytest.mark.parametrize("call", ["Waitall", "Testall", "Waitany", "Testany", "Waitsome", "Testsome"])
def test_a_completion_without_memory_leaves_the_requests(call):
    """MPI alone would complete them, and nobody would unpack what they received."""
    assert run(WITHOUT_MEMORY.format(call=call)) == "no memory"


FORKS = """
import os, signal, threading, warnings
import numpy as np
from roundelay import MPI
from roundelay.comm.interposer import interposer

warnings.simplefilter("ignore")
interposer().set_limits(-1, -1, -1, -1)
stop = threading.Event()
request = MPI.COMM_SELF.Irecv(np.zeros((40, 2))[:, 1], 0)

def go_on():
    # Looks again and again for an operation that has this request, without the GIL.
    while not stop.is_set():
        MPI.Request.Testall([request] * 50_000)

threads = [threading.Thread(target=go_on) for _ in range(2)]
for thread in threads:
    thread.start()
statuses = []
while len(statuses) < 50 and not any(statuses):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        # Looks, too, and does not ask MPI, whose own locks are not the matter here.
        MPI.Request(request)
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
stop.set()
for thread in threads:
    thread.join()
MPI.COMM_SELF.Send(np.ones(40), 0)
request.Wait()
print(max(statuses))
"""


def test_a_child_of_a_process_with_threads():
    """No lock is held in it for ever, which another thread held when it began."""
    assert run(FORKS) == "0"


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("way", ["free", "drop"])
def test_a_schedule_whose_request_the_program_loses(comm, way):
    """It goes on to its end, and what it has reduced comes into the array with gaps."""
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "ring"}))
    comm.Allreduce(np.ones(1), np.zeros(1))
    result = np.zeros((50000, 2))
    request = comm.Iallreduce(np.full(50000, comm.rank + 1.0), result[:, 1])
    if way == "free":
        request.Free()
    del request
    while not comm.allreduce(bool(result[-1, 1]), MPI.LAND):
        comm.Barrier()
    assert_array_equal(result[:, 1], comm.size * (comm.size + 1) / 2)
    assert not result[:, 0].any()
    assert counted("orphans") == 0
