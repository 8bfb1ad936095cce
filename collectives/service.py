"""What a communicator knows about its collectives: its nodes, the measured figures, and what was chosen.

All ranks make the same choices because they compute them from the same figures, which the first collective
on the communicator brings from rank 0. Messages go over a communicator of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from ..comm.elements import elements
from ..datatypes.plain import MPI
from .catalogue import NATIVE, OPERATIONS, Setting, algorithms, members
from .chosen import Chosen
from .nodes import Nodes, hosts_of, nodes_of
from .selection import Candidate, promising, rank_candidates
from .shared import SharedMemory
from .table import Table, load
from .watched import SAMPLES, Watched

# None stands for the library's own.
Choice = Watched[Chosen | None]
AUTO = "auto"
# Operations under way at the same time on one communicator, and lanes of one of them.
_TAGS = 512
_LANES = 64
_READY_KEPT = 4096
# Candidates that are tried when a choice is slow: of one family, as stars with other hubs, and in all.
_OF_A_FAMILY = 3
_MOST = 12
# Share of the time that watching may cost, what Python takes for it, and least and most calls between looks.
_COST = 0.01
_LOOK_SECONDS = 20e-6
_PERIODS = (32, 10000)
_SIGNATURE = (
    "(operation, bytes, root, algorithm, keeps order, reproducible, in the background, count, datatype, op)"
)


class _Key(NamedTuple):
    """What a choice is made for, and remembered by."""

    operation: str
    size: int
    root: int
    name: str
    ordered: bool
    reproducible: bool
    background: bool


class Service:
    """Choices of one communicator. Made by all its ranks together.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._plain = MPI.Intracomm(comm)
        self.rank, self.ranks = self._plain.rank, self._plain.size
        mine = (load() or Table(), environment_settings(), os.cpu_count() or 1) if self.rank == 0 else None
        self.table, self.forced, self.cores = self._plain.bcast(mine)
        for operation, name in self.forced.items():
            check_name(operation, name)
        # Operations that are left to the library, unless a call asks for something else.
        self.left = frozenset(filter(self._is_left, OPERATIONS))
        # What is run for arrays like some that were there before.
        self.ready: dict[Any, Any] = {}
        self._choices: dict[_Key, Choice] = {}
        self._usable: dict[tuple[str, str, bool, bool, int], bool] = {}
        self._chosen: dict[tuple[str, int, str], Chosen] = {}
        self._own: MPI.Intracomm | None = None
        self._private: dict[str, MPI.Intracomm] = {}
        # Asked before one of these is freed: whether nothing is under way on it.
        self.is_over: dict[str, Callable[[], bool]] = {}
        self._memory: SharedMemory | None = None
        # What other modules keep for the communicator.
        self.kept: dict[str, Any] = {}
        self._sequence = 0

    def knows(self, *wanted: Any) -> bool:
        """Whether `choose` was asked the same before."""
        return _key(*wanted) in self._choices

    def compare(self, signature: tuple[Any, ...]) -> None:
        """Raise `ValueError` on all ranks if they do not call the same; collective."""
        signatures = self._plain.allgather(signature)
        for rank, other in enumerate(signatures):
            if other != signatures[0]:
                raise ValueError(
                    f"{signature[0]}: ranks disagree in {_SIGNATURE}: rank 0 has {signatures[0]}, "
                    f"rank {rank} has {other}"
                )

    def choose(
        self,
        operation: str,
        nbytes: int,
        root: int = 0,
        name: str = AUTO,
        ordered: bool = False,
        reproducible: bool = False,
        background: bool = False,
    ) -> Choice:
        """What an operation on so many bytes is left to; None for the library's own collective.

        It is watched if it may change. Raises `ValueError` for a name that is unknown, or that cannot be had.
        """
        key = _key(operation, nbytes, root, name, ordered, reproducible, background)
        if key not in self._choices:
            self._choices[key] = self._decide(key)
        return self._choices[key]

    def _decide(self, key: _Key) -> Choice:
        if self.ranks == 1 and not key.reproducible:
            return Watched(self._plain, None)
        tried = self.table.is_tried(key.operation, self.nodes)
        if key.name == AUTO and not key.reproducible and not tried:
            # What is not measured here is not believed to be slow.
            return Watched(self._plain, None)
        ranked = self._rank(key, self.table)
        if key.reproducible:
            # What the library does is not known.
            ranked = [candidate for candidate in ranked if candidate.algorithm is not None]
        best = self._as_chosen(ranked[0], key)
        # Ranks that share cores are timed together with those that they wait for.
        steady = max(map(len, self.nodes)) <= self.cores
        native = self.table.native_seconds(key.operation, self.nodes, key.size)
        if key.name != AUTO or key.reproducible or key.background or native is None or not steady:
            return Watched(self._plain, best)
        expected = native if best is None else ranked[0].seconds
        period = self._period(expected)
        return Watched(self._plain, best, expected, period, cache(lambda: self._others(key)))

    def _rank(self, key: _Key, table: Table) -> list[Candidate]:
        name = None if key.name == AUTO else key.name
        setting = self._setting(key.root)
        return rank_candidates(key.operation, setting, key.size, table, name, key.ordered, key.background)

    def _others(self, key: _Key) -> list[Chosen | None]:
        """What may be faster than was thought: the library's own, and some of each family, as other hubs."""
        ranked = self._rank(key, replace(self.table, trials={}))
        return [None, *(self._as_chosen(each, key) for each in promising(ranked, _OF_A_FAMILY, _MOST))]

    def _as_chosen(self, candidate: Candidate, key: _Key) -> Chosen | None:
        """The same object for the same algorithm."""
        if candidate.algorithm is None:
            return None
        name = (key.operation, key.root, str(candidate.algorithm))
        if name not in self._chosen:
            self._chosen[name] = Chosen(candidate.algorithm, self.rank, *name[:2])
        return self._chosen[name]

    def _period(self, seconds: float) -> int:
        """Calls between two looks, that these take a small part of the time: some synchronizations each."""
        once = _LOOK_SECONDS + (self.table.native_seconds("allreduce", self.nodes, 8) or seconds)
        return min(max(_PERIODS[0], int((SAMPLES + 1) * once / (_COST * seconds))), _PERIODS[1])

    def _setting(self, root: int) -> Setting:
        order = sorted(range(len(self.nodes)), key=lambda node: root not in self.nodes[node])
        nodes = tuple(
            tuple(sorted(self.nodes[node], key=lambda rank: (rank != root, rank))) for node in order
        )
        return Setting(self.ranks, root, nodes, tuple(self._hosts[node] for node in order if self._hosts))

    @cached_property
    def _hosts(self) -> tuple[str, ...]:
        """The name of each node, where links were measured pair by pair; found out as `nodes` is."""
        return hosts_of(self._plain, self.nodes) if self.table.pairs else ()

    @property
    def is_ready(self) -> bool:
        """Whether there is a communicator for messages already."""
        return self._own is not None

    @property
    def memory(self) -> SharedMemory:
        """The memory that all ranks see; made when first needed, which is on all ranks at once."""
        if self._memory is None:
            self._memory = SharedMemory(self.comm)
        return self._memory

    @property
    def comm(self) -> MPI.Intracomm:
        """The communicator of the messages; made when first needed, which is on all ranks at once."""
        if self._own is None:
            self._own = self._plain.Dup()
        return self._own

    def private(self, purpose: str) -> MPI.Intracomm:
        """Another communicator of its own, for some purpose; made when first needed, on all ranks at once."""
        if purpose not in self._private:
            self._private[purpose] = self._plain.Dup()
        return self._private[purpose]

    def has_private(self, purpose: str) -> bool:
        """Whether that communicator is there already."""
        return purpose in self._private

    def next_tag(self) -> int:
        """The first of the tags of the next operation."""
        self._sequence = (self._sequence + 1) % _TAGS
        return self._sequence * _LANES

    def setting_for(
        self, operation: str, ordered: bool = False, background: bool = False, root: int = 0
    ) -> str:
        """What the setting asks for; the library's own where that cannot be had."""
        name: str = self.forced[operation]
        if name in (AUTO, NATIVE):
            return name
        key = (operation, name, ordered, background, root)
        if key not in self._usable:
            self._usable[key] = any(
                (each.ordered or not ordered) and not (each.shares_memory and background)
                for each in members(operation, self._setting(root), name)
            )
        return name if self._usable[key] else NATIVE

    def _is_left(self, operation: str) -> bool:
        name = self.forced[operation]
        if name == NATIVE or (name == AUTO and not self.table.trials.get(operation)):
            return True
        return self.ranks == 1 or (name == AUTO and not self.table.is_tried(operation, self.nodes))

    @cached_property
    def nodes(self) -> Nodes:
        """The ranks of each node; found out when first needed, which is on all ranks at once."""
        return nodes_of(self._plain)

    def counts_of_all(self, recvbuf: Any) -> list[int]:
        """Elements that each rank receives; collective."""
        received = elements(recvbuf, receiving=True)
        counts: list[int] = self._plain.allgather(-1 if received is None else received.count)
        return counts

    def remember(self, arrays: Any, what: Any) -> None:
        """Keep what is run for arrays of some kind."""
        if len(self.ready) >= _READY_KEPT:
            self.ready.clear()
        self.ready[arrays] = what

    def force(self, operation: str, name: str) -> None:
        """Let `name` be the algorithm of all calls that ask for none; on all ranks together.

        Raises `ValueError` for an unknown name.
        """
        check_name(operation, name)
        self.forced[operation] = name
        self.left = frozenset(filter(self._is_left, OPERATIONS))
        self.ready.clear()

    def free(self) -> None:
        """Free what was made for the communicator."""
        self._memory = None
        self.kept.clear()
        for purpose, comm in self._private.items():
            # What is under way could come to a communicator that is made when this one is freed.
            if self.is_over.get(purpose, lambda: True)():
                comm.Free()
        self._private.clear()
        if self._own is not None:
            self._own.Free()
            self._own = None


def _key(operation: str, nbytes: int, *rest: Any) -> _Key:
    nearest = 1 << max(0, (nbytes + (nbytes >> 1)).bit_length() - 1)
    return _Key(operation, nearest, *rest)


_services: dict[int, Service] = {}


def service_of(comm: MPI.Intracomm) -> Service:
    """The service of a communicator; the first call is collective over it."""
    found = _services.get(comm.handle)
    if found is None:
        found = Service(comm)
        handle = comm.handle
        if handle not in _lasting():
            comm.Set_attr(_keyval(), handle)
        _services[handle] = found
    return found


def known_service(comm: MPI.Intracomm) -> Service | None:
    """The service of a communicator, if there is one already."""
    return _services.get(comm.handle)


@cache
def _lasting() -> tuple[int, ...]:
    return MPI.COMM_WORLD.handle, MPI.COMM_SELF.handle


@cache
def _keyval() -> int:
    def forget(_comm: MPI.Comm, _keyval: int, handle: int) -> None:
        _services.pop(handle).free()

    return MPI.Comm.Create_keyval(delete_fn=forget)


def info_key(operation: str) -> str:
    """The key of a communicator's info that names an operation's algorithm."""
    return f"roundelay_{operation}"


def environment_settings() -> dict[str, str]:
    """For each operation the algorithm that the environment asks for.

    If it does not, only allreduces are chosen: a choice begins with an agreement, in which ranks without
    roundelay take no part.
    """
    return {
        operation: os.environ.get(
            f"ROUNDELAY_{operation.upper()}", AUTO if operation == "allreduce" else NATIVE
        )
        for operation in OPERATIONS
    }


def check_name(operation: str, name: str) -> None:
    """Raise `ValueError` for a name that is no algorithm of an operation."""
    known = [AUTO, *algorithms(operation)]
    if name not in known:
        raise ValueError(f"{operation}: unknown algorithm {name!r}; expected one of {', '.join(known)}")
