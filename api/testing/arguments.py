"""Arguments of a collective as a program that is wrong would pass them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..datatypes.plain import MPI

# Where the root and the op are among the arguments of a method, without `self`.
ROOTS = {
    **dict.fromkeys(("Bcast", "Ibcast", "bcast", "gather", "scatter"), 1),
    **dict.fromkeys(("Gather", "Gatherv", "Scatter", "Scatterv"), 2),
    **dict.fromkeys(("Igather", "Igatherv", "Iscatter", "Iscatterv", "reduce"), 2),
    **dict.fromkeys(("Reduce", "Ireduce"), 3),
}
OPS = {
    **dict.fromkeys(("allreduce", "reduce", "scan", "exscan"), 1),
    **dict.fromkeys(("Allreduce", "Reduce", "Scan", "Exscan", "Reduce_scatter_block"), 2),
    **dict.fromkeys(("Iallreduce", "Ireduce", "Iscan", "Iexscan", "Ireduce_scatter_block"), 2),
    **dict.fromkeys(("Reduce_scatter", "Ireduce_scatter"), 3),
}


class Arguments(NamedTuple):
    """Of one call."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    def get(self, place: int, name: str, default: Any) -> Any:
        """Argument that may have been passed by its place or by its name."""
        if place < len(self.positional):
            return self.positional[place]
        return self.named.get(name, default)

    def replace(self, place: int, name: str, value: Any) -> Arguments:
        """The same with another value for one of them."""
        if place < len(self.positional):
            return self._replace(positional=(*self.positional[:place], value, *self.positional[place + 1 :]))
        return self._replace(named={**self.named, name: value})


def with_wrong_root(call: str, arguments: Arguments, size: int) -> Arguments:
    """Pass the next rank as the root.

    >>> with_wrong_root("Bcast", Arguments(("array",), {"root": 3}), size=4)
    Arguments(positional=('array',), named={'root': 0})
    """
    if call not in ROOTS:
        raise ValueError(f"call {call!r}: expected one that has a root: {', '.join(sorted(ROOTS))}")
    root = arguments.get(ROOTS[call], "root", 0)
    return arguments.replace(ROOTS[call], "root", (root + 1) % size)


def with_wrong_op(call: str, arguments: Arguments) -> Arguments:
    """Pass MAX as the operation, or SUM where it was MAX.

    >>> with_wrong_op("allreduce", Arguments((1,), {})).named["op"] == MPI.MAX
    True
    """
    if call not in OPS:
        raise ValueError(f"call {call!r}: expected one that reduces: {', '.join(sorted(OPS))}")
    given = arguments.get(OPS[call], "op", MPI.SUM)
    return arguments.replace(OPS[call], "op", MPI.SUM if given == MPI.MAX else MPI.MAX)


def with_wrong_count(call: str, arguments: Arguments) -> Arguments:
    """Leave out the last element of each array.

    >>> shorter = with_wrong_count("Allreduce", Arguments((np.zeros(4), np.zeros((2, 2))), {}))
    >>> [array.size for array in shorter.positional]
    [3, 3]
    """
    shorter = Arguments(
        tuple(map(_shorten, arguments.positional)),
        {name: _shorten(value) for name, value in arguments.named.items()},
    )
    changed = [new is not old for new, old in zip(shorter.positional, arguments.positional, strict=True)]
    changed += [new is not arguments.named[name] for name, new in shorter.named.items()]
    if not any(changed):
        raise ValueError(f"call {call!r}: expected an array of one element or more among its arguments")
    return shorter


def _shorten(value: Any) -> Any:
    """An array without its last element; any other thing as it is."""
    return value.reshape(-1)[:-1] if isinstance(value, np.ndarray) and value.size > 0 else value
