"""Collectives of roundelay's own, as the record of calls has them: one call, whatever messages they send."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from typing import Any, TypeVar

from .interposer import interposer

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def _number(name: str) -> int:
    return int(interposer().functions().index(name))


def recorded(function: Function) -> Function:
    """Let a collective function, which has a parameter `comm`, be recorded as one call."""
    parameters = signature(function)
    name = function.__name__

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        module = interposer()
        if module is None or not module.is_recording():
            return function(*arguments, **named)
        comm = parameters.bind(*arguments, **named).arguments["comm"]
        module.begin_operation(_number(name), comm.handle)
        try:
            return function(*arguments, **named)
        finally:
            module.end_operation()

    return call  # type: ignore[return-value]
