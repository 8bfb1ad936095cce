"""Cyclic placement: workers have s + 1 neighbouring partitions, and any n - s of them determine the sum."""

from __future__ import annotations

from math import gcd

import numpy as np

from .code import Code, Matrix
from .errors import check_stragglers, require
from .placed import Placed, dealt_holders
from .rounding import rounding_gain

# Up to which size a code of roots of unity keeps its digits.
MOST_MDS = 64


def cyclic_repetition(workers: int, stragglers: int) -> Placed:
    """Random cyclic code: of some that are drawn, the one whose decoding amplifies least.

    Where workers and stragglers + 1 have a common divisor, that number of neighbouring partitions is on the
    same workers.

    References
    ----------
    Tandon et al. 2017, arXiv 1612.03301, algorithm 2.

    Examples
    --------
    >>> code = cyclic_repetition(5, 2)
    >>> code.load, code.decodable([0, 2, 3]), code.decodable([0, 2])
    (Fraction(3, 5), True, False)
    """
    check_stragglers(workers, stragglers)
    return Placed(
        "cyclic-repetition", workers, stragglers, 1, dealt_holders([stragglers + 1] * workers, workers)
    )


def cyclic_mds(workers: int, stragglers: int) -> Code:
    """Circulant code from roots of unity, whose distance is chosen by a search.

    Raises `ValueError` for more than 64 workers, where digits are lost, and where workers - stragglers is
    even: the roots of a real code come in pairs.

    References
    ----------
    Raviv, Tandon, Dimakis, Tamo 2018, "Gradient coding from cyclic MDS codes and expander graphs", arXiv
    1707.03858.

    Examples
    --------
    >>> code = cyclic_mds(8, 3)
    >>> code.load, code.decodable([0, 1, 2, 3, 4])
    (Fraction(1, 2), True)
    """
    check_stragglers(workers, stragglers)
    require(workers <= MOST_MDS, f"{workers} workers: a cyclic MDS code keeps its digits up to {MOST_MDS}")
    require(
        (workers - stragglers) % 2 == 1,
        f"{workers} workers, {stragglers} stragglers: a real cyclic MDS code needs an odd difference",
    )
    shape = (workers, workers, 1)

    def build() -> Matrix:
        strides = [each for each in range(1, workers // 2 + 1) if gcd(each, workers) == 1] or [1]
        found = [_circulant(workers, stragglers, stride) for stride in strides]
        return min(found, key=lambda each: rounding_gain(Code("", shape, stragglers, lambda: each)))

    return Code("cyclic-mds", shape, stragglers, build)


def _circulant(workers: int, stragglers: int, stride: int) -> Matrix:
    """Shifts of a polynomial with roots that are closed under conjugation, 1 not among them."""
    powers = stride * np.arange((workers - stragglers + 1) // 2, (workers + stragglers + 1) // 2)
    roots = np.exp(2j * np.pi * (powers % workers) / workers)
    word, apart = np.ones(1, np.complex128), np.ones(stragglers)
    for _ in range(stragglers):
        # Next the one that is farthest from those before (Leja): in the order of the circle all digits can be
        # lost.
        root = roots[np.argmax(apart)]
        word = np.convolve(word, [1.0, -root])
        apart *= np.abs(roots - root)
    matrix = np.zeros((workers, workers, 1))
    for row in range(workers):
        matrix[row, (row + np.arange(stragglers + 1)) % workers, 0] = word.real / np.abs(word.real).max()
    return matrix
