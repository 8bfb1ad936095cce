"""What ranks tell one another while some of them may die.

A collective of Open MPI that fails may leave messages under way, which arrive later: the memory that they go
to must not be used for anything else.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from ...datatypes.plain import MPI
from .ulfm import check_whole

# Memory of collectives that failed.
_left: list[Any] = []


def tell_all(comm: MPI.Intracomm, thing: Any) -> list[Any]:
    """Give every rank what each of them has to say, as `allgather` does; collective.

    Raises `mpi4py.MPI.Exception` where a rank is lost.

    Examples
    --------
    >>> tell_all(MPI.COMM_SELF, {"rank": 0})
    [{'rank': 0}]
    """
    said = np.frombuffer(pickle.dumps(thing), np.uint8)
    sizes = np.zeros(comm.size, np.int64)
    sizes[comm.rank] = said.size
    buffers = [said, sizes]
    try:
        comm.Allgather(MPI.IN_PLACE, sizes)
        # With other sizes than the others have, this rank would wait for messages that nobody sends.
        check_whole(comm)
        heard = np.zeros(int(sizes.sum()), np.uint8)
        buffers.append(heard)
        comm.Allgatherv(said, [heard, sizes])
        check_whole(comm)
        ends = np.cumsum(sizes)
        return [
            pickle.loads(heard[end - size : end].tobytes()) for end, size in zip(ends, sizes, strict=True)
        ]
    except BaseException:
        _left.append(buffers)
        raise
