"""The engine: what the interposer asks about collectives that an algorithm of roundelay's may run.

It is asked with what MPI would be called with, and runs the schedule that is chosen, or leaves the call to
the library. The interposer remembers the calls that are left to the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from ctypes import addressof, c_int64
from functools import cache, partial
from os import sched_yield
from typing import Any

from ..comm.communicators import Intracomm
from ..comm.interposer import interposer, why_not
from ..comm.interrupts import SignalsDeferred, uninterrupted
from ..comm.settings import checks_bounds
from ..datatypes.plain import MPI
from .call import Buffer, Call, Given, allreduce_in_place, methods_of, operation_of, read_call
from .catalogue import NATIVE
from .chosen import Chosen
from .duplicate import Tags
from .execute import Execution
from .memory import memory_of
from .processes import AUTO, Wanted, check_name, environment_names
from .progress import is_possible
from .reduction import PREDEFINED, Array
from .requests import Scheduled, prepare, start
from .service import Choice, Service, service_of
from .shared import run_shared

# An algorithm, and whether all runs must give the same bits.
Asked = tuple[str, bool]
# For what has run None; for what has begun its request, and what is behind that. For what is left to the
# library where it is counted for how many calls that is so, 0 for this one alone, or what follows it.
Answer = None | tuple[int, Scheduled] | int | Callable[[], None]

# As operation.h has them.
_BLOCKING, _NONBLOCKING = range(2)
_THIS_CALL = 0
_for_ever = c_int64(1 << 62)


class Engine:
    """Runs collectives for the interposer."""

    def run(
        self,
        function: str,
        form: int,
        comm: int,
        sent: tuple[Any, ...],
        received: tuple[Any, ...],
        op: int,
        root: int,
        asked: Asked | None,
    ) -> Answer:
        """Run a call of a function of MPI, or leave it to the library.

        Handles are numbers; `sent` and `received` have the fields of a `Buffer`. The handlers of signals wait
        until it has ended, because other ranks wait for the rest of it.
        """
        method, op_here = function.removesuffix("_c"), MPI.Op.fromhandle(op)
        given = Given(method, Buffer(*sent), Buffer(*received), op_here, root)
        service = service_of(MPI.Intracomm.fromhandle(comm))  # type: ignore[arg-type]
        if form == _BLOCKING:
            return _whole(partial(_run_blocking, service, given, *(asked or ("", False))))
        return _whole(partial(_start if form == _NONBLOCKING else _prepare, service, given))

    def refused(self, function: str, comm: Any, asked: Asked | None) -> None:
        """Hear that mpi4py refuses the arguments of a call; raise `ValueError` if other ranks have others."""
        operation = operation_of(function.removesuffix("_c"))
        algorithm = asked[0] if asked else ""
        if not isinstance(comm, MPI.Intracomm) or not comm or not (algorithm or checks_bounds()):
            return
        with SignalsDeferred():
            service = service_of(comm)
            if function.startswith("I") and not service.can_send:
                # The others have left theirs to the library, without a word.
                return
            if algorithm or not service.leaves(operation):
                _compare_refusal(service, operation, algorithm)


def _whole(function: Callable[[], Answer]) -> Answer:
    # An exception of a signal handler is raised when the interposer has unpacked the result.
    return uninterrupted(function, interposer().raise_later)


def _compare_refusal(service: Service, operation: str, algorithm: str) -> None:
    what = (operation, "arguments that are left to mpi4py")
    service.compare((*what, algorithm), None if checks_bounds() else (*what, algorithm))


# Blocking collectives.


def _run_blocking(service: Service, given: Given, algorithm: str, reproducible: bool) -> Answer:
    """Run a collective; functions name an algorithm, methods do not."""
    operation = operation_of(given.method)
    service.check_whole()
    if not algorithm and service.leaves(operation):
        return addressof(_for_ever)
    call = _read(service, given, algorithm) if 0 <= given.root < service.ranks else None
    if call is None:
        given.check_types()
        if algorithm or checks_bounds():
            _compare_refusal(service, operation, algorithm)
        check_name(operation, algorithm or AUTO)
        return _THIS_CALL
    name = algorithm or service.name_for(operation, not call.commutes, root=call.root)
    wanted = _wanted(call, name, reproducible)
    choice = _choose(service, wanted, call, compares=bool(algorithm))
    end = choice.begin()
    chosen = choice.current
    if chosen is None or not (wanted.reproducible or service.has_tags()):
        # The handles of other operations come again when they are freed.
        lasts = call.reduction is None or given.op.handle in PREDEFINED
        is_counted = lasts and chosen is None and not (algorithm or checks_bounds())
        return end or (choice.address_of_left if is_counted else _THIS_CALL)
    try:
        _run_schedule(service, service.tags, chosen, call)
    except BaseException as error:
        service.mark_broken(error)
        raise
    if end is not None:
        end()
    return None


def _read(service: Service, given: Given, algorithm: str = "") -> Call | None:
    """Read a call; where MPI refuses it on this rank, the others hear of it if they compare."""
    try:
        return read_call(given, service.rank, service.ranks)
    except MPI.Exception:
        if algorithm or checks_bounds():
            _compare_refusal(service, operation_of(given.method), algorithm)
        raise


def _wanted(call: Call, name: str, reproducible: bool = False, background: bool = False) -> Wanted:
    """The request to the service; the library is not asked for what it does not have."""
    ours = reproducible or not call.is_of_mpi
    return Wanted(call.operation, call.nbytes, call.root, name, not call.commutes, ours, background)


def _choose(service: Service, wanted: Wanted, call: Call, compares: bool = False) -> Choice:
    """The choice for a call; if it `compares`, all ranks have said before that they call the same."""
    if compares or checks_bounds():
        key = None if checks_bounds() else wanted.rounded()
        service.compare((*wanted, call.division, call.elements, call.op), key)
    return service.choose(wanted)


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
        tag = tags.next()
        before = tags.under_way.pop(tag, None)
        while before is not None and not before.advance():
            sched_yield()
        Execution(bound, tags.comm, own, result, fold, tag).run()
    for target, part in call.after:
        target[:] = result[part]
    memory.settle()
    if block is not None:
        memory.give_back(block)


# An allreduce in the background.


def _start(service: Service, given: Given) -> Answer:
    """Start an allreduce, where a blocking one has made a communicator for messages; it must not wait."""
    if not service.can_send:
        return _THIS_CALL
    chosen, call = _in_background(service, given)
    if chosen is None or call is None:
        return _THIS_CALL
    tags = service.tags
    tag = tags.next()
    return start(partial(_execution, tags, tag, chosen, call), tags.under_way, tag)


def _prepare(service: Service, given: Given) -> Answer:
    """Prepare a persistent allreduce."""
    if service.leaves("allreduce"):
        return _THIS_CALL
    chosen, call = _in_background(service, given)
    tags = None if chosen is None else service.persistent_tags()
    if chosen is None or call is None or tags is None:
        return _THIS_CALL
    return prepare(partial(_execution, tags, tags.next_persistent(), chosen, call))


def _in_background(service: Service, given: Given) -> tuple[Chosen | None, Call | None]:
    """The algorithm that runs an allreduce in the background, and its call.

    An operation of the program's own is left to the library, because the program may free it before the end.
    """
    service.check_whole()
    is_possible_here = is_possible() and given.op.handle in PREDEFINED
    call = _read(service, given) if is_possible_here else None
    if call is None:
        if checks_bounds():
            _compare_refusal(service, "allreduce", "")
        return None, None
    name = service.name_for("allreduce", not call.commutes, background=True)
    return _choose(service, _wanted(call, name, background=True), call).current, call


def _execution(tags: Tags, tag: int, chosen: Chosen, call: Call) -> Execution:
    assert call.result is not None
    assert call.reduction is not None
    own, bound = call.own_beside(call.result), chosen.bind(call.division, call.own is None)
    return Execution(bound, tags.comm, own, call.result, call.reduction.fold, tag, keeps=tags)


def execution_in_place(comm: MPI.Intracomm, array: Array, op: MPI.Op, algorithm: str) -> Execution:
    """An allreduce in place by a schedule, to be begun at any time; made by all ranks together.

    Parameters
    ----------
    comm : Intracomm
    array : array
        Flat and contiguous, of NumPy or CuPy.
    op : MPI.Op
    algorithm : str

    Raises
    ------
    ValueError
        There is no schedule for it.
    """
    service = service_of(comm)
    service.check_whole()
    call = allreduce_in_place(array, op)
    if call is None or algorithm == NATIVE:
        raise ValueError(
            "allreduce: expected an array of NumPy or CuPy and an algorithm of roundelay's, "
            f"got {algorithm!r}"
        )
    wanted = _wanted(call, algorithm, reproducible=True, background=True)
    chosen = _choose(service, wanted, call, compares=True).current
    assert chosen is not None
    # Ranks begin them in any order.
    tags = service.persistent_tags()
    if tags is None:
        raise RuntimeError("allreduce: MPI has no communicator left for messages")
    return _execution(tags, tags.next_persistent(), chosen, call)


# How a program asks for algorithms.


def call_as_asked(method: str, comm: MPI.Intracomm, arguments: tuple[Any, ...], asked: Asked) -> None:
    """Call a method of mpi4py's with an algorithm, whatever the communicator asks for.

    Raises `RuntimeError` where there is no interposer, and the MPI library's own algorithm will not do.
    """
    module = _engaged_module()
    if module is not None:
        module.call(vars(Intracomm)[method], asked, comm, *arguments)
        return
    algorithm, reproducible = asked
    if reproducible or algorithm not in (AUTO, NATIVE):
        what = "reproducible sums" if reproducible else f"algorithm {algorithm!r}"
        raise RuntimeError(f"{operation_of(method)}: {what} without the interposer: {why_not()}")
    getattr(MPI.Intracomm, method)(comm, *arguments)


def take_names(comm: MPI.Intracomm, names: dict[str, str]) -> None:
    """Let the engine decide, by the algorithms that are named, what runs operations on a communicator."""
    for operation, name in names.items():
        _engage(operation)
        service_of(comm).force(operation, name)


def take_environment() -> None:
    """Let the engine decide, in our communicators, what runs the operations that the environment names."""
    for operation, name in environment_names().items():
        if name != NATIVE:
            _engage(operation)


@cache
def _engaged_module() -> Any:
    module = interposer()
    if module is not None:
        module.set_engine(Engine())
    return module


@cache
def _engage(operation: str) -> None:
    module = _engaged_module()
    if module is None:
        warnings.warn(f"{operation} is left to the MPI library: {why_not()}", stacklevel=4)
        return
    for method in methods_of(operation):
        module.engage(vars(Intracomm)[method])
