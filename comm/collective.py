"""Collectives that a schedule may run, on arrays and datatypes that are not contiguous.

A schedule works on contiguous memory. Each collective differs from the others in what its two buffer
arguments are like; the table at the end says so. In reductions only arrays are staged: the operation must see
the program's datatype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..datatypes.plain import MPI
from .execution import Runner, run_at_once, run_prepared, run_started
from .specification import Reader, find_stage, stage_one, stage_vector
from .staging import Stage
from .strided import REFUSALS, stage_array
from .substitute import named_like


def _array_only(_buffer: Any, _receiving: bool, _blocks: int) -> Stage | None:
    return None


class _Side(NamedTuple):
    """What a collective's send or receive argument is like: how it is read, and in how many blocks."""

    read: Reader
    blocks: Callable[[Any], int]

    def find(self, comm: Any, buffer: Any, receiving: bool) -> Stage | None:
        """Stage for such an argument, if it needs one."""
        return find_stage(self.read, buffer, receiving, self.blocks(comm))


class _Kind(NamedTuple):
    """A collective: its two sides, which of them counts on the root only, and where the root is given."""

    send: _Side
    receive: _Side
    only_root: str | None = None
    root_place: int = 0


def _one_block(_comm: Any) -> int:
    return 1


def _per_rank(comm: Any) -> int:
    return int(comm.Get_size())


def _collective(base: Any, run: Runner, kind: _Kind) -> Any:
    @named_like(base)
    def method(comm: Any, sendbuf: Any, recvbuf: Any, *rest: Any, **named: Any) -> Any:
        if _is_aligned(sendbuf) and _is_aligned(recvbuf):
            try:
                return base(comm, sendbuf, recvbuf, *rest, **named)
            except REFUSALS:
                # mpi4py is asked again, and what it refuses is looked at.
                pass
        return stage(comm, sendbuf, recvbuf, rest, named)

    def stage(comm: Any, sendbuf: Any, recvbuf: Any, rest: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run a collective with stages where they are needed."""
        sending, receiving = _counting(comm, kind, rest, named)
        send = kind.send.find(comm, sendbuf, False) if sending else None
        receive = kind.receive.find(comm, recvbuf, True) if receiving else None
        try:
            if send is receive is None:
                return base(comm, sendbuf, recvbuf, *rest, **named)
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
        fills = receive is not None and (receive.partial or in_place)
        loads = [stage for stage in (send, receive if fills else None) if stage is not None]
        out, into = send.spec if send else sendbuf, receive.spec if receive else recvbuf
        return run(partial(base, comm, out, into, *rest, **named), loads, [receive] if receive else [])

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


def _broadcast(base: Any, run: Runner) -> Any:
    @named_like(base)
    def method(self: Any, buf: Any, root: int = 0, *rest: Any, **named: Any) -> Any:
        if _is_aligned(buf):
            try:
                return base(self, buf, root, *rest, **named)
            except REFUSALS:
                pass
        receiving = self.Get_rank() != root
        stage = find_stage(stage_one, buf, receiving)
        if stage is None:
            try:
                return base(self, buf, root, *rest, **named)
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
_ARRAY = _Side(_array_only, _one_block)

_KINDS = {
    "Allgather": _Kind(_ONE, _EACH_RANK),
    "Allgatherv": _Kind(_ONE, _VECTOR),
    "Reduce": _Kind(_ARRAY, _ARRAY, "receive", root_place=1),
    "Allreduce": _Kind(_ARRAY, _ARRAY),
    "Reduce_scatter_block": _Kind(_ARRAY, _ARRAY),
    "Reduce_scatter": _Kind(_ARRAY, _ARRAY),
}
_RUNNERS = {"": run_at_once, "I": run_started, "_init": run_prepared}


def staged(form: str, base: Any) -> Any:
    """Make a form of a collective that stages what has gaps and calls `base` in the place of mpi4py's own.

    Forms are such as "Allreduce", "Iallreduce" and "Allreduce_init". What ranks call must not depend on the
    datatypes that each of them has chosen: nothing is left to the MPI library here.
    """
    base = named_like(getattr(MPI.Intracomm, form))(base)
    if form == "Bcast":
        return _broadcast(base, run_at_once)
    name = form[1:].capitalize() if form.startswith("I") else form.removesuffix("_init")
    run = _RUNNERS["I" if form.startswith("I") else "_init" if form.endswith("_init") else ""]
    return _collective(base, run, _KINDS[name])
