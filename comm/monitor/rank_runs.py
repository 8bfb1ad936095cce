"""Members of communicators as runs of ranks, in few bytes: first, first + step, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from .wire import Malformed

RUN = np.dtype([("first", "i4"), ("step", "i4"), ("count", "i4")])
MEMBERS = np.dtype([("id", "u4"), ("runs", "u4")])
# Ranks of a node have the same communicators at look after look.
_REMEMBERED = 1024


def members_bytes(members: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Give `MEMBERS` of all communicators of a rank, and their runs one after the other."""
    runs = {number: _runs(np.asarray(ranks, "i4").tobytes()) for number, ranks in members.items()}
    heads = np.array([(number, len(each)) for number, each in runs.items()], MEMBERS)
    return heads, np.concatenate([np.zeros(0, RUN), *runs.values()])


@lru_cache(_REMEMBERED)
def _runs(data: bytes) -> np.ndarray:
    """Describe ascending ranks by as few arithmetic progressions as one finds from left to right."""
    ranks = np.frombuffer(data, "i4")
    steps = np.diff(ranks)
    ends = [*(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(ranks) - 1]
    found: list[tuple[int, int, int]] = []
    first = 0
    for end in ends:
        # One that began at the end of the last progression is a part of none that ends there, too.
        if end < first or (end == first and end < len(ranks) - 1):
            continue
        found.append((int(ranks[first]), int(steps[first]) if end > first else 1, end - first + 1))
        first = end + 1
    return np.array(found, RUN)


@lru_cache(_REMEMBERED)
def read_members(heads: bytes, data: bytes, size: int) -> Mapping[int, np.ndarray]:
    """Read the members of the communicators of a rank.

    Parameters
    ----------
    heads, data : bytes
        Of `MEMBERS`, and of `RUN`.
    size : int
        Ranks of the job.

    Raises
    ------
    Malformed
        They are none of such a job.
    """
    members, runs = np.frombuffer(heads, MEMBERS), np.frombuffer(data, RUN)
    if int(members["runs"].sum(dtype=np.int64)) != len(runs):
        raise Malformed(f"{len(runs)} runs of ranks: expected {members['runs'].tolist()}")
    first, step, count = (runs[name].astype(np.int64) for name in ("first", "step", "count"))
    is_wrong = (first < 0) | (step < 1) | (count < 1) | (first + step * (count - 1) >= size)
    if is_wrong.any():
        raise Malformed(f"runs of ranks {runs.tolist()} of {size}")
    found, begin = {}, 0
    for number, many in members.tolist():
        part = runs[begin : begin + many].tolist()
        begin += many
        if sum(count for _, _, count in part) > size:
            raise Malformed(f"communicator {number} of more than {size} ranks")
        parts = [np.arange(first, first + step * count, step, dtype="i4") for first, step, count in part]
        ranks = np.concatenate([np.zeros(0, "i4"), *parts])
        if (np.diff(ranks) <= 0).any() or number in found:
            raise Malformed(f"communicator {number}, ranks {ranks.tolist()}: expected ascending ones, once")
        ranks.setflags(write=False)
        found[number] = ranks
    return found
