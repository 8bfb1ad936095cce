"""The kernels that run a program, looked up by where the memory lies."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol, cast

PACK, UNPACK = 0, 1


class Run(Protocol):
    """Moves bytes between memory with gaps and contiguous memory, both given by their addresses."""

    def __call__(self, direction: int, packed: int, memory: int, program: int, instances: int, /) -> None:
        """Run a program in the direction `PACK` or `UNPACK`.

        Parameters
        ----------
        packed : int
            Address of the contiguous bytes.
        memory : int
            Base address of the layout's first instance.
        program : int
            `Program.address`.
        instances : int
            How many instances, an extent apart.
        """


@cache
def mover(memory: str = "host") -> Run:
    """Kernel for a kind of memory, a module of this package, loaded when first asked for."""
    return cast("Run", import_module(f"{__package__}.{memory}").run)


@cache
def has_mover(memory: str = "host") -> bool:
    """Whether there is a kernel for a kind of memory; without Numba there is none, and MPI moves the data."""
    try:
        mover(memory)
    except ImportError:
        return False
    return True


def mover_address(memory: str = "host") -> int:
    """Address of the kernel's machine code, for callers in C."""
    return cast("int", import_module(f"{__package__}.{memory}").address())
