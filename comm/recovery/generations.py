"""The generations of commits that a rank has: one that counts, and one of which no commit is complete yet."""

from __future__ import annotations

from collections.abc import Collection

from .election import Commit, Holding
from .generation import Generation
from .kept import Whereabouts, parts_of
from .registered import Arrays, Form
from .saved import Part
from .segment import Segment


class Generations:
    """Those of one rank.

    Parameters
    ----------
    rank : int
        In `COMM_WORLD`.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._all: list[Generation] = []

    def __len__(self) -> int:
        return len(self._all)

    @property
    def newest(self) -> Generation:
        """The one that commits are made with."""
        return self._all[-1]

    def add(self, made: Generation) -> None:
        """Make commits with a new one; the one that counts is kept until the first of them is complete."""
        self._all = [*self._all[:1], made]

    def keep_newest(self) -> bool:
        """Free those before the newest, of which a commit is complete; tell whether there were any."""
        before, self._all = self._all[:-1], self._all[-1:]
        for old in before:
            old.free()
        return bool(before)

    def abandon(self) -> None:
        """End what is under way."""
        for each in self._all:
            each.abandon()

    def clear(self) -> None:
        """Forget all of them."""
        self._all.clear()

    def holding(self) -> Holding:
        """The commits that are here."""
        own = tuple(
            Commit(version.serial, version.step, each.owners, each.partners)
            for each in self._all
            for version in each.own.versions()
        )
        guarded: dict[int, tuple[int, ...]] = {}
        for each in self._all:
            for rank, guard in each.guards.items():
                serials = (version.serial for version in guard.segment.versions())
                guarded[rank] = (*guarded.get(rank, ()), *serials)
        return Holding(self._rank, own, guarded)

    def piece(self, owner: int, serial: int) -> Arrays:
        """New arrays with what a rank committed, this one or one whose copy is here."""
        for each in self._all:
            held = self._held(each).get(owner)
            version = held and held[0].find(serial)
            if held and version:
                segment, form = held
                return form.copy(segment.slot(version.slot))
        raise AssertionError(f"commit {serial} of rank {owner} has gone")

    def parts(self, lost: Collection[int]) -> list[Part]:
        """All that is to be written to disk: this rank's commits, and those of lost ranks that are here."""
        return [
            part
            for each in self._all
            for owner, (segment, form) in self._held(each).items()
            if owner == self._rank or owner in lost
            for part in parts_of(each.job, each.owners, owner, form, segment)
        ]

    def whereabouts(self) -> list[Whereabouts]:
        """Where another process of the node finds this rank's commits."""
        return [
            Whereabouts(self._rank, each.job, each.owners, each.form, each.own.address)
            for each in self._all
            if each.own.address is not None
        ]

    def _held(self, generation: Generation) -> dict[int, tuple[Segment, Form]]:
        """By owner, what is here of a generation."""
        return {**generation.guards, self._rank: (generation.own, generation.form)}
