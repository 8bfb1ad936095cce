"""Knowledge that the processes of communicators share: their nodes, the measured figures, and their choices.

All ranks make the same choices because they compute them from the same figures, those of rank 0.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import NamedTuple
from weakref import WeakValueDictionary

from ..comm.settings import OPERATIONS, names_of_algorithms
from ..datatypes.plain import MPI
from .catalogue import NATIVE, Setting, algorithms, members
from .chosen import Chosen
from .duplicate import Duplicates
from .nodes import Place, hosts_by_place, nodes_by_place, place_of_process
from .selection import Candidate, promising, rank_candidates
from .table import Table, known_table
from .watched import SAMPLES

AUTO = "auto"
# Names of algorithms by operation.
Names = Mapping[str, str]
# Ranks of the world, in the order of a communicator; None where some are not of this process's world.
Members = tuple[int, ...] | None
# Candidates that are tried when a choice is slow: of one family, as stars with other hubs, and in all.
_OF_A_FAMILY = 3
_MOST = 12
# Share of the time that watching may cost, what Python takes for it, and least and most calls between looks.
_COST = 0.01
_LOOK_SECONDS = 20e-6
_PERIODS = (32, 10000)
_MOST_KEPT = 256


class Wanted(NamedTuple):
    """The key of a choice: all that it depends on."""

    operation: str
    nbytes: int
    root: int = 0
    name: str = AUTO
    ordered: bool = False
    reproducible: bool = False
    background: bool = False

    def rounded(self) -> Wanted:
        """The same with the nearest power of two of the bytes."""
        nearest = 1 << max(0, (self.nbytes + (self.nbytes >> 1)).bit_length() - 1)
        return self._replace(nbytes=nearest)


class Decision(NamedTuple):
    """The algorithm, None for the library's own; if watched, its expected time, and what else may run."""

    best: Chosen | None
    expected: float | None = None
    period: int = 0
    others: Callable[[], list[Chosen | None]] = list


class Processes:
    """Processes in an order, as one of them knows them.

    Parameters
    ----------
    rank : int
        Of this process.
    places : list of Place
        Where each of them runs.
    table : Table
    cores : int
        Of a node.
    duplicates : Duplicates
    """

    def __init__(
        self, rank: int, places: list[Place], table: Table, cores: int, duplicates: Duplicates
    ) -> None:
        self.rank, self.ranks = rank, len(places)
        self.table, self.cores = table, cores
        self.nodes = nodes_by_place(places)
        # The name of each node, where links were measured pair by pair.
        self.hosts = hosts_by_place(places, self.nodes) if table.pairs else ()
        self.duplicates = duplicates
        self._decisions: dict[Wanted, Decision] = {}
        self._chosen: dict[tuple[str, int, str], Chosen] = {}
        self._runnable: dict[tuple[str, str, bool, bool, int], bool] = {}

    def is_tried(self, operation: str) -> bool:
        """Whether the library's own was timed in this placement, and algorithms of ours beside it."""
        return self.table.is_tried(operation, self.nodes)

    def can_run(self, operation: str, name: str, ordered: bool, background: bool, root: int) -> bool:
        """Whether there is an algorithm of that name for such calls."""
        key = (operation, name, ordered, background, root)
        if key not in self._runnable:
            self._runnable[key] = any(
                (each.ordered or not ordered) and not (each.shares_memory and background)
                for each in members(operation, self._setting(root), name)
            )
        return self._runnable[key]

    def decide(self, wanted: Wanted) -> Decision:
        """The algorithm that runs an operation. Raises `ValueError` for a name that does not fit."""
        if wanted not in self._decisions:
            self._decisions[wanted] = self._decide(wanted)
        return self._decisions[wanted]

    def _decide(self, wanted: Wanted) -> Decision:
        operation, name = wanted.operation, wanted.name
        if name == AUTO and not wanted.reproducible and not self.is_tried(operation):
            # Without a measurement, the library's own is not believed to be slow.
            return Decision(None)
        ranked = self._rank(wanted, self.table)
        if wanted.reproducible:
            # The library's order is unknown, and trials may be of another version of roundelay.
            ranked = _ours(ranked) or _ours(self._rank(wanted, replace(self.table, trials={})))
        if not ranked:
            raise ValueError(
                f"{operation}: algorithm {name!r} is the MPI library's own, which lacks the dtype, or may "
                "give other bits in another run; expected one of roundelay's"
            )
        best = self._as_chosen(ranked[0], wanted)
        # Ranks that share cores are timed together with those that they wait for.
        is_steady = max(map(len, self.nodes)) <= self.cores
        native = self.table.native_seconds(operation, self.nodes, wanted.nbytes)
        if name != AUTO or wanted.reproducible or wanted.background or native is None or not is_steady:
            return Decision(best)
        expected = native if best is None else ranked[0].seconds
        return Decision(best, expected, self._period(expected), cache(lambda: self._others(wanted)))

    def _rank(self, wanted: Wanted, table: Table) -> list[Candidate]:
        name = None if wanted.name == AUTO else wanted.name
        return rank_candidates(
            wanted.operation,
            self._setting(wanted.root),
            wanted.nbytes,
            table,
            name,
            wanted.ordered,
            wanted.background,
        )

    def _others(self, wanted: Wanted) -> list[Chosen | None]:
        """Candidates that may beat predictions: the library's own, and some of each family, as other hubs."""
        ranked = self._rank(wanted, replace(self.table, trials={}))
        return [None, *(self._as_chosen(each, wanted) for each in promising(ranked, _OF_A_FAMILY, _MOST))]

    def _as_chosen(self, candidate: Candidate, wanted: Wanted) -> Chosen | None:
        """The same object for the same algorithm."""
        if candidate.algorithm is None:
            return None
        name = (wanted.operation, wanted.root, str(candidate.algorithm))
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
        return Setting(self.ranks, root, nodes, tuple(self.hosts[node] for node in order if self.hosts))


def _ours(ranked: list[Candidate]) -> list[Candidate]:
    return [candidate for candidate in ranked if candidate.algorithm is not None]


def members_of(comm: MPI.Intracomm) -> Members:
    """Ranks of a communicator's processes in `COMM_WORLD`, found without a message."""
    group, world = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        ranks = group.Translate_ranks(list(range(group.size)), world)
    finally:
        group.Free()
        world.Free()
    return None if MPI.UNDEFINED in ranks else tuple(ranks)


_known: OrderedDict[tuple[int, ...], Processes] = OrderedDict()
# Processes whose figures were forgotten must still find the duplicate that other communicators use.
_duplicates: WeakValueDictionary[tuple[int, ...], Duplicates] = WeakValueDictionary()
_looking_up = Lock()


def known_processes(members: Members) -> Processes | None:
    """Findings about processes from an earlier communicator of them."""
    with _looking_up:
        if members is None or members not in _known:
            return None
        _known.move_to_end(members)
        return _known[members]


def find_out(comm: MPI.Intracomm, members: Members, names: Names) -> Processes:
    """Let the ranks of a communicator tell one another what they must know; collective over it.

    Raises `ValueError` on all ranks where they do not ask for the same algorithms, or for unknown ones.
    """
    figures = (known_table(), os.cpu_count() or 1) if comm.rank == 0 else None
    everyone = comm.allgather((dict(names), place_of_process(), figures))
    check_names([names for names, _, _ in everyone])
    places = [place for _, place, _ in everyone]
    table, cores = everyone[0][2]
    if members is None:
        return Processes(comm.rank, places, table, cores, Duplicates(lasting=False))
    with _looking_up:
        if members not in _known:
            if len(_known) >= _MOST_KEPT:
                _known.popitem(last=False)
            duplicates = _duplicates.setdefault(members, Duplicates(_is_lasting(members)))
            _known[members] = Processes(comm.rank, places, table, cores, duplicates)
        return _known[members]


def _is_lasting(members: tuple[int, ...]) -> bool:
    """Whether a communicator of these processes is never freed."""
    world = MPI.COMM_WORLD
    return members in ((world.rank,), tuple(range(world.size)))


def check_names(everyone: list[Names]) -> None:
    """Raise `ValueError` for what ranks ask for, by rank, if they differ or an algorithm is unknown."""
    for rank, names in enumerate(everyone):
        for operation in OPERATIONS:
            name, first = names[operation], everyone[0][operation]
            if name != first:
                raise ValueError(
                    f"{operation}: rank 0 asks for {first!r}, rank {rank} for {name!r} "
                    f"(ROUNDELAY_{operation.upper()}, or the communicator's info)"
                )
    for operation, name in everyone[0].items():
        check_name(operation, name)


def check_name(operation: str, name: str) -> None:
    """Raise `ValueError` for a name that is no algorithm of an operation."""
    known = [AUTO, *algorithms(operation)]
    if name not in known:
        raise ValueError(f"{operation}: unknown algorithm {name!r}; expected one of {', '.join(known)}")


def environment_names() -> Names:
    """For each operation the algorithm that the environment asks for; the library's own if it does not."""
    return dict.fromkeys(OPERATIONS, NATIVE) | names_of_algorithms()
