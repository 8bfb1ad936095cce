"""The methods of mpi4py's classes that take arrays with gaps, when roundelay's classes have them."""

from __future__ import annotations

from typing import Any

from ..datatypes.plain import MPI
from .described import describing
from .interposer import interposer

_SENDS = ("Send", "Bsend", "Ssend", "Rsend")
_POINT_TO_POINT = (
    *_SENDS,
    *(f"I{name.lower()}" for name in _SENDS),
    *(f"{name}_init" for name in _SENDS),
    *("Recv", "Irecv", "Recv_init", "Sendrecv", "Isendrecv", "Sendrecv_replace", "Isendrecv_replace"),
)
_COLLECTIVES = (
    *("Bcast", "Gather", "Gatherv", "Scatter", "Scatterv", "Allgather", "Allgatherv"),
    *("Alltoall", "Alltoallv", "Alltoallw", "Reduce", "Allreduce", "Reduce_scatter_block", "Reduce_scatter"),
    *("Scan", "Exscan"),
)
_NEIGHBOR_COLLECTIVES = (
    *("Neighbor_allgather", "Neighbor_allgatherv"),
    *("Neighbor_alltoall", "Neighbor_alltoallv", "Neighbor_alltoallw"),
)
# mpi4py 4.1 makes the requests of these without their buffers, which could be freed while MPI uses them.
_WITHOUT_BUFFERS = frozenset(
    (
        *(
            "Iallgatherv",
            "Ireduce",
            "Iallreduce",
            "Ireduce_scatter_block",
            "Ireduce_scatter",
            "Iscan",
            "Iexscan",
        ),
        *("Allgatherv_init", "Reduce_init", "Allreduce_init"),
        *("Reduce_scatter_block_init", "Reduce_scatter_init"),
    )
)


def _forms(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form for name in names for form in (name, f"I{name.lower()}", f"{name}_init"))


# Of each of mpi4py's classes, what takes buffers.
NAMES: dict[Any, tuple[str, ...]] = {
    MPI.Comm: _POINT_TO_POINT,
    MPI.Intracomm: _forms(_COLLECTIVES),
    MPI.Topocomm: _forms(_NEIGHBOR_COLLECTIVES),
    MPI.Message: ("Recv", "Irecv"),
}


# MPI's names of those of a matched message.
_OF_MESSAGES = {"Recv": "Mrecv", "Irecv": "Imrecv"}
# Those whose buffers are one count of a datatype.
_WHOLE = frozenset((*_POINT_TO_POINT, *_forms(("Bcast",))))


def take_arrays_with_gaps(ours: Any, plain: Any) -> None:
    """Give a class of ours, which takes the place of mpi4py's `plain`, methods that take arrays with gaps."""
    module = interposer()
    for name in NAMES[plain]:
        base = getattr(plain, name)
        if module is not None:
            # Of the plain class, whose objects a program may call them with.
            function = _OF_MESSAGES[name] if plain is MPI.Message else name
            method = module.method(plain, function, base, name in _WITHOUT_BUFFERS, "educe" in name)
            setattr(ours, name, method)
        elif name in _WHOLE:
            setattr(ours, name, describing(base))
