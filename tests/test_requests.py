"""Requests with and without a stage, mpi4py's own among them, completed in every way there is."""

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

SINGLE = ["Wait", "Test", "Get_status", "wait", "test", "get_status"]
FORMS = ["Wait", "Test", "Get_status_", "wait", "test", "get_status_"]
try:
    MPI.Request.Get_status_all([])
except NotImplementedError:
    # Open MPI 5.0 has these for one request only.
    FORMS = [form for form in FORMS if not form.endswith("_")]
COMPLETIONS = SINGLE + [f"{form}{which}" for which in ("all", "any", "some") for form in FORMS]
# Open MPI 5.0 does not tell a rank that its message to itself was cut.
needs_errors = pytest.mark.mpi(min_size=2)
LIMIT_S = 30


@pytest.fixture
def every_other():
    """The datatype of every other one of eleven doubles."""
    datatype = MPI.DOUBLE.Create_vector(6, 1, 2).Commit()
    yield datatype
    datatype.Free()


def neighbours(comm):
    """Give the rank to send to and the one to receive from, in a ring that may be of one rank only."""
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def until(done):
    """Call something until it gives a true value."""
    begin = time.monotonic()
    while not done():
        assert time.monotonic() - begin < LIMIT_S


def found_complete(kind, result, number):
    """Say which of some requests a call has found complete."""
    first = result[0] if isinstance(result, tuple) else result
    if kind.endswith("any"):
        return [first] if first >= 0 else []
    if kind.endswith("some"):
        return first
    return list(range(number)) if kind.startswith("wait") or first else []


def complete(kind, requests):
    """Complete all requests in one of the ways, and give their statuses."""
    statuses, left = [MPI.Status() for _ in requests], list(range(len(requests)))
    active = {i for i in left if requests[i] != MPI.REQUEST_NULL}
    begin = time.monotonic()
    while active.intersection(left):
        assert time.monotonic() - begin < LIMIT_S
        if kind in SINGLE:
            group, found = left[:1], [MPI.Status()]
            result = getattr(requests[group[0]], kind)(found[0])
        else:
            group, found = list(left), [MPI.Status()] if kind.endswith("any") else []
            operation = getattr(MPI.Request, kind)
            result = operation([requests[i] for i in group], found[0] if kind.endswith("any") else found)
        for place, status in zip(found_complete(kind, result, len(group)), found, strict=False):
            statuses[group[place]] = status
            left.remove(group[place])
    return statuses


class Mixture:
    """Messages around the ring: arrays with gaps, datatypes, plain buffers, and mpi4py's own requests."""

    def __init__(self, comm, every_other):
        self.plain = PLAIN.Intracomm(comm)
        self.right, self.left = neighbours(comm)
        self.memory = np.full((6, 12), -1.0)
        self.sent = np.arange(72.0).reshape(6, 12) + 1000 * comm.rank
        self.expected = np.full((6, 12), -1.0)
        arrived = np.arange(72.0).reshape(6, 12) + 1000 * self.left
        for row, columns in enumerate([np.s_[::-2], np.s_[::2], np.s_[:], np.s_[:], np.s_[:6]]):
            self.expected[row, columns] = arrived[row, columns]
        self.receives = [
            comm.Irecv(self.memory[0, ::-2], self.left, 0),
            comm.Irecv([self.memory[1], 1, every_other], self.left, 1),
            comm.Irecv(self.memory[2], self.left, 2),
            MPI.REQUEST_NULL,
            self.plain.Irecv(self.memory[3], self.left, 3),
            comm.Irecv([self.memory[4, :6], 3, MPI.COMPLEX16], self.left, 4),
        ]
        self.comm, self.every_other = comm, every_other

    def send(self):
        """Start the sends, of the same kinds."""
        return [
            self.comm.Isend(self.sent[0, ::-2], self.right, 0),
            self.comm.Isend([self.sent[1], 1, self.every_other], self.right, 1),
            self.plain.Isend(self.sent[2], self.right, 2),
            self.comm.Isend(self.sent[3], self.right, 3),
            self.comm.Issend([self.sent[4, :6], 3, MPI.COMPLEX16], self.right, 4),
        ]


# Completion


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_a_mixture_completes(comm, every_other, kind):
    mixture = Mixture(comm, every_other)
    sends = mixture.send()
    statuses = complete(kind, mixture.receives)
    assert_array_equal(mixture.memory, mixture.expected)
    counts = [6, 6, 12, None, 12, 6]
    for status, count, tag in zip(statuses, counts, [0, 1, 2, None, 3, 4], strict=True):
        if count is not None:
            assert (status.source, status.tag, status.error) == (mixture.left, tag, MPI.SUCCESS)
            assert status.Get_count(MPI.DOUBLE) == count
    keeps = kind.lower().startswith("get_status")
    assert list(map(bool, mixture.receives)) == [keeps and i != 3 for i in range(6)]
    complete(kind, sends)
    assert_array_equal(mixture.sent, np.arange(72.0).reshape(6, 12) + 1000 * comm.rank)
    # Whatever has been written since stays.
    mixture.memory[:] = -3
    MPI.Request.Waitall(mixture.receives + sends)
    assert (mixture.memory == -3).all()


@pytest.mark.parametrize("kind", [kind for kind in COMPLETIONS if kind.lower()[0] != "w"])
def test_nothing_is_complete_before_it_is_sent(comm, every_other, kind):
    mixture = Mixture(comm, every_other)
    active = [request for request in mixture.receives if request]
    for _ in range(3):
        if kind in SINGLE:
            results = [getattr(request, kind)() for request in active]
        else:
            results = [getattr(MPI.Request, kind)(active)]
        assert not any(found_complete(kind, result, 1) for result in results)
        assert all(active)
    assert (mixture.memory == -1).all()
    comm.Barrier()
    MPI.Request.Waitall(mixture.send() + active)
    assert_array_equal(mixture.memory, mixture.expected)


@pytest.mark.parametrize("kind", ["waitall", "testall", "waitany", "testany", "waitsome", "testsome"])
def test_objects_arrive_beside_buffers(comm, kind):
    right, left = neighbours(comm)
    memory = np.zeros((4, 3))
    requests = [comm.irecv(None, left, 1), comm.Irecv(memory[:, 1], left, 2), comm.irecv(None, left, 3)]
    sends = [comm.isend({"rank": comm.rank}, right, 1), comm.isend("text", right, 3)]
    sends.append(comm.Isend(np.arange(8.0)[::2], right, 2))
    objects: dict[int, object] = {}
    while len(objects) < 3:
        result = getattr(MPI.Request, kind)(requests)
        places = found_complete(kind, result, 3)
        values = [result[-1]] if kind.endswith("any") else result if kind == "waitall" else result[-1]
        if places:
            objects.update(zip(places, values, strict=True))
    assert objects == {0: {"rank": left}, 1: None, 2: "text"}
    assert_array_equal(memory, [[0, value, 0] for value in range(0, 8, 2)])
    MPI.Request.waitall(sends)


@pytest.mark.parametrize("given", [0, 2, 3, 9])
@pytest.mark.parametrize("kind", ["Waitall", "Testall", "Waitsome", "waitall", "testall", "waitsome"])
def test_lists_of_statuses(comm, kind, given):
    """As mpi4py does it: a list that is too short is made longer, a longer one keeps the rest."""
    right, left = neighbours(comm)
    tags = []
    for module, communicator, step in ((PLAIN, PLAIN.Intracomm(comm), 1), (MPI, comm, 2)):
        memory = np.zeros((3, 6))
        requests = [communicator.Irecv(memory[i, ::step][:3], left, 10 + i) for i in range(3)]
        comm.Barrier()
        for i in range(3):
            communicator.Send(np.arange(6.0)[::step][:3], right, 10 + i)
        comm.Barrier()
        statuses = [module.Status() for _ in range(given)]
        until(lambda requests=requests: all(request.Get_status() for request in requests))
        assert getattr(module.Request, kind)(requests, statuses)
        assert not any(requests)
        assert_array_equal(memory[:, ::step][:, :3], [np.arange(6.0)[::step][:3]] * 3)
        tags.append([status.tag for status in statuses])
    assert tags[0] == tags[1]
    assert tags[1][:3] == [10, 11, 12]


def test_requests_in_a_tuple(comm):
    right, left = neighbours(comm)
    memory = np.zeros((3, 4))
    statuses: Any = MPI.Status(), MPI.Status()
    requests = comm.Irecv(memory[:, 0], left), comm.Isend(np.arange(6.0)[::2], right)
    MPI.Request.Waitall(requests, statuses)
    assert_array_equal(memory[:, 0], [0, 2, 4])
    assert (statuses[0].source, statuses[0].Get_count(MPI.DOUBLE)) == (left, 3)


def test_other_kinds_of_request_wait_along(comm):
    """Generalized requests, nonblocking collectives and barriers, with a staged one among them."""
    right, left = neighbours(comm)
    memory, shared = np.zeros((3, 4)), np.full((3, 2), float(comm.rank))
    generalized = MPI.Grequest.Start(lambda status: None, lambda: None, lambda completed: None)
    requests = [
        generalized,
        comm.Irecv(memory[:, 0], left),
        comm.Ibcast(shared[:, 1], 0),
        comm.Ibarrier(),
        comm.Isend(np.arange(6.0)[::2], right),
    ]
    generalized.Complete()
    MPI.Request.Waitall(requests)
    assert_array_equal(memory[:, 0], [0, 2, 4])
    assert_array_equal(shared, [[comm.rank, 0]] * 3)


def test_a_copy_of_a_request_completes_it(comm):
    """MPI for Python makes another object for the same request so."""
    right, left = neighbours(comm)
    memory = np.zeros((3, 4))
    request = comm.Irecv(memory[:, 0], left)
    other = MPI.Request(request)
    comm.Send(np.arange(6.0)[::2], right)
    other.Wait()
    assert_array_equal(memory[:, 0], [0, 2, 4])


def test_a_subclass_of_request(comm):
    class Timed(MPI.Request):
        """A request of the program's own class."""

        def Wait(self, status=None):
            """Wait, and note the time."""
            super().Wait(status)
            self.end = time.monotonic()

    right, left = neighbours(comm)
    memory = np.zeros((3, 4))
    request = Timed(comm.Irecv(memory[:, 0], left))
    comm.Send(np.arange(6.0)[::2], right)
    request.Wait()
    assert request.end
    assert_array_equal(memory[:, 0], [0, 2, 4])


def test_a_wait_through_the_class(comm):
    right, left = neighbours(comm)
    memory = np.zeros((3, 4))
    requests = [comm.Irecv(memory[:, 0], left), comm.Isend(np.arange(6.0)[::2], right)]
    requests[0].Waitall(requests)
    assert_array_equal(memory[:, 0], [0, 2, 4])


# Errors


def start_with_an_error(comm, every_other, memory):
    """Start receives of which the second gets a longer message than it has place for; all have arrived."""
    right, left = neighbours(comm)
    requests = [
        comm.Irecv(memory[0, ::2], left, 0),
        comm.Irecv(memory[1, ::4], left, 1),
        comm.Irecv([memory[2], 1, every_other], left, 2),
        comm.Irecv(memory[3], left, 3),
        comm.Irecv(memory[4, ::-2], left, 4),
    ]
    comm.Barrier()
    plain = PLAIN.Intracomm(comm)
    for tag, count in enumerate((6, 6, 6, 12, 6)):
        plain.Send(np.arange(float(count)) + 100 * tag, right, tag)
    comm.Barrier()
    return requests


def check_the_others(memory):
    """See that what arrived well was written, and nothing else."""
    expected = np.full((5, 12), -1.0)
    expected[0, ::2] = np.arange(6)
    expected[2, ::2] = np.arange(6) + 200
    expected[3] = np.arange(12) + 300
    expected[4, ::-2] = np.arange(6) + 400
    rows = [0, 2, 3, 4]
    assert_array_equal(memory[rows], expected[rows])
    untouched = np.ones(12, bool)
    untouched[::4] = False
    assert (memory[1, untouched] == -1).all()


def finish_despite_errors(kind, requests):
    """Complete requests in one of the ways, through one error or more; give the errors' classes."""
    errors, begin = [], time.monotonic()
    while any(requests):
        assert time.monotonic() - begin < LIMIT_S
        try:
            complete(kind, requests)
        except MPI.Exception as error:
            errors.append(error.Get_error_class())
            # An implementation may keep the request that failed.
            if len(errors) > 3:
                break
    return errors


@needs_errors
@pytest.mark.parametrize("kind", [kind for kind in COMPLETIONS if not kind.lower().startswith("get_status")])
def test_an_error_in_one_leaves_the_others(comm, every_other, kind):
    memory = np.full((5, 12), -1.0)
    requests = start_with_an_error(comm, every_other, memory)
    errors = finish_despite_errors(kind, requests)
    assert errors
    assert set(errors) <= {MPI.ERR_TRUNCATE, MPI.ERR_IN_STATUS}
    check_the_others(memory)
    comm.Barrier()
    memory[:] = 0
    comm.Sendrecv(np.arange(12.0)[::2], comm.rank, 9, memory[0, ::2], comm.rank, 9)
    assert_array_equal(memory[0, ::2], np.arange(0, 12, 2))


@needs_errors
def test_statuses_tell_which_one_failed(comm, every_other):
    memory = np.full((5, 12), -1.0)
    statuses: list[MPI.Status] = []
    requests = start_with_an_error(comm, every_other, memory)
    with pytest.raises(MPI.Exception) as raised:
        MPI.Request.Waitall(requests, statuses)
    assert raised.value.Get_error_class() == MPI.ERR_IN_STATUS
    classes = [MPI.Get_error_class(status.Get_error()) for status in statuses]
    # MPICH stops at the error; the others are complete or pending.
    assert classes[:2] == [MPI.SUCCESS, MPI.ERR_TRUNCATE]
    assert set(classes[2:]) <= {MPI.SUCCESS, MPI.ERR_PENDING}
    assert list(map(bool, requests)) == [found == MPI.ERR_PENDING for found in classes]
    finish_despite_errors("Wait", requests)
    check_the_others(memory)


# Cancelled, freed, forgotten


@pytest.mark.parametrize("persistent", [False, True])
def test_a_cancelled_receive_writes_nothing(comm, every_other, persistent):
    memory = np.full((2, 12), -1.0)
    receive = comm.Recv_init if persistent else comm.Irecv
    requests = [receive(memory[0, ::2], comm.rank, 1), receive([memory[1], 1, every_other], comm.rank, 1)]
    for request in requests:
        if persistent:
            request.Start()
        status = MPI.Status()
        request.Cancel()
        request.Wait(status)
        assert status.Is_cancelled()
    assert (memory == -1).all()
    if persistent:
        MPI.Prequest.Startall(requests)
        sends = [comm.Isend(np.arange(6.0) + i, comm.rank, 1) for i in range(2)]
        MPI.Request.Waitall(requests + sends)
        assert_array_equal(memory[:, ::2], [np.arange(6), np.arange(6) + 1])
        assert (memory[:, 1::2] == -1).all()
        for request in requests:
            request.Free()


def test_a_send_that_is_freed_goes_on(comm, every_other):
    """Other staged sends may not take its memory before the message has left."""
    right, left = neighbours(comm)
    sent = np.arange(240.0).reshape(20, 12) + 1000 * comm.rank
    for i in range(10):
        for request in (
            comm.Issend(sent[i, ::2], right, i),
            comm.Issend([sent[10 + i], 1, every_other], right, 10 + i),
        ):
            request.Free()
            assert request == MPI.REQUEST_NULL
            assert not request
    received = np.zeros((20, 6))
    for i in range(20):
        comm.Recv(received[i], left, i)
    assert_array_equal(received, (np.arange(240.0).reshape(20, 12) + 1000 * left)[:, ::2])


def test_a_receive_that_is_freed_goes_on(comm, every_other):
    """Data that arrives is written, at the latest when another operation starts."""
    right, left = neighbours(comm)
    memory = np.full((2, 12), -1.0)
    for request in (comm.Irecv(memory[0, ::2], left, 1), comm.Irecv([memory[1], 1, every_other], left, 1)):
        request.Free()
        assert request == MPI.REQUEST_NULL
    for i in range(2):
        comm.Send(np.arange(6.0) + i, right, 1)

    def arrived():
        # A message to oneself alone makes no progress with Open MPI.
        comm.Iprobe()
        requests = [comm.Irecv(np.zeros(4)[::2], comm.rank, 2), comm.Isend(np.zeros(4)[::2], comm.rank, 2)]
        MPI.Request.Waitall(requests)
        return (memory[:, ::2] == [np.arange(6), np.arange(6) + 1]).all()

    until(arrived)
    assert (memory[:, 1::2] == -1).all()


def test_sends_that_are_forgotten_go_on(comm):
    right, left = neighbours(comm)
    sent = [np.arange(600.0) + 1000 * comm.rank + i for i in range(50)]
    for i in range(50):
        comm.Issend(sent[i][::2], right, i)
        if i % 10 == 0:
            gc.collect()
    received = np.zeros((50, 300))
    for i in range(50):
        comm.Recv(received[i], left, i)
    expected = np.arange(0, 600, 2) + 1000 * left + np.arange(50)[:, None]
    assert_array_equal(received, expected)


def test_the_free_of_a_request_that_is_not_active(comm):
    memory = np.zeros((3, 4))
    request = comm.Recv_init(memory[:, 1], comm.rank)
    request.Wait()
    assert request.Test()
    assert request.Get_status()
    assert not memory.any()
    request.Free()
    assert request == MPI.REQUEST_NULL
    done = comm.Isend(np.zeros(4)[::2], MPI.PROC_NULL)
    done.Wait()
    assert done == MPI.REQUEST_NULL
    with pytest.raises(MPI.Exception):
        done.Free()
    done.free()


@pytest.mark.parametrize("kind", [kind for kind in COMPLETIONS if not kind.lower().startswith("get_status")])
def test_persistent_requests_start_after_every_kind_of_completion(comm, every_other, kind):
    right, left = neighbours(comm)
    memory, sent = np.full((3, 12), -1.0), np.zeros((3, 12))
    requests = [
        comm.Recv_init(memory[0, ::2], left, 0),
        comm.Recv_init([memory[1], 1, every_other], left, 1),
        comm.Recv_init(memory[2], left, 2),
        comm.Send_init(sent[0, ::-2], right, 0),
        comm.Send_init([sent[1], 1, every_other], right, 1),
        comm.Send_init(sent[2], right, 2),
    ]
    for round_ in range(3):
        memory[:] = -1
        sent[:] = np.arange(36).reshape(3, 12) + 100 * round_ + 1000 * comm.rank
        if round_ % 2:
            MPI.Prequest.Startall(requests)
        else:
            for request in requests:
                request.Start()
        # An inactive persistent request counts as complete already.
        if kind.endswith(("any", "some")):
            MPI.Request.Waitall(requests[3:])
            left_over = requests[:3]
            while left_over:
                result = getattr(MPI.Request, kind)(left_over)
                done = found_complete(kind, result, len(left_over)) or []
                left_over = [request for i, request in enumerate(left_over) if i not in done]
        else:
            complete(kind, requests)
        arrived = np.arange(36.0).reshape(3, 12) + 100 * round_ + 1000 * left
        expected = np.full((3, 12), -1.0)
        expected[0, ::2], expected[1, ::2], expected[2] = arrived[0, ::-2], arrived[1, ::2], arrived[2]
        assert_array_equal(memory, expected)
    for request in requests:
        request.Free()


# Threads


def run_threads(work, number=4):
    """Run work(i) in some threads at once; raise what the first of them raised."""
    errors = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,), daemon=True) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in threads), errors
    if errors:
        raise errors[0]


needs_threads = pytest.mark.skipif(
    MPI.Query_thread() < MPI.THREAD_MULTIPLE, reason="the MPI library was not started for many threads"
)


@needs_threads
def test_threads_communicate_at_once(comm):
    """Each with its own communicator, and with layouts that the others use, too."""
    right, left = neighbours(comm)
    communicators = [comm.Dup() for _ in range(4)]

    def work(i):
        mine = communicators[i]
        for round_ in range(30):
            width = 4 + round_ % 3
            sent = np.arange(20.0 * width).reshape(20, width) + 1000 * comm.rank + i
            received = np.full((width, 40), -1.0)
            datatype = MPI.DOUBLE.Create_vector(20, 1, width).Commit()
            mine.Sendrecv(sent[:, 1], right, 0, received[0, ::2], left, 0)
            requests = [
                mine.Irecv(received[1, ::-2], left, 1),
                mine.Irecv(received[2, 1::2], left, 2),
                mine.Isend([sent[0, 2:], 1, datatype], right, 1),
                mine.Isend(sent[::-1, 3], right, 2),
            ]
            MPI.Request.Waitall(requests)
            datatype.Free()
            there = sent - 1000 * comm.rank + 1000 * left
            assert_array_equal(received[0, ::2], there[:, 1])
            assert_array_equal(received[1, ::-2], there[:, 2])
            assert_array_equal(received[2, 1::2], there[::-1, 3])
            assert (received[0, 1::2] == -1).all()

    run_threads(work)
    for communicator in communicators:
        communicator.Free()


@needs_threads
def test_threads_forget_requests_at_once(comm):
    right, left = neighbours(comm)

    def work(i):
        received = np.zeros((40, 50))
        sent = np.arange(100.0) + 1000 * i + np.arange(40)[:, None] + 100000 * comm.rank
        for round_ in range(40):
            comm.Isend(sent[round_, ::2], right, i)
            comm.Recv(received[round_], left, i)
        expected = np.arange(0, 100, 2) + 1000 * i + np.arange(40)[:, None] + 100000 * left
        assert_array_equal(received, expected)

    run_threads(work)


@needs_threads
def test_threads_use_a_new_layout_at_once(comm):
    """All threads find out about a layout at the same time."""
    right, left = neighbours(comm)
    barrier = threading.Barrier(4)

    def work(i):
        for round_ in range(20):
            shape = (3 + round_, 5, 4)
            sent, received = np.arange(60.0 + 20 * round_).reshape(shape) + i, np.zeros((*shape, 2))
            barrier.wait(LIMIT_S)
            comm.Sendrecv(sent[:, 1:4, ::-1], right, i, received[:, 1:4, :, 1], left, i)
            assert_array_equal(received[:, 1:4, :, 1], sent[:, 1:4, ::-1])
            assert not received[..., 0].any()

    run_threads(work)
