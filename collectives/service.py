"""The collectives of one communicator: the algorithms that it asks for, and those that run its calls.

Nothing is sent before the program asks for an algorithm. Messages go over a communicator of roundelay's own,
which all communicators of the same processes share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np

from ..comm.interposer import interposer
from ..comm.recovery.derived import hidden
from ..comm.settings import checks_bounds
from ..datatypes.plain import MPI
from .catalogue import NATIVE
from .chosen import Chosen
from .duplicate import Tags
from .nodes import Nodes
from .processes import (
    AUTO,
    Processes,
    Wanted,
    check_name,
    environment_names,
    find_out,
    known_processes,
    members_of,
)
from .shared import SharedMemory, share
from .table import Table
from .watched import Watched

# None stands for the library's own.
Choice = Watched[Chosen | None]
_SIGNATURE = (
    "(operation, bytes, root, algorithm, keeps order, reproducible, in the background, count, datatype, op)"
)


class Service:
    """Collectives of one communicator. Made without a message; what is collective says so.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm

    Attributes
    ----------
    rank, ranks : int
    names : dict
        For each operation the algorithm that is asked for: by the communicator's info, else the environment.
    kept : dict
        What other modules keep for the communicator.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._plain = MPI.Intracomm(comm)
        self.rank, self.ranks = self._plain.rank, self._plain.size
        self._members = members_of(self._plain)
        self.names = dict(environment_names())
        self._processes: Processes | None = None
        self._left: dict[str, bool] = {}
        self._choices: dict[Wanted, Choice] = {}
        self._compared: set[Hashable] = set()
        self.kept: dict[str, Any] = {}
        self._private: dict[str, MPI.Intracomm] = {}
        # Asked before one of these is freed: whether nothing is under way on it.
        self.is_over: dict[str, Callable[[], bool]] = {}
        self._tags: Tags | None = None
        self._persistent_tags: Tags | None = None
        self._lacks_tags = False
        self._memory: SharedMemory | None = None
        self._lacks_memory = False
        self._broken_by = ""

    def force(self, operation: str, name: str) -> None:
        """Let `name` be the algorithm of all calls that ask for none; on all ranks together.

        The next call finds out whether all ranks have the same name, and whether it is one.
        """
        self.names[operation] = name
        self._processes = None
        self._left.clear()
        self._forget_choices()

    def _forget_choices(self) -> None:
        """Let the interposer ask about the next call of any kind."""
        module = interposer()
        if module is not None:
            module.forget_choices(self._plain.handle)

    def leaves(self, operation: str) -> bool:
        """Whether all calls of an operation are left to the library that name no algorithm; collective."""
        found = self._left.get(operation)
        if found is None:
            found = self._left[operation] = self._leaves(operation)
        return found

    def _leaves(self, operation: str) -> bool:
        name = self.names[operation]
        if self.ranks == 1:
            check_name(operation, name)
        # Processes of another world may not run with roundelay.
        if name == NATIVE or self.ranks == 1 or self._members is None:
            return True
        # Ranks meet here whatever the name is, also those whose arguments are wrong.
        is_tried = self.processes.is_tried(operation)
        # Where arguments are to be checked, calls left to the library are compared over the ranks, too.
        return name == AUTO and not is_tried and not checks_bounds()

    @property
    def is_joined(self) -> bool:
        """Whether `processes` is known without a message."""
        return self._processes is not None

    @property
    def processes(self) -> Processes:
        """Knowledge that the communicator's processes share; the first time, and after `force`, collective.

        Raises `ValueError` on all ranks where they ask for different algorithms, or for an unknown one.
        """
        if self._processes is None:
            self._processes = self._join()
        return self._processes

    def _join(self) -> Processes:
        known = known_processes(self._members)
        digest = int.from_bytes(
            blake2b(repr(sorted(self.names.items())).encode(), digest_size=7).digest(), "big"
        )
        agreed = np.array([known is not None, digest, ~digest], np.int64)
        self._plain.Allreduce(MPI.IN_PLACE, agreed, MPI.BAND)
        # Bits that all ranks have, and bits that no rank has: the same only where all ranks have the same.
        if known is not None and agreed.tolist() == [1, digest, ~digest]:
            return known
        return find_out(self._plain, self._members, self.names)

    @property
    def table(self) -> Table:
        """The measured figures."""
        return self.processes.table

    @property
    def nodes(self) -> Nodes:
        """The ranks of each node."""
        return self.processes.nodes

    def compare(self, signature: tuple[Any, ...], key: Hashable = None) -> None:
        """Raise `ValueError` on all ranks if they do not call the same; collective.

        With a `key`, only the first time.
        """
        if key is not None and key in self._compared:
            return
        signatures = self._plain.allgather(signature)
        for rank, other in enumerate(signatures):
            if other != signatures[0]:
                raise ValueError(
                    f"{signature[0]}: ranks disagree in {_SIGNATURE}: rank 0 has {signatures[0]}, "
                    f"rank {rank} has {other}"
                )
        if key is not None:
            self._compared.add(key)

    def choose(self, wanted: Wanted) -> Choice:
        """The algorithm that runs an operation; None for the library's own. Watched if it may change.

        Raises `ValueError` for a name that is unknown, or that does not fit.
        """
        wanted = wanted.rounded()
        found = self._choices.get(wanted)
        if found is None:
            found = self._choices[wanted] = self._decide(wanted)
        return found

    def _decide(self, wanted: Wanted) -> Choice:
        check_name(wanted.operation, wanted.name)
        if self.ranks == 1 and not wanted.reproducible:
            return Watched(self._plain, None)
        return Watched(self._plain, *self.processes.decide(wanted))

    def name_for(self, operation: str, ordered: bool = False, background: bool = False, root: int = 0) -> str:
        """The algorithm that is asked for; the library's own where that one cannot run."""
        name = self.names[operation]
        if name in (AUTO, NATIVE) or self.processes.can_run(operation, name, ordered, background, root):
            return name
        return NATIVE

    @property
    def can_send(self) -> bool:
        """Whether schedules can be run without finding out anything first."""
        return self._tags is not None and self._processes is not None

    @property
    def tags(self) -> Tags:
        """Tags for messages, and their communicator; the first time, collective.

        Raises `mpi4py.MPI.Exception` where MPI has no communicator left.
        """
        if self._tags is None:
            self._tags = self.processes.duplicates.take(self._plain)
        return self._tags

    def has_tags(self) -> bool:
        """Whether there are tags for messages; the first time, collective. Rank 0 warns if there are none."""
        if self._tags is None and not self._lacks_tags:
            try:
                self._tags = self.tags
            except MPI.Exception as error:
                if self._plain.Is_revoked():
                    raise
                self._lacks_tags = True
                if self.rank == 0:
                    warnings.warn(f"collectives are left to the MPI library: {error}", stacklevel=2)
        return self._tags is not None

    def persistent_tags(self) -> Tags | None:
        """Tags for one more persistent operation; None where there are none. Collective."""
        if self._persistent_tags is None and self.has_tags():
            self._persistent_tags = self.tags
        if self._persistent_tags is not None and not self._persistent_tags.has_persistent:
            try:
                self._persistent_tags = self.processes.duplicates.take(self._plain)
            except MPI.Exception:
                return None
        return self._persistent_tags

    def shared_memory(self) -> SharedMemory | None:
        """Memory that all ranks see; None where there is no room. The first time, collective."""
        if self._memory is None and not self._lacks_memory:
            mapped = self.tags.mapped or share(self._plain, SharedMemory.nbytes(self.ranks))
            self._lacks_memory = mapped is None
            if mapped is not None:
                self.tags.mapped = mapped
                # Ranks meet on the program's communicator: others may be in a call at the same time.
                self._memory = SharedMemory(self._plain, mapped)
        return self._memory

    def private(self, purpose: str) -> MPI.Intracomm:
        """A communicator of its own, for some purpose; made when first needed, on all ranks at once."""
        if purpose not in self._private:
            self._private[purpose] = self._plain.Dup()
        return self._private[purpose]

    def has_private(self, purpose: str) -> bool:
        """Whether that communicator is there already."""
        return purpose in self._private

    def communicators(self) -> Iterator[MPI.Comm]:
        """Those in whose calls a rank may wait while the program is in a collective of this one."""
        yield from self._private.values()
        for tags in (self._tags, self._persistent_tags):
            if tags is not None:
                yield tags.comm

    def mark_broken(self, error: BaseException) -> None:
        """Refuse what comes after an error in the middle of a schedule: ranks may be at different places."""
        self._broken_by = repr(error)
        self._forget_choices()
        for tags in (self._tags, self._persistent_tags):
            if tags is not None:
                tags.retire()

    def check_whole(self) -> None:
        """Raise `RuntimeError` if an earlier collective was not ended."""
        if self._broken_by:
            name = self._plain.Get_name() or f"handle {self._plain.handle:#x}"
            raise RuntimeError(
                f"communicator {name} of {self.ranks} ranks: broken by {self._broken_by} in the middle of a "
                "collective; free it and make another one"
            )

    def free(self) -> None:
        """Free what was made for the communicator alone; what is under way keeps its tags."""
        self.kept.clear()
        self._forget_choices()
        for purpose, comm in self._private.items():
            # A message under way could reach a communicator that is made after this one is freed.
            if self.is_over.get(purpose, lambda: True)():
                comm.Free()
        self._private.clear()


_services: dict[int, Service] = {}


def service_of(comm: MPI.Intracomm) -> Service:
    """The service of a communicator."""
    found = _services.get(comm.handle)
    if found is None:
        found = Service(comm)
        handle = comm.handle
        if handle not in _lasting():
            comm.Set_attr(_keyval(), handle)
        _services[handle] = found
    return found


def joined_service(comm: MPI.Intracomm) -> Service | None:
    """The service of a communicator, if its processes know one another already."""
    found = _services.get(comm.handle)
    return found if found is not None and found.is_joined else None


def known_service(comm: MPI.Intracomm) -> Service | None:
    """The service of a communicator, if there is one already."""
    return _services.get(comm.handle)


def _made_for(comm: MPI.Comm) -> Iterable[MPI.Comm]:
    found = _services.get(comm.handle)
    return () if found is None else found.communicators()


# Ranks that recover wake those that wait.
hidden.append(_made_for)


@cache
def _lasting() -> tuple[int, ...]:
    return MPI.COMM_WORLD.handle, MPI.COMM_SELF.handle


@cache
def _keyval() -> int:
    def forget(_comm: MPI.Comm, _keyval: int, handle: int) -> None:
        _services.pop(handle).free()

    return MPI.Comm.Create_keyval(delete_fn=forget)
