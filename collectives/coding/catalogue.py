"""Codes and schemes by name."""

from __future__ import annotations

from functools import cache

from .code import Code
from .cyclic import MOST_MDS, cyclic_mds, cyclic_repetition
from .errors import check_stragglers, require
from .grouped import Grouped
from .multiplexed import Multiplexed
from .repetition import fractional_repetition, uncoded
from .rounding import rounding_gain
from .scheme import GradientCoding, Scheme
from .selective import SelectiveRepeat, repeated_stragglers

SCHEMES = ("uncoded", "gc", "sr-sgc", "m-sgc")


def best_code(workers: int, stragglers: int) -> Code:
    """The code for a number of stragglers that has the least load, and amplifies least of those.

    Fractional repetition where its groups are equal; else as many such groups as leave enough workers for a
    cyclic code.

    Examples
    --------
    >>> best_code(8, 1), best_code(8, 2).name, best_code(8, 4).name
    (fractional-repetition(workers=8, stragglers=1), 'grouped-repetition', 'cyclic-repetition')
    """
    check_stragglers(workers, stragglers)
    copies = stragglers + 1
    if workers % copies == 0:
        return fractional_repetition(workers, stragglers)
    left = copies + workers % copies
    last = _small_cyclic(left, stragglers) if left <= MOST_MDS else cyclic_repetition(left, stragglers)
    return last if left == workers else Grouped(workers, last)


@cache
def _small_cyclic(workers: int, stragglers: int) -> Code:
    """The better one of two codes, kept: to judge takes their matrices, and many schemes have the same."""
    code: Code = cyclic_repetition(workers, stragglers)
    if (workers - stragglers) % 2 == 1:
        code = min(code, cyclic_mds(workers, stragglers), key=rounding_gain)
    return code


def needed_parameters(name: str) -> tuple[str, ...]:
    """Names of the parameters, beside the number of workers, that a scheme has.

    Examples
    --------
    >>> needed_parameters("gc")
    ('stragglers',)
    """
    return {"uncoded": (), "gc": ("stragglers",)}.get(name, ("stragglers", "burst", "window"))


def scheme(
    name: str,
    workers: int,
    *,
    stragglers: int | None = None,
    burst: int | None = None,
    window: int | None = None,
) -> Scheme:
    """A scheme by its name.

    Parameters
    ----------
    name : {"uncoded", "gc", "sr-sgc", "m-sgc"}
    workers : int
    stragglers : int, optional
        For gradient coding ("gc"), how many may straggle in a round (s); for the sequential ones, how many
        different ones in a window (lambda).
    burst, window : int, optional
        Of the sequential schemes (B and W).

    Raises
    ------
    ValueError
        For an unknown name, for an argument that is missing or that the scheme does not have, and for
        parameters that it does not allow.

    Examples
    --------
    >>> scheme("m-sgc", 256, burst=1, window=2, stragglers=27).load
    Fraction(7, 928)
    """
    require(name in SCHEMES, f"scheme {name!r}: expected one of {', '.join(SCHEMES)}")
    require(workers >= 1, f"{workers} workers: expected at least 1")
    given = {"stragglers": stragglers, "burst": burst, "window": window}
    needed = needed_parameters(name)
    for argument, value in given.items():
        require(
            (value is not None) == (argument in needed),
            f"{name}: needs {', '.join(needed) or 'no parameters'}",
        )
    if name == "uncoded":
        return GradientCoding(uncoded(workers))
    assert stragglers is not None
    if name == "gc":
        return GradientCoding(best_code(workers, stragglers))
    assert burst is not None
    assert window is not None
    if name == "sr-sgc":
        return SelectiveRepeat(
            best_code(workers, repeated_stragglers(burst, window, stragglers)), burst, window, stragglers
        )
    code = best_code(workers, stragglers) if stragglers < workers else None
    return Multiplexed(workers, burst, window, stragglers, code)
