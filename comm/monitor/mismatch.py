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
    """Finds the first disagreement on each communicator: others that follow soon come of it."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._last: dict[int, int] = {}

    def look(self, calls: Gathered, sizes: dict[int, int]) -> list[tuple[int, Verdict]]:
        """Give communicators and verdicts."""
        found = []
        for group in mismatched_groups(calls).tolist():
            begin = int(calls.begins[group])
            rows = slice(begin, begin + int(calls.counts[group]))
            comm, sequence = (int(calls.columns[name][begin]) for name in ("comm", "sequence"))
            last = self._last.get(comm)
            self._last[comm] = max(sequence, last or 0)
            if last is not None and sequence <= last + _APART:
                continue
            verdict = self._verdict(
                {name: each[rows] for name, each in calls.columns.items()}, sizes.get(comm, 0)
            )
            found.append((comm, verdict))
        return found

    def _verdict(self, rows: dict[str, np.ndarray], size: int) -> Verdict:
        variants: dict[tuple[str, str], list[int]] = {}
        for rank, function, count, root, signature in zip(
            *(rows[name].tolist() for name in ("rank", "function", "bytes", "dest", "signature")), strict=True
        ):
            text = self._describe(function, count, root)
            variants.setdefault((text, str(signature) if count >= 0 else ""), []).append(rank)
        groups = sorted(variants.items(), key=lambda item: (-len(item[1]), item[1]))
        texts = Counter(text for text, _ in variants)
        parts: list[str] = []
        for (text, _), ranks in groups:
            # The same in all that a record has words for: it is the operation that differs.
            other = " with another operation" if texts[text] > 1 and parts else ""
            whom = f"rank{'s' if len(ranks) > 1 else ''} {listed(ranks)}"
            parts.append(f"{text}{other} on {whom} at {places(ranks[:1])}")
        most = len(groups[0][1])
        tied = sum(len(ranks) == most for _, ranks in groups) > 1
        culprits = sorted(rank for _, ranks in (groups if tied else groups[1:]) for rank in ranks)
        members = f"{size} ranks" if size else "which some rank has freed"
        sequence, comm = int(rows["sequence"][0]), int(rows["comm"][0])
        head = f"mismatch: collective {sequence} of a communicator of {members} is "
        evidence: dict[str, Any] = {
            "communicator": comm,
            "sequence": sequence,
            "calls": {str(rank): text for (text, _), ranks in groups for rank in ranks},
        }
        witness = next((ranks[0] for _, ranks in groups if ranks[0] not in culprits), None)
        return Verdict("mismatch", tuple(culprits), head + ", and ".join(parts), 0.0, evidence, witness)

    def _describe(self, function: int, count: int, root: int) -> str:
        size = f" of {count} byte{'s' if count != 1 else ''}" if count >= 0 else ""
        place = f" from root {root}" if "cast" in self._functions.names[function] else f" with root {root}"
        rooted = place if root != NO_RANK else ""
        return f"{self._functions.names[function]}{size}{rooted}"
