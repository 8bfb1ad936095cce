"""How much a code amplifies the rounding of messages, and what they may be rounded to."""

from __future__ import annotations

from itertools import chain, combinations
from math import comb

import numpy as np

from .code import Code
from .errors import require
from .scheme import Scheme

# Error that rounding may cause, relative to that in a plain sum of gradients that are alike in size.
MOST_ERROR = 0.01
_JUDGED = 100


def rounding_gain(code: Code) -> float:
    """By how much the rounding of messages counts more than in a plain sum, for the worst set of stragglers.

    For independent gradients of the same size: the root mean square of what the weights of a decoding make of
    the rounding of messages, by that of a sum. It is 1 for repetition. All sets are looked at if they are
    few; else some, those next to each other, which are the worst for many codes, and random ones.

    Examples
    --------
    >>> from roundelay.collectives.coding.repetition import fractional_repetition
    >>> rounding_gain(fractional_repetition(8, 1))
    1.0
    """
    sizes = (code.matrix**2).sum(axis=(1, 2))
    worst = 0.0
    for lost in straggler_sets(code.workers, code.stragglers):
        decoding = code.decode(set(range(code.workers)).difference(lost))
        if decoding is None:
            return float("inf")
        noise = (decoding.coefficients**2 * sizes[list(decoding.workers)]).sum(axis=1).max()
        worst = max(worst, float(np.sqrt(noise / code.partitions)))
    return worst


def straggler_sets(workers: int, stragglers: int) -> list[tuple[int, ...]]:
    """All sets of that number of workers if they are few; else runs of neighbours and random ones."""
    if comb(workers, stragglers) <= _JUDGED:
        return list(combinations(range(workers), stragglers))
    rng = np.random.default_rng(0)
    starts = range(0, workers, max(1, 2 * workers // _JUDGED))
    runs = (tuple((start + each) % workers for each in range(stragglers)) for start in starts)
    drawn = (tuple(rng.choice(workers, stragglers, replace=False).tolist()) for _ in range(_JUDGED // 2))
    return list(chain(runs, drawn))


def check_wire(scheme: Scheme, wire: np.dtype[np.generic]) -> None:
    """Raise `ValueError` if sending a dtype could make the error of a gradient more than 1 % of it.

    The error of a number in float16 is 0.05 % at most, in bfloat16 0.4 %.
    """
    gain = 1.0 if scheme.code is None else rounding_gain(scheme.code)
    unit = _epsilon(wire) / 2
    require(
        gain * unit <= MOST_ERROR,
        f"{wire} on the wire: {scheme.name} would amplify its rounding, {unit:.1e}, by {gain:.0f}; "
        f"expected an error of at most {MOST_ERROR}",
    )


def _epsilon(dtype: np.dtype[np.generic]) -> float:
    """Distance from 1 to the next number of a dtype, of NumPy's or ml_dtypes'."""
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)  # type: ignore[type-var]
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
