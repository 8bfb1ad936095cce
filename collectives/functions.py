"""The collectives as functions, which take the name of an algorithm.

All ranks of the communicator, roundelay's or mpi4py's, call with matching arguments. Buffers are what
mpi4py's methods take, arrays with gaps and tensors of PyTorch included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..datatypes.plain import MPI
from .array_views import buffer_of_arrays, mark_written
from .engine import call_as_asked
from .processes import AUTO


def allreduce(
    comm: MPI.Intracomm,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = MPI.SUM,
    algorithm: str = AUTO,
    reproducible: bool = False,
) -> None:
    """Reduce the arrays of all ranks, element by element, to an array on each of them.

    Parameters
    ----------
    comm : Intracomm
        Communicator, roundelay's or mpi4py's; all its ranks call with the same count, dtype and operation.
    sendbuf, recvbuf : array or buffer specification
        As `Allreduce` takes them, with gaps, too, and of dtypes that MPI lacks (float16, those of ml_dtypes,
        bfloat16 of PyTorch).
        `MPI.IN_PLACE` as `sendbuf` reduces in place.
    op : MPI.Op
        Any predefined or own operation. Those that do not commute reduce in the order of the ranks.
    algorithm : str
        A name from `roundelay.algorithms("allreduce")`, or "auto" for the one predicted to be the fastest
        where `roundelay measure` has measured, else the MPI library's own.
    reproducible : bool
        Whether all ranks and all runs on as many ranks must get the same bits; the MPI library's own
        algorithm is then not used. Costs time where that would be the fastest.

    Raises
    ------
    ValueError
        Unknown algorithm, no algorithm of that name for these ranks or operation, or ranks that disagree;
        on all ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> total = np.empty(3)
    >>> allreduce(MPI.COMM_WORLD, np.ones(3), total, algorithm="ring")
    >>> bool((total == MPI.COMM_WORLD.size).all())
    True
    """
    _serve("Allreduce", comm, (sendbuf, recvbuf, op), recvbuf, algorithm, reproducible)


def reduce(
    comm: MPI.Intracomm,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = MPI.SUM,
    root: int = 0,
    algorithm: str = AUTO,
    reproducible: bool = False,
) -> None:
    """Reduce the arrays of all ranks, element by element, to an array on one of them.

    Parameters and errors are those of `allreduce`, with a name from `roundelay.algorithms("reduce")`; only
    the rank `root` has a `recvbuf`.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> total = np.empty(3) if MPI.COMM_WORLD.rank == 0 else None
    >>> reduce(MPI.COMM_WORLD, np.ones(3), total, algorithm="tree")
    >>> total is None or bool((total == MPI.COMM_WORLD.size).all())
    True
    """
    _serve("Reduce", comm, (sendbuf, recvbuf, op, root), recvbuf, algorithm, reproducible)


def reduce_scatter_block(
    comm: MPI.Intracomm,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = MPI.SUM,
    algorithm: str = AUTO,
    reproducible: bool = False,
) -> None:
    """Reduce the arrays of all ranks, element by element, and give each rank as large a part of the result.

    Parameters and errors are those of `allreduce`, with a name from `roundelay.algorithms("reduce_scatter")`;
    `sendbuf` has as many elements as all `recvbuf` together.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> part = np.empty(2)
    >>> reduce_scatter_block(MPI.COMM_WORLD, np.ones(2 * MPI.COMM_WORLD.size), part, algorithm="direct")
    >>> bool((part == MPI.COMM_WORLD.size).all())
    True
    """
    _serve("Reduce_scatter_block", comm, (sendbuf, recvbuf, op), recvbuf, algorithm, reproducible)


def reduce_scatter(
    comm: MPI.Intracomm,
    sendbuf: Any,
    recvbuf: Any,
    recvcounts: Sequence[int] | None = None,
    op: MPI.Op = MPI.SUM,
    algorithm: str = AUTO,
    reproducible: bool = False,
) -> None:
    """Reduce the arrays of all ranks, element by element, and give each rank its part of the result.

    Parameters and errors are those of `reduce_scatter_block`. Rank i gets `recvcounts[i]` elements; without
    them, ranks tell one another how much they receive.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> counts = list(range(MPI.COMM_WORLD.size))
    >>> part = np.empty(MPI.COMM_WORLD.rank)
    >>> reduce_scatter(MPI.COMM_WORLD, np.ones(sum(counts)), part, counts, algorithm="direct")
    >>> bool((part == MPI.COMM_WORLD.size).all())
    True
    """
    _serve("Reduce_scatter", comm, (sendbuf, recvbuf, recvcounts, op), recvbuf, algorithm, reproducible)


def allgather(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, algorithm: str = AUTO) -> None:
    """Give every rank the arrays of all ranks, one after another in the order of the ranks.

    Parameters
    ----------
    comm : Intracomm
    sendbuf, recvbuf : array or buffer specification
        As `Allgather` takes them.
    algorithm : str
        A name from `roundelay.algorithms("allgather")`, or "auto".

    Raises
    ------
    ValueError
        Unknown algorithm, or ranks that disagree; on all ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> ranks = np.empty(MPI.COMM_WORLD.size, int)
    >>> allgather(MPI.COMM_WORLD, np.array([MPI.COMM_WORLD.rank]), ranks, algorithm="ring")
    >>> bool((ranks == range(MPI.COMM_WORLD.size)).all())
    True
    """
    _serve("Allgather", comm, (sendbuf, recvbuf), recvbuf, algorithm)


def allgatherv(comm: MPI.Intracomm, sendbuf: Any, recvbuf: Any, algorithm: str = AUTO) -> None:
    """Give every rank the arrays of all ranks, which may differ in length.

    Parameters and errors are those of `allgather`; `recvbuf` is such as `[array, counts]` or
    `[array, (counts, displacements)]`, as `Allgatherv` takes it.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> counts = [1 + rank for rank in range(MPI.COMM_WORLD.size)]
    >>> everyone = np.empty(sum(counts))
    >>> allgatherv(MPI.COMM_WORLD, np.ones(1 + MPI.COMM_WORLD.rank), [everyone, counts], algorithm="direct")
    >>> bool((everyone == 1).all())
    True
    """
    _serve("Allgatherv", comm, (sendbuf, recvbuf), recvbuf, algorithm)


def bcast(comm: MPI.Intracomm, buf: Any, root: int = 0, algorithm: str = AUTO) -> None:
    """Give all ranks the array of one of them.

    Parameters
    ----------
    comm : Intracomm
    buf : array or buffer specification
        As `Bcast` takes it.
    root : int
        The rank that has it.
    algorithm : str
        A name from `roundelay.algorithms("bcast")`, or "auto".

    Raises
    ------
    ValueError
        Unknown algorithm, or ranks that disagree; on all ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> array = np.full(3, MPI.COMM_WORLD.rank)
    >>> bcast(MPI.COMM_WORLD, array, algorithm="star")
    >>> bool((array == 0).all())
    True
    """
    _serve("Bcast", comm, (buf, root), None if comm.rank == root else buf, algorithm)


def _serve(
    method: str,
    comm: MPI.Intracomm,
    arguments: tuple[Any, ...],
    written: Any,
    algorithm: str,
    same: bool = False,
) -> None:
    call_as_asked(method, comm, tuple(map(buffer_of_arrays, arguments)), (algorithm, same))
    mark_written(written)
