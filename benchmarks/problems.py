"""Exchanges of programs of two dimensions: which places of an array each rank sends and receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from mpi4py.util.dtlib import from_numpy_dtype
from numpy.typing import NDArray

Array = NDArray[Any]
# Steps along the axes to a neighbour.
Direction = tuple[int, int]

SIDES: tuple[Direction, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
CORNERS: tuple[Direction, ...] = ((-1, -1), (-1, 1), (1, -1), (1, 1))


class Side(NamedTuple):
    """One message of an exchange.

    Attributes
    ----------
    peer : the rank at the other end.
    memory : the contiguous array that it is a part of.
    place : view of `memory`, whose elements are sent or received in the order of its axes.
    """

    peer: int
    memory: Array
    place: Array

    @property
    def offset(self) -> int:
        """Bytes before the first element."""
        return self.place.ctypes.data - self.memory.ctypes.data

    @property
    def is_run(self) -> bool:
        """Whether the elements lie together, in their order."""
        return self.place.flags.c_contiguous

    def datatype(self) -> MPI.Datatype:
        """Committed datatype of the place from its first element; the caller frees it."""
        element = made = from_numpy_dtype(self.place.dtype)
        extent = self.place.itemsize
        for length, stride in zip(self.place.shape[::-1], self.place.strides[::-1], strict=True):
            inner = made
            if stride == extent or length == 1:
                made = inner.Create_contiguous(length)
            else:
                made = inner.Create_hvector(length, 1, stride)
            extent = stride * length
            if inner is not element:
                inner.Free()
        return made.Commit()


class Exchange(NamedTuple):
    """Messages of a rank: the k-th that it sends is the k-th of the rank that receives it."""

    sends: list[Side]
    receives: list[Side]


def jacobi(rank: int, ranks: int, size: int) -> Exchange:
    """Four sides of `size` x `size` doubles, for a stencil of five points."""
    return halo(filled(rank, (size + 2, size + 2), "f8"), rank, ranks, SIDES)


def life(rank: int, ranks: int, size: int) -> Exchange:
    """Four sides and four corners of `size` x `size` bytes, for the Game of Life."""
    return halo(filled(rank, (size + 2, size + 2), "u1"), rank, ranks, SIDES + CORNERS)


def image(rank: int, ranks: int, size: int) -> Exchange:
    """Four sides of `size` x `size` pixels of three floats, for a filter of images."""
    return halo(filled(rank, (size + 2, size + 2, 3), "f4"), rank, ranks, SIDES)


def transpose(rank: int, ranks: int, size: int) -> Exchange:
    """Blocks of a matrix of `size` x `size` doubles whose rows are distributed, for its transpose.

    The block that stays on its rank is left out.
    """
    share = size // ranks
    matrix = filled(rank, (share, size), "f8")
    transposed = np.zeros_like(matrix)
    others = [(rank + step) % ranks for step in range(1, ranks)]

    def columns(of: Array, peer: int) -> Array:
        return of[:, peer * share : (peer + 1) * share]

    # The k-th rank after this one has this one as the k-th before it.
    return Exchange(
        [Side(peer, matrix, columns(matrix, peer)) for peer in others],
        [Side(peer, transposed, columns(transposed, peer).T) for peer in others[::-1]],
    )


Problem = Callable[[int, int, int], Exchange]
PROBLEMS: dict[str, Problem] = {"jacobi": jacobi, "life": life, "image": image, "transpose": transpose}


def filled(rank: int, shape: tuple[int, ...], dtype: str) -> Array:
    """Array of a rank's own numbers, none of them zero."""
    return np.random.default_rng(rank).integers(1, 256, shape, np.uint8).astype(dtype)


def halo(cells: Array, rank: int, ranks: int, directions: Sequence[Direction]) -> Exchange:
    """Exchange of the outermost cells with neighbours, whose cells come into a frame of one cell.

    Half of the ranks make a row, and the next row goes on where it ends; so two ranks have each other on all
    four sides, and themselves at the corners.
    """

    def peer(direction: Direction) -> int:
        return (rank + direction[0] * (ranks // 2) + direction[1]) % ranks

    def part(direction: Direction, places: dict[int, slice]) -> Array:
        return cells[places[direction[0]], places[direction[1]]]

    edges = {-1: slice(1, 2), 0: slice(1, -1), 1: slice(-2, -1)}
    frame = {-1: slice(0, 1), 0: slice(1, -1), 1: slice(-1, None)}
    opposite = [(-down, -right) for down, right in directions]
    return Exchange(
        [Side(peer(direction), cells, part(direction, edges)) for direction in directions],
        [Side(peer(direction), cells, part(direction, frame)) for direction in opposite],
    )
