"""Communicators: mpi4py's classes with our methods, and whatever makes a communicator returns one of them.

The base that descends furthest in mpi4py comes first: only its constructor fits the object.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from ..datatypes.plain import MPI
from .collective import Collective, NeighborCollective
from .datatype import Datatype
from .execution import run_at_once, run_started
from .operation import settle_unfinished, unfinished
from .pointtopoint import PointToPoint, receive
from .requests import Prequest, Request
from .substitute import Handle, named_like, predefined


class Comm(Handle, PointToPoint):
    """Communicator that takes any array and datatype."""

    plain: ClassVar[type] = MPI.Comm

    # MPI refuses predefined ones, whoever asks, and short-lived ones have no time for one more call.
    Free = MPI.Comm.Free

    @named_like(MPI.Comm.Barrier)
    def Barrier(self) -> None:
        _Barrier(self)
        if unfinished:
            settle_unfinished()


class Intracomm(Collective, Comm):
    """Intracommunicator."""

    plain: ClassVar[type] = MPI.Intracomm


class Topocomm(NeighborCollective, Intracomm):
    """Intracommunicator with a topology."""

    plain: ClassVar[type] = MPI.Topocomm


class Cartcomm(MPI.Cartcomm, Topocomm):
    """Cartesian topology."""

    plain: ClassVar[type] = MPI.Cartcomm


class Graphcomm(MPI.Graphcomm, Topocomm):
    """Graph topology."""

    plain: ClassVar[type] = MPI.Graphcomm


class Distgraphcomm(MPI.Distgraphcomm, Topocomm):
    """Distributed graph topology."""

    plain: ClassVar[type] = MPI.Distgraphcomm


class Intercomm(MPI.Intercomm, Comm):
    """Intercommunicator."""

    plain: ClassVar[type] = MPI.Intercomm


class Message(Handle, MPI.Message):
    """Matched message."""

    plain: ClassVar[type] = MPI.Message

    @named_like(MPI.Message.Recv)
    def Recv(self, buf: Any, status: MPI.Status | None = None) -> Any:
        filled = MPI.Status() if status is None else status
        return receive(partial(_Recv, _original(self), status=filled), run_at_once, buf, 0, filled)

    @named_like(MPI.Message.Irecv)
    def Irecv(self, buf: Any) -> Any:
        return receive(partial(MPI.Message.Irecv, _original(self)), run_started, buf, 0, MPI.Status())

    @named_like(MPI.Message.recv)
    def recv(self, status: MPI.Status | None = None) -> Any:
        return MPI.Message.recv(_original(self), status)

    @named_like(MPI.Message.irecv)
    def irecv(self) -> Any:
        return MPI.Message.irecv(_original(self))


def _original(message: MPI.Message) -> MPI.Message:
    """The message itself, or mpi4py's constant that it stands for, which receiving does not use up."""
    constant = getattr(message, "constant", None)
    return message if constant is None else constant


_Recv, _Barrier = MPI.Message.Recv, MPI.Comm.Barrier

CLASSES: tuple[Any, ...] = (
    Comm,
    Intracomm,
    Topocomm,
    Cartcomm,
    Graphcomm,
    Distgraphcomm,
    Intercomm,
    Message,
)
_OURS = {ours.plain: ours for ours in (*CLASSES, Datatype, Request, Prequest)}


def promote(thing: Any) -> Any:
    """Return an object of our class for one of mpi4py's, and any other object as it is.

    Both stand for the same handle; only one of them may be freed.
    """
    if isinstance(thing, tuple):
        return tuple(map(promote, thing))
    ours = _OURS.get(type(thing))
    if ours is None:
        return thing
    constant = predefined.get((type(thing), thing.handle))
    return constant if constant is not None and constant.constant is thing else ours(thing)


def _promoting(base: Any) -> Any:
    @named_like(base)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        return promote(base(self, *arguments, **named))

    return method


def _promoting_class(owner: type, name: str) -> Any:
    base = getattr(owner, name)

    @named_like(base)
    def method(_cls: type, *arguments: Any, **named: Any) -> Any:
        return promote(base(*arguments, **named))

    return classmethod(method)


def _settling(base: Any) -> Any:
    @named_like(base)
    def method(*arguments: Any, **named: Any) -> Any:
        result = base(*arguments, **named)
        if unfinished:
            settle_unfinished()
        return result

    return method


# What tells a program, without a buffer, that something has arrived elsewhere.
_TELLERS: dict[Any, tuple[str, ...]] = {
    Comm: (
        *("recv", "sendrecv", "barrier", "bcast", "gather", "scatter", "allgather", "alltoall"),
        *("reduce", "allreduce"),
    ),
    Intracomm: ("scan", "exscan"),
    Topocomm: ("neighbor_allgather", "neighbor_alltoall"),
    Message: ("recv",),
}
_MAKERS: dict[Any, tuple[str, ...]] = {
    Comm: ("Create", "Split", "Split_type", "Shrink", "Ishrink", "Mprobe", "Improbe", "mprobe", "improbe"),
    Intracomm: (
        "Create_group",
        "Create_cart",
        "Create_graph",
        "Create_dist_graph",
        "Create_dist_graph_adjacent",
        "Create_intercomm",
        "Spawn",
        "Spawn_multiple",
        "Accept",
        "Connect",
    ),
    Cartcomm: ("Sub",),
    Intercomm: ("Merge",),
}
_CLASS_MAKERS: dict[Any, tuple[str, ...]] = {
    Comm: ("fromhandle", "fromint", "f2py", "Get_parent", "Join"),
    Intracomm: ("Create_from_group",),
    Intercomm: ("Create_from_groups",),
    Message: ("fromhandle", "fromint", "f2py"),
    Request: ("fromhandle", "fromint", "f2py"),
    Prequest: ("fromhandle", "fromint", "f2py"),
    Datatype: ("fromhandle", "fromint", "f2py", "fromcode"),
}
for _owner, _names in _TELLERS.items():
    for _name in _names:
        setattr(_owner, _name, _settling(getattr(_owner, _name)))
for _owner, _names in _MAKERS.items():
    for _name in _names:
        setattr(_owner, _name, _promoting(getattr(_owner.plain, _name)))
for _owner, _names in _CLASS_MAKERS.items():
    for _name in _names:
        setattr(_owner, _name, _promoting_class(_owner.plain, _name))
