"""Checks of arrays that all kinds of attention share: their axes, dtypes and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..array_views import check_usable
from .tiles import Array

_LAYOUTS = ("BSHD", "BHSD")
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def by_head(array: Any, heads: str) -> Any:
    """See an array as (B, H, S, ...)."""
    return array.swapaxes(1, 2) if heads == "BSHD" else array


def check_layout(heads: str) -> None:
    """Raise `ValueError` for an order of the axes that is unknown."""
    if heads not in _LAYOUTS:
        raise ValueError(f"heads {heads!r}: expected one of {', '.join(_LAYOUTS)}")


def check_axes(arrays: Mapping[str, Any], heads: str) -> None:
    """Raise `ValueError` for what is no array, or one of another number of axes."""
    check_usable(arrays)
    for name, array in arrays.items():
        if array.ndim != 4:
            raise ValueError(f"{name} of shape {array.shape}: expected 4 axes, {heads}")


def check_axes_and_dtypes(arrays: Mapping[str, Array], heads: str) -> None:
    """Raise `ValueError` for an array of another number of axes or dtype than q, or not on the host."""
    check_axes(arrays, heads)
    dtype = arrays["q"].dtype
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} on a GPU: expected an array on the host")
        if str(array.dtype) not in _DTYPES or array.dtype != dtype:
            raise ValueError(f"{name} of dtype {array.dtype}: expected {', '.join(_DTYPES)}, and that of q")


def check_scale(scale: Any) -> None:
    """Raise `ValueError` for a tensor that requires a gradient: a scale has none."""
    if getattr(scale, "requires_grad", False):
        raise ValueError("scale requires a gradient: expected a float, and q multiplied by the tensor")


def check_tokens(q: Array, k: Array, heads: str) -> None:
    """Raise `ValueError` if keys are not those of the queries' tokens."""
    queries, keys = (by_head(array, heads).shape for array in (q, k))
    if (keys[0], *keys[2:]) != (queries[0], *queries[2:]):
        raise ValueError(f"k of shape {k.shape}: expected that of q, {q.shape}, but for the heads")


def check_key_heads(q: Array, k: Array, v: Array, heads: str) -> int:
    """How many heads there are of keys and values.

    Raises `ValueError` if values are not those of the keys, or their heads do not divide those of queries.
    """
    queries, keys, values = (by_head(array, heads).shape for array in (q, k, v))
    if values[:3] != keys[:3]:
        raise ValueError(f"v of shape {v.shape}: expected that of k, {k.shape}, but for the last axis")
    if not keys[1] or queries[1] % keys[1]:
        raise ValueError(f"{queries[1]} heads of q: expected a multiple of the {keys[1]} heads of k and v")
    return int(keys[1])
