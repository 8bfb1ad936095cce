"""The passes between the matrix products, in float32 on the host: compiled by Numba, a row at a time.

NumPy would go over a tile four times, and its exponential alone takes as long as half a matrix product.
Here a row stays in the first cache, and the exponential is a polynomial that the compiler turns into vector
code: 2**n times e**r with |r| <= log(2) / 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.polynomial import chebyshev

from ...datatypes.compiling import kernel

_LOG2_E = np.float32(1 / math.log(2))
# log(2) in two parts: the first has few bits, so that n times it is exact.
_LN2_HIGH = np.float32(355 / 512)
_LN2_LOW = np.float32(math.log(2) - 355 / 512)
# Added to a number, it leaves the nearest integer in the lowest bits.
_MAGIC = np.float32(3 << 22)
# Below it the exponential is not a normal number any more: it is taken for 0.
_LEAST = np.float32(-87.0)


def _polynomial(degree: int) -> tuple[np.float32, ...]:
    """Coefficients of e**r, from the lowest on, interpolated at the Chebyshev points."""
    half = math.log(2) / 2
    points = chebyshev.chebpts1(degree + 1)
    series = chebyshev.chebfit(points, np.exp(half * points), degree)
    return tuple(np.float32(each / half**power) for power, each in enumerate(chebyshev.cheb2poly(series)))


_P = _polynomial(6)


@intrinsic
def _power_of_two(_context: Any, shifted: Any) -> Any:
    """2**n, of a number to which `_MAGIC` was added."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        exponent = builder.shl(builder.bitcast(arguments[0], word), ir.Constant(word, 23))
        return builder.bitcast(builder.add(exponent, ir.Constant(word, 127 << 23)), ir.FloatType())

    return types.float32(shifted), generate


@intrinsic
def _greater(_context: Any, left: Any, right: Any) -> Any:
    """The greater one; any of both if one is NaN, or no compiler would make vectors of it."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        flags = ("nnan", "nsz")
        is_left = builder.fcmp_ordered(">", *arguments, flags=flags)
        return builder.select(is_left, *arguments, flags=flags)

    return left(left, right), generate


@intrinsic
def _plus(_context: Any, left: Any, right: Any) -> Any:
    """The sum, added up in any order; nothing else of a loop may be, or `_MAGIC` would cancel out."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return left(left, right), generate


@njit(inline="always")
def _exp(x: Any) -> Any:
    """e**x for x up to 0; 0 below `_LEAST`, and NaN for NaN."""
    shifted = x * _LOG2_E + _MAGIC
    n = shifted - _MAGIC
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    y = _P[6]
    y = y * r + _P[5]
    y = y * r + _P[4]
    y = y * r + _P[3]
    y = y * r + _P[2]
    y = y * r + _P[1]
    y = y * r + _P[0]
    y = y * _power_of_two(shifted)
    return np.float32(0) if x < _LEAST else y


@kernel(fastmath={"contract"}, error_model="numpy")
def weigh(scores: Any, top: Any, total: Any, alpha: Any) -> None:
    """Turn scores into weights relative to the greatest of their row so far.

    Parameters
    ----------
    scores : (keys, heads, rows, columns) float32 array
        Replaced by the weights.
    top, total : (keys, heads, rows) float32 arrays
        Greatest score and sum of the weights so far; brought up to date.
    alpha : (keys, heads, rows) float32 array
        What the sums before have to be multiplied by; set here.
    """
    for i in np.ndindex(top.shape):
        row = scores[i]
        greatest = top[i]
        for j in range(len(row)):
            greatest = _greater(row[j], greatest)
        # Where nothing is seen there is no greatest score to subtract.
        safe = np.float32(0) if greatest == -np.inf else greatest
        weights = np.float32(0)
        for j in range(len(row)):
            weight = _exp(row[j] - safe)
            row[j] = weight
            weights = _plus(weights, weight)
        alpha[i] = _exp(top[i] - safe)
        total[i] = total[i] * alpha[i] + weights
        top[i] = greatest


@kernel(fastmath={"contract"}, error_model="numpy")
def accumulate(out: Any, product: Any, alpha: Any) -> None:
    """Scale sums, and add to them: out * alpha + product.

    Parameters
    ----------
    out, product : (keys, heads, rows, size) float32 arrays
    alpha : (keys, heads, rows) float32 array
    """
    for i in np.ndindex(alpha.shape):
        here, there, factor = out[i], product[i], alpha[i]
        for j in range(len(here)):
            here[j] = here[j] * factor + there[j]


@kernel(fastmath={"contract"}, error_model="numpy")
def slope(scores: Any, products: Any, top: Any, delta: Any) -> None:
    """Turn scores into weights, and products into the gradients of the scores.

    Parameters
    ----------
    scores : (keys, heads, rows, columns) float32 array
        Replaced by the weights exp(score - top).
    products : (keys, heads, rows, columns) float32 array
        Gradients of the weights; replaced by weight * (product - delta).
    top, delta : (keys, heads, rows) float32 arrays
    """
    for i in np.ndindex(top.shape):
        here, there = scores[i], products[i]
        least, middle = top[i], delta[i]
        for j in range(len(here)):
            weight = _exp(here[j] - least)
            here[j] = weight
            there[j] = weight * (there[j] - middle)
