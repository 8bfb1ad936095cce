"""A commit that ranks go back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recovered:
    """A commit that ranks go back to.

    Attributes
    ----------
    step : int
        As it was given to `Protected.commit`; the same on all ranks.
    pieces : dict
        What this rank hands on: by the rank in `COMM_WORLD` that committed them, new arrays in a dictionary
        or list like those that were registered. After a loss these are its own, and those of each lost rank
        whose first remaining partner it is. After `Protected.load` they are its share of the old job's.
    holders : dict
        For each rank in `COMM_WORLD` that committed, the rank of the communicator that has its arrays.
    arrays : dict or list of arrays, optional
        Those that this rank itself committed; None after `Protected.load`.
    """

    step: int
    pieces: dict[int, Any]
    holders: dict[int, int]
    arrays: Any = None

    @property
    def lost(self) -> dict[int, Any]:
        """The pieces that other ranks committed."""
        return {rank: piece for rank, piece in self.pieces.items() if piece is not self.arrays}
