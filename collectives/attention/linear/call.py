"""The arguments of linear attention: read, checked, and seen as (B, Hk, G, S, D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ....datatypes.plain import MPI
from ...array_views import as_arrays, check_usable
from ..agreement import agree, signed
from ..arrays import by_head, check_axes_and_dtypes, check_key_heads, check_layout, check_tokens
from ..group import Group
from ..tiles import Array, by_key_head, computing_dtype
from .scans import Exscan
from .states import AllGather, Chain, Exchange, State
from .totals import by_all_gather, by_all_reduce, by_allreduce_of

AUTO = "auto"
# By the name of the algorithm: for causal attention, and for what is not masked.
_EXCHANGES: dict[str, Callable[[Group, State, bool], Exchange]] = {
    "all-gather": AllGather,
    "chain": Chain,
    "exscan": Exscan,
}
_TOTALS: dict[str, Callable[[Group, Array], Array]] = {
    "all-gather": by_all_gather,
    "all-reduce": by_all_reduce,
}
# Most bytes of states that a rank receives by an all-gather, if nobody asked for an algorithm.
_GATHERED = 4 * 1024 * 1024


@dataclass(frozen=True)
class Options:
    """Options of a call; the arguments of `linear_attention` have the same names."""

    causal: bool
    decay: Array | None
    heads: str
    ranks: Sequence[int] | None
    algorithm: str


class Signature(NamedTuple):
    """Properties in which all members must agree."""

    batch: int
    query_heads: int
    key_heads: int
    size: int
    value_size: int
    dtype: str
    heads: str
    causal: bool
    decay: tuple[float, ...] | None
    algorithm: str


class LinearCall:
    """A call that all members agree on, and whose arrays fit together.

    Parameters
    ----------
    what : str
        What is called, for errors.
    arrays : dict
        q, k and v; for gradients also dout.
    comm : Intracomm
    options : Options

    Raises
    ------
    ValueError
        On all members alike: what does not fit for one of them, or in what they differ.
    """

    def __init__(self, what: str, arrays: dict[str, Array], comm: MPI.Intracomm, options: Options) -> None:
        self.group = Group(comm, options.ranks)
        signature = signed(lambda: _signature(arrays, options))
        agree(self.group, what, signature, 0)
        assert isinstance(signature, Signature)
        key_heads = signature.key_heads
        self.dtype = computing_dtype(arrays["q"].dtype)
        self.views = {
            name: by_key_head(_for_products(by_head(array, options.heads), self.dtype), key_heads)
            for name, array in arrays.items()
        }
        self.rates = _rates(options, self.views["q"].shape[1:3])
        self._comm, self._options = comm, options

    @property
    def count(self) -> int:
        """Tokens of this rank."""
        return int(self.views["q"].shape[3])

    def result(self, like: str, size: int) -> tuple[Array, Array]:
        """Memory for a result with the heads of an argument, as the program has its own and as views are."""
        batch, key_heads, each, count, _ = self.views[like].shape
        shape = batch, key_heads * each, count, size
        in_order = shape if self._options.heads == "BHSD" else (batch, count, key_heads * each, size)
        memory = np.empty(in_order, self.dtype)
        return memory, by_key_head(by_head(memory, self._options.heads), key_heads)

    def begin(self, sums: Array, reverse: bool) -> Exchange:
        """Begin to exchange states with the members before and behind."""
        name = self._options.algorithm
        if name == AUTO:
            name = "all-gather" if (self.group.size - 1) * sums.nbytes <= _GATHERED else "chain"
        return _EXCHANGES[name](self.group, State(sums, self.rates, self.count), reverse)

    def total(self, state: Array) -> Array:
        """Sum up the states of all members."""
        name = self._options.algorithm
        if name in (AUTO, "all-reduce") and self._options.ranks is None:
            return by_allreduce_of(self._comm, state)
        return _TOTALS["all-reduce" if name == AUTO else name](self.group, state)


def _signature(arrays: dict[str, Array], options: Options) -> Signature:
    key_heads = _check_arrays(arrays, options.heads)
    _check_algorithm(options)
    (batch, heads, _, size), values = by_head(arrays["q"], options.heads).shape, arrays["v"].shape[3]
    rates = _rates(options, (key_heads, heads // key_heads))
    decay = None if rates is None else tuple(rates.ravel().tolist())
    how = options.heads, options.causal, decay, options.algorithm
    return Signature(batch, heads, key_heads, size, values, str(arrays["q"].dtype), *how)


def _check_arrays(arrays: dict[str, Array], heads: str) -> int:
    """How many key heads there are, if all fits."""
    check_layout(heads)
    check_axes_and_dtypes(arrays, heads)
    q, k, v = (arrays[name] for name in "qkv")
    check_tokens(q, k, heads)
    key_heads = check_key_heads(q, k, v, heads)
    dout = arrays.get("dout")
    if dout is not None and dout.shape != (*q.shape[:3], v.shape[3]):
        raise ValueError(f"dout of shape {dout.shape}: expected {(*q.shape[:3], v.shape[3])}, as the output")
    return key_heads


def _check_algorithm(options: Options) -> None:
    able = list(_EXCHANGES if options.causal else _TOTALS)
    if options.ranks is not None and "exscan" in able:
        able.remove("exscan")
    name = options.algorithm
    if name not in (AUTO, *_EXCHANGES, *_TOTALS):
        raise ValueError(
            f"algorithm {name!r}: expected one of {', '.join((AUTO, *{**_EXCHANGES, **_TOTALS}))}"
        )
    if name not in (AUTO, *able):
        where = "causal" if options.causal else "not causal"
        among = "" if options.ranks is None else ", among some ranks"
        raise ValueError(f"algorithm {name!r}, {where}{among}: expected one of {', '.join((AUTO, *able))}")


def _rates(options: Options, shape: tuple[int, ...]) -> Array | None:
    """The decays by key head."""
    if options.decay is None:
        return None
    if not options.causal:
        raise ValueError("decay, not causal: expected causal=True, since what decays is the past")
    decay: Any = options.decay
    if not isinstance(decay, list | tuple):
        (decay,) = as_arrays(decay)
        check_usable({"decay": decay})
    rates = np.asarray(decay, np.float64)
    if rates.shape != (shape[0] * shape[1],):
        raise ValueError(
            f"decay of shape {rates.shape}: expected ({shape[0] * shape[1]},), one for each head of q"
        )
    if not (rates >= 0).all() or np.isinf(rates).any():
        raise ValueError(f"decay {rates}: expected finite numbers, 0 or more")
    return rates.reshape(shape)


def _for_products(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in what is computed in, laid out so that BLAS takes its matrices as they are."""
    array = array.astype(dtype, copy=False)
    step, unit = array.strides[-2:]
    fits = unit == array.itemsize and step >= array.shape[-1] * unit and step % unit == 0
    return array if fits else np.ascontiguousarray(array)
