"""Conditions of schemes, and what is said where they do not hold."""

from __future__ import annotations


def require(holds: bool, otherwise: str) -> None:
    """Raise `ValueError` with a text unless a condition holds."""
    if not holds:
        raise ValueError(otherwise)


def check_stragglers(workers: int, stragglers: int) -> None:
    """Raise `ValueError` unless there are workers, and some of them are left."""
    require(workers >= 1, f"{workers} workers: expected at least 1")
    require(
        0 <= stragglers < workers,
        f"{stragglers} stragglers of {workers} workers: expected 0 to {workers - 1}",
    )
