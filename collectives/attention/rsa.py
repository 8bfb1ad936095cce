"""Ring Self-Attention: keys go around, then values; each rank has whole rows of weights in between.

Li, Xue, Baranwal, Li and You, "Sequence Parallelism: Long Sequence Training from System Perspective" (arXiv
2105.13120), section 3.2. The rows take memory that grows with the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...datatypes.plain import MPI
from .group import wait
from .problem import Problem
from .tiles import Array, by_key_head, contiguous, cover, kept


def forward(problem: Problem, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """Output (B, Hq, S, Dv) and log-sum-exp (B, Hq, S) of this member's queries."""
    shape, me = problem.shape, problem.group.index
    dtype = shape.computing
    bounds = np.cumsum([0, *(tokens.size for tokens in problem.geometry.tokens)])
    queries = by_key_head(np.multiply(q, problem.scale, dtype=dtype), shape.key_heads)
    weights = np.empty_like(queries, shape=(*queries.shape[:-1], int(bounds[-1])))
    for owner, keys in _around(problem, k):
        columns = weights[..., bounds[owner] : bounds[owner + 1]]
        np.matmul(queries, keys[:, :, None].astype(dtype, copy=False).swapaxes(-1, -2), out=columns)
        hidden = problem.geometry.rule.hidden(problem.geometry.tokens[me], problem.geometry.tokens[owner])
        cover(columns, hidden)
        if problem.padding is not None:
            cover(columns, ~problem.padding[owner][:, None, None, None])
    lse = _softmax(weights)
    out = np.zeros_like(queries, shape=(*queries.shape[:-1], shape.value_size))
    for owner, values in _around(problem, v):
        columns = weights[..., bounds[owner] : bounds[owner + 1]]
        if problem.dropout is not None:
            columns *= _kept(problem, owner, weights)
        out += _without_unseen(columns, values[:, :, None].astype(dtype, copy=False))
    return out.reshape(*q.shape[:-1], shape.value_size), lse.reshape(q.shape[:-1])


def _around(problem: Problem, own: Array) -> Iterator[tuple[int, Array]]:
    """The array of each member, this one's first; the next is under way while one is looked at."""
    group, like = problem.group, contiguous(own)
    held = like
    for distance in range(group.size):
        owner = (group.index - distance) % group.size
        requests: list[MPI.Request] = []
        coming = held
        if distance + 1 < group.size:
            count = problem.count((owner - 1) % group.size)
            coming = np.empty_like(like, shape=(*like.shape[:2], count, like.shape[3]))
            requests.append(group.receive(coming, (group.index - 1) % group.size))
            requests.append(group.send(held, (group.index + 1) % group.size))
        yield owner, held
        wait(requests)
        held = coming


def _softmax(scores: Array) -> Array:
    """Turn rows of scores into weights; return their log-sum-exp."""
    if not scores.shape[-1]:
        return np.full_like(scores, -np.inf, shape=scores.shape[:-1])
    top = scores.max(axis=-1, keepdims=True)
    safe = np.where(np.isneginf(top), 0, top)
    np.subtract(scores, safe, out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    scores /= np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        lse: Array = (safe + np.log(total))[..., 0]
    return lse


def _without_unseen(weights: Array, values: Array) -> Array:
    """The product, to which values that are not finite come only where they have a weight."""
    finite = np.isfinite(values)
    if finite.all():
        whole: Array = np.matmul(weights, values)
        return whole
    product: Array = np.matmul(weights, np.where(finite, values, 0))
    seen = np.matmul((weights > 0).astype(values.dtype), (~finite).astype(values.dtype))
    np.copyto(product, np.nan, where=seen > 0)
    return product


def _kept(problem: Problem, owner: int, like: Array) -> Array:
    assert problem.dropout is not None
    shape, each = problem.shape, problem.shape.each
    names = [
        [problem.first_head + head * each + place for place in range(each)] for head in range(shape.key_heads)
    ]
    tokens = problem.geometry.tokens
    positions = tokens[problem.group.index].positions, tokens[owner].positions
    return np.stack([kept(problem.dropout, names, row, *positions, like) for row in range(shape.batch)])
