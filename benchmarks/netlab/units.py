"""Times and rates as one writes them: ``2ms``, ``300mbit``."""

from __future__ import annotations

import re

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BYTES_PER_SECOND = {"kbit": 125.0, "mbit": 125e3, "gbit": 125e6}


def parse_seconds(text: str) -> float:
    """Seconds of a time with its unit.

    Raises
    ------
    ValueError
        For anything else.

    >>> parse_seconds("2ms")
    0.002
    """
    return _parse(text, SECONDS)


def parse_rate(text: str) -> float:
    """Bytes a second of a rate in bits a second with its unit.

    Raises
    ------
    ValueError
        For anything else.

    >>> parse_rate("300mbit")
    37500000.0
    """
    return _parse(text, BYTES_PER_SECOND)


def _parse(text: str, units: dict[str, float]) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?) *([a-z]+)", text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r}: expected a number and one of {', '.join(units)}")
    return float(match[1]) * units[match[2]]
