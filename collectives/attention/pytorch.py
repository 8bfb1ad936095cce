"""Attention over ranks for PyTorch, with gradients by autograd and the arguments that PyTorch's own has.

Programs import it as `roundelay.pytorch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from ...datatypes.plain import MPI
from ..array_views import Refused
from .checkpoint import computed_once
from .functions import Window, attention, attention_backward


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Keeps what attention returned, so that its gradients need nothing computed again."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, comm: MPI.Intracomm, options: dict[str, Any]) -> Any:
        return computed_once(lambda: attention(q, k, v, comm, **options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        q, k, v, ctx.comm, options = inputs
        out, lse = output
        padding = options.get("key_padding")
        # Kept by autograd, which notices when the program writes to it.
        padding = None if padding is None else torch.as_tensor(padding)
        ctx.save_for_backward(q, k, v, out, lse, padding)
        ctx.mark_non_differentiable(lse)
        # The program may change its lists, of documents and ranks, before it goes backward.
        ctx.options = deepcopy({name: each for name, each in options.items() if name != "key_padding"})

    @staticmethod
    def backward(ctx: Any, dout: Any, _: Any) -> Any:
        return *_AttentionBackward.apply(dout, *ctx.saved_tensors, ctx.comm, ctx.options), None, None


class _AttentionBackward(torch.autograd.Function):  # type: ignore[misc]
    """The gradients, which have none of their own.

    PyTorch's `once_differentiable` refuses to differentiate them only where `dout` requires a gradient, and
    takes them for constants where it is that of a sum.
    """

    @staticmethod
    def forward(*given: Any) -> Any:
        dout, q, k, v, out, lse, padding, comm, options = given
        return attention_backward(dout, q, k, v, out, lse, comm, key_padding=padding, **options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(*_: Any) -> Any:
        raise RuntimeError("attention over ranks has no gradients of gradients: it is differentiable once")


# A compiler of graphs cannot look into messages: it compiles what comes before and after.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def autograd_attention(
    q: Any, k: Any, v: Any, comm: MPI.Intracomm, *, return_lse: bool = False, **options: Any
) -> Any:
    """Softmax attention of a sequence of which each rank has a part, with gradients by autograd.

    What is kept for the gradients are `q`, `k`, `v`, the output and its log-sum-exp. A block in
    `torch.utils.checkpoint` is computed again with its attention, and all messages, unless its `context_fn`
    is `keep_attention`.

    Parameters
    ----------
    q : (B, S, Hq, D) tensor
        Queries of this rank's tokens, float16, bfloat16, float32 or float64.
    k : (B, S, Hk, D) tensor
    v : (B, S, Hk, Dv) tensor
    comm : Intracomm
        All ranks that call go backward too, through the same calls in the same order: a rank without a loss
        of its own goes back from `0 * out.sum()`.
    return_lse : bool
        Whether to return the log-sum-exp as well; no gradient passes through it.
    **options
        Those of `roundelay.attention`.

    Returns
    -------
    out : (B, S, Hq, Dv) tensor
        Of the dtype and device of `q`.
    lse : (B, Hq, S) tensor
        If asked for.

    Raises
    ------
    ValueError
        As `roundelay.attention`, on all ranks.
    RuntimeError
        Where gradients are themselves differentiated, as with `create_graph=True`; in the backward pass, if
        what it needs was written to in place. Also from `torch.vmap`. `NotImplementedError` in forward mode.

    Examples
    --------
    >>> from roundelay import MPI
    >>> q, k, v = torch.randn(3, 1, 8, 2, 4, requires_grad=True)
    >>> out = autograd_attention(q, k, v, MPI.COMM_WORLD, causal=True)
    >>> out.sum().backward()
    >>> out.shape
    torch.Size([1, 8, 2, 4])
    """
    tensors = (_tensor_or_refused(each) for each in (q, k, v))
    out, lse = _Attention.apply(*tensors, comm, options)
    return (out, lse) if return_lse else out


def _tensor_or_refused(value: Any) -> Any:
    if isinstance(value, torch.Tensor | Refused):
        return value
    return Refused(f"{type(value).__name__}: expected a tensor")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def scaled_dot_product_attention(  # noqa: PLR0913
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    comm: MPI.Intracomm,
    placement: str = "contiguous",
    window: Window = None,
    documents: Sequence[int] | None = None,
    seed: int | None = None,
    ranks: Sequence[int] | None = None,
    algorithm: str = "auto",
) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention` of a sequence of which each rank has a part.

    The method is that of `roundelay.attention`.

    Parameters
    ----------
    query : (B, Hq, S, D) tensor
        Queries of this rank's tokens.
    key : (B, Hk, S, D) tensor
        Keys of the same tokens.
    value : (B, Hk, S, Dv) tensor
    attn_mask : (B, 1, 1, S) bool tensor, optional
        Which of this rank's keys are there. `is_causal`, `window` and `documents` hide others.
    dropout_p : float
        What share of the weights is dropped; `seed` says which.
    is_causal : bool
        Whether a token sees none after it, in the whole sequence.
    scale : float, optional
        D ** -0.5 if not given.
    enable_gqa : bool
        Whether there may be fewer heads of keys and values than of queries.
    comm : Intracomm
    placement, window, documents, seed, ranks, algorithm
        As in `roundelay.attention`.

    Returns
    -------
    (B, Hq, S, Dv) tensor
        Of the dtype and device of `query`; 0 for a token that sees none.

    Raises
    ------
    ValueError
        On all ranks: another mask than described, heads that differ without `enable_gqa`, and what
        `roundelay.attention` refuses.

    Examples
    --------
    >>> from roundelay import MPI
    >>> query, key, value = torch.randn(3, 1, 2, 8, 4)
    >>> scaled_dot_product_attention(query, key, value, is_causal=True, comm=MPI.COMM_WORLD).shape
    torch.Size([1, 2, 8, 4])
    """
    query, key = _tensor_or_refused(query), _tensor_or_refused(key)
    tensors = not isinstance(query, Refused) and not isinstance(key, Refused)
    if tensors and not enable_gqa and key.shape[1:2] != query.shape[1:2]:
        key = Refused(
            f"key of shape {tuple(key.shape)}: expected the heads of query, {tuple(query.shape)}, "
            "or enable_gqa=True"
        )
    return autograd_attention(
        query,
        key,
        value,
        comm,
        causal=is_causal,
        scale=scale,
        placement=placement,
        heads="BHSD",
        window=window,
        documents=documents,
        key_padding=None if attn_mask is None else _key_padding(attn_mask),
        dropout=dropout_p,
        seed=seed,
        ranks=ranks,
        algorithm=algorithm,
    )


def _key_padding(mask: Any) -> Any:
    mask = _tensor_or_refused(mask)
    if isinstance(mask, Refused):
        return mask
    if mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1:3] == (1, 1):
        return mask[:, 0, 0]
    return Refused(
        f"attn_mask of shape {tuple(mask.shape)} and {mask.dtype}: expected None or bool of (B, 1, 1, S), "
        "which keys are there; is_causal, window and documents hide others"
    )


class SequenceParallelAttention(torch.nn.Module):  # type: ignore[misc]
    """`scaled_dot_product_attention` with its communicator and options, as a part of a model.

    Parameters
    ----------
    comm : Intracomm
        A copy of the module has the same one.
    **options
        placement, window, documents, seed, ranks and algorithm, as in `roundelay.attention`. They are kept in
        the attribute `options`: a program that drops weights gives each module another `options["seed"]` in
        each step, after the backward pass of the one before.

    Examples
    --------
    >>> from roundelay import MPI
    >>> attend = SequenceParallelAttention(MPI.COMM_WORLD, placement="zigzag")
    >>> attend(*torch.randn(3, 1, 2, 8, 4), is_causal=True).shape
    torch.Size([1, 2, 8, 4])
    """

    def __init__(self, comm: MPI.Intracomm, **options: Any) -> None:
        super().__init__()
        self.comm, self.options = comm, options

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceParallelAttention:
        # Models are copied by one rank at a time; a communicator only by all of them together.
        memo[id(self.comm)] = self.comm
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """Attend; arguments and result are those of `scaled_dot_product_attention`."""
        given = (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        return scaled_dot_product_attention(*given, comm=self.comm, **self.options)
