"""Ranks that disagree about a collective: in the function, the size, the root or the operation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from .gathered import Gathered
from .memory import NO_RANK
from .verdict import Verdict
from .wording import Functions, listed, places

# Collectives that agreed between two mismatches that have nothing to do with each other.
_APART = 50
# For ranks that are about to enter a collective about which those inside disagree.
SECONDS_TO_DECIDE = 0.3
# The record has a hash of the operation, not its name.
_OPERATIONS = ("", " with another operation", " with yet another operation")


def _differ(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum.reduceat(values, begins) != np.maximum.reduceat(values, begins))


def mismatched_groups(calls: Gathered) -> np.ndarray:
    """Numbers of the groups whose calls do not agree.

    Signatures are compared where each rank gives a block of the same size; the root is, everywhere.
    """
    columns, begins = calls.columns, calls.begins
    sized = columns["bytes"] >= 0
    signature = columns["signature"].astype(np.int64)
    low = np.minimum.reduceat(np.where(sized, signature, 2**32), begins)
    high = np.maximum.reduceat(np.where(sized, signature, -1), begins)
    differ = (low < high) | _differ(columns["function"], begins) | _differ(columns["dest"], begins)
    return np.flatnonzero(differ)


class Mismatches:
    """Finds the first disagreement on each communicator: others that follow soon come of it.

    Attributes
    ----------
    undecided : dict of int to float
        By communicator, since when as many ranks say one thing as another, and others are still to come.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._last: dict[int, int] = {}
        self.undecided: dict[int, float] = {}

    def look(self, calls: Gathered, sizes: dict[int, int], now: float) -> list[tuple[int, Verdict]]:
        """Give communicators and verdicts."""
        found = []
        for group in mismatched_groups(calls).tolist():
            begin, count = int(calls.begins[group]), int(calls.counts[group])
            comm, sequence = (int(calls.columns[name][begin]) for name in ("comm", "sequence"))
            rows = {name: each[begin : begin + count] for name, each in calls.columns.items()}
            groups = self._groups(rows)
            is_complete = count >= sizes.get(comm, 0)
            if not is_complete and _is_tied(groups) and self._waits(comm, now):
                continue
            self.undecided.pop(comm, None)
            last = self._last.get(comm)
            self._last[comm] = max(sequence, last or 0)
            if last is None or sequence > last + _APART:
                found.append((comm, self._verdict(rows, groups, sizes.get(comm, 0))))
        return found

    def _waits(self, comm: int, now: float) -> bool:
        return now - self.undecided.setdefault(comm, now) < SECONDS_TO_DECIDE

    def _groups(self, rows: dict[str, np.ndarray]) -> list[tuple[str, list[int]]]:
        """What some ranks say, and those ranks; what most say comes first."""
        variants: dict[tuple[str, str], list[int]] = {}
        for rank, function, count, root, signature in zip(
            *(rows[name].tolist() for name in ("rank", "function", "bytes", "dest", "signature")), strict=True
        ):
            text = self._describe(function, count, root)
            variants.setdefault((text, str(signature) if count >= 0 else ""), []).append(rank)
        return sorted(((text, ranks) for (text, _), ranks in variants.items()), key=_by_number)

    def _verdict(
        self, rows: dict[str, np.ndarray], groups: list[tuple[str, list[int]]], size: int
    ) -> Verdict:
        alike: Counter[str] = Counter()
        calls: dict[str, str] = {}
        inside = set(rows["rank"][rows["left"] == 0].tolist())
        parts: list[str] = []
        for text, ranks in groups:
            # The same in all that a record has words for: it is the operation that differs.
            call = text + _OPERATIONS[min(alike[text], len(_OPERATIONS) - 1)]
            alike[text] += 1
            calls |= {str(rank): call for rank in ranks}
            whom = f"rank{'s' if len(ranks) > 1 else ''} {listed(ranks)}"
            # One that is still in the call says where it was made.
            site = next((rank for rank in ranks if rank in inside), ranks[0])
            at = " at" if site in inside else ", now at"
            parts.append(f"{call} on {whom}{at} {places([site])}")
        culprits = sorted(rank for _, ranks in (groups if _is_tied(groups) else groups[1:]) for rank in ranks)
        members = f"{size} ranks" if size else "which some rank has freed"
        sequence, comm = int(rows["sequence"][0]), int(rows["comm"][0])
        head = f"mismatch: collective {sequence} of a communicator of {members} is "
        evidence: dict[str, Any] = {
            "communicator": comm,
            "sequence": sequence,
            "calls": calls,
        }
        witness = next((ranks[0] for _, ranks in groups if ranks[0] not in culprits), None)
        return Verdict("mismatch", tuple(culprits), head + ", and ".join(parts), 0.0, evidence, witness)

    def _describe(self, function: int, count: int, root: int) -> str:
        size = f" of {count} byte{'s' if count != 1 else ''}" if count >= 0 else ""
        place = f" from root {root}" if "cast" in self._functions.names[function] else f" with root {root}"
        rooted = place if root != NO_RANK else ""
        return f"{self._functions.names[function]}{size}{rooted}"


def _by_number(group: tuple[str, list[int]]) -> tuple[int, list[int]]:
    return -len(group[1]), group[1]


def _is_tied(groups: list[tuple[str, list[int]]]) -> bool:
    return len(groups) > 1 and len(groups[0][1]) == len(groups[1][1])
