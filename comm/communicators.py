"""Communicators: mpi4py's classes with our methods, and whatever makes a communicator returns one of them.

The base that descends furthest in mpi4py comes first: only its constructor fits the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..datatypes.plain import MPI
from .methods import NAMES, take_arrays_with_gaps
from .substitute import Handle, named_like, predefined


class Comm(Handle, MPI.Comm):
    """Communicator that takes any array and datatype."""

    plain: ClassVar[type] = MPI.Comm

    # MPI refuses predefined ones, whoever asks, and short-lived ones have no time for one more call.
    Free = MPI.Comm.Free


class Intracomm(MPI.Intracomm, Comm):
    """Intracommunicator."""

    plain: ClassVar[type] = MPI.Intracomm
    # Told of each info that the program sets; it looks for names of algorithms there.
    takes_info: ClassVar[Callable[[Any, MPI.Info], None]]

    @named_like(MPI.Intracomm.Set_info)
    def Set_info(self, info: MPI.Info) -> None:
        MPI.Intracomm.Set_info(self, info)
        Intracomm.takes_info(self, info)


class Topocomm(MPI.Topocomm, Intracomm):
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
_OURS = {ours.plain: ours for ours in CLASSES}
for _plain in NAMES:
    take_arrays_with_gaps(_OURS[_plain], _plain)


def _of_original(base: Any) -> Any:
    """A method of messages that takes mpi4py's constant for ours, which receiving would use up."""

    @named_like(base)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        constant = getattr(self, "constant", None)
        return base(self if constant is None else constant, *arguments, **named)

    return method


for _name in ("Recv", "Irecv", "recv", "irecv"):
    setattr(Message, _name, _of_original(getattr(Message, _name)))


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
}
for _owner, _names in _MAKERS.items():
    for _name in _names:
        setattr(_owner, _name, _promoting(getattr(_owner.plain, _name)))
for _owner, _names in _CLASS_MAKERS.items():
    for _name in _names:
        setattr(_owner, _name, _promoting_class(_owner.plain, _name))
