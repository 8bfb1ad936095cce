"""What a communicator knows about its collectives: its nodes, the measured figures, and what was chosen.

All ranks make the same choices because they compute them from the same figures, which the first collective
on the communicator brings from rank 0. Messages go over a communicator of their own.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

from ..datatypes.plain import MPI
from .catalogue import NATIVE, Setting, algorithms, members
from .execute import Bound, bind, even_bounds
from .nodes import nodes_of
from .plan import Plan, make_plan
from .selection import Candidate, rank_candidates
from .shared import SharedBound, SharedMemory, bind_shared
from .table import Table, load

INFO_KEY = "roundelay_allreduce"
_VARIABLE = "ROUNDELAY_ALLREDUCE"
AUTO = "auto"
# Operations under way at the same time on one communicator, and lanes of one of them.
_TAGS = 512
_LANES = 64
_BOUNDS_KEPT = 64
_READY_KEPT = 4096
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


class Chosen:
    """A schedule that was chosen for an operation, as this rank runs it.

    Parameters
    ----------
    candidate : Candidate
        What was chosen; not the library's own.
    rank : int
    operation : str
    root : int
    """

    def __init__(self, candidate: Candidate, rank: int, operation: str, root: int) -> None:
        assert candidate.algorithm is not None
        self.candidate = candidate
        self._schedule = candidate.algorithm.build()
        self._rank, self._operation, self._root = rank, operation, root
        self._plans: dict[bool, Plan] = {}
        self._bounds: dict[tuple[bool, int], Bound] = {}
        self._shared_bounds: dict[tuple[bool, int], SharedBound] = {}

    @property
    def shares_memory(self) -> bool:
        """Whether it is run through shared memory."""
        return self.candidate.algorithm is not None and self.candidate.algorithm.shares_memory

    def bind_shared(self, in_place: bool, count: int) -> SharedBound:
        """The plan for so many elements, to be run through shared memory."""
        key = (in_place, count)
        found = self._shared_bounds.get(key)
        if found is None:
            if len(self._shared_bounds) >= _BOUNDS_KEPT:
                self._shared_bounds.clear()
            bounds = even_bounds(count, self._schedule.chunks)
            found = self._shared_bounds[key] = bind_shared(self._plan(in_place), bounds)
        return found

    def bind(self, count: int, in_place: bool) -> Bound:
        """The plan for so many elements, to be run by messages."""
        key = (in_place, count)
        found = self._bounds.get(key)
        if found is None:
            if len(self._bounds) >= _BOUNDS_KEPT:
                self._bounds.clear()
            bounds = even_bounds(count, self._schedule.chunks)
            found = self._bounds[key] = bind(self._plan(in_place), bounds)
        return found

    def _plan(self, in_place: bool) -> Plan:
        found = self._plans.get(in_place)
        if found is None:
            wanted = _wanted(
                self._operation, self._schedule.chunks, self._schedule.ranks, self._rank, self._root
            )
            found = self._plans[in_place] = make_plan(self._schedule, self._rank, in_place, wanted)
        return found


def _wanted(operation: str, chunks: int, ranks: int, rank: int, root: int) -> range:
    """The chunks that a rank must end with."""
    if operation == "reduce_scatter":
        each = chunks // ranks
        return range(rank * each, (rank + 1) * each)
    return range(chunks if operation != "reduce" or rank == root else 0)


class Service:
    """Choices of one communicator. Made by all its ranks together.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._plain = MPI.Intracomm(comm)
        self.rank, self.ranks = self._plain.rank, self._plain.size
        mine = (load() or Table(), environment_setting()) if self.rank == 0 else None
        self.table, self.forced = self._plain.bcast(mine)
        self.nodes = nodes_of(self._plain)
        check_name("allreduce", self.forced)
        # What is run for arrays like some that were reduced before.
        self.ready: dict[Any, Any] = {}
        self._choices: dict[_Key, Chosen | None] = {}
        self._own: MPI.Intracomm | None = None
        self._memory: SharedMemory | None = None
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
    ) -> Chosen | None:
        """What an operation on so many bytes is left to; None for the library's own collective.

        Raises `ValueError` for a name that is unknown, or that cannot be had.
        """
        key = _key(operation, nbytes, root, name, ordered, reproducible, background)
        if key not in self._choices:
            self._choices[key] = self._decide(key)
        return self._choices[key]

    def _decide(self, key: _Key) -> Chosen | None:
        if self.ranks == 1 and not key.reproducible:
            return None
        name = None if key.name == AUTO else key.name
        setting = self._setting(key.root)
        if name is None and not key.reproducible and not self._is_measured(key):
            return None
        ranked = rank_candidates(
            key.operation, setting, key.size, self.table, name, key.ordered, key.background
        )
        if key.reproducible:
            # What the library does is not known.
            ranked = [candidate for candidate in ranked if candidate.algorithm is not None]
        best = ranked[0]
        return None if best.algorithm is None else Chosen(best, self.rank, key.operation, key.root)

    def _is_measured(self, key: _Key) -> bool:
        """Whether the library's own time is known; what is not measured here is not believed to be slow."""
        return self.table.native_seconds(key.operation, self.nodes, key.size) is not None

    def _setting(self, root: int) -> Setting:
        first = sorted(self.nodes, key=lambda ranks: root not in ranks)
        nodes = tuple(tuple(sorted(ranks, key=lambda rank: (rank != root, rank))) for ranks in first)
        return Setting(self.ranks, root, nodes)

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

    def next_tag(self) -> int:
        """The first of the tags of the next operation."""
        self._sequence = (self._sequence + 1) % _TAGS
        return self._sequence * _LANES

    def setting_for(self, ordered: bool, background: bool = False) -> str:
        """What the setting asks for; the library's own where that cannot be had."""
        name = str(self.forced)
        if name in (AUTO, NATIVE):
            return name
        usable = any(
            (each.ordered or not ordered) and not (each.shares_memory and background)
            for each in members("allreduce", self._setting(0), name)
        )
        return name if usable else NATIVE

    def remember(self, arrays: Any, what: Any) -> None:
        """Keep what is run for arrays of some kind."""
        if len(self.ready) >= _READY_KEPT:
            self.ready.clear()
        self.ready[arrays] = what

    def force(self, name: str) -> None:
        """Let `name` be the algorithm of all calls that ask for none; on all ranks together.

        Raises `ValueError` for an unknown name.
        """
        check_name("allreduce", name)
        self.forced = name
        self.ready.clear()

    def free(self) -> None:
        """Free what was made for the communicator."""
        self._memory = None
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


def environment_setting() -> str:
    """The algorithm that the environment asks for."""
    return os.environ.get(_VARIABLE, AUTO)


def check_name(operation: str, name: str) -> None:
    """Raise `ValueError` for a name that is no algorithm of an operation."""
    known = [AUTO, *algorithms(operation)]
    if name not in known:
        raise ValueError(f"{operation}: unknown algorithm {name!r}; expected one of {', '.join(known)}")
