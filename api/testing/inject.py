"""Faults, one rank at a time: what a test or a program calls to see what becomes of it.

::

    from roundelay.testing import inject

    for step in range(100):
        if step == 50:
            inject.stop(rank=2)
        comm.Allreduce(own, total)

Each function takes the rank of `MPI.COMM_WORLD` that it breaks, and does nothing on the others; without one
it breaks every rank that calls it. Functions that take the name of a method, such as `skip("Bcast")`, are
context managers, and change the calls of roundelay's communicators within the block.

The same faults can be injected into a program that is not changed: see `roundelay.testing.environment`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator, ExitStack, contextmanager
from typing import Any

import numpy as np

from ..datatypes.plain import MPI
from . import changes
from .announcing import announce, announcing_once
from .wrapping import Change, wrap

__all__ = [
    "InjectedError",
    "any_source_knot",
    "fail",
    "hang",
    "hang_in_c",
    "kill",
    "late_sends",
    "receive_cycle",
    "skip",
    "slow",
    "stop",
    "wrong_call",
    "wrong_count",
    "wrong_op",
    "wrong_root",
]

# How long a rank that hangs in Python sleeps at a time.
NAP = 0.05
# More than a mutex of any C library takes.
MUTEX_BYTES = 256


class InjectedError(RuntimeError):
    """What `fail` raises."""


def is_meant(rank: int | None) -> bool:
    """Whether this is that rank of `MPI.COMM_WORLD`, or no rank was named.

    >>> is_meant(None), is_meant(MPI.COMM_WORLD.rank), is_meant(MPI.COMM_WORLD.rank + 1)
    (True, True, False)
    """
    return rank is None or rank == MPI.COMM_WORLD.Get_rank()


def kill(rank: int | None = None) -> None:
    """End this process by SIGKILL, as the system does that runs out of memory."""
    if is_meant(rank):
        announce("kill")
        os.kill(os.getpid(), signal.SIGKILL)


def stop(rank: int | None = None) -> None:
    """Stop this process by SIGSTOP: it goes on when another one sends it SIGCONT."""
    if is_meant(rank):
        announce("stop")
        os.kill(os.getpid(), signal.SIGSTOP)


def hang(rank: int | None = None, seconds: float = float("inf")) -> None:
    """Sleep in Python, where signals and other threads still run.

    >>> hang(seconds=0.01)
    """
    if not is_meant(rank):
        return
    announce("hang")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(NAP, left))


def hang_in_c(rank: int | None = None, seconds: float = float("inf")) -> None:
    """Wait in C for a lock that nobody gives back, and keep the GIL.

    Neither Python's signal handlers nor its other threads run meanwhile.

    >>> hang_in_c(seconds=0.01)
    """
    if not is_meant(rank):
        return
    announce("hang-in-c")
    # Functions of a PyDLL are called with the GIL held. Unlike a sleep, a mutex does not mind signals.
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(MUTEX_BYTES)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    if seconds == float("inf"):
        library.pthread_mutex_lock(mutex)
    end = divmod(int((time.time() + seconds) * 1e9), 10**9)
    library.pthread_mutex_timedlock(mutex, (ctypes.c_long * 2)(*end))


def fail(rank: int | None = None, message: str = "injected") -> None:
    """Raise `InjectedError`.

    >>> fail(message="no more disk")
    Traceback (most recent call last):
    roundelay.testing.inject.InjectedError: no more disk
    """
    if is_meant(rank):
        announce("fail")
        raise InjectedError(message)


class slow(ContextDecorator):
    """Let what is in the block, or in the function that it decorates, take `factor` times as long.

    Parameters
    ----------
    factor : float
        1 or more.
    rank : int, optional
        Of `MPI.COMM_WORLD`; by default each that comes here.

    Examples
    --------
    >>> with slow(2.0):
    ...     time.sleep(0.001)
    """

    def __init__(self, factor: float, rank: int | None = None) -> None:
        if not factor >= 1:
            raise ValueError(f"factor {factor}: expected 1 or more")
        self.factor, self.rank, self.tell = factor, rank, announcing_once("slow")
        # A decorated function may call itself, and from several threads.
        self.starts = threading.local()

    def __enter__(self) -> slow:
        self.starts.stack = [*getattr(self.starts, "stack", ()), time.perf_counter()]
        return self

    def __exit__(self, *_: object) -> None:
        *self.starts.stack, start = self.starts.stack
        if not is_meant(self.rank):
            return
        self.tell()
        time.sleep((time.perf_counter() - start) * (self.factor - 1))


def skip(call: str, rank: int | None = None) -> AbstractContextManager[None]:
    """Do nothing, and return None, where a method of that name is called in the block.

    >>> with skip("Barrier"):
    ...     pass
    """
    return _where_meant(rank, {call: changes.left_out()})


def wrong_call(call: str, other: str = "Barrier", rank: int | None = None) -> AbstractContextManager[None]:
    """Call another method, which takes no arguments, in the place of that one."""
    return _where_meant(rank, {call: changes.another(other)})


def wrong_count(call: str, rank: int | None = None) -> AbstractContextManager[None]:
    """Leave out the last element of each array that a method of that name gets in the block."""
    return _where_meant(rank, {call: changes.wrong_count(call)})


def wrong_root(call: str, rank: int | None = None) -> AbstractContextManager[None]:
    """Pass the next rank as the root to a method of that name, such as `Bcast`."""
    return _where_meant(rank, {call: changes.wrong_root(call)})


def wrong_op(call: str, rank: int | None = None) -> AbstractContextManager[None]:
    """Pass another op to a method of that name, such as `Allreduce`: MAX, or SUM for MAX.

    No MPI library finds that out by itself: the call returns a wrong result on some ranks.
    """
    return _where_meant(rank, {call: changes.wrong_op(call)})


def late_sends(
    peer: int, seconds: float, rank: int | None = None, calls: Sequence[str] = ("Send", "Isend")
) -> AbstractContextManager[None]:
    """Wait before each message to one rank.

    The sender waits, too: it is no link that is slow by itself, for which see `benchmarks/netlab`.

    Parameters
    ----------
    peer : int
        The rank of the communicator to which messages are late.
    seconds : float
    rank : int, optional
        Of `MPI.COMM_WORLD`, whose messages are late.
    calls : sequence of str
        Methods with a buffer and a rank as their first arguments.
    """
    return _where_meant(rank, dict.fromkeys(calls, changes.late(peer, seconds)))


@contextmanager
def _where_meant(rank: int | None, wrong: Mapping[str, Change]) -> Iterator[None]:
    """Change methods within the block, if this is the rank."""
    with ExitStack() as stack:
        for call, change in wrong.items() if is_meant(rank) else ():
            stack.callback(wrap(call, change))
        yield


def receive_cycle(comm: Any, ranks: Sequence[int]) -> None:
    """Let each of these ranks wait for a message from the next of them, the last one from the first.

    Parameters
    ----------
    comm : Comm
    ranks : sequence of int
        Two or more different ranks of `comm`; the others return at once.
    """
    own = comm.Get_rank()
    if len(set(ranks)) < 2 or len(set(ranks)) != len(ranks):
        raise ValueError(f"ranks {list(ranks)}: expected two or more different ones")
    if own in ranks:
        announce("receive-cycle")
        after = ranks[(list(ranks).index(own) + 1) % len(ranks)]
        comm.Recv(np.empty(1), after, changes.TAG)


def any_source_knot(comm: Any, ranks: Collection[int] | None = None) -> None:
    """Let each of these ranks, all by default, wait for a message from whichever, which nobody sends."""
    if ranks is None or comm.Get_rank() in ranks:
        announce("any-source-knot")
        comm.Recv(np.empty(1), MPI.ANY_SOURCE, changes.TAG)
