"""Communicators that were made of another one, which must be revoked with it.

A rank may wait in any of them for one that has gone to recover. What MPI calls an attribute of the
communicator holds them, so they are found whatever object of Python stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

from ...datatypes.plain import MPI
from ..communicators import CLASSES, Comm
from ..substitute import named_like

# What makes a communicator that has its parent's processes or some of them.
_MAKERS = (
    "Clone",
    "Create",
    "Create_cart",
    "Create_dist_graph",
    "Create_dist_graph_adjacent",
    "Create_graph",
    "Create_group",
    "Create_intercomm",
    "Dup",
    "Dup_with_info",
    "Idup",
    "Idup_with_info",
    "Merge",
    "Split",
    "Split_type",
    "Sub",
)
# Each gives communicators that a subsystem has made of one for itself.
hidden: list[Callable[[MPI.Comm], Iterable[MPI.Comm]]] = []


@cache
def _keyval() -> int:
    return MPI.Comm.Create_keyval()


def remember(parent: MPI.Comm, child: MPI.Comm) -> None:
    """Let `revoke_all(parent)` revoke `child`, too."""
    if child == MPI.COMM_NULL:
        return
    # Those that were freed meanwhile are null.
    known = [each for each in _children(parent) if each != MPI.COMM_NULL]
    parent.Set_attr(_keyval(), [*known, child])


def _children(parent: MPI.Comm) -> list[MPI.Comm]:
    found: Any = parent.Get_attr(_keyval())
    return found or []


@cache
def track() -> None:
    """From now on, remember what communicators of ours make. Nobody pays who never recovers."""
    communicators = [ours for ours in CLASSES if issubclass(ours, Comm)]
    found = [
        (ours, name, getattr(ours, name)) for ours in communicators for name in _MAKERS if hasattr(ours, name)
    ]
    for ours, name, base in found:
        setattr(ours, name, _remembering(base))


def _remembering(base: Any) -> Any:
    @named_like(base)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        made = base(self, *arguments, **named)
        if self.handle not in _predefined():
            remember(self, made[0] if isinstance(made, tuple) else made)
        return made

    return method


@cache
def _predefined() -> tuple[int, ...]:
    # Never revoked, and their attributes would be deleted while MPI is finalized.
    return MPI.COMM_WORLD.handle, MPI.COMM_SELF.handle


def revoke_all(comm: MPI.Comm) -> None:
    """Revoke a communicator, and all that were made of it: every call on them fails, on all ranks."""
    if comm == MPI.COMM_NULL:
        return
    for child in _children(comm):
        revoke_all(child)
    for find in hidden:
        for each in find(comm):
            revoke_all(each)
    with suppress(MPI.Exception):
        comm.Revoke()
