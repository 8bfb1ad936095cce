"""Gradients of softmax attention, block by block: the weights are found again from the log-sum-exp.

With the output and the log-sum-exp over all keys, what each block contributes to the gradients only has to be
added (Dao et al., "FlashAttention", arXiv 2205.14135, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import fused
from .dropout import Dropout
from .flash import Operators
from .regions import Region, known_regions
from .sums import Sum
from .tiles import (
    Array,
    Block,
    Heads,
    Poll,
    Work,
    by_key_head,
    computing_dtype,
    heads_together,
    hide,
    kept,
    passes,
    work_for,
)
from .visibility import Stripe, Tokens


class Queries:
    """Queries with all that their gradients need: the output, or what it is needed for.

    Parameters
    ----------
    q, dout : (B, Hq, S, D) and (B, Hq, S, Dv) arrays
    lse : (B, Hq, S) array
        Over all keys.
    tokens : Tokens
    first_head : int
        Number of the first head among those of all ranks.
    out : (B, Hq, S, Dv) array, optional
    delta : (B, Hq, S) array, optional
        Sums of `dout * out` over Dv.
    """

    def __init__(
        self,
        q: Array,
        dout: Array,
        lse: Array,
        tokens: Tokens,
        first_head: int = 0,
        *,
        out: Array | None = None,
        delta: Array | None = None,
    ) -> None:
        self.q, self.dout, self.lse, self.tokens, self.first_head = q, dout, lse, tokens, first_head
        self.out, self._delta = out, delta

    @property
    def delta(self) -> Array:
        """Sums of `dout * out` over Dv, found when they are asked for."""
        if self._delta is None:
            assert self.out is not None
            self._delta = delta_of(self.dout, self.out)
        return self._delta

    def of_key_heads(self, heads: slice, each: int) -> Queries:
        """The queries of some key heads."""
        some = slice(heads.start * each, heads.stop * each)
        if some == slice(0, self.q.shape[1]):
            return self
        q, dout, lse, delta = (array[:, some] for array in (self.q, self.dout, self.lse, self.delta))
        return Queries(q, dout, lse, self.tokens, self.first_head + some.start, delta=delta)


class Gradients(NamedTuple):
    """Gradients of queries (B, Hq, Sq, D), keys (B, Hk, Sk, D) and values (B, Hk, Sk, Dv)."""

    q: Array
    k: Array
    v: Array


class Sums(NamedTuple):
    """The dtype in which `Gradients` are added up."""

    q: Sum
    k: Sum
    v: Sum

    def results(self) -> Gradients:
        """The gradients."""
        return Gradients(self.q.result, self.k.result, self.v.result)


def delta_of(dout: Array, out: Array) -> Array:
    """Sums over the last axis of the products, in float32 or better."""
    dtype = computing_dtype(dout.dtype)
    slopes: Any = dout.astype(dtype, copy=False)
    results = out.astype(dtype, copy=False)
    sums: Array
    if isinstance(slopes, np.ndarray):
        sums = np.matmul(slopes[..., None, :], results[..., None])[..., 0, 0]
    else:
        # So many products of two vectors each are slow on a device.
        sums = (slopes * results).sum(axis=-1)
    return sums


class Backward:
    """Adds what pairs of queries and keys contribute to the gradients.

    Parameters
    ----------
    scale : float
    dropout : Dropout, optional
    """

    def __init__(self, scale: float, dropout: Dropout | None = None) -> None:
        self._scale, self._dropout = scale, dropout

    def add(
        self,
        queries: Queries,
        block: Block,
        sums: Sums,
        stripes: Sequence[Stripe],
        poll: Poll | None = None,
    ) -> None:
        """Add to the gradients what the stripes contribute; `poll` is called now and then."""
        dtype, key_heads = computing_dtype(queries.q.dtype), block.k.shape[1]
        operators = fused.operators(queries.q, block.v.shape[-1])
        if operators is not None and self._dropout is None and block.padding is None:
            regions = known_regions(stripes)
            if regions is not None:
                self._add_regions(operators, queries, block, sums, regions, poll)
                return
        known = block._replace(k=block.k.astype(dtype, copy=False), v=block.v.astype(dtype, copy=False))
        # A query that sees nothing has no weights: they are 0 above any score.
        lse = np.where(np.isneginf(queries.lse), np.inf, queries.lse).astype(dtype, copy=False)
        dout = queries.dout.astype(dtype, copy=False)
        arrays = (queries.q, dout, lse, queries.delta, sums.q.array)
        by_query = tuple(by_key_head(array, key_heads) for array in arrays)
        pair = _Pair(by_query, queries, known, sums.k.array, sums.v.array, work_for(lse))
        each = queries.q.shape[1] // key_heads
        for heads in heads_together(len(block.k), key_heads, each, stripes):
            for stripe in stripes:
                self._add_stripe(heads, stripe, pair, poll)

    def _add_regions(
        self,
        operators: Operators,
        queries: Queries,
        block: Block,
        sums: Sums,
        regions: Sequence[Region],
        poll: Poll | None,
    ) -> None:
        """Add what fused operators find."""
        for region in regions:
            if poll is not None:
                poll()
            rows, keys = np.s_[:, :, region.rows], np.s_[:, :, region.keys]
            arrays = queries.q[rows], block.k[keys], block.v[keys]
            dout, lse = queries.dout[rows], queries.lse[rows]
            if queries.out is None:
                out = fused.output_for(operators, dout, queries.delta[rows])
            else:
                out = queries.out[rows]
            found = fused.gradients(operators, dout, arrays, out, lse, self._scale, region.causal)
            for each, part, where in zip(sums, found, (rows, keys, keys), strict=True):
                each.add(part, where)

    def _add_stripe(self, heads: Heads, stripe: Stripe, pair: _Pair, poll: Poll | None) -> None:
        work, block, at = pair.work, pair.block, (*heads, stripe.rows)
        dtype = pair.by_query[-1].dtype
        q, dout, lse, delta, dq = (array[at] for array in pair.by_query)
        scaled = np.multiply(q, self._scale, out=work.take("queries", q.shape), dtype=dtype)
        gradient = np.zeros_like(scaled)
        for tile in stripe.tiles:
            if poll is not None:
                poll()
            rows = slice(tile.rows.start - stripe.rows.start, tile.rows.stop - stripe.rows.start)
            part = (heads.row, heads.keys, None, tile.keys)
            weights = work.matmul("weights", scaled[:, :, rows], block.k[part].swapaxes(-1, -2))
            hide(weights, tile, block.padding, heads.row)
            slopes = work.matmul("slopes", dout[:, :, rows], block.v[part].swapaxes(-1, -2))
            factors = None
            if self._dropout is not None:
                where = pair.queries.tokens.positions[tile.rows], block.tokens.positions[tile.keys]
                names = heads.query_heads(pair.by_query[0].shape[2], pair.queries.first_head)
                factors = kept(self._dropout, names, heads.row, *where, weights)
                slopes *= factors
            passes(weights).slope(weights, slopes, lse[:, :, rows], delta[:, :, rows])
            if factors is not None:
                weights *= factors
            here = (heads.row, heads.keys, tile.keys)
            pair.dv[here] += _over_heads(work, weights, dout[:, :, rows])
            pair.dk[here] += _over_heads(work, slopes, scaled[:, :, rows])
            gradient[:, :, rows] += work.matmul("rows", slopes, block.k[part])
        gradient *= dtype.type(self._scale)
        dq += gradient


class _Pair(NamedTuple):
    """Inputs of the gradients, and the sums that they are added to; arrays of the queries by key head."""

    by_query: tuple[Array, ...]
    queries: Queries
    block: Block
    dk: Array
    dv: Array
    work: Work


def _over_heads(work: Work, weights: Array, rows: Array) -> Array:
    """Transposed products, summed over the query heads of each key head."""
    products = work.matmul("columns", weights.swapaxes(-1, -2), rows)
    summed: Array = products[:, 0] if products.shape[1] == 1 else products.sum(axis=1)
    return summed
