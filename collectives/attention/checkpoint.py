"""Results of attention, kept while all else is computed again: for `torch.utils.checkpoint`.

A checkpoint runs a block twice, and without this its attention as well, with all messages. Results are known
by their order alone, since a block that is computed again does the same again. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple


class _Result(NamedTuple):
    """Output and log-sum-exp, and how often PyTorch saw them written to."""

    tensors: tuple[Any, Any]
    versions: list[int]


class _Block(AbstractContextManager[None]):
    """A block that is computed: for the first time, which fills `results`, or again, which reads them."""

    def __init__(self, results: list[_Result], again: bool) -> None:
        self._results, self._again = results, again
        self._place = 0
        self._tokens: list[Token[_Block | None]] = []

    def __enter__(self) -> None:
        # A graph that is retained goes backward, and so through its block, more than once.
        self._place = 0
        self._tokens.append(_computed.set(self))

    def __exit__(self, *_: object) -> None:
        _computed.reset(self._tokens.pop())

    def find(self, compute: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
        """Compute attention, or give what was found the first time."""
        if not self._again:
            # A block within another one that is computed again finds its results there.
            around = self._tokens[-1].old_value
            found = compute() if around in (Token.MISSING, None) else around.find(compute)
            self._results.append(_Result(_apart(found), _versions(found)))
            return found
        if self._place == len(self._results):
            raise RuntimeError(
                f"attention {self._place + 1} of a block that is computed again: expected {self._place}, as "
                "at the first time"
            )
        tensors, versions = self._results[self._place]
        if _versions(tensors) != versions:
            raise RuntimeError(
                f"attention {self._place + 1} of a block that is computed again: its output was written to "
                "in place; expected an operation that makes a new tensor"
            )
        self._place += 1
        return _apart(tensors)


_computed: ContextVar[_Block | None] = ContextVar("computed", default=None)


def keep_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Let a checkpoint keep what attention found: `checkpoint(..., context_fn=keep_attention)`.

    The output and the log-sum-exp of each call are kept, as DistFlashAttn does (Li, Shao et al. 2023, arXiv
    2310.03294, section 3.3): what comes before attention is computed again, attention and its messages are
    not.

    Returns
    -------
    first, again : context managers
        For the first time that a block is computed, and for all others.

    Raises
    ------
    RuntimeError
        In a block that is computed again: more calls than at the first time, or an output that was written
        to in place.

    Examples
    --------
    >>> first, again = keep_attention()
    >>> with first, again:
    ...     pass

    In a model:

    >>> def forward(block, x):
    ...     from torch.utils.checkpoint import checkpoint
    ...     return checkpoint(block, x, use_reentrant=False, context_fn=keep_attention)
    """
    results: list[_Result] = []
    return _Block(results, again=False), _Block(results, again=True)


def computed_once(compute: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Compute output and log-sum-exp, unless the block that is under way has them.

    Raises `RuntimeError` as `keep_attention` says.

    Examples
    --------
    >>> computed_once(lambda: (1, 2))
    (1, 2)
    """
    block = _computed.get()
    return compute() if block is None else block.find(compute)


def _apart(tensors: tuple[Any, Any]) -> tuple[Any, Any]:
    """The same memory in tensors of their own, since autograd writes into those that it is given."""
    out, lse = tensors
    return out.detach(), lse.detach()


def _versions(tensors: tuple[Any, Any]) -> list[int]:
    return [tensor._version for tensor in tensors]
