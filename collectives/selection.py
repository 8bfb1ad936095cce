"""Selection: which algorithm an operation is left to, by its predicted time."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .catalogue import NATIVE, Algorithm, Setting, members
from .execute import even_bounds
from .figures import Table
from .simulate import simulate


class Candidate(NamedTuple):
    """An algorithm, or None for the library's own, and its predicted time in seconds."""

    algorithm: Algorithm | None
    seconds: float

    @property
    def name(self) -> str:
        """Its name and parameters."""
        return NATIVE if self.algorithm is None else str(self.algorithm)


def rank_candidates(
    operation: str,
    setting: Setting,
    nbytes: int,
    table: Table,
    name: str | None = None,
    ordered: bool = False,
) -> list[Candidate]:
    """Candidates for an operation, the fastest first; the library's own among them where it was measured.

    Parameters
    ----------
    operation : str
        Such as "allreduce".
    setting : Setting
        With its nodes.
    nbytes : int
        Bytes of the whole vector.
    table : Table
        What was measured.
    name : str, optional
        Only algorithms of this name.
    ordered : bool
        Only those that keep the operands in the order of the ranks.

    Raises
    ------
    ValueError
        Unknown operation or name, or no algorithm of that name for this setting.
    """
    if name == NATIVE:
        return [Candidate(None, 0.0)]
    links = table.links(setting.nodes, nbytes)
    found = []
    for algorithm in members(operation, setting, name):
        if ordered and not algorithm.ordered:
            continue
        schedule = algorithm.build()
        bounds = even_bounds(max(1, nbytes // 8), schedule.chunks)
        sizes = [8 * (end - begin) for begin, end in pairwise(bounds)]
        steps = sum(1 for _ in schedule)
        seconds = simulate(schedule, sizes, links).seconds + table.step * steps
        found.append(Candidate(algorithm, seconds))
    native = table.native_seconds(operation, setting.nodes, nbytes)
    if name is None and native is not None:
        found.append(Candidate(None, native))
    if not found:
        wanted = "that keeps the order of the ranks" if ordered else "for these nodes"
        raise ValueError(f"{operation}: no algorithm {name!r} {wanted}")
    return sorted(found, key=lambda candidate: candidate.seconds)
