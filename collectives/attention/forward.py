"""Softmax attention of queries to blocks of keys, one after another, by an array library's matrix products.

For each tile of queries and keys the scores are one product, and what the weights give another one; between
them lies a pass over the tile, which is small enough for the second cache. What was added before is scaled
when a larger score comes (the online softmax of Milakov and Gimelshein, arXiv 1805.02867; tiles as in Dao,
"FlashAttention-2", arXiv 2307.08691).
"""

from __future__ import annotations

from collections.abc import Sequence

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
        batch, heads, count, _ = q.shape
        dtype = computing_dtype(q.dtype)
        self.out = np.zeros_like(q, dtype, shape=(batch, heads, count, value_size))
        self.top = np.full_like(q, -np.inf, dtype, shape=(batch, heads, count))
        self.total = np.zeros_like(self.top)
        self._state = tuple(by_key_head(each, key_heads) for each in (self.out, self.top, self.total))
        self._work = work_for(self.out)
        self._passes = passes(self.out)
        self._operators = None if dropout is not None else fused.operators(q, value_size)

    def add(
        self, block: Block, stripes: Sequence[Stripe], poll: Poll | None = None, first_key_head: int = 0
    ) -> None:
        """Attend to a block, of which the stripes say what is seen; `poll` is called now and then.

        The block may have some key heads only, from `first_key_head` on.
        """
        if self._operators is not None and block.padding is None:
            regions = known_regions(stripes)
            if regions is not None and fused.are_finite(self._operators, block.k, block.v):
                self._add_regions(self._operators, block, regions, poll, first_key_head)
                return
        dtype = self.out.dtype
        keys, values = block.k.astype(dtype, copy=False), block.v.astype(dtype, copy=False)
        broken = None
        if not np.isfinite(values).all():
            # 0 times NaN is NaN: what a query does not see must not get to it.
            broken = (~np.isfinite(values)).astype(dtype)
            values = np.where(broken, dtype.type(0), values)
        known = block._replace(k=keys, v=values)
        for heads in heads_together(len(keys), keys.shape[1], self._q.shape[2], stripes):
            for stripe in stripes:
                self._add_stripe(heads, heads.after(first_key_head), stripe, known, broken, poll)

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
        q = self._q.reshape(*self.top.shape, self._q.shape[-1])[:, heads]
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
        block: Block,
        broken: Array | None,
        poll: Poll | None,
    ) -> None:
        """Attend with some heads, which are numbered otherwise `here` than in the block."""
        at, work = (*here, stripe.rows), self._work
        q = self._q[at]
        scaled = np.multiply(q, self._scale, out=work.take("queries", q.shape), dtype=self.out.dtype)
        state = tuple(contiguous(array[at]) for array in self._state)
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
            self._passes.weigh(scores, top, total, alpha)
            if self._dropout is not None:
                where = self.tokens.positions[tile.rows], block.tokens.positions[tile.keys]
                names = here.query_heads(self._q.shape[2], self._first_head)
                scores *= kept(self._dropout, names, heads.row, *where, scores)
            if unknown and out.shape == state[0].shape:
                np.matmul(scores, block.v[part], out=out)
            else:
                self._passes.accumulate(out, work.matmul("product", scores, block.v[part]), alpha)
            unknown = False
            if broken is not None:
                np.copyto(out, np.nan, where=np.matmul((scores > 0).astype(out.dtype), broken[part]) > 0)
        for array, found in zip(self._state, state, strict=True):
            array[at] = found

    def merge(self, out: Array, lse: Array, *, heads: slice = slice(None), rows: slice = slice(None)) -> None:
        """Take in what others found for the same queries, or some: normalized, with its log-sum-exp."""
        sums, greatest, total = (array[:, heads, rows] for array in (self.out, self.top, self.total))
        top = np.maximum(greatest, lse)
        safe = np.where(np.isneginf(top), 0, top)
        here, there = np.exp(greatest - safe), np.exp(lse - safe)
        total *= here
        total += there
        sums *= here[..., None]
        sums += there[..., None] * out
        greatest[...] = top

    def result(self) -> tuple[Array, Array]:
        """Output (B, Hq, S, Dv), log-sum-exp (B, Hq, S), 0 and -inf where no key is seen; asked for once."""
        with np.errstate(divide="ignore"):
            lse = self.top + np.log(self.total)
        self.out /= np.where(self.total == 0, 1, self.total)[..., None]
        return self.out, lse
