"""A schedule that was chosen for an operation, bound to the data that it is called with."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

from .catalogue import Algorithm
from .execute import Bound, bind, even_bounds
from .plan import Plan, make_plan
from .shared import SharedBound, bind_shared

# Elements that the chunks share evenly, or where each rank's block of them begins, and the last one ends.
Division = int | tuple[int, ...]

_BOUNDS_KEPT = 64


class Chosen:
    """An algorithm as one rank runs it.

    Parameters
    ----------
    algorithm : Algorithm
    rank : int
    operation : str
    root : int
    """

    def __init__(self, algorithm: Algorithm, rank: int, operation: str, root: int) -> None:
        self.algorithm = algorithm
        self._schedule = algorithm.build()
        self._rank, self._operation, self._root = rank, operation, root
        self._plans: dict[bool, Plan] = {}
        self._bound = lru_cache(_BOUNDS_KEPT)(self._make_bound)

    @property
    def shares_memory(self) -> bool:
        """Whether it is run through shared memory."""
        return self.algorithm.shares_memory

    def bind(self, division: Division, in_place: bool) -> Bound:
        """The plan for a number of elements, to be run by messages."""
        found: Bound = self._bound(bind, division, in_place)
        return found

    def bind_shared(self, in_place: bool, count: int) -> SharedBound:
        """The plan for a number of elements, to be run through shared memory."""
        found: SharedBound = self._bound(bind_shared, count, in_place)
        return found

    def _make_bound(self, how: Any, division: Division, in_place: bool) -> Any:
        return how(self._plan(in_place), self._chunk_bounds(division))

    def _chunk_bounds(self, division: Division) -> tuple[int, ...]:
        chunks = self._schedule.chunks
        if isinstance(division, int):
            return even_bounds(division, chunks)
        each = chunks // (len(division) - 1)
        begins = (
            begin + bound
            for begin, end in pairwise(division)
            for bound in even_bounds(end - begin, each)[:-1]
        )
        return (*begins, division[-1])

    def _plan(self, in_place: bool) -> Plan:
        found = self._plans.get(in_place)
        if found is None:
            found = self._plans[in_place] = make_plan(self._schedule, self._rank, in_place, self._wanted())
        return found

    def _wanted(self) -> range:
        """The chunks that the rank must end with."""
        chunks = self._schedule.chunks
        if self._operation == "reduce_scatter":
            each = chunks // self._schedule.ranks
            return range(self._rank * each, (self._rank + 1) * each)
        at_root = self._rank == self._root
        ends_with_nothing = {"reduce": not at_root, "bcast": at_root}
        return range(0 if ends_with_nothing.get(self._operation, False) else chunks)
