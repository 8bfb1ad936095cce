"""The three ways to run a staged operation: at once, nonblocking, and persistent.

Each takes the call that hands the stages to MPI, the stages to fill before it, and those to empty after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..datatypes.plain import MPI
from .interposer import interposer
from .staging import Stage

Runner = Callable[[Callable[[], Any], Sequence[Stage], Sequence[Stage]], Any]


class Behind(Protocol):
    """What a request of MPI stands for besides: MPI completes it when nothing is left to do here."""

    def start(self) -> None:
        """Begin, or begin again."""

    def advance(self) -> bool:
        """Go on; tell whether nothing is left to do."""

    def finish(self) -> None:
        """Do what follows once MPI has completed the request; an exception here becomes one of MPI's."""


def can_attach() -> bool:
    """Whether a request can stand for something besides."""
    return interposer() is not None


def attach(request: MPI.Request, behind: Behind, persistent: bool) -> None:
    """Let a request stand for something besides."""
    interposer().attach(MPI._addressof(request), behind, persistent)


class _Staged:
    """The stages of an operation, around what its request stands for already."""

    def __init__(
        self, inner: Behind | None, loads: Sequence[Stage], stores: Sequence[Stage], keeps: Any
    ) -> None:
        self._inner, self._loads, self._stores = inner, loads, stores
        self._keeps = keeps

    def start(self) -> None:
        for stage in self._loads:
            stage.load()
        if self._inner is not None:
            self._inner.start()

    def advance(self) -> bool:
        return self._inner is None or self._inner.advance()

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
        for stage in self._stores:
            stage.store()

    def __del__(self) -> None:
        for stage in (*self._loads, *self._stores):
            stage.release()


def run_at_once(call: Callable[[], Any], loads: Sequence[Stage], stores: Sequence[Stage]) -> None:
    """Run a blocking operation."""
    try:
        for stage in loads:
            stage.load()
        call()
        for stage in stores:
            stage.store()
    finally:
        for stage in (*loads, *stores):
            stage.release()


def run_started(call: Callable[[], Any], loads: Sequence[Stage], stores: Sequence[Stage]) -> MPI.Request:
    """Start a nonblocking operation; its request empties the stages."""
    for stage in loads:
        stage.load()
    return _wrap(call(), loads, stores, call, persistent=False)


def run_prepared(call: Callable[[], Any], loads: Sequence[Stage], stores: Sequence[Stage]) -> MPI.Request:
    """Prepare a persistent operation; its request fills the stages whenever it starts."""
    return _wrap(call(), loads, stores, call, persistent=True)


def _wrap(
    request: MPI.Request, loads: Sequence[Stage], stores: Sequence[Stage], keeps: Any, persistent: bool
) -> MPI.Request:
    inner = interposer().detach(MPI._addressof(request))
    attach(request, _Staged(inner, loads, stores, keeps), persistent)
    return request
