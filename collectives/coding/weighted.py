"""The weighted sum of many vectors in one pass over each, compiled by Numba."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ...datatypes.compiling import kernel

Vector = NDArray[Any]

# Sums of a block stay in the second cache while all vectors are gone through. Blocks are long, vectors are
# taken four at a time, and the last four go right to the result: sums are read and written seldom, memory is
# read in long runs.
_BLOCK = 1 << 16


@intrinsic
def _pointer(_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), generate


@kernel(error_model="numpy", fastmath={"contract"})
def _add_up(addresses: Any, weights: Any, out: Any) -> None:
    sums = np.empty(min(_BLOCK, out.size), np.float64)
    odd = addresses.size % 4
    for start in range(0, out.size, _BLOCK):
        count = min(_BLOCK, out.size - start)
        first = np.uintp(start * out.itemsize)
        result = out[start : start + count]
        sums[:count] = 0.0
        for i in range(odd):
            v0 = carray(_pointer(addresses[i] + first), count, out.dtype)
            w0 = weights[i]
            for k in range(count):
                sums[k] += w0 * v0[k]
        for i in range(odd, addresses.size, 4):
            v0 = carray(_pointer(addresses[i] + first), count, out.dtype)
            v1 = carray(_pointer(addresses[i + 1] + first), count, out.dtype)
            v2 = carray(_pointer(addresses[i + 2] + first), count, out.dtype)
            v3 = carray(_pointer(addresses[i + 3] + first), count, out.dtype)
            w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            if i + 4 < addresses.size:
                for k in range(count):
                    sums[k] = sums[k] + w0 * v0[k] + w1 * v1[k] + w2 * v2[k] + w3 * v3[k]
            else:
                for k in range(count):
                    result[k] = sums[k] + w0 * v0[k] + w1 * v1[k] + w2 * v2[k] + w3 * v3[k]
        if addresses.size < 4:
            result[:] = sums[:count]


def prepare(dtypes: Iterable[str]) -> None:
    """Compile, or load, what sums of these dtypes need: the first gradient is not to take longer for it."""
    for dtype in {"float32", "float64"}.intersection(dtypes):
        weighted_sum([np.zeros(1, dtype)], [1.0], np.zeros(1, dtype))


def weighted_sum(vectors: Sequence[Vector], weights: Sequence[float], out: Vector) -> None:
    """Sum of vectors times weights, added up in float64 in the order that they are given in.

    Parameters
    ----------
    vectors : sequence of (n,) arrays
        Without gaps, of one dtype: float16, bfloat16, float32 or float64.
    weights : sequence of float
    out : (n,) array
        Of the same dtype or a wider one.

    Examples
    --------
    >>> out = np.empty(3, np.float32)
    >>> weighted_sum([np.ones(3, np.float32), np.arange(3, dtype=np.float32)], [1.0, -2.0], out)
    >>> out
    array([ 1., -1., -3.], dtype=float32)
    """
    if not vectors:
        out[...] = 0
        return
    if out.dtype == vectors[0].dtype and out.dtype in (np.float32, np.float64):
        addresses = np.array([each.ctypes.data for each in vectors], np.uintp)
        _add_up(addresses, np.array(weights, np.float64), out)
        return
    sums = np.zeros(out.shape, np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        sums += weight * vector.astype(np.float64)
    out[...] = sums
