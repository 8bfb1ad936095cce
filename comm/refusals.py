"""Errors in buffer arguments, in words."""

from __future__ import annotations

from typing import Any

from ..datatypes.known import KnownDatatype


def overlap_error(array: Any) -> ValueError:
    """The error of a receive array whose elements share memory, on the host or on a GPU."""
    return ValueError(
        f"message: receive array of shape {array.shape} and strides {array.strides} has elements that "
        "overlap; a receive buffer needs its own memory for each element"
    )


def bounds_error(known: KnownDatatype, count: int, offset: int, nbytes: int) -> ValueError | None:
    """The error of instances of a datatype that begin at an offset of memory, if they leave it."""
    if known.layout is None:
        return None
    low, high = (offset + bound for bound in known.layout.repeat(count).bounds())
    if low >= 0 and high <= nbytes:
        return None
    return ValueError(
        f"message: {count} instances of the datatype touch bytes {low} to {high}, "
        f"outside their buffer of {nbytes} bytes (ROUNDELAY_CHECK is set)"
    )
