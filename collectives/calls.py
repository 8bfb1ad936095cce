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
from ..comm.elements import Elements, elements
from ..comm.settings import checks_bounds
from ..comm.substitute import named_like
from ..datatypes.plain import MPI
from .catalogue import NATIVE
from .execute import Execution
from .progress import is_possible
from .reduction import (
    MPI_CODES,
    PREDEFINED,
    Array,
    Reduction,
    array_reduction,
    datatype_reduction,
    operation_name,
)
from .requests import prepare, start
from .service import (
    AUTO,
    INFO_KEY,
    Chosen,
    Service,
    check_name,
    environment_setting,
    known_service,
    service_of,
)
from .shared import run_shared

_SUM = MPI.SUM
# What is left to the library, among what is remembered.
_LIBRARY = object()


class _Call(NamedTuple):
    """A reduction that a schedule may run: flat arrays, the same one twice in place, and the operation."""

    own: Array
    result: Array
    reduction: Reduction
    datatype: str
    op: str

    @property
    def in_place(self) -> bool:
        return self.own is self.result


def serve_allreduce(base: Callable[..., Any]) -> Callable[..., Any]:
    """Allreduce by the chosen algorithm, in the place of mpi4py's `base`."""

    def allreduce(
        comm: Any,
        sendbuf: Any,
        recvbuf: Any,
        op: MPI.Op = _SUM,
        algorithm: str = "",
        reproducible: bool = False,
    ) -> Any:
        service = service_of(comm)
        repeats = recvbuf.__class__ is np.ndarray and not reproducible and not checks_bounds()
        if repeats:
            # What was done before with arrays of this size is done again, without asking what it is.
            ready = service.ready.get(_kind(recvbuf, op, algorithm))
            if ready not in (None, _LIBRARY) and _runs(ready, service, sendbuf, recvbuf):
                return None
        call = _read(sendbuf, recvbuf, op)
        if call is None:
            check_name("allreduce", algorithm or AUTO)
            if checks_bounds():
                service.compare(("allreduce", "arguments that are left to mpi4py"))
            return base(comm, sendbuf, recvbuf, op)
        name = algorithm or service.setting_for(not call.reduction.commutes)
        chosen = _choose(service, _wanted(call, name, reproducible), call)
        if repeats and op.handle in PREDEFINED:
            service.remember(
                _kind(recvbuf, op, algorithm),
                _LIBRARY if chosen is None else (chosen, call.reduction.fold),
            )
        if chosen is None:
            return base(comm, sendbuf, recvbuf, op)
        _run(service, chosen, call.own, call.result, call.reduction.fold)
        return None

    return allreduce


def _kind(result: Array, op: MPI.Op, algorithm: str) -> tuple[Any, ...]:
    """What calls have in common that are left to the same."""
    return result.nbytes, result.dtype.num, op.handle, algorithm


def _quick_allreduce(comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
    """Allreduce, with a short way for what is known to be left to the library."""
    service = known_service(comm)
    if (
        service is not None
        and recvbuf.__class__ is np.ndarray
        and service.ready.get((recvbuf.nbytes, recvbuf.dtype.num, op.handle, "")) is _LIBRARY
    ):
        try:
            return _Intracomm.Allreduce(comm, sendbuf, recvbuf, op)
        except BufferError:
            pass
    return _staged_allreduce(comm, sendbuf, recvbuf, op)


def _runs(ready: tuple[Chosen, Any], service: Service, sendbuf: Any, recvbuf: Array) -> bool:
    """Run a schedule that was run before; False where the arguments must be read first."""
    in_place = sendbuf is MPI.IN_PLACE
    own = recvbuf if in_place else sendbuf
    if own.__class__ is not np.ndarray or own.dtype != recvbuf.dtype or own.size != recvbuf.size:
        return False
    if own.ndim != 1 or recvbuf.ndim != 1 or not recvbuf.flags.behaved:
        return False
    if not own.flags.forc or not recvbuf.flags.forc:
        return False
    chosen, fold = ready
    _run(service, chosen, own, recvbuf, fold)
    return True


def serve_iallreduce(base: Callable[..., Any]) -> Callable[..., Any]:
    """Nonblocking allreduce; by a schedule once a blocking one has made a communicator for messages."""

    def iallreduce(comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM) -> Any:
        service = known_service(comm)
        ready = service is not None and service.is_ready and is_possible()
        call = _read(sendbuf, recvbuf, op) if ready else None
        chosen = None
        if service is not None and call is not None:
            name = service.setting_for(not call.reduction.commutes, background=True)
            chosen = service.choose(*_wanted(call, name, background=True))
        if service is None or call is None or chosen is None:
            return base(comm, sendbuf, recvbuf, op)
        return start(partial(_execution, service, chosen, call))

    return iallreduce


def serve_allreduce_init(base: Callable[..., Any]) -> Callable[..., Any]:
    """Persistent allreduce by the chosen algorithm."""

    def allreduce_init(
        comm: Any, sendbuf: Any, recvbuf: Any, op: MPI.Op = _SUM, info: MPI.Info = MPI.INFO_NULL
    ) -> Any:
        service = service_of(comm)
        call = _read(sendbuf, recvbuf, op) if is_possible() else None
        chosen = None
        if call is not None:
            name = service.setting_for(not call.reduction.commutes, background=True)
            chosen = _choose(service, _wanted(call, name, background=True), call)
        if call is None or chosen is None:
            return base(comm, sendbuf, recvbuf, op, info)
        return prepare(partial(_execution, service, chosen, call))

    return allreduce_init


def serve_set_info(base: Callable[..., Any]) -> Callable[..., Any]:
    """Take the name of an algorithm from the info; MPI libraries forget keys that they do not know."""

    def set_info(comm: Any, info: MPI.Info) -> None:
        base(comm, info)
        name = info.Get(INFO_KEY)
        if name is not None:
            service_of(comm).force(name)

    return set_info


def _wanted(call: _Call, name: str, reproducible: bool = False, background: bool = False) -> tuple[Any, ...]:
    """What the service is asked for; the library is not asked for what it does not have."""
    ours = reproducible or call.result.dtype.char not in MPI_CODES + "V"
    return "allreduce", call.result.nbytes, 0, name, not call.reduction.commutes, ours, background


def _choose(service: Service, wanted: tuple[Any, ...], call: _Call) -> Chosen | None:
    """What the call is left to, after all ranks have said that they call the same."""
    if checks_bounds() or not service.knows(*wanted):
        check_name("allreduce", wanted[3])
        service.compare((*wanted, call.result.size, call.datatype, call.op))
    return service.choose(*wanted)


def _run(service: Service, chosen: Chosen, own: Array, result: Array, fold: Any) -> None:
    in_place = own is result
    if chosen.shares_memory:
        run_shared(partial(chosen.bind_shared, in_place), service.memory, own, result, fold)
        return
    bound = chosen.bind(result.size, in_place)
    Execution(bound, service.comm, own, result, fold, service.next_tag()).run()


def _execution(service: Service, chosen: Chosen, call: _Call) -> Execution:
    bound = chosen.bind(call.result.size, call.in_place)
    return Execution(bound, service.comm, call.own, call.result, call.reduction.fold, service.next_tag())


def _read(sendbuf: Any, recvbuf: Any, op: MPI.Op) -> _Call | None:
    """The two arguments of an allreduce; None where mpi4py shall read them, or say what is wrong."""
    in_place = sendbuf is MPI.IN_PLACE or sendbuf is None
    found = _read_arrays(recvbuf if in_place else sendbuf, recvbuf, op)
    if found is not None:
        return found
    result = elements(recvbuf, receiving=True)
    own = result if in_place else elements(sendbuf, receiving=False)
    if own is None or result is None or (own.count, own.datatype) != (result.count, result.datatype):
        return None
    reduction = datatype_reduction(op, result.datatype)
    flat, name = _typed(result, reduction), operation_name(op)
    return _Call(
        flat if own is result else _typed(own, reduction), flat, reduction, result.datatype.name, name
    )


def _read_arrays(own: Any, result: Any, op: MPI.Op) -> _Call | None:
    """Arrays of one dtype, which MPI need not know."""
    if own.__class__ is not np.ndarray or result.__class__ is not np.ndarray:
        return None
    if own.dtype != result.dtype or own.size != result.size or not result.flags.writeable:
        return None
    if not own.flags.forc or not result.flags.forc:
        return None
    reduction = array_reduction(op, result.dtype)
    if reduction is None:
        return None
    flat = result.reshape(-1, order="A")
    return _Call(
        flat if own is result else own.reshape(-1, order="A"),
        flat,
        reduction,
        str(result.dtype),
        operation_name(op),
    )


def _typed(part: Elements, reduction: Reduction) -> Array:
    array: Array = part.memory.view(reduction.dtype)
    return array


_Intracomm = MPI.Intracomm
_staged_allreduce = staged("Allreduce", serve_allreduce(_Intracomm.Allreduce))


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
        As `Allreduce` takes them, with gaps, too, and of dtypes that MPI lacks (float16, those of ml_dtypes).
        `MPI.IN_PLACE` as `sendbuf` reduces in place.
    op : MPI.Op
        Any predefined or own operation. What does not commute is reduced in the order of the ranks.
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
    _staged_allreduce(comm, sendbuf, recvbuf, op, algorithm, reproducible)


def execution_in_place(comm: MPI.Intracomm, array: Array, op: MPI.Op, algorithm: str) -> Execution:
    """An allreduce in place by a schedule, to be begun at any time; made by all ranks together.

    Raises `ValueError` where there is no schedule for it.
    """
    service = service_of(comm)
    call = _read(MPI.IN_PLACE, array, op)
    if call is None or algorithm == NATIVE:
        raise ValueError(
            f"allreduce: expected a NumPy array and an algorithm of roundelay's, got {algorithm!r}"
        )
    chosen = _choose(service, _wanted(call, algorithm, reproducible=True, background=True), call)
    assert chosen is not None
    return _execution(service, chosen, call)


def install() -> None:
    """Put ours in the place of mpi4py's methods, in roundelay's communicators.

    Not where the environment asks for the library's own: ranks without roundelay can then take part, too.
    """
    if environment_setting() == NATIVE:
        return
    forms = {
        "Allreduce": named_like(_Intracomm.Allreduce)(_quick_allreduce),
        "Iallreduce": staged("Iallreduce", serve_iallreduce(_Intracomm.Iallreduce)),
        "Allreduce_init": staged("Allreduce_init", serve_allreduce_init(_Intracomm.Allreduce_init)),
        "Set_info": named_like(_Intracomm.Set_info)(serve_set_info(_Intracomm.Set_info)),
    }
    for form, method in forms.items():
        setattr(Collective, form, method)
