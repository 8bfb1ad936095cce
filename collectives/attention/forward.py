"""Softmax attention of queries to blocks of keys, one after another, by an array library's matrix products.

For each tile of queries and keys the scores are one product, and what the weights give another one; between
them lies a pass over the tile, which is small enough for the second cache. The accumulator is scaled
when a larger score comes (the online softmax of Milakov and Gimelshein, arXiv 1805.02867; tiles as in Dao,
"FlashAttention-2", arXiv 2307.08691).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import fused
from .dropout import Dropout
from .flash import Operators
from .regions import Region, known_regions
from .tiles import (
    Array,
    Block,
    Heads,
    Poll,
    Work,
    by_key_head,
    computing_dtype,
    contiguous,
    heads_together,
    hide,
    kept,
    passes,
    work_for,
)
from .visibility import Stripe, Tokens


class Forward:
    """Queries, and what attention to the blocks so far has given them.

    Parameters
    ----------
    q : (B, Hq, S, D) array
    tokens : Tokens
    key_heads, value_size : int
        Heads of the keys, and size of a value.
    scale : float
    dropout : Dropout, optional
    first_head : int
        Number of the first query head among those of all ranks.
    """

    def __init__(
        self,
        q: Array,
        tokens: Tokens,
        key_heads: int,
        value_size: int,
        scale: float,
        dropout: Dropout | None = None,
        first_head: int = 0,
    ) -> None:
        self._q, self.tokens, self._scale = by_key_head(q, key_heads), tokens, scale
        self._dropout, self._first_head = dropout, first_head
        self._dtype, self._value_size = computing_dtype(q.dtype), value_size
        self._rows = q.shape[:3]
        # The first result, if it was for all queries at once: it is enough until another one is added.
        self._first: tuple[Array, Array] | None = None
        self._sums: tuple[Array, Array, Array] | None = None
        self._operators = None if dropout is not None else fused.operators(q, value_size)

    def _begun(self) -> tuple[Array, Array, Array]:
        """Outputs before they are divided, greatest scores, and what the outputs are to be divided by."""
        if self._first is not None:
            out, top = (array.astype(self._dtype) for array in self._first)
            self._sums = out, top, (top > -np.inf).astype(self._dtype)
            self._first = None
        if self._sums is None:
            out, top, total = (
                np.full_like(self._q, value, self._dtype, shape=(*self._rows, *last))
                for value, last in ((0, (self._value_size,)), (-np.inf, ()), (0, ()))
            )
            self._sums = out, top, total
        return self._sums

    def add(
        self, block: Block, stripes: Sequence[Stripe], poll: Poll | None = None, first_key_head: int = 0
    ) -> None:
        """Attend to a block, of which the stripes say what is seen; `poll` is called now and then.

        The block may have some key heads only, from `first_key_head` on.
        """
        if self._operators is not None and block.padding is None:
            regions = known_regions(stripes)
            if regions is not None and self._leaks_nothing(regions, block):
                self._add_regions(self._operators, block, regions, poll, first_key_head)
                return
        dtype = self._dtype
        keys, values = block.k.astype(dtype, copy=False), block.v.astype(dtype, copy=False)
        broken = None
        if not np.isfinite(values).all():
            # 0 times NaN is NaN: what a query does not see must not get to it.
            broken = (~np.isfinite(values)).astype(dtype)
            values = np.where(broken, dtype.type(0), values)
        known = block._replace(k=keys, v=values)
        begun = self._begun()
        sums = tuple(by_key_head(each, self._q.shape[1]) for each in begun)
        pair = _Pair(known, broken, sums, work_for(begun[0]), passes(begun[0]))
        for heads in heads_together(len(keys), keys.shape[1], self._q.shape[2], stripes):
            for stripe in stripes:
                self._add_stripe(heads, heads.after(first_key_head), stripe, pair, poll)

    def _leaks_nothing(self, regions: Sequence[Region], block: Block) -> bool:
        """Whether nothing comes to rows from values that they do not see; scores are replaced."""
        assert self._operators is not None
        is_causal = any(region.causal for region in regions)
        return not is_causal or fused.are_finite(self._operators, block.v)

    def _add_regions(
        self,
        operators: Operators,
        block: Block,
        regions: Sequence[Region],
        poll: Poll | None,
        first_key_head: int,
    ) -> None:
        """Attend by fused operators."""
        each = self._q.shape[2]
        heads = slice(first_key_head * each, (first_key_head + block.k.shape[1]) * each)
        q = self._q.reshape(*self._rows, self._q.shape[-1])[:, heads]
        for region in regions:
            if poll is not None:
                poll()
            arrays = (q[:, :, region.rows], block.k[:, :, region.keys], block.v[:, :, region.keys])
            found = fused.attend(operators, arrays, self._scale, region.causal)
            self.merge(*found, heads=heads, rows=region.rows)

    def _add_stripe(
        self,
        heads: Heads,
        here: Heads,
        stripe: Stripe,
        pair: _Pair,
        poll: Poll | None,
    ) -> None:
        """Attend with some heads, which are numbered otherwise `here` than in the block."""
        at, block, broken, work = (*here, stripe.rows), pair.block, pair.broken, pair.work
        q = self._q[at]
        scaled = np.multiply(q, self._scale, out=work.take("queries", q.shape), dtype=self._dtype)
        state = tuple(contiguous(array[at]) for array in pair.sums)
        unknown = bool(np.isneginf(state[1]).all())
        for tile in stripe.tiles:
            if poll is not None:
                poll()
            rows = slice(tile.rows.start - stripe.rows.start, tile.rows.stop - stripe.rows.start)
            out, top, total = (array[:, :, rows] for array in state)
            part = (heads.row, heads.keys, None, tile.keys)
            scores = work.matmul("scores", scaled[:, :, rows], block.k[part].swapaxes(-1, -2))
            hide(scores, tile, block.padding, heads.row)
            alpha = np.empty_like(top)
            pair.passes.weigh(scores, top, total, alpha)
            if self._dropout is not None:
                where = self.tokens.positions[tile.rows], block.tokens.positions[tile.keys]
                names = here.query_heads(self._q.shape[2], self._first_head)
                scores *= kept(self._dropout, names, heads.row, *where, scores)
            if unknown and out.shape == state[0].shape:
                np.matmul(scores, block.v[part], out=out)
            else:
                pair.passes.accumulate(out, work.matmul("product", scores, block.v[part]), alpha)
            unknown = False
            if broken is not None:
                np.copyto(out, np.nan, where=np.matmul((scores > 0).astype(out.dtype), broken[part]) > 0)
        for array, found in zip(pair.sums, state, strict=True):
            array[at] = found

    def merge(self, out: Array, lse: Array, *, heads: slice = slice(None), rows: slice = slice(None)) -> None:
        """Take in what others found for the same queries, or some: normalized, with its log-sum-exp."""
        if self._first is None and self._sums is None and lse.shape == self._rows:
            self._first = out, lse
            return
        sums, greatest, total = (array[:, heads, rows] for array in self._begun())
        top = np.maximum(greatest, lse)
        safe = np.where(np.isneginf(top), 0, top)
        here, there = np.exp(greatest - safe), np.exp(lse - safe)
        total *= here
        total += there
        sums *= here[..., None]
        sums += there[..., None] * out.astype(self._dtype, copy=False)
        greatest[...] = top

    def result(self) -> tuple[Array, Array]:
        """Output (B, Hq, S, Dv), log-sum-exp (B, Hq, S), 0 and -inf where no key is seen; asked for once.

        The output of a single fused operator is as it gave it, any other in float32 or better.
        """
        if self._first is not None:
            return self._first
        out, top, total = self._begun()
        with np.errstate(divide="ignore"):
            lse = top + np.log(total)
        out /= np.where(total == 0, 1, total)[..., None]
        return out, lse


class _Pair(NamedTuple):
    """Queries, and the sums by key head that are added to, with all that adding to them needs."""

    block: Block
    broken: Array | None
    sums: tuple[Array, ...]
    work: Work
    passes: Any
