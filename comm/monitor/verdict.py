"""A verdict: what is wrong with a job, who or what it is, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Parameters
    ----------
    kind : str
        "dead", "stuck", "deadlock", "mismatch", "slow-rank", "slow-link", "slow-all" or "leak".
    ranks : tuple of int
        The culprits, in ascending order; of a link that is slow in one direction, its source and its
        destination.
    sentence : str
        What a user reads first. ``{2}`` stands for where rank 2 is, such as ``solve.py:88``, and is filled in
        when its stack is known.
    since : float
        For how many seconds it was so when it was found.
    evidence : mapping
        Numbers and names by which it is known, as JSON has them.
    witness : int or None
        A rank that waits for the culprits, whose stack is worth reading, too.
    hosts : tuple of str
        Of `ranks`.
    stacks : mapping of int to str
        The Python stacks of ranks, or why there is none.
    """

    kind: str
    ranks: tuple[int, ...]
    sentence: str
    since: float = 0.0
    evidence: Mapping[str, Any] = field(default_factory=dict)
    witness: int | None = None
    hosts: tuple[str, ...] = ()
    stacks: Mapping[int, str] = field(default_factory=dict)
