"""Monitoring that was asked for before there was MPI: it begins when the program initializes MPI."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import wraps
from typing import Any

from ...datatypes.plain import MPI
from . import saying, start
from .spawning import local_rank


def begin_with_mpi(names: dict[str, Any]) -> None:
    """Begin now, or when a function of the module that has these names initializes MPI."""
    if start.is_begun():
        return
    if MPI.Is_initialized():
        if not MPI.Is_finalized():
            start.monitor()
        return
    for name in ("Init", "Init_thread"):
        names[name] = _followed(names[name])
    atexit.register(_say_if_in_vain)


def _followed(initialize: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(initialize)
    def initialize_and_begin(*arguments: Any, **named: Any) -> Any:
        found = initialize(*arguments, **named)
        if not start.is_begun():
            start.monitor()
        return found

    return initialize_and_begin


def _say_if_in_vain() -> None:
    if not start.is_begun() and local_rank() in ("", "0"):
        saying.say("this was not monitored: the program has not called MPI.Init or MPI.Init_thread of mpi4py")
