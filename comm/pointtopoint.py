"""Point-to-point communication of arrays and datatypes that are not contiguous.

A contiguous NumPy array, which most messages are, goes to mpi4py after one look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..datatypes.plain import MPI
from .execution import Runner, direct, run_at_once, run_prepared, run_started
from .operation import settle_unfinished, unfinished
from .specification import find_stage, is_left, stage_one
from .staging import Stage
from .strided import REFUSALS, arrange_array, stage_array
from .substitute import named_like

_ndarray = np.ndarray
_PROC_NULL, _ANY_SOURCE, _ANY_TAG = MPI.PROC_NULL, MPI.ANY_SOURCE, MPI.ANY_TAG


def _arrange(buffer: Any, peer: int, receiving: bool, forced: bool = False) -> tuple[Any, Stage | None]:
    """What MPI is given for a buffer, and the stage that it is, if it is one."""
    if peer == _PROC_NULL:
        # mpi4py does not look at the buffer either.
        return buffer, None
    if buffer.__class__ is _ndarray and not buffer.flags.forc:
        return arrange_array(buffer, receiving, forced)
    stage = find_stage(stage_one, buffer, receiving, forced=forced)
    return (buffer, None) if stage is None else (stage.spec, stage)


def send(base: Any, run: Runner, comm: Any, buffer: Any, dest: int, tag: int) -> Any:
    """Send one message, with a stage in the buffer's place where it needs one."""
    spec, stage = _arrange(buffer, dest, receiving=False)
    if stage is None:
        try:
            return base(comm, spec, dest, tag)
        except REFUSALS:
            stage = stage_array(buffer, receiving=False)
            if stage is None:
                raise
    return run(partial(base, comm, stage.spec, dest, tag), (stage,), ())


def receive(call: Callable[[Any], Any], run: Runner, buffer: Any, source: int, status: MPI.Status) -> Any:
    """Run `call(buffer)`, which receives one message, with a stage in the buffer's place if it needs one."""
    spec, stage = _arrange(buffer, source, receiving=True)
    if stage is None:
        try:
            return call(spec)
        except REFUSALS:
            stage = stage_array(buffer, receiving=True)
            if stage is None:
                raise
    return run(partial(call, stage.spec), (stage,) if stage.partial else (), (stage,), status)


def exchange(
    call: Callable[..., Any],
    run: Runner,
    outgoing: tuple[Any, int],
    incoming: tuple[Any, int],
    status: MPI.Status,
) -> Any:
    """Run `call(sendbuf, recvbuf=...)` with stages where they are needed; the pairs are buffer and peer."""
    out, sent = _arrange(*outgoing, receiving=False)
    into, received = _arrange(*incoming, receiving=True)
    try:
        if sent is received is None:
            return call(out, recvbuf=into)
        refusal = None
    except REFUSALS as error:
        refusal = error.with_traceback(None)
    # One side may need a closer look whatever the other one is; not one that a datatype describes by now.
    if sent is None and out is outgoing[0] and outgoing[1] != _PROC_NULL:
        sent = stage_array(out, receiving=False)
    if received is None and into is incoming[0] and incoming[1] != _PROC_NULL:
        received = stage_array(into, receiving=True)
    if refusal is not None and sent is received is None:
        raise refusal
    out, into = sent.spec if sent else out, received.spec if received else into
    if received is not None and run is run_started:
        # MPICH 5.0.2 does not say in the status how much arrived: fill the stage, and store all of it.
        received.partial = True
    loads = tuple(
        stage for stage in (sent, received) if stage is not None and (stage is sent or stage.partial)
    )
    return run(partial(call, out, recvbuf=into), loads, (received,) if received else (), status)


def replace(
    call: Callable[[Any], Any], run: Runner, buffer: Any, peers: tuple[int, int], status: MPI.Status
) -> Any:
    """Run `call(buffer)`, which sends what is in the buffer and receives into it."""
    peer = _PROC_NULL if peers == (_PROC_NULL, _PROC_NULL) else 0
    # MPICH 5.0.2's Isendrecv_replace mistakes datatypes with gaps, and its status what arrived.
    spec, stage = _arrange(buffer, peer, receiving=True, forced=run is run_started)
    if stage is None:
        try:
            return call(spec)
        except REFUSALS:
            stage = stage_array(buffer, receiving=True)
            if stage is None:
                raise
    stage.partial = stage.partial or run is run_started
    return run(partial(call, stage.spec), (stage,), (stage,), status)


# The methods below are what every message goes through. An array that owns its memory is nearly always
# contiguous, and `base` is read faster than `flags`: mpi4py is asked, and refuses the others. And they
# hand on their arguments instead of closing over them, because a variable that a function inside
# captures makes every call slower.


def _sending(base: Any, run: Runner) -> Any:
    base = direct(base, run)

    @named_like(base)
    def method(self: MPI.Comm, buf: Any, dest: int, tag: int = 0) -> Any:
        if (
            (buf.base is None or buf.flags.forc)
            if buf.__class__ is _ndarray
            else (buf.__class__ is list and is_left(buf))
        ):
            try:
                result = base(self, buf, dest, tag)
            except REFUSALS:
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return result
        return send(base, run, self, buf, dest, tag)

    return method


def _receiving(base: Any, run: Runner) -> Any:
    base = direct(base, run)

    @named_like(base)
    def method(self: MPI.Comm, buf: Any, source: int = _ANY_SOURCE, tag: int = _ANY_TAG) -> Any:
        if (
            (buf.base is None or buf.flags.forc)
            if buf.__class__ is _ndarray
            else (buf.__class__ is list and is_left(buf))
        ):
            try:
                result = base(self, buf, source, tag)
            except REFUSALS:
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return result
        return receive(partial(base, self, source=source, tag=tag), run, buf, source, MPI.Status())

    return method


class PointToPoint(MPI.Comm):
    """Point-to-point methods of a communicator."""

    Send = _sending(MPI.Comm.Send, run_at_once)
    Bsend = _sending(MPI.Comm.Bsend, run_at_once)
    Ssend = _sending(MPI.Comm.Ssend, run_at_once)
    Rsend = _sending(MPI.Comm.Rsend, run_at_once)
    Isend = _sending(MPI.Comm.Isend, run_started)
    Ibsend = _sending(MPI.Comm.Ibsend, run_started)
    Issend = _sending(MPI.Comm.Issend, run_started)
    Irsend = _sending(MPI.Comm.Irsend, run_started)
    Send_init = _sending(MPI.Comm.Send_init, run_prepared)
    Bsend_init = _sending(MPI.Comm.Bsend_init, run_prepared)
    Ssend_init = _sending(MPI.Comm.Ssend_init, run_prepared)
    Rsend_init = _sending(MPI.Comm.Rsend_init, run_prepared)
    Irecv = _receiving(MPI.Comm.Irecv, run_started)
    Recv_init = _receiving(MPI.Comm.Recv_init, run_prepared)

    @named_like(MPI.Comm.Recv)
    def Recv(
        self, buf: Any, source: int = _ANY_SOURCE, tag: int = _ANY_TAG, status: MPI.Status | None = None
    ) -> Any:
        if (
            (buf.base is None or buf.flags.forc)
            if buf.__class__ is _ndarray
            else (buf.__class__ is list and is_left(buf))
        ):
            try:
                result = _Recv(self, buf, source, tag, status)
            except REFUSALS:
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return result
        filled = MPI.Status() if status is None else status
        call = partial(_Recv, self, source=source, tag=tag, status=filled)
        return receive(call, run_at_once, buf, source, filled)

    @named_like(MPI.Comm.Sendrecv)
    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = _ANY_SOURCE,
        recvtag: int = _ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Any:
        if (
            sendbuf.__class__ is _ndarray
            and recvbuf.__class__ is _ndarray
            and sendbuf.flags.forc
            and recvbuf.flags.forc
        ):
            try:
                _Sendrecv(self, sendbuf, dest, sendtag, recvbuf, source, recvtag, status)
            except REFUSALS:
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return None
        filled = MPI.Status() if status is None else status
        call = partial(
            _Sendrecv, self, dest=dest, sendtag=sendtag, source=source, recvtag=recvtag, status=filled
        )
        return exchange(call, run_at_once, (sendbuf, dest), (recvbuf, source), filled)

    @named_like(MPI.Comm.Isendrecv)
    def Isendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = _ANY_SOURCE,
        recvtag: int = _ANY_TAG,
    ) -> Any:
        call = partial(_Isendrecv, self, dest=dest, sendtag=sendtag, source=source, recvtag=recvtag)
        return exchange(call, run_started, (sendbuf, dest), (recvbuf, source), MPI.Status())

    @named_like(MPI.Comm.Sendrecv_replace)
    def Sendrecv_replace(
        self,
        buf: Any,
        dest: int,
        sendtag: int = 0,
        source: int = _ANY_SOURCE,
        recvtag: int = _ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Any:
        filled = MPI.Status() if status is None else status
        call = partial(
            _Sendrecv_replace, self, dest=dest, sendtag=sendtag, source=source, recvtag=recvtag, status=filled
        )
        return replace(call, run_at_once, buf, (dest, source), filled)

    @named_like(MPI.Comm.Isendrecv_replace)
    def Isendrecv_replace(
        self, buf: Any, dest: int, sendtag: int = 0, source: int = _ANY_SOURCE, recvtag: int = _ANY_TAG
    ) -> Any:
        call = partial(_Isendrecv_replace, self, dest=dest, sendtag=sendtag, source=source, recvtag=recvtag)
        return replace(call, run_started, buf, (dest, source), MPI.Status())


_Recv = MPI.Comm.Recv
_Sendrecv, _Isendrecv = MPI.Comm.Sendrecv, MPI.Comm.Isendrecv
_Sendrecv_replace, _Isendrecv_replace = MPI.Comm.Sendrecv_replace, MPI.Comm.Isendrecv_replace
