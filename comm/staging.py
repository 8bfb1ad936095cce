"""A stage: contiguous memory that takes the place of a buffer which MPI cannot, or should not, read itself.

A stage is filled from the buffer (`load`), given to MPI in its place (`spec`), and emptied into the
buffer (`store`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..datatypes.movers import PACK, UNPACK, mover
from .pool import Block, give_back, take

# Address of a program, instances to run it for, their base address, and the byte of the stage from
# which they are packed.
Part = tuple[int, int, int, int]


class Stage(ABC):
    """Contiguous memory in place of a buffer.

    Attributes
    ----------
    memory : uint8 array
        The stage's bytes, at least `nbytes` of them.
    owner : object
        What must live as long as the stage is in use: the buffer and its programs.
    spec : list or array
        What MPI is given as its buffer argument.
    nbytes : int
        Bytes of data.
    partial : bool
        Whether MPI may write any part of it: it must then be filled before, even to receive.
    """

    __slots__ = ("memory", "nbytes", "owner", "partial", "spec")

    def __init__(self, memory: Any, nbytes: int, owner: Any, partial: bool) -> None:
        self.memory = memory
        self.nbytes = nbytes
        self.owner = owner
        self.partial = partial
        self.spec: Any = None

    @abstractmethod
    def load(self) -> None:
        """Pack the buffer into the stage."""

    def store(self, received: int | None = None) -> None:
        """Unpack the stage into the buffer; with `received`, only so many bytes of it."""
        if received is not None and received < self.nbytes and not self.partial:
            if received <= 0:
                return
            # A short message ends anywhere in the layout: fill up with what the buffer holds already.
            message = self.memory[:received].copy()
            try:
                self.load()
            finally:
                # Also when a signal interrupts: the message is then stored again.
                self.memory[:received] = message
        self._unpack()

    @abstractmethod
    def _unpack(self) -> None:
        """Unpack all of the stage."""

    @abstractmethod
    def release(self) -> None:
        """Give the memory back, once MPI no longer reads or writes it; a second call does nothing."""


class HostStage(Stage):
    """Contiguous memory in place of a buffer on the host, which programs pack and unpack.

    Parameters
    ----------
    parts : sequence of Part
    nbytes, owner, partial
        As those of a stage.
    """

    __slots__ = ("_address", "_block", "_parts")

    def __init__(self, parts: Sequence[Part], nbytes: int, owner: Any, partial: bool = False) -> None:
        self._parts = parts
        block = take(nbytes)
        self._address = block.address
        self._block: Block | None = block
        super().__init__(block.array, nbytes, owner, partial)

    def load(self) -> None:
        """Pack the buffer into the stage."""
        self._move(PACK)

    def _unpack(self) -> None:
        self._move(UNPACK)

    def _move(self, direction: int) -> None:
        run, address = mover(), self._address
        for program, instances, memory, start in self._parts:
            run(direction, address + start, memory, program, instances)

    def release(self) -> None:
        """Make the memory free for other stages."""
        block, self._block = self._block, None
        if block is not None:
            give_back(block)
