"""Commits in the hands of a process that is no rank, and outlives them: what it needs to write them to disk.

An MPI library without ULFM kills all ranks when one dies. A process beside them that maps their commits, such
as a monitor's, still has these when nobody else has. It needs no MPI.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from .registered import Form
from .saved import Part, save
from .segment import Address, MappedSegment, Segment


class Whereabouts(NamedTuple):
    """Where the commits of a rank are, for another process of its node; made to be pickled.

    Attributes
    ----------
    world_rank : int
    job : str
    owners : tuple of int
        Ranks in `COMM_WORLD` of all who commit.
    form : Form
    address : Address
    """

    world_rank: int
    job: str
    owners: tuple[int, ...]
    form: Form
    address: Address


class Kept:
    """Commits of one rank, mapped while it lives.

    Parameters
    ----------
    whereabouts : iterable of Whereabouts
        What the rank's `Protected.whereabouts` returned.

    Raises
    ------
    OSError
        The rank is dead already, or of another node.
    """

    def __init__(self, whereabouts: Iterable[Whereabouts]) -> None:
        self._held: list[tuple[Whereabouts, Segment]] = [
            (each, MappedSegment(each.address)) for each in whereabouts
        ]

    def save(self, folder: str | os.PathLike[str]) -> list[int]:
        """Write the commits to disk as the rank's own `Protected.save` would, also when it is dead.

        Returns
        -------
        list of int
            The steps of the commits, the last one at the end.
        """
        parts = [
            part
            for each, segment in self._held
            for part in parts_of(each.job, each.owners, each.world_rank, each.form, segment)
        ]
        if parts:
            save(folder, self._held[0][0].world_rank, parts)
        return [part.version.step for part in parts]


def parts_of(job: str, owners: tuple[int, ...], owner: int, form: Form, segment: Segment) -> list[Part]:
    """The complete commits of a rank that a segment has."""
    return [Part(job, owners, owner, form, segment, version) for version in segment.versions()]
