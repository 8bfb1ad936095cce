"""Which member computes which pair of queries and keys in which step, and from whom it gets what it lacks.

Each function returns the steps of an algorithm; what members have themselves is computed in step 0, and is
not listed. Pairs that see nothing of each other are left out, with all messages that only they would need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

from .problem import Problem


class Task(NamedTuple):
    """A pair that one member computes.

    Attributes
    ----------
    worker : int
        Has either the queries or the keys.
    queries, keys : int
        Whose they are.
    via : int
        Who sends the worker what it lacks: its owner, or one that got it in the step before.
    heads : slice
        Of the keys.
    """

    worker: int
    queries: int
    keys: int
    via: int
    heads: slice

    @property
    def fetches_keys(self) -> bool:
        """Whether the worker lacks the keys, and not the queries."""
        return self.worker == self.queries

    @property
    def owner(self) -> int:
        """Who has what the worker lacks."""
        return self.keys if self.fetches_keys else self.queries


Steps = list[list[Task]]
Route = Callable[[Problem], Steps]

# Head strides of an all-gather: as many as there are key heads, but no more than this.
_STRIDES = 4


def ring(problem: Problem) -> Steps:
    """Keys and values go around, always to the next member (Liu et al. 2023, arXiv 2310.01889)."""
    return _joined([_around(problem, 1, problem.group.size - 1)])


def bidirectional(problem: Problem) -> Steps:
    """Keys and values go both ways, half around each: half as many steps as in a ring."""
    others = problem.group.size - 1
    return _joined([_around(problem, 1, (others + 1) // 2), _around(problem, -1, others // 2)])


def token_ring(problem: Problem) -> Steps:
    """Queries go around, and results straight to their owners (Wang et al. 2024, arXiv 2412.20501)."""
    size, whole = problem.group.size, _all_heads(problem)
    steps: Steps = [[] for _ in range(size - 1)]
    for owner in range(size):
        visits = [(owner + distance) % size for distance in range(1, size)]
        for distance in range(_last(problem.sees(owner, visited) for visited in visits)):
            visited, before = visits[distance], (owner + distance) % size
            steps[distance].append(Task(visited, owner, visited, before, whole))
    return steps


def all_gather(problem: Problem) -> Steps:
    """Some heads of all keys and values in each step, straight from their owners (the Llama 3 way)."""
    size, key_heads = problem.group.size, problem.shape.key_heads
    strides = min(key_heads, _STRIDES)
    bounds = [key_heads * stride // strides for stride in range(strides + 1)]
    return [
        [
            Task(member, member, owner, owner, slice(begin, end))
            for distance in range(1, size)
            for member in range(size)
            if problem.sees(member, owner := (member - distance) % size)
        ]
        for begin, end in pairwise(bounds)
    ]


def direct(problem: Problem) -> Steps:
    """All heads of another member's keys and values in each step, straight from their owner."""
    size, whole = problem.group.size, _all_heads(problem)
    return [
        [
            Task(member, member, owner, owner, whole)
            for member in range(size)
            if problem.sees(member, owner := (member - distance) % size)
        ]
        for distance in range(1, size)
    ]


def balanced(problem: Problem) -> Steps:
    """Members at the front, who see little, help those at the back (DistFlashAttn, arXiv 2310.03294).

    For sequences of which no member sees what comes after its own.
    """
    size, whole = problem.group.size, _all_heads(problem)
    steps: Steps = []
    for step in range(1, size // 2 + 1):
        tasks = []
        for member in range(size):
            other = member - step
            if other >= 0:
                tasks.append(Task(member, member, other, other, whole))
            elif 2 * step < size:
                tasks.append(Task(member, other + size, member, other + size, whole))
        steps.append([task for task in tasks if problem.sees(task.queries, task.keys)])
    return steps


def of_member(steps: Steps, member: int) -> Steps:
    """The tasks of each step in which a member has a part."""
    return [[task for task in step if member in (task.worker, task.via, task.owner)] for step in steps]


def _around(problem: Problem, direction: int, most: int) -> Steps:
    """Keys and values of all members on their way, as far as somebody sees them."""
    size, whole = problem.group.size, _all_heads(problem)
    steps: Steps = [[] for _ in range(most)]
    for owner in range(size):
        visits = [(owner + direction * distance) % size for distance in range(1, most + 1)]
        for distance in range(_last(problem.sees(visited, owner) for visited in visits)):
            visited, before = visits[distance], (owner + direction * distance) % size
            steps[distance].append(Task(visited, visited, owner, before, whole))
    return steps


def _last(seen: Iterable[bool]) -> int:
    """How many there are up to the last that is true."""
    return max((place for place, each in enumerate(seen, 1) if each), default=0)


def _joined(ways: list[Steps]) -> Steps:
    """Steps of several ways side by side."""
    longest = max(map(len, ways))
    return [[task for way in ways if step < len(way) for task in way[step]] for step in range(longest)]


def _all_heads(problem: Problem) -> slice:
    return slice(0, problem.shape.key_heads)
