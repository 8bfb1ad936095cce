"""Collectives of all ranks, put together by communicator and sequence number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .snapshot import Snapshot

# Calls whose counterparts on other ranks have not been seen yet.
MOST_PENDING = 16384
_FIELDS = (
    "sequence",
    "comm",
    "function",
    "signature",
    "bytes",
    "dest",
    "entered",
    "left",
    "inside",
    "lane",
    "error",
)


class Gathered(NamedTuple):
    """Calls in the order of communicator, sequence number and rank; those of one collective form a group.

    Attributes
    ----------
    columns : dict of str to ndarray
        Fields of `memory.TIMED_CALL`, and "rank".
    begins, counts : ndarray of int
        Where each group begins, and how many calls are in it.
    complete : ndarray of bool
        Whether the calls of all members are there, and have ended.
    """

    columns: dict[str, np.ndarray]
    begins: np.ndarray
    counts: np.ndarray
    complete: np.ndarray


class Gatherer:
    """Puts together what the snapshots bring.

    Attributes
    ----------
    known : dict of int to set of int
        Ids of communicators that each rank has used.
    sizes : dict of int to int
        Of communicators.
    has_failed_early : bool
        Whether a collective has failed on some rank, and not all have come to it.
    """

    def __init__(self) -> None:
        self.known: dict[int, set[int]] = {}
        self.sizes: dict[int, int] = {}
        self.has_failed_early = False
        self._pending: dict[str, np.ndarray] | None = None

    def add(self, snapshot: Snapshot) -> Gathered | None:
        """Give the groups with calls of this snapshot, or with some that are missing; None without news."""
        parts = []
        for rank, view in snapshot.ranks.items():
            for comm, size in zip(view.comms["id"].tolist(), view.comms["size"].tolist(), strict=True):
                self.known.setdefault(rank, set()).add(comm)
                self.sizes[comm] = size
            for rows in (view.calls, view.under_way):
                if len(rows):
                    part = {name: rows[name] for name in _FIELDS}
                    parts.append((rank, part, part["sequence"] > 0))
        return self._group(parts)

    def _group(self, parts: list[tuple[int, dict[str, np.ndarray], np.ndarray]]) -> Gathered | None:
        parts = [part for part in parts if part[2].any()]
        if not parts:
            return None
        columns = {name: np.concatenate([part[name][mask] for _, part, mask in parts]) for name in _FIELDS}
        ranks = [np.full(np.count_nonzero(mask), rank) for rank, _, mask in parts]
        columns["rank"] = np.concatenate(ranks)
        if self._pending is not None:
            columns = {name: np.concatenate([self._pending[name], each]) for name, each in columns.items()}
        key = columns["comm"].astype(np.uint64) << np.uint64(32) | columns["sequence"]
        order = np.lexsort((columns["rank"], key))
        columns = {name: each[order] for name, each in columns.items()}
        key = key[order]
        begins = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        counts = np.diff(begins, append=len(key))
        comms, inverse = np.unique(columns["comm"][begins], return_inverse=True)
        sizes = np.array([self.sizes.get(comm, 0) for comm in comms.tolist()])[inverse]
        ended = np.minimum.reduceat(columns["left"], begins) > 0
        complete = ended & (counts == sizes)
        has_failed = np.maximum.reduceat(columns["error"], begins) > 0
        self.has_failed_early = bool((has_failed & (counts < sizes)).any())
        self._keep(columns, np.repeat(complete, counts))
        return Gathered(columns, begins, counts, complete)

    def _keep(self, columns: dict[str, np.ndarray], done: np.ndarray) -> None:
        """Keep the calls that have ended and whose counterparts are missing, if there are few."""
        keep = np.flatnonzero(~done & (columns["left"] > 0))
        if len(keep) > MOST_PENDING:
            newest = np.sort(np.argsort(columns["entered"][keep], kind="stable")[-MOST_PENDING // 2 :])
            keep = keep[newest]
        self._pending = {name: each[keep] for name, each in columns.items()}
