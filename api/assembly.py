"""The names of mpi4py's `MPI` module, with our classes and constants in the place of its own."""

from __future__ import annotations

from ctypes import memmove
from typing import Any

from .comm import communicators
from .comm.settings import INFO_KEY, OPERATIONS, is_disabled, is_monitored, names_of_algorithms
from .comm.substitute import predefined
from .datatypes.plain import MPI

OURS = communicators.CLASSES


class ModuleName(str):
    """Name of a module of ours that equals the name of mpi4py's module, too.

    petsc4py accepts a communicator only if its class names "mpi4py.MPI" as its module. pickle reads the same
    attribute, and must find our class in the module that it names.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other == MPI.__name__ or other == str(self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # pickle refuses to read the name of a module from an object of a subclass of str.
        return str, (str(self),)


def _take_info(comm: Any, info: MPI.Info) -> None:
    # MPI libraries forget keys that they do not know.
    asked = {operation: info.Get(INFO_KEY.format(operation)) for operation in OPERATIONS}
    names = {operation: name for operation, name in asked.items() if name is not None}
    if names:
        # Load the engine of collectives when an algorithm is asked for.
        from .collectives.engine import take_names

        take_names(comm, names)


communicators.Intracomm.takes_info = staticmethod(_take_info)


def assemble(module: str) -> dict[str, Any]:
    """Names for a module that is called `module`, the private ones that other packages rely on included."""
    names = {
        name: value
        for name, value in vars(MPI).items()
        if not name.startswith("__") or name == "__pyx_capi__"
    }
    if is_disabled():
        return names
    if names_of_algorithms():
        from .collectives.engine import take_environment

        take_environment()
    ours_of = {ours.plain: ours for ours in OURS}
    for name, value in names.items():
        if isinstance(value, type) and value in ours_of:
            names[name] = ours_of[value]
        elif type(value) in ours_of:
            names[name] = _constant(ours_of[type(value)], value, name)
    belong_to(module)
    if is_monitored():
        from .comm.monitor.initialization import begin_with_mpi

        begin_with_mpi(names)
    return names


def belong_to(module: str) -> None:
    """Let our classes say that they belong to `module`, where pickle looks for them and their constants."""
    for ours in OURS:
        ours.__module__ = ModuleName(module)


def _constant(ours: Any, value: Any, name: str) -> Any:
    """Our object for a predefined one, the same for all of its names."""
    key = (type(value), value.handle)
    if key not in predefined:
        # By its bits: mpi4py's constructors ask the library about it, which may not be initialized yet.
        predefined[key] = ours()
        memmove(MPI._addressof(predefined[key]), MPI._addressof(value), MPI._sizeof(value))
        predefined[key].constant, predefined[key].name_of_constant = value, name
    return predefined[key]
