"""Selection: which algorithm an operation is left to, by its predicted time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .catalogue import NATIVE, Algorithm, Setting, members
from .figures import Table
from .simulate import chunk_sizes, simulate

# By how much another algorithm must be faster than the library's own: what is measured is no surer.
MARGIN = 1.1
# How many times slower than the best of them a candidate is predicted to be that is not worth trying.
FAR_BEHIND = 4.0


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
    background: bool = False,
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
    background : bool
        Only those that can go on while the program does something else.

    Raises
    ------
    ValueError
        Unknown operation or name, or no algorithm of that name for this setting.
    """
    if name == NATIVE:
        return [Candidate(None, 0.0)]
    found = []
    tried = table.trial_seconds(operation, setting.nodes, nbytes) if name is None else None
    for algorithm in members(operation, setting, name):
        if (ordered and not algorithm.ordered) or (background and algorithm.shares_memory):
            continue
        if tried is None:
            found.append(Candidate(algorithm, predict(algorithm, setting, nbytes, table)))
        elif str(algorithm) in tried:
            # A measured time is known better than one that is only predicted.
            found.append(Candidate(algorithm, tried[str(algorithm)]))
    native = table.native_seconds(operation, setting.nodes, nbytes)
    if name is None and native is not None:
        found.append(Candidate(None, native / MARGIN))
    if not found:
        wanted = "that keeps the order of the ranks" if ordered else "for these nodes"
        raise ValueError(f"{operation}: no algorithm {name!r} {wanted}")
    return sorted(found, key=lambda candidate: candidate.seconds)


def promising(ranked: Sequence[Candidate], of_a_family: int, most: int) -> list[Candidate]:
    """Roundelay's own among ranked candidates that are not far behind the first.

    Parameters
    ----------
    ranked : sequence of Candidate
        The fastest first.
    of_a_family : int
        How many there may be that differ in parameters only.
    most : int
        How many in all.
    """
    found: list[Candidate] = []
    families: Counter[str] = Counter()
    for candidate in ranked:
        if candidate.algorithm is None or candidate.seconds > FAR_BEHIND * ranked[0].seconds:
            continue
        families[candidate.algorithm.name] += 1
        if families[candidate.algorithm.name] <= of_a_family and len(found) < most:
            found.append(candidate)
    return found


def predict(algorithm: Algorithm, setting: Setting, nbytes: int, table: Table) -> float:
    """Seconds that an algorithm takes by the model of the links."""
    schedule = algorithm.build()
    sizes = chunk_sizes(8 * max(1, nbytes // 8), schedule.chunks, itemsize=8)
    steps = sum(1 for _ in schedule)
    links = table.links(setting.nodes, nbytes, setting.hosts or None)
    return simulate(schedule, sizes, links).seconds + table.step * steps
