"""Causal linear attention: a rank's own tokens while states are under way, then what the states add."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..tiles import Array, Work
from .call import LinearCall
from .chunks import Chunks, heads_together, multiply
from .flow import Flow
from .states import Exchange


class _Part(NamedTuple):
    """Some heads of a row of the batch."""

    place: tuple[slice, slice]
    chunks: Chunks


def forward(call: LinearCall, out: Array) -> None:
    """Write the output."""
    q, k, v = (call.views[name] for name in "qkv")
    work = Work(q)
    parts = _parts(call)
    flows = [Flow(k[place], v[place], chunks, work) for place, chunks in parts]
    exchange = _begin(call, parts, flows)
    for place, chunks in parts:
        arrays = q[place], k[place], v[place], out[place]
        _within(arrays, chunks, work, exchange.poll)
    incoming = exchange.finish()
    for (place, _), flow in zip(parts, flows, strict=True):
        flow.enter(incoming[place])
        flow.add(q[place], out[place])


def backward(call: LinearCall, gradients: tuple[Array, Array, Array]) -> None:
    """Write the gradients with respect to q, k and v."""
    dq, dk, dv = gradients
    dout, q, k, v = arrays = [call.views[name] for name in ("dout", "q", "k", "v")]
    work = Work(q)
    parts = _parts(call)
    flows = [Flow(k[place], v[place], chunks, work) for place, chunks in parts]
    slopes = [Flow(q[place], dout[place], chunks, work, reverse=True) for place, chunks in parts]
    exchange, back = _begin(call, parts, flows), _begin(call, parts, slopes, reverse=True)

    def poll() -> None:
        exchange.poll()
        back.poll()

    for place, chunks in parts:
        some = [array[place] for array in arrays], [array[place] for array in gradients]
        _within_backward(*some, chunks, work, poll)
    incoming, returning = exchange.finish(), back.finish()
    for (place, _), flow, slope in zip(parts, flows, slopes, strict=True):
        flow.enter(incoming[place])
        flow.add(dout[place], dq[place], transposed=True)
        slope.enter(returning[place])
        slope.add(v[place], dk[place], transposed=True)
        slope.add(k[place], dv[place])


def _parts(call: LinearCall) -> list[_Part]:
    chunks = Chunks(call.count, call.rates, call.dtype)
    batch, key_heads, each = call.views["q"].shape[:3]
    places = heads_together(batch, key_heads, each, call.count)
    return [_Part((row, heads), chunks.of_heads(heads)) for row, heads in places]


def _begin(call: LinearCall, parts: list[_Part], flows: list[Flow], reverse: bool = False) -> Exchange:
    """Send what this rank's tokens add up to."""
    q, v = call.views["q"], call.views["v"]
    groups = 1 if call.rates is None else q.shape[2]
    sums = np.empty((*q.shape[:2], groups, q.shape[-1], v.shape[-1]), call.dtype)
    for (place, _), flow in zip(parts, flows, strict=True):
        flow.total(sums[place])
    return call.begin(sums, reverse)


def _within(
    arrays: tuple[Array, Array, Array, Array], chunks: Chunks, work: Work, poll: Callable[[], object]
) -> None:
    """Write what queries read from the tokens of their own chunk."""
    for part in chunks.parts:
        q, k, v, out = (array[..., part, :] for array in arrays)
        scores = work.matmul("scores", q, k.swapaxes(-1, -2))
        scores *= chunks.mask(part)
        np.matmul(scores, v, out=out)
        poll()


def _within_backward(
    arrays: list[Array], gradients: list[Array], chunks: Chunks, work: Work, poll: Callable[[], object]
) -> None:
    """Write the gradients that come from the tokens of the same chunk."""
    for part in chunks.parts:
        dout, q, k, v = (array[..., part, :] for array in arrays)
        dq, dk, dv = (array[..., part, :] for array in gradients)
        scores = work.matmul("scores", q, k.swapaxes(-1, -2))
        scores *= chunks.mask(part)
        slopes = work.matmul("slopes", dout, v.swapaxes(-1, -2))
        slopes *= chunks.mask(part)
        np.matmul(slopes, k, out=dq)
        multiply(work, slopes.swapaxes(-1, -2), q, dk)
        multiply(work, scores.swapaxes(-1, -2), dout, dv)
        poll()
