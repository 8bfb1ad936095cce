"""Which commit survivors go back to, and who hands out the arrays of those who are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .failures import DataLost


class Commit(NamedTuple):
    """A commit that a rank knows of: its number, its step, and who took part, with their partners."""

    serial: int
    step: int
    owners: tuple[int, ...]
    partners: tuple[tuple[int, ...], ...]


class Holding(NamedTuple):
    """What a survivor has: its own commits, and the numbers of those of others, by rank in `COMM_WORLD`."""

    world_rank: int
    own: tuple[Commit, ...]
    guarded: Mapping[int, tuple[int, ...]]


class Elected(NamedTuple):
    """The commit to go back to, and by rank in `COMM_WORLD` who has the arrays of it."""

    commit: Commit
    holders: dict[int, int]


def elect(holdings: Sequence[Holding]) -> Elected:
    """The newest commit of which the survivors have the arrays of all who took part.

    Parameters
    ----------
    holdings : sequence of Holding
        Of all survivors; the same on each of them, so they elect the same.

    Raises
    ------
    DataLost
        There is none; names who is lost with all partners.

    Examples
    --------
    >>> first = Commit(0, 10, (0, 1, 2), ((1,), (2,), (0,)))
    >>> second = first._replace(serial=1, step=20)
    >>> holdings = [Holding(0, (first, second), {2: (0,)}), Holding(1, (first,), {0: (0, 1)})]
    >>> elect(holdings).commit.step, elect(holdings).holders
    (10, {0: 0, 1: 1, 2: 0})
    """
    commits = {commit.serial: commit for holding in holdings for commit in holding.own}
    for serial in sorted(commits, reverse=True):
        holders = {owner: _holder(commits[serial], owner, holdings) for owner in commits[serial].owners}
        if all(holder is not None for holder in holders.values()):
            return Elected(commits[serial], {owner: int(holder) for owner, holder in holders.items()})  # type: ignore[arg-type]
    raise DataLost(_explanation(commits, {holding.world_rank for holding in holdings}))


def _holder(commit: Commit, owner: int, holdings: Sequence[Holding]) -> int | None:
    """Who hands out the arrays: the rank itself, or else the first of its partners that is left."""
    by_rank = {holding.world_rank: holding for holding in holdings}
    if owner in by_rank:
        has_it = any(own.serial == commit.serial for own in by_rank[owner].own)
        return owner if has_it else None
    partners = commit.partners[commit.owners.index(owner)]
    return next(
        (
            each
            for each in partners
            if each in by_rank and commit.serial in by_rank[each].guarded.get(owner, ())
        ),
        None,
    )


def _explanation(commits: Mapping[int, Commit], survivors: set[int]) -> str:
    if not commits:
        return "no commit is complete: nothing was committed before the loss"
    commit = commits[max(commits)]
    gone = {
        owner: partners
        for owner, partners in zip(commit.owners, commit.partners, strict=True)
        if owner not in survivors and not survivors & set(partners)
    }
    names = "; ".join(
        f"rank {owner} and its partner{'s' * (len(partners) != 1)} {', '.join(map(str, partners))}"
        if partners
        else f"rank {owner}, which had no partner"
        for owner, partners in gone.items()
    )
    return f"lost: {names}" if names else "no commit is complete on all survivors"
