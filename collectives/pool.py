"""Staging memory: blocks in powers of two, used again instead of being allocated for each message."""

from __future__ import annotations

import numpy as np

_SMALLEST_BITS = 8
# The most blocks of one size, and the most bytes, that are kept; larger blocks go back to the system.
_KEPT_BLOCKS = 16
_KEPT_BYTES = 32 << 20


class Block:
    """Host memory of at least the size asked for: a flat uint8 array and its address."""

    __slots__ = ("address", "array", "bits")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.array = np.empty(1 << bits, np.uint8)
        self.address = int(self.array.ctypes.data)


_free: list[list[Block]] = [[] for _ in range(64)]


def take(nbytes: int) -> Block:
    """Return a block of at least `nbytes` bytes. `list.pop` is atomic, so threads need no lock."""
    bits = max(_SMALLEST_BITS, (nbytes - 1).bit_length())
    try:
        return _free[bits].pop()
    except IndexError:
        return Block(bits)


def give_back(block: Block) -> None:
    """Make a block free for the next message, or drop it."""
    free = _free[block.bits]
    if len(free) < min(_KEPT_BLOCKS, _KEPT_BYTES >> block.bits):
        free.append(block)
