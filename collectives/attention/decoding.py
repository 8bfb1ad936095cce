"""Attention of a few new queries to a cache of keys and values that is spread over ranks.

Tree Attention (Shyam et al. 2024, arXiv 2408.04093): each rank attends to its part of the cache, and partial
results are merged by a reduction whose cost does not depend on the length of the cache. Of the three
reductions of the paper one is left: what is reduced is a row for each query, with the output and its
log-sum-exp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...comm.recorded import recorded
from ...comm.settings import checks_bounds
from ...datatypes.plain import MPI
from ..array_views import as_arrays, results_like
from .agreement import agree, signed
from .arrays import by_head, check_axes_and_dtypes, check_key_heads, check_layout, check_scale
from .group import Group
from .rows import row_datatype, row_operation
from .tiles import Array, computing_dtype


@recorded
def decode_attention(
    q: Array, k: Array, v: Array, comm: MPI.Intracomm, *, scale: float | None = None, heads: str = "BSHD"
) -> tuple[Array, Array]:
    """Attend from the same queries on all ranks to the keys and values of all ranks.

    One `Allreduce` merges what the ranks have found. Merging commutes to the last bit, and each merge of the
    algorithms that MPICH and Open MPI choose by themselves is done once, or by both sides on the same two
    operands: all ranks get the same bits.

    Parameters
    ----------
    q : (B, Sq, Hq, D) array of float16, bfloat16, float32 or float64
        The same on all ranks.
    k : (B, S, Hk, D) array of the same dtype
        This rank's part of the keys, in any order; S may differ between ranks, and be 0. Hk divides Hq.
    v : (B, S, Hk, Dv) array of the same dtype
    comm : Intracomm
        All its ranks call.
    scale : float, optional
        What scores are multiplied by; 1 / sqrt(D) if not given.
    heads : {"BSHD", "BHSD"}
        Order of the axes of q, k, v and the output.

    Returns
    -------
    out : (B, Sq, Hq, Dv) array of the dtype of q
        0 where no rank has a key. The same on all ranks.
    lse : (B, Hq, Sq) array of float32, or float64 for float64
        Logarithm of the sum of the exponentials of the scaled scores; -inf where no rank has a key.

    Raises
    ------
    ValueError
        Shapes, dtypes or heads that do not fit together, before anything is sent; with `ROUNDELAY_CHECK=1`
        on all ranks alike, also where they differ. Without, ranks tell each other nothing before: new tokens
        cannot wait.

    References
    ----------
    Shyam et al. 2024, "Tree Attention", arXiv 2408.04093: tree decoding.

    Examples
    --------
    Each rank has one key and one value:

    >>> import numpy as np
    >>> from roundelay import MPI
    >>> comm = MPI.COMM_WORLD
    >>> one = np.ones((1, 1, 1, 4), np.float32)
    >>> out, lse = decode_attention(one, one, comm.rank * one, comm)
    >>> bool(np.allclose(out, (comm.size - 1) / 2)), bool(np.allclose(lse, 2 + np.log(comm.size)))
    (True, True)
    """
    given = q
    q, k, v = as_arrays(q, k, v)
    if checks_bounds():
        _agree(q, k, v, comm, scale, heads)
    _check(q, k, v, heads, scale)
    queries, keys, values = (by_head(array, heads) for array in (q, k, v))
    rows = _attend(queries, keys, values, max(q.shape[3], 1) ** -0.5 if scale is None else float(scale))
    datatype = row_datatype(rows.dtype, rows.shape[-1])
    operation = row_operation(_merge, rows.dtype, commutes=True)
    MPI.Intracomm(comm).Allreduce(MPI.IN_PLACE, [rows, rows[..., 0].size, datatype], operation)
    out = np.ascontiguousarray(by_head(rows[..., :-1], heads), q.dtype)
    out, lse = results_like(given, out, np.ascontiguousarray(rows[..., -1]))
    return out, lse


def _agree(q: Array, k: Array, v: Array, comm: MPI.Intracomm, scale: float | None, heads: str) -> None:
    """Raise `ValueError` on all ranks if something is wrong on one, or they differ."""

    def signature() -> tuple[Any, ...]:
        key_heads = _check(q, k, v, heads, scale)
        return q.shape, key_heads, v.shape[3], str(q.dtype), None if scale is None else float(scale), heads

    agree(Group(comm), "decode_attention", signed(signature), 0)


def _check(q: Array, k: Array, v: Array, heads: str, scale: float | None) -> int:
    """How many key heads there are, if all fits."""
    check_layout(heads)
    check_axes_and_dtypes({"q": q, "k": k, "v": v}, heads)
    check_scale(scale)
    queries, keys = (by_head(array, heads).shape for array in (q, k))
    if (keys[0], keys[3]) != (queries[0], queries[3]):
        raise ValueError(f"k of shape {k.shape}: expected the B and D of q, {q.shape}, in the order {heads}")
    return check_key_heads(q, k, v, heads)


def _attend(queries: Array, keys: Array, values: Array, scale: float) -> Array:
    """The outputs for these keys, each followed by its log-sum-exp, as (B, Hq, Sq, Dv + 1)."""
    dtype = computing_dtype(queries.dtype)
    batch, query_heads, count, size = queries.shape
    rows = np.empty((batch, query_heads, count, values.shape[-1] + 1), dtype)
    if not keys.shape[2]:
        rows[..., :-1] = 0
        rows[..., -1] = -np.inf
        return rows
    # All queries that share a key head are one matrix.
    shape = batch, keys.shape[1], query_heads // keys.shape[1] * count, size
    scaled = np.multiply(queries, scale, dtype=dtype).reshape(shape)
    # BLAS is quicker with few columns on the right than with few rows on the left.
    transposed = keys.astype(dtype, copy=False) @ scaled.swapaxes(-1, -2)
    scores = np.ascontiguousarray(transposed.swapaxes(-1, -2))
    largest = scores.max(-1, keepdims=True)
    np.exp(np.subtract(scores, largest, out=scores), out=scores)
    total = scores.sum(-1, keepdims=True)
    out = scores @ values.astype(dtype, copy=False)
    rows[..., :-1] = (out / total).reshape(rows[..., :-1].shape)
    rows[..., -1] = (largest + np.log(total)).reshape(rows[..., -1].shape)
    return rows


def _merge(lower: Array, higher: Array) -> None:
    """Merge outputs, weighted by the exponentials of their log-sum-exp."""
    one, other = lower[:, -1:], higher[:, -1:]
    largest = np.maximum(one, other)
    # No key yet on either side: weights of 0 for outputs of 0, and not those of -inf - -inf.
    finite = np.where(np.isneginf(largest), 0, largest)
    weight, other_weight = np.exp(one - finite), np.exp(other - finite)
    total = weight + other_weight
    share = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
    higher[:, :-1] *= other_weight * share
    higher[:, :-1] += lower[:, :-1] * (weight * share)
    np.log(total, out=total, where=total > 0)
    higher[:, -1:] = largest + total
