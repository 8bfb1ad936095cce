"""The transparent way in: `mpi4py.MPI` is ours for every program that imports it from now on."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

_REPLACED = "mpi4py.MPI"
_OURS = f"{__package__}.MPI"
_PLAIN = f"{__package__}.datatypes.plain"


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from .assembly import OURS, belong_to
        from .comm.substitute import reduce_plain
        from .datatypes.plain import MPI

        module = import_module(_OURS)
        for name in ("__name__", "__file__", "__doc__", "__package__"):
            setattr(module, name, getattr(MPI, name))
        belong_to(_REPLACED)
        for ours in OURS:
            # mpi4py's C code still hands out its own objects, and pickle would find ours by their names.
            copyreg.pickle(ours.plain, reduce_plain)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    replaces = _REPLACED

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _REPLACED:
            return None
        plain = sys.modules.get(_PLAIN)
        if plain is not None and not hasattr(plain, "MPI"):
            # Our own layer is loading what it wraps.
            return None
        return spec_from_loader(fullname, _Loader())


def take_over() -> None:
    """Put the layer in the place of `mpi4py.MPI`.

    It is mpi4py's module that is loaded when a program imports it, so `mpi4py.rc` works as ever.
    """
    sys.meta_path.insert(0, _Finder())
