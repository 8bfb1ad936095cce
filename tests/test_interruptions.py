"""An exception out of a signal handler while MPI waits: what arrived is in its array when it is raised."""

import gc
import random
import signal
import threading
import time
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(
        MPI.Query_thread() < MPI.THREAD_MULTIPLE, reason="the MPI library was not started for many threads"
    ),
]

LENGTH = 3000
SECONDS = 0.01
TRIES = 6


class Interrupted(Exception):
    """The exception that the handler raises."""


def interrupt(*_):
    """Handle the signal."""
    raise Interrupted


@pytest.fixture(autouse=True)
def handler():
    """Let the signal raise an exception, as Ctrl-C does, once the kernel is loaded."""
    MPI.COMM_SELF.Sendrecv(np.zeros(2 * LENGTH)[::-2], 0, 0, np.zeros(2 * LENGTH)[::-2], 0, 0)
    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


class Signal:
    """A thread that sends a signal to the main one, which is in MPI by that time, and that does some work.

    The work comes `between` seconds later, or earlier where that is negative.
    """

    def __init__(self, between, work):
        self.between, self.work = between, work
        self.thread = threading.Thread(target=self.run)
        # An interrupted join may leave a thread that still runs for one that has ended, and an interrupted
        # wait for an event may leave its lock held.
        self.has_ended = False

    def run(self):
        """Do both."""
        main = threading.main_thread().ident
        assert main is not None
        time.sleep(SECONDS)
        if self.between < 0:
            self.work()
            time.sleep(-self.between)
        signal.pthread_kill(main, signal.SIGUSR1)
        if self.between >= 0:
            time.sleep(self.between)
            self.work()
        self.has_ended = True

    def wait(self):
        """Wait until it has done both."""
        while not self.has_ended:
            time.sleep(0.0005)

    def during(self, call):
        """Run `call`, and tell whether it was interrupted."""
        interrupted = False
        try:
            self.thread.start()
            try:
                call()
            finally:
                self.wait()
        except Interrupted:
            interrupted = True
        self.wait()
        # The signal may still be on its way through the system, or the interpreter.
        try:
            while not interrupted:
                time.sleep(0.001)
        except Interrupted:
            interrupted = True
        return interrupted


class Messages:
    """Two messages around the ring, received into strided arrays."""

    def __init__(self, comm):
        self.comm = comm
        self.right, self.left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        self.memory = np.full((2, LENGTH, 2), -1.0)
        self.views = [self.memory[0, ::-1, 0], self.memory[1, :, 1]]
        self.sent = np.arange(2.0 * LENGTH).reshape(2, LENGTH) + 10000 * comm.rank
        self.expected = np.arange(2.0 * LENGTH).reshape(2, LENGTH) + 10000 * self.left
        self.plain = PLAIN.Intracomm(comm)
        self.sends: list[PLAIN.Request] = []

    def send(self):
        """Send both, from another thread."""
        self.sends = [self.plain.Isend(self.sent[tag], self.right, tag) for tag in range(2)]

    def check(self):
        """See both in their places."""
        PLAIN.Request.Waitall(self.sends)
        assert_array_equal(self.views[0], self.expected[0])
        assert_array_equal(self.views[1], self.expected[1])
        assert (self.memory[0, :, 1] == -1).all()
        assert (self.memory[1, :, 0] == -1).all()

    def starts(self):
        """Start receives of both."""
        return [self.comm.Irecv(view, self.left, tag) for tag, view in enumerate(self.views)]


def recv(messages, tag):
    """Receive one."""
    messages.comm.Recv(messages.views[tag], messages.left, tag)


def sendrecv(messages, tag):
    """Receive one, and send nothing."""
    messages.comm.Sendrecv(np.zeros(0), MPI.PROC_NULL, 0, messages.views[tag], messages.left, tag)


def sendrecv_replace(messages, tag):
    """Receive one, and send nothing."""
    messages.comm.Sendrecv_replace(messages.views[tag], MPI.PROC_NULL, 0, messages.left, tag)


@pytest.mark.parametrize("between", [0.02, None])
@pytest.mark.parametrize("receive", [recv, sendrecv, sendrecv_replace])
def test_a_blocking_receive(comm, receive, between):
    for _ in range(1 if between else TRIES):
        messages = Messages(comm)
        begun = Signal(random.uniform(-0.001, 0.001) if between is None else between, messages.send)
        assert begun.during(lambda messages=messages: receive(messages, 0))
        # On a busy machine the signal may come before the call; a message that is lost is never found.
        has_received(messages, 0)
        receive(messages, 1)
        messages.check()
        comm.Barrier()


@pytest.mark.parametrize("receive", [recv, sendrecv, sendrecv_replace])
def test_a_receive_of_what_is_there(comm, receive):
    """The signal comes anywhere in the call, or before it."""
    for _ in range(TRIES):
        messages = Messages(comm)
        start = time.monotonic() + random.uniform(0, 0.0005) + SECONDS
        comm.Barrier()

        def call(messages=messages, start=start):
            while time.monotonic() < start:
                pass
            receive(messages, 0)

        sender = threading.Thread(target=messages.send)
        sender.start()
        Signal(0, lambda: None).during(call)
        sender.join()
        comm.Barrier()
        if (messages.views[0] == -1).all():
            # It never began.
            receive(messages, 0)
        receive(messages, 1)
        messages.check()
        comm.Barrier()


def test_a_receive_of_a_matched_message(comm):
    """A message that was not received yet is still there."""
    for _ in range(TRIES):
        messages = Messages(comm)
        messages.send()
        message = comm.Mprobe(messages.left, 0)
        start = time.monotonic() + random.uniform(0, 0.0005) + SECONDS

        def call(messages=messages, message=message, start=start):
            while time.monotonic() < start:
                pass
            message.Recv(messages.views[0])

        Signal(0, lambda: None).during(call)
        if message != MPI.MESSAGE_NULL:
            message.Recv(messages.views[0])
        recv(messages, 1)
        messages.check()
        comm.Barrier()


WAYS: dict[str, Any] = {
    "Wait": lambda requests: [request.Wait() for request in requests],
    "wait": lambda requests: [request.wait() for request in requests],
    "Test": lambda requests: [until(request.Test) for request in requests],
    "Get_status": lambda requests: [until(request.Get_status) for request in requests],
    "Waitall": MPI.Request.Waitall,
    "waitall": MPI.Request.waitall,
    "Waitany": lambda requests: until(lambda: MPI.Request.Waitany(requests) < 0),
    "waitany": lambda requests: until(lambda: MPI.Request.waitany(requests)[0] < 0),
    "Waitsome": lambda requests: until(lambda: MPI.Request.Waitsome(requests) is None),
    "Testall": lambda requests: until(lambda: MPI.Request.Testall(requests)),
    "Testany": lambda requests: until(lambda: MPI.Request.Testany(requests) == (MPI.UNDEFINED, True)),
    "Testsome": lambda requests: until(lambda: MPI.Request.Testsome(requests) is None),
}


def until(done):
    """Ask again and again."""
    while not done():
        pass


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_completion(comm, way, persistent):
    """Completing the same requests once more completes what the interruption left."""
    messages = Messages(comm)
    requests = []
    if persistent:
        requests = [comm.Recv_init(view, messages.left, tag) for tag, view in enumerate(messages.views)]
    for _ in range(TRIES):
        messages.memory[:] = -1
        if persistent:
            MPI.Prequest.Startall(requests)
        else:
            requests = messages.starts()
        comm.Barrier()
        begun = Signal(random.uniform(-0.001, 0.001), messages.send)
        assert begun.during(lambda requests=requests: WAYS[way](requests))
        MPI.Request.Waitall(requests)
        messages.check()
        comm.Barrier()
    if persistent:
        for request in requests:
            request.Free()


COLLECTIVES = {
    "Bcast": lambda comm, sent, received: comm.Bcast(received, 0),
    "Allgather": lambda comm, sent, received: comm.Allgather(sent, received),
    "Alltoall": lambda comm, sent, received: comm.Alltoall(sent, received),
    "Scatter": lambda comm, sent, received: comm.Scatter(sent, received, 0),
    "Scan": lambda comm, sent, received: comm.Scan(sent, received),
}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_of_the_library(comm, name):
    """Rank 0 comes to it last."""
    if name == "Bcast":
        sent, length = np.zeros(0), LENGTH
    elif name == "Scan":
        sent, length = np.arange(float(LENGTH)) + comm.rank, LENGTH
    elif name == "Allgather":
        sent, length = np.arange(float(LENGTH)) + comm.rank, LENGTH * comm.size
    else:
        sent = np.arange(float(LENGTH * comm.size)) + comm.rank
        length = LENGTH * comm.size if name == "Alltoall" else LENGTH
    expected = np.arange(float(length))
    if name != "Bcast":
        COLLECTIVES[name](PLAIN.Intracomm(comm), sent, expected)
    for _ in range(TRIES):
        memory = np.full((length, 2), -1.0)
        if comm.rank == 0 and name == "Bcast":
            memory[:, 0] = expected
        between = random.uniform(-0.001, 0.001)
        comm.Barrier()
        if comm.rank == 0:
            time.sleep(SECONDS + between)
            COLLECTIVES[name](comm, sent, memory[:, 0])
        else:
            begun = Signal(0, lambda: None)
            assert begun.during(lambda memory=memory: COLLECTIVES[name](comm, sent, memory[:, 0]))
            # The signal may come before the call, which no other rank ends without this one.
            if (memory[:, 0] == -1).all():
                COLLECTIVES[name](comm, sent, memory[:, 0])
        assert_array_equal(memory[:, 0], expected)
        assert (memory[:, 1] == -1).all()


def has_received(messages, tag):
    """Receive one, unless an earlier receive, of which there may be no request, takes it; tell which."""
    while not (messages.views[tag] == messages.expected[tag]).all():
        # This looks for what is complete, too.
        MPI.Request.Testall([])
        if messages.comm.Iprobe(messages.left, tag):
            recv(messages, tag)
            return False
    return True


def test_a_start(comm):
    """A receive or send of which the program never got the request goes on as one that it has freed."""
    started = 0
    for _ in range(4 * TRIES):
        messages = Messages(comm)
        requests: list[MPI.Request] = []
        start = time.monotonic() + random.uniform(0, 0.0003) + SECONDS

        def call(messages=messages, requests=requests, start=start):
            while time.monotonic() < start:
                pass
            for tag, view in enumerate(messages.views):
                requests.append(comm.Irecv(view, messages.left, tag))

        Signal(0, lambda: None).during(call)
        comm.Barrier()
        messages.send()
        MPI.Request.Waitall(requests)
        for tag in range(2):
            started += has_received(messages, tag)
        messages.check()
        comm.Barrier()
    assert started


def test_memory_is_given_back(comm):
    """Neither the array nor the stage of a receive that was interrupted stays."""
    messages = Messages(comm)
    begun = Signal(0.001, messages.send)
    requests = messages.starts()
    comm.Barrier()
    assert begun.during(partial(MPI.Request.Waitall, requests))
    MPI.Request.Waitall(requests)
    messages.check()
    memory = weakref.ref(messages.memory)
    del messages, begun, requests
    gc.collect()
    assert memory() is None
