"""The collectives as they are called: buffer arguments in, the chosen schedule run, or the library's own.

What takes the place of mpi4py's methods is made here; `roundelay.comm.collective` puts it in their place, and
brings arrays with gaps into contiguous memory before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..comm.collective import Collective, staged
from ..comm.settings import checks_bounds
from ..comm.substitute import named_like
from ..datatypes.plain import MPI
from . import arguments
from .arguments import Call
from .catalogue import NATIVE, OPERATIONS
from .chosen import Chosen
from .execute import Execution
from .memory import memory_of
from .progress import is_possible
from .reduction import PREDEFINED, Array
from .requests import prepare, start
from .service import (
    AUTO,
    Choice,
    Service,
    check_name,
    environment_settings,
    info_key,
    known_service,
    service_of,
)
from .shared import run_shared

_SUM = MPI.SUM
_Intracomm = MPI.Intracomm
_LISTS = (list, tuple)
_ON_HOST = frozenset((np.ndarray, type(MPI.IN_PLACE), type(None)))
Library = Callable[[], Any]


def _serve(
    service: Service,
    operation: str,
    call: Call | None,
    library: Library,
    algorithm: str = "",
    reproducible: bool = False,
    kind: Any = None,
) -> Choice | None:
    """Run a blocking collective, and tell what it was left to; None where mpi4py read the arguments.

    What is left to the library is remembered for calls of the same kind, if there is one.
    """
    if call is None or not 0 <= call.root < service.ranks:
        check_name(operation, algorithm or AUTO)
        if checks_bounds():
            service.compare((operation, "arguments that are left to mpi4py"))
        library()
        return None
    name = algorithm or service.setting_for(operation, not call.commutes, root=call.root)
    choice = _choose(service, _wanted(call, name, reproducible), call)
    choice.run(lambda chosen: library() if chosen is None else _run(service, chosen, call))
    if kind is not None and not algorithm and not reproducible and not checks_bounds():
        service.remember(kind, choice)
    return choice


def _wanted(call: Call, name: str, reproducible: bool = False, background: bool = False) -> tuple[Any, ...]:
    """What the service is asked for; the library is not asked for what it does not have."""
    ours = reproducible or not call.is_of_mpi
    return call.operation, call.nbytes, call.root, name, not call.commutes, ours, background


def _choose(service: Service, wanted: tuple[Any, ...], call: Call) -> Choice:
    """What the call is left to, after all ranks have said that they call the same."""
    if checks_bounds() or not service.knows(*wanted):
        check_name(call.operation, wanted[3])
        service.compare((*wanted, call.division, call.elements, call.op))
    return service.choose(*wanted)


def _run(service: Service, chosen: Chosen, call: Call) -> None:
    memory = memory_of(call.like)
    block = memory.take(call.nbytes) if call.result is None else None
    result = call.result
    if block is not None:
        result = block.array[: call.nbytes].view(call.like.dtype)
    assert result is not None
    for part, source in call.before:
        result[part] = source
    fold = None if call.reduction is None else call.reduction.fold
    _run_on(service, chosen, call.own, result, call.division, fold)
    for target, part in call.after:
        target[:] = result[part]
    memory.settle()
    if block is not None:
        memory.give_back(block)


def _run_on(
    service: Service, chosen: Chosen, own: Array | None, result: Array, division: Any, fold: Any
) -> None:
    in_place = own is None
    contributed = result if own is None else own
    if chosen.shares_memory:
        run_shared(partial(chosen.bind_shared, in_place), service.memory, contributed, result, fold)
        return
    bound = chosen.bind(division, in_place)
    Execution(bound, service.comm, contributed, result, fold, service.next_tag()).run()


# Allreduce, in all its forms.


def _kind(result: Array, op: MPI.Op, algorithm: str = "") -> tuple[Any, ...]:
    """What calls have in common that are left to the same."""
    return result.nbytes, result.dtype.num, op.handle, algorithm


def _allreduce(
    comm: Any,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = _SUM,
    algorithm: str = "",
    reproducible: bool = False,
) -> None:
    service = service_of(comm)
    repeats = recvbuf.__class__ is np.ndarray and not reproducible and not checks_bounds()
    if repeats:
        # What was done before with arrays of this size is done again, without asking what it is.
        ready = service.ready.get(_kind(recvbuf, op, algorithm))
        if ready is not None and _runs(ready, service, sendbuf, recvbuf):
            return
    call = arguments.read_allreduce(sendbuf, recvbuf, op)
    library = partial(_Intracomm.Allreduce, comm, sendbuf, recvbuf, op)
    choice = _serve(service, "allreduce", call, library, algorithm, reproducible)
    if repeats and call is not None and call.reduction is not None and op.handle in PREDEFINED:
        service.remember(_kind(recvbuf, op, algorithm), (choice, call.reduction.fold))


def _quick_allreduce(comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
    """Allreduce, with a short way for what is known to be left to the library."""
    service = known_service(comm)
    if service is not None and recvbuf.__class__ is np.ndarray and sendbuf.__class__ in _ON_HOST:
        ready = service.ready.get((recvbuf.nbytes, recvbuf.dtype.num, op.handle, ""))
        if ready is not None and ready[0].current is None and ready[0].left > 0:
            try:
                _Intracomm.Allreduce(comm, sendbuf, recvbuf, op)
            except BufferError:
                pass
            else:
                ready[0].left -= 1
                return None
    return _staged_allreduce(comm, sendbuf, recvbuf, op)


def _runs(ready: tuple[Choice, Any], service: Service, sendbuf: Any, recvbuf: Array) -> bool:
    """Run a schedule that was run before; False where the arguments must be read first."""
    in_place = sendbuf is MPI.IN_PLACE
    own = recvbuf if in_place else sendbuf
    choice, fold = ready
    if choice.current is None or not choice.left > 0:
        return False
    if own.__class__ is not np.ndarray or own.dtype != recvbuf.dtype or own.size != recvbuf.size:
        return False
    if own.ndim != 1 or recvbuf.ndim != 1 or not recvbuf.flags.behaved:
        return False
    if not own.flags.forc or not recvbuf.flags.forc:
        return False
    choice.left -= 1
    _run_on(service, choice.current, None if in_place else own, recvbuf, recvbuf.size, fold)
    return True


def _iallreduce(comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
    """Nonblocking allreduce; by a schedule once a blocking one has made a communicator for messages."""
    service = known_service(comm)
    ready = service is not None and service.is_ready and is_possible()
    call = arguments.read_allreduce(sendbuf, recvbuf, op) if ready else None
    chosen = None
    if service is not None and call is not None:
        name = service.setting_for("allreduce", not call.commutes, background=True)
        chosen = service.choose(*_wanted(call, name, background=True)).current
    if service is None or call is None or chosen is None:
        return _Intracomm.Iallreduce(comm, sendbuf, recvbuf, op)
    return start(partial(_execution, service, chosen, call))


def _allreduce_init(
    comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM, info: MPI.Info = MPI.INFO_NULL
) -> Any:
    """Persistent allreduce by the chosen algorithm."""
    service = service_of(comm)
    call = arguments.read_allreduce(sendbuf, recvbuf, op) if is_possible() else None
    chosen = None
    if call is not None:
        name = service.setting_for("allreduce", not call.commutes, background=True)
        chosen = _choose(service, _wanted(call, name, background=True), call).current
    if call is None or chosen is None:
        return _Intracomm.Allreduce_init(comm, sendbuf, recvbuf, op, info)
    return prepare(partial(_execution, service, chosen, call))


def _execution(service: Service, chosen: Chosen, call: Call) -> Execution:
    assert call.result is not None
    assert call.reduction is not None
    own = call.result if call.own is None else call.own
    bound = chosen.bind(call.division, call.own is None)
    return Execution(bound, service.comm, own, call.result, call.reduction.fold, service.next_tag())


def execution_in_place(comm: MPI.Intracomm, array: Array, op: MPI.Op, algorithm: str) -> Execution:
    """An allreduce in place by a schedule, to be begun at any time; made by all ranks together.

    Raises `ValueError` where there is no schedule for it.
    """
    service = service_of(comm)
    call = arguments.read_allreduce(MPI.IN_PLACE, array, op)
    if call is None or algorithm == NATIVE:
        raise ValueError(
            "allreduce: expected an array of NumPy or CuPy and an algorithm of roundelay's, "
            f"got {algorithm!r}"
        )
    wanted = _wanted(call, algorithm, reproducible=True, background=True)
    chosen = _choose(service, wanted, call).current
    assert chosen is not None
    return _execution(service, chosen, call)


# The other operations.


def _reduce(
    comm: Any,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = _SUM,
    root: int = 0,
    algorithm: str = "",
    reproducible: bool = False,
) -> None:
    service = service_of(comm)
    call = arguments.read_reduce(sendbuf, recvbuf, op, root, service.rank)
    library = partial(_Intracomm.Reduce, comm, sendbuf, recvbuf, op, root)
    kind = _reduce_kind(sendbuf, recvbuf, op, root)
    _serve(service, "reduce", call, library, algorithm, reproducible, kind)


def _reduce_scatter_block(
    comm: Any,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = _SUM,
    algorithm: str = "",
    reproducible: bool = False,
) -> None:
    service = service_of(comm)
    call = arguments.read_reduce_scatter_block(sendbuf, recvbuf, op, service.rank, service.ranks)
    library = partial(_Intracomm.Reduce_scatter_block, comm, sendbuf, recvbuf, op)
    kind = _block_kind(sendbuf, recvbuf, op)
    _serve(service, "reduce_scatter", call, library, algorithm, reproducible, kind)


def _reduce_scatter(
    comm: Any,
    sendbuf: Any,
    recvbuf: Any,
    recvcounts: Any = None,
    op: MPI.Op = _SUM,
    algorithm: str = "",
    reproducible: bool = False,
) -> None:
    service = service_of(comm)
    counts = service.counts_of_all(recvbuf) if recvcounts is None else [int(each) for each in recvcounts]
    call = arguments.read_reduce_scatter(sendbuf, recvbuf, counts, op, service.rank)
    library = partial(_Intracomm.Reduce_scatter, comm, sendbuf, recvbuf, recvcounts, op)
    kind = _reduce_scatter_kind(sendbuf, recvbuf, recvcounts, op)
    _serve(service, "reduce_scatter", call, library, algorithm, reproducible, kind)


def _allgather(comm: Any, sendbuf: Any, recvbuf: Any, algorithm: str = "") -> None:
    service = service_of(comm)
    call = arguments.read_allgather(sendbuf, recvbuf, service.rank, service.ranks)
    library = partial(_Intracomm.Allgather, comm, sendbuf, recvbuf)
    _serve(service, "allgather", call, library, algorithm, kind=_allgather_kind(sendbuf, recvbuf))


def _allgatherv(comm: Any, sendbuf: Any, recvbuf: Any, algorithm: str = "") -> None:
    service = service_of(comm)
    call = arguments.read_allgatherv(sendbuf, recvbuf, service.rank, service.ranks)
    library = partial(_Intracomm.Allgatherv, comm, sendbuf, recvbuf)
    _serve(service, "allgather", call, library, algorithm, kind=_allgatherv_kind(sendbuf, recvbuf))


def _bcast(comm: Any, buf: Any, root: int = 0, algorithm: str = "") -> None:
    service = service_of(comm)
    call = arguments.read_bcast(buf, root, service.rank)
    library = partial(_Intracomm.Bcast, comm, buf, root)
    _serve(service, "bcast", call, library, algorithm, kind=_bcast_kind(buf, root))


# What calls have in common that are left to the same; None where a look at the arguments does not tell.


def _is_dense(buffer: Any) -> bool:
    return buffer.__class__ is np.ndarray and buffer.flags.forc


def _reduce_kind(sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM, root: int = 0) -> Any:
    return ("reduce", sendbuf.nbytes, sendbuf.dtype.num, op.handle, root) if _is_dense(sendbuf) else None


def _block_kind(sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
    if not _is_dense(sendbuf) or not _is_dense(recvbuf):
        return None
    return "reduce_scatter", recvbuf.nbytes, recvbuf.dtype.num, op.handle


def _allgather_kind(sendbuf: Any, recvbuf: Any) -> Any:
    return ("allgather", recvbuf.nbytes) if _is_dense(recvbuf) else None


def _bcast_kind(buf: Any, root: int = 0) -> Any:
    return ("bcast", buf.nbytes, root) if _is_dense(buf) else None


def _allgatherv_kind(sendbuf: Any, recvbuf: Any) -> Any:
    if recvbuf.__class__ not in _LISTS or len(recvbuf) != 2 or not _is_dense(recvbuf[0]):
        return None
    array, counts = recvbuf
    if counts.__class__ is tuple and len(counts) == 2:
        counts = counts[0]
    return ("allgather", sum(counts), array.dtype.num) if counts.__class__ in _LISTS else None


def _reduce_scatter_kind(sendbuf: Any, recvbuf: Any, recvcounts: Any = None, op: MPI.Op = _SUM) -> Any:
    if recvcounts.__class__ not in _LISTS or not _is_dense(sendbuf) or not _is_dense(recvbuf):
        return None
    return "reduce_scatter", "v", sendbuf.nbytes, sendbuf.dtype.num, op.handle


class _DropIn(NamedTuple):
    """Ours for a method of mpi4py, the operation that it is one form of, and the kind of a call."""

    ours: Callable[..., Any]
    operation: str
    kind: Callable[..., Any]


_DROP_INS = {
    "Reduce": _DropIn(_reduce, "reduce", _reduce_kind),
    "Reduce_scatter_block": _DropIn(_reduce_scatter_block, "reduce_scatter", _block_kind),
    "Reduce_scatter": _DropIn(_reduce_scatter, "reduce_scatter", _reduce_scatter_kind),
    "Allgather": _DropIn(_allgather, "allgather", _allgather_kind),
    "Allgatherv": _DropIn(_allgatherv, "allgather", _allgatherv_kind),
    "Bcast": _DropIn(_bcast, "bcast", _bcast_kind),
}


def _method(form: str, drop_in: _DropIn, asked: bool) -> Callable[..., Any]:
    """The method of that name, with a short way for what is left to the library.

    If the environment has `asked` for an algorithm, ranks agree on it in the first call. Else a
    communicator's info may have; where there is no service, ranks without roundelay can take part.
    """
    find = service_of if asked else known_service
    before, base = getattr(Collective, form), getattr(_Intracomm, form)
    ours, operation, kind_of = staged(form, drop_in.ours), drop_in.operation, drop_in.kind
    last = 0 if form == "Bcast" else 1

    @named_like(base)
    def method(comm: Any, *arguments: Any, **named: Any) -> Any:
        service = find(comm)
        if service is None or operation in service.left:
            dense = len(arguments) > last and _is_dense(arguments[0]) and _is_dense(arguments[last])
            return (base if dense else before)(comm, *arguments, **named)
        choice = service.ready.get(kind_of(*arguments, **named))
        if choice is not None and choice.current is None and choice.left > 0:
            choice.left -= 1
            return base(comm, *arguments, **named)
        return ours(comm, *arguments, **named)

    return method


def _set_info(comm: Any, info: MPI.Info) -> None:
    """Take names of algorithms from the info; MPI libraries forget keys that they do not know."""
    _Intracomm.Set_info(comm, info)
    for operation in OPERATIONS:
        name = info.Get(info_key(operation))
        if name is not None:
            service_of(comm).force(operation, name)


_staged_allreduce = staged("Allreduce", _allreduce)
SERVED = {"Allreduce": _staged_allreduce} | {
    form: staged(form, each.ours) for form, each in _DROP_INS.items()
}


def install() -> None:
    """Put ours in the place of mpi4py's methods, in roundelay's communicators."""
    settings = environment_settings()
    forms: dict[str, Callable[..., Any]] = {"Set_info": named_like(_Intracomm.Set_info)(_set_info)}
    if settings["allreduce"] != NATIVE:
        forms["Allreduce"] = named_like(_Intracomm.Allreduce)(_quick_allreduce)
        forms["Iallreduce"] = staged("Iallreduce", _iallreduce)
        forms["Allreduce_init"] = staged("Allreduce_init", _allreduce_init)
    for form, drop_in in _DROP_INS.items():
        forms[form] = _method(form, drop_in, asked=settings[drop_in.operation] != NATIVE)
    for form, method in forms.items():
        setattr(Collective, form, method)
