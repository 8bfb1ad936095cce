"""Faults in a program that is not changed, by the variable `ROUNDELAY_INJECT`.

::

    ROUNDELAY_INJECT="stop:rank=2:call=Allreduce:after=50" mpiexec -n 4 roundelay run prog.py

stops rank 2 before its 51st call of `Allreduce`. A fault is a kind with options, each after a colon, and
several are separated by semicolons.

=================  ======================================================================================
kind               what happens on that rank before, or in the place of, the call
=================  ======================================================================================
``kill``           the process is killed (SIGKILL)
``stop``           it is stopped (SIGSTOP)
``hang``           it sleeps in Python, for ``seconds`` or for ever
``hang-in-c``      it waits in C and keeps the GIL, for ``seconds`` or for ever
``fail``           an exception
``skip``           the call is left out
``wrong-call``     `Barrier` is called instead
``wrong-count``    the arrays are an element shorter
``wrong-root``     the root is the next rank
``wrong-op``       the op is another one
``receive``        it waits for a message from ``peer``, which does not come; from any rank without a peer
``slow``           what lay between the call before and this one takes ``factor`` times as long
``late``           messages to ``peer`` are sent ``seconds`` later; the call is one that sends
=================  ======================================================================================

=================  ======================================================================================
option             meaning
=================  ======================================================================================
``rank``           of `MPI.COMM_WORLD`; several with commas; all without it
``call``           the method of a communicator, such as ``Allreduce``
``after``          after how many calls of it on that rank; 0 by default
``times``          how many calls are changed: 1 by default, all for ``slow`` and ``late``
=================  ======================================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from ..datatypes.plain import MPI
from . import changes, inject
from .arguments import OPS, ROOTS
from .wrapping import Change, check_call, wrap

__all__ = ["Fault", "InjectionError", "arm", "parse"]

VARIABLE = "ROUNDELAY_INJECT"
EXAMPLE = "stop:rank=2:call=Allreduce:after=50"
ALWAYS = 1 << 62


class InjectionError(ValueError):
    """`ROUNDELAY_INJECT` says what cannot be done."""


@dataclass(frozen=True)
class Fault:
    """One fault of `ROUNDELAY_INJECT`, with its options as they are written.

    >>> str(Fault("stop", "Allreduce", (2,), after=50))
    'stop:call=Allreduce:rank=2:after=50'
    """

    kind: str
    call: str
    rank: tuple[int, ...] = ()
    after: int = 0
    times: int = 0
    seconds: float | None = None
    factor: float | None = None
    peer: int | None = None

    def __str__(self) -> str:
        options = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        written = [f"{name}={_write(value)}" for name, value in options.items() if value not in (None, (), 0)]
        return ":".join([self.kind, *written])

    @property
    def last(self) -> int:
        """After how many calls it is over."""
        return self.after + (self.times or (ALWAYS if self.kind in ("slow", "late") else 1))


def _write(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _time(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise ValueError(text)
    return number


def _factor(text: str) -> float:
    number = float(text)
    if not number >= 1:
        raise ValueError(text)
    return number


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


# How each option is read, and what is expected of it.
OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "rank": (_ranks, "a rank, or several with commas"),
    "call": (str, "a method of a communicator, such as Allreduce"),
    "after": (_count, "a number of calls"),
    "times": (_count, "a number of calls"),
    "seconds": (_time, "seconds, such as 0.5"),
    "factor": (_factor, "a factor of 1 or more, such as 1.5"),
    "peer": (_count, "a rank"),
}
EVERY = {"rank", "call", "after", "times"}
# Options of each kind beyond those of every one, and those among them that it cannot do without.
KINDS: dict[str, tuple[set[str], set[str]]] = {
    **{kind: (set(), set()) for kind in ("kill", "stop", "fail", "skip")},
    **{kind: (set(), set()) for kind in ("wrong-call", "wrong-count", "wrong-root", "wrong-op")},
    "hang": ({"seconds"}, set()),
    "hang-in-c": ({"seconds"}, set()),
    "receive": ({"peer"}, set()),
    "slow": ({"factor"}, {"factor"}),
    "late": ({"peer", "seconds"}, {"peer", "seconds"}),
}


def parse(text: str) -> list[Fault]:
    """Read faults as `ROUNDELAY_INJECT` has them.

    >>> parse("hang:rank=1,3:call=Bcast:seconds=2")
    [Fault(kind='hang', call='Bcast', rank=(1, 3), after=0, times=0, seconds=2.0, factor=None, peer=None)]
    >>> parse("halt:call=Bcast")
    Traceback (most recent call last):
    roundelay.testing.environment.InjectionError: 'halt': expected kill, stop, fail, skip, wrong-call, ...

    Raises
    ------
    InjectionError
        With what was expected.
    """
    return [_parse_fault(part.strip()) for part in text.split(";") if part.strip()]


def _parse_fault(text: str) -> Fault:
    kind, *parts = text.split(":")
    if kind not in KINDS:
        raise InjectionError(f"{kind!r}: expected {', '.join(KINDS)}, as in {EXAMPLE!r}")
    own, needed = KINDS[kind]
    found: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in EVERY | own:
            expected = ", ".join(each for each in OPTIONS if each in EVERY | own)
            raise InjectionError(
                f"{part!r} of {text!r}: expected one of {expected}, each with '=' and a value"
            )
        read, expected = OPTIONS[name]
        try:
            found[name] = read(value.strip())
        except ValueError:
            raise InjectionError(f"{part!r} of {text!r}: expected {expected}") from None
    missing = ({"call"} | needed) - found.keys()
    if missing:
        expected = ", ".join(f"{name}= ({OPTIONS[name][1]})" for name in sorted(missing))
        raise InjectionError(f"{text!r}: expected also {expected}")
    fault = Fault(kind, **found)
    _check(fault)
    return fault


def _check(fault: Fault) -> None:
    """Check that the call is one that can be broken so."""
    try:
        check_call(fault.call)
    except ValueError as error:
        raise InjectionError(f"{str(fault)!r}: {error}") from None
    possible = {"wrong-root": ROOTS, "wrong-op": OPS}.get(fault.kind, {fault.call: 0})
    if fault.call not in possible:
        raise InjectionError(f"{str(fault)!r}: expected a call among {', '.join(sorted(possible))}")


def faults_asked_for() -> list[Fault]:
    """Those of `ROUNDELAY_INJECT`.

    Raises
    ------
    InjectionError
        The variable says something else, and this what was expected.
    """
    try:
        return parse(os.environ.get(VARIABLE, ""))
    except InjectionError as error:
        raise InjectionError(f"{VARIABLE}: {error}") from None


def arm(faults: Sequence[Fault] | None = None) -> None:
    """Break the calls of this process as the variable says, or as these faults say.

    The rank is asked for when a call comes: MPI may not be initialized yet.
    """
    for fault in faults_asked_for() if faults is None else faults:
        wrap(fault.call, _counted(fault))


def arm_or_exit() -> None:
    """Break the calls of this process as the variable says; where that makes no sense, say so and exit."""
    try:
        arm()
    except InjectionError as error:
        # In a line: whoever has mistyped the variable needs no traceback of our modules.
        sys.exit(f"roundelay: {error}")


def _change(fault: Fault) -> Change:
    """What runs in the place of the call."""
    seconds = float("inf") if fault.seconds is None else fault.seconds
    made: dict[str, Callable[[], Change]] = {
        "kill": lambda: changes.before(inject.kill),
        "stop": lambda: changes.before(inject.stop),
        "hang": lambda: changes.before(lambda: inject.hang(seconds=seconds)),
        "hang-in-c": lambda: changes.before(lambda: inject.hang_in_c(seconds=seconds)),
        "fail": lambda: changes.before(inject.fail),
        "skip": changes.left_out,
        "wrong-call": lambda: changes.another("Barrier"),
        "wrong-count": lambda: changes.wrong_count(fault.call),
        "wrong-root": lambda: changes.wrong_root(fault.call),
        "wrong-op": lambda: changes.wrong_op(fault.call),
        "receive": lambda: changes.waiting_for(fault.peer),
        "slow": lambda: changes.slow(fault.factor or 1.0),
        "late": lambda: changes.late(fault.peer or 0, seconds),
    }
    return made[fault.kind]()


def _counted(fault: Fault) -> Change:
    """Break some of the calls of a method."""
    numbers, broken = count(), _change(fault)

    def change(method: Any, comm: Any, *arguments: Any, **named: Any) -> Any:
        is_broken = fault.after <= next(numbers) < fault.last
        if is_broken and (not fault.rank or MPI.COMM_WORLD.Get_rank() in fault.rank):
            return broken(method, comm, *arguments, **named)
        return method(comm, *arguments, **named)

    return change
