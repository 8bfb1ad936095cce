"""Agreement of all ranks on their arguments before they send anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from ..datatypes.plain import MPI

Found = TypeVar("Found")


def agree_on(comm: MPI.Intracomm, what: str, read: Callable[[], tuple[Found, Mapping[str, Any]]]) -> Found:
    """Read the arguments of a call, of which all ranks must have the same.

    Costs an `Allreduce` of three numbers.

    Parameters
    ----------
    comm : Intracomm
    what : str
        What is called, for errors.
    read : callable
        Returns what it read, and by name what must be the same on all ranks: values that print alike where
        they are alike.

    Raises
    ------
    ValueError
        On all ranks: `read` raised on one of them, or they differ.

    Examples
    --------
    >>> from roundelay import MPI
    >>> agree_on(MPI.COMM_WORLD, "example", lambda: (MPI.COMM_WORLD.rank, {"segments": 3})) == (
    ...     MPI.COMM_WORLD.rank
    ... )
    True
    """
    plain = MPI.Intracomm(comm)
    found: Any = None
    same: Mapping[str, Any] = {}
    error = ""
    try:
        found, same = read()
    except Exception as failure:
        # Whatever it is, the other ranks must hear of it, since they wait.
        error = str(failure) or type(failure).__name__
    digest = int.from_bytes(blake2b(repr(same).encode(), digest_size=7).digest(), "little")
    least = np.array([not error, digest, -digest], np.int64)
    plain.Allreduce(MPI.IN_PLACE, least, MPI.MIN)
    if not least[0] or least[1] != -least[2]:
        _explain(what, plain.allgather((error, {name: str(value) for name, value in same.items()})))
    return found  # type: ignore[no-any-return]


def _explain(what: str, everyone: list[tuple[str, dict[str, str]]]) -> None:
    if len({error for error, _ in everyone}) == 1 and everyone[0][0]:
        # Where all are wrong alike, it is no fault of a rank.
        raise ValueError(f"{what}: {everyone[0][0]}")
    for rank, (error, _) in enumerate(everyone):
        if error:
            raise ValueError(f"{what}: rank {rank}: {error}")
    first = everyone[0][1]
    for rank, (_, other) in enumerate(everyone):
        for name in {**first, **other}:
            one, two = first.get(name), other.get(name)
            if one != two:
                raise ValueError(f"{what}: {name}: rank 0 has {one}, rank {rank} has {two}")
