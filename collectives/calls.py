"""The collectives as they are called: buffer arguments in, the chosen schedule run, or the library's own.

What takes the place of mpi4py's methods is made here; `roundelay.comm.collective` puts it in their place, and
brings arrays with gaps into contiguous memory before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial, wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..comm.collective import staged
from ..comm.communicators import Intracomm
from ..comm.execution import can_attach
from ..comm.settings import checks_bounds
from ..comm.substitute import named_like
from ..datatypes.plain import MPI
from . import arguments
from .arguments import Call
from .catalogue import NATIVE, OPERATIONS
from .chosen import Chosen
from .duplicate import Tags
from .execute import Execution
from .interrupts import SignalsDeferred
from .memory import memory_of
from .processes import AUTO, Wanted, check_name, environment_names
from .progress import is_possible
from .reduction import PREDEFINED, Array
from .requests import prepare, start
from .service import Choice, Service, info_key, known_service, service_of
from .shared import run_shared

_SUM = MPI.SUM
_Intracomm = MPI.Intracomm
_native_iallreduce, _native_allreduce_init = Intracomm.Iallreduce, Intracomm.Allreduce_init
_LISTS = (list, tuple)
_Function = TypeVar("_Function", bound=Callable[..., Any])
Library = Callable[[], Any]


def _whole(function: _Function) -> _Function:
    """Let the handlers of signals wait until a collective has ended: other ranks wait for the rest of it."""

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with SignalsDeferred():
            return function(*arguments, **named)

    return run  # type: ignore[return-value]


def _serve(
    service: Service,
    operation: str,
    call: Call | None,
    library: Library,
    algorithm: str = "",
    reproducible: bool = False,
    kind: Hashable = None,
) -> None:
    """Run a blocking collective; functions name an `algorithm`, methods do not.

    What is left to the library is remembered for methods with arguments of the same kind, if there is one.
    """
    service.check_whole()
    if call is None or not 0 <= call.root < service.ranks:
        if algorithm or checks_bounds():
            what = (operation, "arguments that are left to mpi4py")
            service.compare((*what, algorithm), None if checks_bounds() else (*what, algorithm))
        check_name(operation, algorithm or AUTO)
        library()
        return
    name = algorithm or service.name_for(operation, not call.commutes, root=call.root)
    wanted = _wanted(call, name, reproducible)
    choice = _choose(service, wanted, call, compares=bool(algorithm))
    choice.run(partial(_run, service, call, library, wanted.reproducible))
    if kind is not None and not algorithm and not checks_bounds():
        service.remember(kind, choice)


def _wanted(call: Call, name: str, reproducible: bool = False, background: bool = False) -> Wanted:
    """What the service is asked for; the library is not asked for what it does not have."""
    ours = reproducible or not call.is_of_mpi
    return Wanted(call.operation, call.nbytes, call.root, name, not call.commutes, ours, background)


def _choose(service: Service, wanted: Wanted, call: Call, compares: bool = False) -> Choice:
    """What the call is left to; if it `compares`, all ranks have said before that they call the same."""
    if compares or checks_bounds():
        key = None if checks_bounds() else wanted.rounded()
        service.compare((*wanted, call.division, call.elements, call.op), key)
    return service.choose(wanted)


def _run(service: Service, call: Call, library: Library, required: bool, chosen: Chosen | None) -> None:
    """Run a schedule, or the library's own where there are no tags for messages, unless it is `required`."""
    if chosen is None or not (required or service.has_tags()):
        library()
        return
    tags = service.tags
    try:
        _run_schedule(service, tags, chosen, call)
    except BaseException as error:
        service.mark_broken(error)
        raise


def _run_schedule(service: Service, tags: Tags, chosen: Chosen, call: Call) -> None:
    memory = memory_of(call.like)
    block = memory.take(call.nbytes) if call.result is None else None
    result = call.result
    if block is not None:
        result = block.array[: call.nbytes].view(call.like.dtype)
    assert result is not None
    for part, source in call.before:
        result[part] = source
    fold = None if call.reduction is None else call.reduction.fold
    in_place, own = call.own is None, call.own_beside(result)
    shared = service.shared_memory() if chosen.shares_memory else None
    if shared is not None:
        assert fold is not None
        run_shared(partial(chosen.bind_shared, in_place), shared, own, result, fold)
    else:
        bound = chosen.bind(call.division, in_place)
        Execution(bound, tags.comm, own, result, fold, tags.next()).run()
    for target, part in call.after:
        target[:] = result[part]
    memory.settle()
    if block is not None:
        memory.give_back(block)


# Allreduce, in all its forms.


def _allreduce(
    comm: Any,
    sendbuf: Any,
    recvbuf: Any,
    op: MPI.Op = _SUM,
    algorithm: str = "",
    reproducible: bool = False,
) -> None:
    service = service_of(comm)
    call = arguments.read_allreduce(sendbuf, recvbuf, op)
    library = partial(_Intracomm.Allreduce, comm, sendbuf, recvbuf, op)
    kind = _allreduce_kind(sendbuf, recvbuf, op)
    _serve(service, "allreduce", call, library, algorithm, reproducible, kind)


def _iallreduce(comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
    """Nonblocking allreduce, where a blocking one has made a communicator for messages."""
    service = service_of(comm)
    chosen, call = _in_background(service, sendbuf, recvbuf, op)
    if chosen is None:
        return _native_iallreduce(comm, sendbuf, recvbuf, op)
    begin = partial(_execution, service, chosen, call, service.tags.next())
    return start(begin, (sendbuf, recvbuf))


def _allreduce_init(
    comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM, info: MPI.Info = MPI.INFO_NULL
) -> Any:
    """Persistent allreduce by the chosen algorithm."""
    service = service_of(comm)
    chosen, call = _in_background(service, sendbuf, recvbuf, op)
    if chosen is None or not service.has_tags():
        return _native_allreduce_init(comm, sendbuf, recvbuf, op, info)
    begin = partial(_execution, service, chosen, call, service.tags.next_persistent())
    return prepare(begin, (sendbuf, recvbuf))


def _in_background(service: Service, sendbuf: Any, recvbuf: Any, op: MPI.Op) -> tuple[Chosen | None, Any]:
    """What an allreduce in the background is left to, and its call.

    An operation of the program's own is left to the library, because the program may free it before the end.
    """
    service.check_whole()
    is_ours = is_possible() and _is_predefined(op)
    call = arguments.read_allreduce(sendbuf, recvbuf, op) if is_ours else None
    if call is None:
        return None, call
    name = service.name_for("allreduce", not call.commutes, background=True)
    return _choose(service, _wanted(call, name, background=True), call).current, call


def _execution(service: Service, chosen: Chosen, call: Call, tag: int) -> Execution:
    assert call.result is not None
    assert call.reduction is not None
    tags = service.tags
    own, bound = call.own_beside(call.result), chosen.bind(call.division, call.own is None)
    return Execution(bound, tags.comm, own, call.result, call.reduction.fold, tag, keeps=tags)


def execution_in_place(comm: MPI.Intracomm, array: Array, op: MPI.Op, algorithm: str) -> Execution:
    """An allreduce in place by a schedule, to be begun at any time; made by all ranks together.

    Raises `ValueError` where there is no schedule for it.
    """
    service = service_of(comm)
    service.check_whole()
    call = arguments.read_allreduce(MPI.IN_PLACE, array, op)
    if call is None or algorithm == NATIVE:
        raise ValueError(
            "allreduce: expected an array of NumPy or CuPy and an algorithm of roundelay's, "
            f"got {algorithm!r}"
        )
    wanted = _wanted(call, algorithm, reproducible=True, background=True)
    chosen = _choose(service, wanted, call, compares=True).current
    assert chosen is not None
    return _execution(service, chosen, call, service.tags.next())


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
    _serve(service, "allgather", call, library, algorithm, kind=_allgather_kind(sendbuf, recvbuf))


def _bcast(comm: Any, buf: Any, root: int = 0, algorithm: str = "") -> None:
    service = service_of(comm)
    call = arguments.read_bcast(buf, root, service.rank)
    library = partial(_Intracomm.Bcast, comm, buf, root)
    _serve(service, "bcast", call, library, algorithm, kind=_bcast_kind(buf, root))


# What calls have in common that are left to the same: what each buffer is; None where a look does not tell.


def _shape(buffer: Any) -> Hashable:
    if buffer.__class__ is np.ndarray:
        return (buffer.dtype, buffer.nbytes) if buffer.flags.forc and buffer.flags.aligned else None
    if buffer is None or buffer is MPI.IN_PLACE:
        return "none"
    if buffer.__class__ not in _LISTS or len(buffer) != 2:
        return None
    array, counts = _shape(buffer[0]), buffer[1]
    if counts.__class__ is tuple and len(counts) == 2:
        counts = counts[0]
    return (array, sum(counts)) if array is not None and counts.__class__ in _LISTS else None


def _moving_kind(operation: str, sendbuf: Any, recvbuf: Any, handle: int = 0, root: int = 0) -> Hashable:
    send, receive = _shape(sendbuf), _shape(recvbuf)
    return None if send is None or receive is None else (operation, send, receive, handle, root)


def _reducing_kind(operation: str, op: MPI.Op, sendbuf: Any, recvbuf: Any, root: int = 0) -> Hashable:
    return _moving_kind(operation, sendbuf, recvbuf, op.handle, root) if _is_predefined(op) else None


def _is_predefined(op: Any) -> bool:
    # The handles of others come again when they are freed.
    return getattr(op, "handle", None) in PREDEFINED


def _allreduce_kind(sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Hashable:
    return _reducing_kind("allreduce", op, sendbuf, recvbuf)


def _reduce_kind(sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM, root: int = 0) -> Hashable:
    return _reducing_kind("reduce", op, sendbuf, recvbuf, root)


def _block_kind(sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Hashable:
    return _reducing_kind("reduce_scatter_block", op, sendbuf, recvbuf)


def _reduce_scatter_kind(sendbuf: Any, recvbuf: Any, recvcounts: Any = None, op: MPI.Op = _SUM) -> Hashable:
    # Without counts, ranks tell one another how much they receive.
    return None if recvcounts is None else _reducing_kind("reduce_scatter", op, sendbuf, recvbuf)


def _allgather_kind(sendbuf: Any, recvbuf: Any) -> Hashable:
    return _moving_kind("allgather", sendbuf, recvbuf)


def _bcast_kind(buf: Any, root: int = 0) -> Hashable:
    return _moving_kind("bcast", buf, None, root=root)


class _DropIn(NamedTuple):
    """Ours for a method of mpi4py, the operation that it is one form of, and the kind of a call."""

    ours: Callable[..., Any]
    operation: str
    kind: Callable[..., Hashable]


_DROP_INS = {
    "Allreduce": _DropIn(_allreduce, "allreduce", _allreduce_kind),
    "Reduce": _DropIn(_reduce, "reduce", _reduce_kind),
    "Reduce_scatter_block": _DropIn(_reduce_scatter_block, "reduce_scatter", _block_kind),
    "Reduce_scatter": _DropIn(_reduce_scatter, "reduce_scatter", _reduce_scatter_kind),
    "Allgather": _DropIn(_allgather, "allgather", _allgather_kind),
    "Allgatherv": _DropIn(_allgatherv, "allgather", _allgather_kind),
    "Bcast": _DropIn(_bcast, "bcast", _bcast_kind),
}


def _method(form: str, drop_in: _DropIn) -> Callable[..., Any]:
    """The method of that name, with a short way for what is left to the library."""
    before, base = getattr(Intracomm, form), getattr(_Intracomm, form)
    ours, operation, kind_of = SERVED[form], drop_in.operation, drop_in.kind

    @named_like(base)
    def method(comm: Any, *arguments: Any, **named: Any) -> Any:
        service = service_of(comm)
        if service.leaves(operation):
            return before(comm, *arguments, **named)
        choice = service.ready.get(kind_of(*arguments, **named))
        if choice is not None and choice.current is None and choice.left > 0:
            choice.left -= 1
            return base(comm, *arguments, **named)
        return ours(comm, *arguments, **named)

    return method


def _iallreduce_method() -> Callable[..., Any]:
    before, ours = _native_iallreduce, _whole(staged("Iallreduce", _iallreduce))

    @named_like(before)
    def method(comm: Any, *arguments: Any, **named: Any) -> Any:
        # It must not wait for other ranks.
        service = known_service(comm)
        is_ours = service is not None and service.can_send and can_attach()
        return (ours if is_ours else before)(comm, *arguments, **named)

    return method


def _allreduce_init_method() -> Callable[..., Any]:
    before, ours = _native_allreduce_init, _whole(staged("Allreduce_init", _allreduce_init))

    @named_like(before)
    def method(comm: Any, *arguments: Any, **named: Any) -> Any:
        is_ours = can_attach() and not service_of(comm).leaves("allreduce")
        return (ours if is_ours else before)(comm, *arguments, **named)

    return method


def take_names(comm: MPI.Intracomm, info: MPI.Info) -> None:
    """Take names of algorithms from an info; MPI libraries forget keys that they do not know."""
    for operation in OPERATIONS:
        name = info.Get(info_key(operation))
        if name is not None:
            _put_in_place(operation)
            service_of(comm).force(operation, name)


SERVED = {form: _whole(staged(form, each.ours)) for form, each in _DROP_INS.items()}


def take_environment() -> None:
    """Put ours in the place of mpi4py's methods, in our communicators, for what the environment names."""
    for operation, name in environment_names().items():
        if name != NATIVE:
            _put_in_place(operation)


@cache
def _put_in_place(operation: str) -> None:
    for form, drop_in in _DROP_INS.items():
        if drop_in.operation == operation:
            setattr(Intracomm, form, _method(form, drop_in))
    if operation == "allreduce":
        setattr(Intracomm, "Iallreduce", _iallreduce_method())  # noqa: B010
        setattr(Intracomm, "Allreduce_init", _allreduce_init_method())  # noqa: B010
