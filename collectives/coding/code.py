"""Gradient codes: what each worker sends, and how some of the workers determine the sum over all data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import require

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
# A sum that misses a partition by less is rounding, and one that misses it by more is another sum.
EXACT = 1e-6
_KEPT_DECODINGS = 4096


class Decoding(NamedTuple):
    """How the messages of some workers determine the sum of all gradients.

    Piece p of it is the sum of `coefficients[p, i]` times the message of `workers[i]`.
    """

    workers: tuple[int, ...]
    coefficients: Matrix
    # By how much the weight of a partition's gradient in the result differs from 1, at most.
    error: float

    @property
    def amplification(self) -> float:
        """Largest sum of absolute coefficients: what an error in each message can become."""
        return float(np.abs(self.coefficients).sum(axis=1).max(initial=0.0))


class Code:
    """A linear code over the gradients of the partitions of the data.

    The message of worker i is the sum over partitions j and pieces p of `matrix[i, j, p]` times piece p of
    the gradient of partition j: a vector of one gradient's length, divided by the number of pieces. Gradients
    are sums over the samples of a partition, not means.

    Parameters
    ----------
    name : str
    shape : (int, int, int)
        Workers, partitions and pieces.
    stragglers : int
        So many workers, whichever they are, may be missing.
    build : callable
        Returns the matrix, an array of float64 of that shape. It is called when the matrix is first needed:
        what only asks for loads, with thousands of workers, does not need it.

    References
    ----------
    Tandon, Lei, Dimakis, Karampatziakis 2017, "Gradient Coding", arXiv 1612.03301, section 2. More than one
    piece: Ye and Abbe 2018, "Communication-computation efficient gradient coding".
    """

    # How far from the sum of all gradients a decoding may be.
    tolerance = EXACT

    def __init__(
        self, name: str, shape: tuple[int, int, int], stragglers: int, build: Callable[[], Matrix]
    ) -> None:
        self.name = name
        self.workers, self.partitions, self.pieces = shape
        self.stragglers = stragglers
        self._build = build
        self._decodings: dict[frozenset[int], Decoding | None] = {}

    def __repr__(self) -> str:
        return f"{self.name}(workers={self.workers}, stragglers={self.stragglers})"

    @cached_property
    def matrix(self) -> Matrix:
        """Weights of the pieces of gradients in the messages, (workers, partitions, pieces)."""
        return self._build()

    @cached_property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        """Partitions that each worker computes the gradients of."""
        held = np.any(self.matrix != 0, axis=2)
        return tuple(tuple(map(int, np.flatnonzero(row))) for row in held)

    @cached_property
    def loads(self) -> tuple[Fraction, ...]:
        """Share of the data that each worker computes."""
        return tuple(Fraction(len(held), self.partitions) for held in self.placement)

    @property
    def load(self) -> Fraction:
        """Share of the data that the busiest worker computes."""
        return max(self.loads)

    def encode(self, worker: int, gradients: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        """Message of a worker from the gradients of its partitions, in the order of `placement[worker]`.

        Raises `ValueError` if there are more or fewer gradients than partitions, or none.
        """
        weights = self.matrix[worker, list(self.placement[worker])]
        require(
            len(gradients) == len(weights) > 0,
            f"{len(gradients)} gradients: worker {worker} has {len(weights)} partitions",
        )
        length = -(-gradients[0].size // self.pieces)
        message = np.zeros(length, gradients[0].dtype)
        for gradient, row in zip(gradients, weights, strict=True):
            flat = gradient.ravel()
            for piece, weight in enumerate(row):
                part = flat[piece * length : (piece + 1) * length]
                message[: part.size] += message.dtype.type(weight) * part
        return message

    def decode(self, returned: Collection[int]) -> Decoding | None:
        """How to decode from the messages of some workers; None if they do not determine the sum."""
        found = frozenset(returned)
        if found not in self._decodings:
            if len(self._decodings) >= _KEPT_DECODINGS:
                self._decodings.clear()
            self._decodings[found] = self._solve(found)
        return self._decodings[found]

    def approximate(self, returned: Collection[int]) -> Decoding:
        """The weights by which the messages of some workers come nearest to the sum, and how near."""
        used = sorted(set(returned))
        rows = self._flat[used]
        coefficients = np.linalg.lstsq(rows.T, self._wanted.T, rcond=None)[0].T
        return Decoding(tuple(used), coefficients, float(np.abs(coefficients @ rows - self._wanted).max()))

    def decodable(self, returned: Collection[int]) -> bool:
        """Whether the messages of some workers determine the sum."""
        return self.decode(returned) is not None

    def allows(self, missing: Mask) -> bool:
        """Whether a round may end without some workers, given as a mask of all."""
        return bool(missing.sum() <= self.stragglers) or self.decodable(np.flatnonzero(~missing).tolist())

    def adds(self, worker: int, returned: Collection[int]) -> bool:
        """Whether the message of a worker can be of use beside those of others."""
        return worker not in returned

    def _solve(self, returned: frozenset[int]) -> Decoding | None:
        """Decoding with the least coefficients: one system of the size of the missing workers.

        If more are missing than it has unknowns, as many of them as unknowns decide: any solution for all of
        them is found.
        """
        lost = sorted(set(range(self.workers)) - returned)
        base, null = self._bases
        deciding = lost[: len(null)]
        basis, factor = np.linalg.qr(null[:, deciding])
        try:
            shift = basis @ np.linalg.solve(factor.T, -base[:, deciding].T)
        except np.linalg.LinAlgError:
            return None
        coefficients = base + shift.T @ null
        coefficients[:, lost] = 0.0
        error = self.error(coefficients)
        if not error <= self.tolerance:
            return None
        used = np.flatnonzero(coefficients.any(axis=0))
        return Decoding(tuple(used.tolist()), coefficients[:, used], error)

    def error(self, coefficients: Matrix) -> float:
        """By how much the weight of a partition's gradient differs from what it should be, at most."""
        weights = coefficients @ self._flat
        return float(np.abs(weights - self._wanted).max())

    @cached_property
    def _flat(self) -> Matrix:
        return np.ascontiguousarray(self.matrix.reshape(self.workers, -1))

    @cached_property
    def _wanted(self) -> Matrix:
        """Weights of the pieces of all gradients in the pieces of their sum."""
        return np.tile(np.eye(self.pieces), self.partitions)

    @cached_property
    def _bases(self) -> tuple[Matrix, Matrix]:
        """Smallest coefficients for all workers, (pieces, n), and those that add up to nothing, (., n)."""
        rows, columns = self._flat.shape
        left, values, right = np.linalg.svd(self._flat, full_matrices=columns < rows)
        rank = int(np.sum(values > values[0] * 1e-10))
        inverse = left[:, :rank] / values[:rank]
        base = (self._wanted @ right[:rank].T) @ inverse.T
        return base, np.ascontiguousarray(left[:, rank:].T)
