"""Classes that take the place of mpi4py's own, and objects that take the place of its constants.

mpi4py's C code makes objects of its own classes, which a program then tests against ours. A substitute
therefore counts every object of the class it replaces as its own.
"""

from __future__ import annotations

from collections.abc import Callable
from copyreg import __newobj__  # type: ignore[attr-defined]
from functools import update_wrapper
from typing import Any, ClassVar, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])


def named_like(base: Any) -> Callable[[_Method], _Method]:
    """Give a method the name and the documentation of the one that it takes the place of."""

    def decorate(method: _Method) -> _Method:
        update_wrapper(method, base)
        return method

    return decorate


class Substitute(type):
    """Metaclass of a class whose attribute `plain` names the mpi4py class that it takes the place of."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls.__subclasscheck__(type(instance))

    def __subclasscheck__(cls, subclass: type) -> bool:
        plain = cls.__dict__.get("plain")
        return type.__subclasscheck__(cls, subclass) if plain is None else issubclass(subclass, plain)


class Handle(metaclass=Substitute):
    """MPI object that may stand for a predefined one, such as `COMM_WORLD`."""

    # mpi4py marks its predefined objects inside, so that `free` leaves them alone; what stands for one
    # of them has it as its `constant`, which the module calls `name_of_constant`.

    plain: ClassVar[Any]
    handle: int
    constant: Any = None
    name_of_constant = ""

    # A program may call these as `MPI.Comm.Free(comm)`, with an object of mpi4py's own class.

    def Free(self) -> None:
        """Free the object; the MPI library refuses this for a predefined one."""
        try:
            constant, plain = self.constant, self.plain
        except AttributeError:
            constant, plain = None, type(self)
        plain.Free(self if constant is None else constant)

    def free(self) -> None:
        """Call `Free` if not null or predefined."""
        if getattr(self, "constant", None) is None:
            _plain(self).free(self)

    def __reduce__(self) -> Any:
        if self.constant is not None:
            return self.name_of_constant
        ours = predefined.get((self.plain, self.handle))
        # mpi4py refuses by the name of the module, which must be its own kind of string.
        return self.plain(self).__reduce__() if ours is None else (__newobj__, (type(self), ours))


def _plain(handle: Any) -> Any:
    return getattr(handle, "plain", type(handle))


# The stand-in of each predefined handle, by mpi4py's class.
predefined: dict[tuple[type, int], Any] = {}


def reduce_plain(thing: Any) -> Any:
    """Reduce an object of one of mpi4py's classes for pickle, where ours have taken their place."""
    ours = predefined.get((type(thing), thing.handle))
    return thing.__reduce__() if ours is None else (_copy, (ours,))


def _copy(constant: Any) -> Any:
    return type(constant)(constant)
