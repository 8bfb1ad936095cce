"""Dropout that depends on the seed and on which token, key, head and row of the batch it is, on nothing else.

Any number of ranks therefore drops the same. Each pair's number is a hash of a hash of its query and one of
its key (the mixing steps are those of MurmurHash3, Appleby 2011).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint32]
Keep = NDArray[np.bool_]


class Dropout(NamedTuple):
    """The share of the weights that is dropped, and the seed that says which."""

    share: float
    seed: int

    @property
    def scale(self) -> float:
        """The factor of the weights that stay."""
        return 1.0 / (1.0 - self.share)

    def keep(self, batch: int, head: int, queries: NDArray[np.int64], keys: NDArray[np.int64]) -> Keep:
        """Which weights stay, of queries and keys at some positions: (queries, keys)."""
        row = _mix(_mix(_mix(_words(queries), self.seed), batch), head)
        column = _mix(_words(keys), ~self.seed & 0xFFFFFFFF)
        numbers = _mix(row[:, None] ^ column[None, :], 0x9E3779B9)
        keep: Keep = numbers >= np.uint32(min(self.share * 2.0**32, 2.0**32 - 1))
        return keep


def _words(positions: NDArray[np.int64]) -> Numbers:
    """A word of 32 bits for each position."""
    wide = positions.astype(np.uint64)
    words: Numbers = _mix((wide >> np.uint64(32)).astype(np.uint32), 1) ^ wide.astype(np.uint32)
    return words


def _mix(words: Numbers, salt: int) -> Numbers:
    mixed = words + np.uint32((salt + 1) * 0x9E3779B1 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    found: Numbers = mixed
    return found
