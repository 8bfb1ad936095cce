"""Collectives on arrays and datatypes that are not contiguous.

Each collective comes blocking, nonblocking and persistent, and differs from the others in what its
two buffer arguments are like; the tables at the end say so. In reductions only arrays are staged: the
operation must see the program's datatype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..datatypes.plain import MPI
from .execution import Runner, direct, run_at_once, run_prepared, run_started
from .operation import settle_unfinished, unfinished
from .specification import Reader, find_stage, stage_each, stage_one, stage_vector
from .staging import Stage
from .strided import REFUSALS, stage_array
from .substitute import named_like

_ndarray = np.ndarray


def _array_only(_buffer: Any, _receiving: bool, _blocks: int, _forced: bool) -> Stage | None:
    return None


class _Side(NamedTuple):
    """What a collective's send or receive argument is like: how it is read, and in how many blocks."""

    read: Reader
    blocks: Callable[[Any], int]

    def find(self, comm: Any, buffer: Any, receiving: bool, forced: bool) -> Stage | None:
        """Stage for such an argument, if it needs one."""
        return find_stage(self.read, buffer, receiving, self.blocks(comm), forced)


class _Kind(NamedTuple):
    """A collective: its two sides, which of them counts on the root only, and where the root is given.

    `keeps` tells that it may leave part of the receive buffer as it was.
    """

    send: _Side
    receive: _Side
    only_root: str | None = None
    root_place: int = 0
    keeps: bool = False


def _one_block(_comm: Any) -> int:
    return 1


def _per_rank(comm: Any) -> int:
    return int(comm.Get_size())


def _per_source(comm: Any) -> int:
    return int(comm.indegree)


def _per_destination(comm: Any) -> int:
    return int(comm.outdegree)


def _collective(base: Any, run: Runner, kind: _Kind, forced: bool = False) -> Any:
    whole = direct(base, run)
    is_plain = _is_aligned if forced else _is_plain

    def stage(comm: Any, sendbuf: Any, recvbuf: Any, rest: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run a collective with stages where they are needed."""
        sending, receiving = _counting(comm, kind, rest, named)
        send = kind.send.find(comm, sendbuf, False, forced) if sending else None
        receive = kind.receive.find(comm, recvbuf, True, forced) if receiving else None
        try:
            if send is receive is None:
                return whole(comm, sendbuf, recvbuf, *rest, **named)
            refusal = None
        except REFUSALS as error:
            refusal = error.with_traceback(None)
        # One side may need a closer look whatever the other one is.
        if sending and send is None:
            send = stage_array(sendbuf, receiving=False)
        if receiving and receive is None:
            receive = stage_array(recvbuf, receiving=True)
        if refusal is not None and send is receive is None:
            raise refusal
        in_place = sendbuf is MPI.IN_PLACE or sendbuf is None
        fills = receive is not None and (kind.keeps or receive.partial or in_place)
        loads = [stage for stage in (send, receive if fills else None) if stage is not None]
        out, into = send.spec if send else sendbuf, receive.spec if receive else recvbuf
        return run(partial(base, comm, out, into, *rest, **named), loads, [receive] if receive else [])

    @named_like(base)
    def method(self: Any, sendbuf: Any, recvbuf: Any, *rest: Any, **named: Any) -> Any:
        # The usual case is spelt out: a small collective takes less time than a few calls of Python. An array
        # that owns its memory is nearly always contiguous, and mpi4py refuses any other.
        if (
            sendbuf.__class__ is recvbuf.__class__ is _ndarray
            and not forced
            and (sendbuf.base is None or sendbuf.flags.forc)
            and (recvbuf.base is None or recvbuf.flags.forc)
        ) or (is_plain(sendbuf) and is_plain(recvbuf)):
            try:
                if rest or named:
                    result = whole(self, sendbuf, recvbuf, *rest, **named)
                else:
                    result = whole(self, sendbuf, recvbuf)
            except REFUSALS:
                # mpi4py is asked again, and what it refuses is looked at.
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return result
        return stage(self, sendbuf, recvbuf, rest, named)

    return method


def _is_plain(buffer: Any) -> bool:
    if buffer.__class__ is np.ndarray:
        return bool(buffer.flags.forc)
    return buffer is None or buffer is MPI.IN_PLACE


def _is_aligned(buffer: Any) -> bool:
    """Whether a schedule can send parts of it, too: mpi4py refuses elements off their boundaries."""
    return _is_plain(buffer) and (buffer.__class__ is not np.ndarray or bool(buffer.flags.aligned))


def _counting(comm: Any, kind: _Kind, rest: tuple[Any, ...], named: dict[str, Any]) -> tuple[bool, bool]:
    """Whether this rank's send and receive arguments count; where they do not, nobody looks at them."""
    if kind.only_root is None:
        return True, True
    root = named.get("root", rest[kind.root_place] if len(rest) > kind.root_place else 0)
    at_root = comm.Get_rank() == root
    return kind.only_root != "send" or at_root, kind.only_root != "receive" or at_root


def _broadcast(base: Any, run: Runner, forced: bool = False) -> Any:
    whole = direct(base, run)
    is_plain = _is_aligned if forced else _is_plain

    @named_like(base)
    def method(self: Any, buf: Any, root: int = 0, *rest: Any, **named: Any) -> Any:
        if is_plain(buf):
            try:
                result = whole(self, buf, root, *rest, **named)
            except REFUSALS:
                pass
            else:
                if unfinished:
                    settle_unfinished()
                return result
        receiving = self.Get_rank() != root
        stage = find_stage(stage_one, buf, receiving, forced=forced)
        if stage is None:
            try:
                return whole(self, buf, root, *rest, **named)
            except REFUSALS:
                stage = stage_array(buf, receiving)
                if stage is None:
                    raise
        loads = [stage] if stage.partial or not receiving else []
        return run(partial(base, self, stage.spec, root, *rest, **named), loads, [stage] if receiving else [])

    return method


_ONE = _Side(stage_one, _one_block)
_EACH_RANK = _Side(stage_one, _per_rank)
_VECTOR = _Side(stage_vector, _per_rank)
_TYPES = _Side(stage_each, _per_rank)
_ARRAY = _Side(_array_only, _one_block)

_KINDS = {
    "Gather": _Kind(_ONE, _EACH_RANK, "receive"),
    "Gatherv": _Kind(_ONE, _VECTOR, "receive"),
    "Scatter": _Kind(_EACH_RANK, _ONE, "send"),
    "Scatterv": _Kind(_VECTOR, _ONE, "send"),
    "Allgather": _Kind(_ONE, _EACH_RANK),
    "Allgatherv": _Kind(_ONE, _VECTOR),
    "Alltoall": _Kind(_EACH_RANK, _EACH_RANK),
    "Alltoallv": _Kind(_VECTOR, _VECTOR),
    "Alltoallw": _Kind(_TYPES, _TYPES),
    "Reduce": _Kind(_ARRAY, _ARRAY, "receive", root_place=1),
    "Allreduce": _Kind(_ARRAY, _ARRAY),
    "Reduce_scatter_block": _Kind(_ARRAY, _ARRAY),
    "Reduce_scatter": _Kind(_ARRAY, _ARRAY),
    "Scan": _Kind(_ARRAY, _ARRAY),
    "Exscan": _Kind(_ARRAY, _ARRAY, keeps=True),
}

# A neighbour that is PROC_NULL leaves its part of the receive buffer untouched.
_NEIGHBOR_KINDS = {
    "Neighbor_allgather": _Kind(_ONE, _Side(stage_one, _per_source), keeps=True),
    "Neighbor_allgatherv": _Kind(_ONE, _Side(stage_vector, _per_source), keeps=True),
    "Neighbor_alltoall": _Kind(_Side(stage_one, _per_destination), _Side(stage_one, _per_source), keeps=True),
    "Neighbor_alltoallv": _Kind(
        _Side(stage_vector, _per_destination), _Side(stage_vector, _per_source), keeps=True
    ),
    "Neighbor_alltoallw": _Kind(
        _Side(stage_each, _per_destination), _Side(stage_each, _per_source), keeps=True
    ),
}


class Collective(MPI.Intracomm):
    """Collective methods of an intracommunicator."""


class NeighborCollective(MPI.Topocomm):
    """Neighbour collectives of a communicator with a topology."""


def _forms(name: str) -> list[tuple[str, Runner]]:
    return [(name, run_at_once), (f"I{name.lower()}", run_started), (f"{name}_init", run_prepared)]


for _owner, _kinds in ((Collective, _KINDS), (NeighborCollective, _NEIGHBOR_KINDS)):
    for _name, _kind in _kinds.items():
        for _form, _run in _forms(_name):
            setattr(_owner, _form, _collective(getattr(_owner.__base__, _form), _run, _kind))
for _form, _run in _forms("Bcast"):
    setattr(Collective, _form, _broadcast(getattr(MPI.Intracomm, _form), _run))


def staged(form: str, base: Any) -> Any:
    """Make a form of a collective that stages what has gaps and calls `base` in the place of mpi4py's own.

    Forms are such as "Allreduce", "Iallreduce" and "Allreduce_init". What ranks call must not depend on the
    datatypes that each of them has chosen: nothing is left to the MPI library here.
    """
    base = named_like(getattr(MPI.Intracomm, form))(base)
    for name, kind in _KINDS.items():
        for each, run in _forms(name):
            if each == form:
                return _collective(base, run, kind, forced=True)
    return _broadcast(base, dict(_forms("Bcast"))[form], forced=True)
