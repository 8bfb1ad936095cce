"""Switches that a user sets in the environment, read once."""

from __future__ import annotations

import os
from functools import cache

# Of which roundelay has algorithms of its own.
OPERATIONS = ("allreduce", "reduce_scatter", "allgather", "bcast", "reduce")
# An algorithm that is asked for is the value of this key of a communicator's info.
INFO_KEY = "roundelay_{}"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "no", "off", "false")


@cache
def hands_over_gpu_memory() -> bool | None:
    """`ROUNDELAY_GPU_DIRECT`: whether MPI gets arrays on a GPU as they are; None where it is not set."""
    return _is_set("ROUNDELAY_GPU_DIRECT") if os.environ.get("ROUNDELAY_GPU_DIRECT") else None


@cache
def is_disabled() -> bool:
    """`ROUNDELAY_DISABLE`: every call goes to mpi4py unchanged."""
    return _is_set("ROUNDELAY_DISABLE")


@cache
def checks_bounds() -> bool:
    """`ROUNDELAY_CHECK`: a datatype that leaves its buffer is refused."""
    return _is_set("ROUNDELAY_CHECK")


_asked: set[str] = set()


def ask_for_monitoring() -> None:
    """Do as if `ROUNDELAY_MONITOR` were set, for this process alone."""
    _asked.add("ROUNDELAY_MONITOR")


def is_monitored() -> bool:
    """`ROUNDELAY_MONITOR`: the job is watched from the moment when MPI is there."""
    return "ROUNDELAY_MONITOR" in _asked or _is_set("ROUNDELAY_MONITOR")


@cache
def names_of_algorithms() -> dict[str, str]:
    """`ROUNDELAY_ALLREDUCE` and its like: the algorithms that are asked for, by operation."""
    asked = {operation: os.environ.get(f"ROUNDELAY_{operation.upper()}") for operation in OPERATIONS}
    return {operation: name for operation, name in asked.items() if name}
