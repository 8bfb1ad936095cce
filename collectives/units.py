"""Times, sizes and rates as one writes them: ``50us``, ``1MiB``, ``10GB/s``, ``300mbit``."""

from __future__ import annotations

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_WRITTEN = tuple((unit, _SECONDS[unit]) for unit in ("s", "ms", "us", "ns"))
_PREFIXES = ("", "k", "M", "G", "T")
_BYTES = {f"{prefix}B": 1000.0**power for power, prefix in enumerate(_PREFIXES)} | {
    f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)
}
_RATES = {f"{unit}/s": value for unit, value in _BYTES.items()} | {
    f"{prefix}bit/s": 1000.0**power / 8 for power, prefix in enumerate(_PREFIXES)
}


def parse_seconds(text: str) -> float:
    """Seconds of a time with its unit.

    Raises `ValueError` for anything else.

    Examples
    --------
    >>> parse_seconds("2ms")
    0.002
    """
    return _parse(text, _SECONDS, "a time such as 50us or 2ms")


def parse_bytes(text: str) -> int:
    """Bytes of a size, with its unit or in bytes.

    Raises `ValueError` for anything else, and for parts of a byte.

    Examples
    --------
    >>> parse_bytes("1.5KiB"), parse_bytes("3 MB"), parse_bytes("8")
    (1536, 3000000, 8)
    """
    expected = "a size in bytes such as 64KiB or 10MB"
    found = _parse(f"{text}B" if text.strip().isdigit() else text, _BYTES, expected)
    if found != int(found):
        raise ValueError(f"{text!r}: expected {expected}")
    return int(found)


def parse_rate(text: str) -> float:
    """Bytes a second of a rate with its unit; bits may come without "/s", as network tools write them.

    Raises `ValueError` for anything else, and for none at all.

    Examples
    --------
    >>> parse_rate("10GB/s"), parse_rate("1Gbit/s"), parse_rate("300mbit")
    (10000000000.0, 125000000.0, 37500000.0)
    """
    expected = "a rate above 0 such as 10GB/s or 300Mbit/s"
    found = _parse(f"{text}/s" if text.rstrip().endswith("bit") else text, _RATES, expected)
    if not found:
        raise ValueError(f"{text!r}: expected {expected}")
    return found


def format_seconds(seconds: float) -> str:
    """A time with three digits.

    Examples
    --------
    >>> format_seconds(0.0003046), format_seconds(12), format_seconds(0)
    ('305 us', '12.0 s', '0 s')
    """
    unit, scale = seconds_unit(seconds)
    return f"{_three_digits(seconds / scale)} {unit}" if seconds else "0 s"


def seconds_unit(seconds: float) -> tuple[str, float]:
    """The unit in which to write a time, and its seconds.

    Examples
    --------
    >>> seconds_unit(0.25)
    ('ms', 0.001)
    """
    # Write a time that rounds up to the next unit in that one.
    return next((each for each in _WRITTEN if seconds >= 0.9995 * each[1]), _WRITTEN[-1])


def format_bytes(nbytes: int) -> str:
    """A size, in a binary unit from 1 KiB on.

    Examples
    --------
    >>> format_bytes(1 << 20), format_bytes(1000), format_bytes(1234567)
    ('1 MiB', '1000 B', '1.18 MiB')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count = nbytes / _BYTES[unit]
        if count >= 1:
            return f"{count:.0f} {unit}" if count == int(count) else f"{_three_digits(count)} {unit}"
    return f"{nbytes} B"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _parse(text: str, units: dict[str, float], expected: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z/]+)\s*", text)
    # The case of a prefix of bytes or bits says nothing; that of bytes does, as Mb may be read in two ways.
    value = None if match is None else _value(match[2], units)
    if match is None or value is None:
        raise ValueError(f"{text!r}: expected {expected}; units are {', '.join(units)}")
    return float(match[1]) * value


def _value(unit: str, units: dict[str, float]) -> float | None:
    return {_folded(known): value for known, value in units.items()}.get(_folded(unit))


def _folded(unit: str) -> str:
    prefixed = unit[:1] in "KMGT" and unit[1:2] in ("B", "b", "i")
    return unit[0].lower() + unit[1:] if prefixed else unit
