"""Members agree before they compute: how many tokens each has, and that all call the same.

A few bytes go from each member to each other one, in every call: a member whose shapes have changed could
not ask one that believes to know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from os import sched_yield
from typing import Any, TypeVar

import numpy as np

from ...datatypes.plain import MPI
from .group import MEETING, Array, Group, progress, wait

_LANE = 7


S = TypeVar("S")


def signed(find: Callable[[], S]) -> S | str:
    """A member's report on its arguments: their signature, or the error in them."""
    try:
        return find()
    except Exception as error:
        # Whatever it is, the other members must hear of it, since they wait.
        return str(error)


def agree(group: Group, what: str, signature: tuple[Any, ...] | str, count: int) -> list[int]:
    """Find out how many tokens each member has.

    Parameters
    ----------
    group : Group
    what : str
        What is called, for errors.
    signature : tuple or str
        What must be the same for all members; a str is what is wrong with this member's arguments.
    count : int
        Tokens of this member.

    Raises
    ------
    ValueError
        Something is wrong with the arguments of a member, or members differ in the signature; on all alike.
        Or members call with different lists of ranks; on those that find out.
    """
    mine = np.array([count, _digest(signature), _digest(group.ranks)], np.int64)
    everyone = np.empty((group.size, 3), np.int64)
    everyone[group.index] = mine
    _meet(group, what, everyone)
    if not isinstance(signature, str) and (everyone[:, 1] == mine[1]).all():
        return [int(each) for each in everyone[:, 0]]
    _explain(group, what, signature)
    raise AssertionError("members with equal signatures have different digests")


@lru_cache(maxsize=1024)
def _digest(signature: tuple[Any, ...] | str) -> int:
    """The same number for the same signature in all processes; another one for each error."""
    return int.from_bytes(blake2b(repr(signature).encode(), digest_size=7).digest(), "little")


def _meet(group: Group, what: str, rows: Array) -> None:
    """Give each member's row to all others; raise `ValueError` as soon as one has another list of ranks.

    Who is in one list only is not waited for: it may not call at all.
    """
    others = [member for member in range(group.size) if member != group.index]
    receives = {member: group.receive(rows[member], member, MEETING) for member in others}
    sends = [group.send(rows[group.index], member, MEETING, counted=False) for member in others]
    while not progress([*receives.values(), *sends]):
        _compare_lists(
            group, what, rows, {member for member, each in receives.items() if each.Test()}, receives
        )
        sched_yield()
    _compare_lists(group, what, rows, set(others), receives)


def _compare_lists(
    group: Group, what: str, rows: Array, met: Iterable[int], receives: Mapping[int, MPI.Request]
) -> None:
    for member in met:
        if rows[member, 2] != rows[group.index, 2]:
            for request in receives.values():
                if not request.Test():
                    request.Cancel()
                    request.Wait()
            raise ValueError(
                f"{what}: rank {group.ranks[member]} calls with another list of ranks than {group.ranks}"
            )


def _spread(group: Group, rows: Array) -> None:
    """Give each member's row to all others."""
    others = [member for member in range(group.size) if member != group.index]
    requests = [group.receive(rows[member], member, _LANE) for member in others]
    requests += [group.send(rows[group.index], member, _LANE, counted=False) for member in others]
    wait(requests)


def _explain(group: Group, what: str, signature: tuple[Any, ...] | str) -> None:
    text = repr(signature) if isinstance(signature, tuple) else signature
    lengths = np.zeros((group.size, 1), np.int64)
    lengths[group.index] = 2 * len(text.encode()) + isinstance(signature, str)
    _spread(group, lengths)
    texts = np.zeros((group.size, int(lengths.max()) // 2 + 1), np.uint8)
    texts[group.index, : len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
    _spread(group, texts)
    found = [
        (divmod(int(length), 2), bytes(row[: int(length) // 2]).decode())
        for (length,), row in zip(lengths, texts, strict=True)
    ]
    if len(set(found)) == 1:
        # All are wrong alike.
        raise ValueError(f"{what}: {text}")
    for rank, ((_, wrong), here) in zip(group.ranks, found, strict=True):
        if wrong:
            raise ValueError(f"{what}: rank {rank}: {here}")
    for rank, (_, here) in zip(group.ranks, found, strict=True):
        if here != found[0][1]:
            raise ValueError(f"{what}: rank {group.ranks[0]} has {found[0][1]}, rank {rank} has {here}")
