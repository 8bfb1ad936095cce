"""Two versions of a rank's arrays in one block of memory, which other ranks of its node can map.

The memory belongs to no file, so nothing is left of it when all ranks are killed; it lives as long as
somebody maps it, and so outlives the rank that wrote it.
"""

from __future__ import annotations

import os
import secrets
from mmap import MAP_ANONYMOUS, MAP_POPULATE, MAP_SHARED, mmap
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VERSIONS = 2
_PAGE = 4096
_TOKEN_BYTES = 16
# Where the numbers of the versions are in the first page, which has 64-bit integers.
_NUMBERS = 8
_INCOMPLETE = -1
# Pages that are there from the start cost nothing in the first commit.
_MAP = MAP_SHARED | MAP_POPULATE


class Version(NamedTuple):
    """A complete version: the number of its commit, the program's step, and where it lies."""

    serial: int
    step: int
    slot: int


class Address(NamedTuple):
    """Where another process of the node finds a segment, and how it knows that it is the right one."""

    process: int
    file: int
    token: bytes
    nbytes: int


class Segment:
    """Memory for two versions of `nbytes` each.

    Parameters
    ----------
    nbytes : int
    shared : bool
        Whether other processes may map it.

    Raises
    ------
    MemoryError
        There is not that much.
    """

    def __init__(self, nbytes: int, shared: bool = True) -> None:
        self._slot = -(-nbytes // _PAGE) * _PAGE
        self.nbytes = nbytes
        length = _PAGE + VERSIONS * self._slot
        self.file = _memory_file(length) if shared else None
        try:
            if self.file is None:
                mapped = mmap(-1, length, flags=_MAP | MAP_ANONYMOUS)
            else:
                finalize(self, os.close, self.file)
                mapped = mmap(self.file, length, flags=_MAP)
        except OSError as error:
            raise MemoryError(f"{length} bytes for copies of arrays: {error}") from error
        self._use(np.frombuffer(mapped, np.uint8))
        self._bytes[:_TOKEN_BYTES] = np.frombuffer(secrets.token_bytes(_TOKEN_BYTES), np.uint8)
        for slot in range(VERSIONS):
            self.begin(slot)

    def _use(self, memory: Array) -> None:
        self._bytes = memory
        self._numbers = memory[:_PAGE].view(np.int64)[_NUMBERS:].reshape(-1, 2)

    @property
    def address(self) -> Address | None:
        """Where other processes find it; None where they cannot."""
        if self.file is None:
            return None
        return Address(os.getpid(), self.file, self._bytes[:_TOKEN_BYTES].tobytes(), self.nbytes)

    def slot(self, slot: int) -> Array:
        """The bytes of a version."""
        begin = _PAGE + slot * self._slot
        return self._bytes[begin : begin + self.nbytes]

    def begin(self, slot: int) -> None:
        """Forget the version that is about to be overwritten."""
        self._numbers[slot, 0] = _INCOMPLETE

    def finish(self, slot: int, serial: int, step: int) -> None:
        """Count a version as complete."""
        self._numbers[slot, 1] = step
        self._numbers[slot, 0] = serial

    def versions(self) -> list[Version]:
        """The complete versions, oldest first."""
        numbers = self._numbers[:VERSIONS].tolist()
        found = (Version(serial, step, slot) for slot, (serial, step) in enumerate(numbers))
        return sorted(version for version in found if version.serial != _INCOMPLETE)

    def find(self, serial: int) -> Version | None:
        """The version of a commit, if it is complete."""
        return next((version for version in self.versions() if version.serial == serial), None)


class MappedSegment(Segment):
    """The segment of another process of the node.

    Raises
    ------
    OSError
        It cannot be mapped, such as from another container, or something else has its place.
    """

    def __init__(self, address: Address) -> None:
        self.nbytes, self.file = address.nbytes, None
        self._slot = -(-address.nbytes // _PAGE) * _PAGE
        file = os.open(f"/proc/{address.process}/fd/{address.file}", os.O_RDWR | os.O_CLOEXEC)
        try:
            length = _PAGE + VERSIONS * self._slot
            if os.fstat(file).st_size != length:
                raise OSError("memory of another size")
            mapped = mmap(file, length, flags=MAP_SHARED)
        finally:
            os.close(file)
        self._use(np.frombuffer(mapped, np.uint8))
        if self._bytes[:_TOKEN_BYTES].tobytes() != address.token:
            raise OSError("memory of another process")


def _memory_file(length: int) -> int | None:
    """A file without a name; None where the system has none, or no room for it."""
    try:
        file = os.memfd_create("roundelay-commit", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return None
    try:
        # A file with holes would end a rank that writes where no memory is left.
        os.posix_fallocate(file, 0, length)
    except OSError:
        os.close(file)
        return None
    return file
