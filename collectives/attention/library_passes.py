"""The passes between the matrix products, by any library with NumPy's functions, in any precision."""

from __future__ import annotations

from typing import Any

import numpy as np


def weigh(scores: Any, top: Any, total: Any, alpha: Any) -> None:
    """Turn scores into weights; see `roundelay.collectives.attention.passes.weigh`."""
    greatest = np.maximum(scores.max(axis=-1), top)
    safe = np.where(np.isneginf(greatest), 0, greatest)
    np.subtract(scores, safe[..., None], out=scores)
    np.exp(scores, out=scores)
    np.exp(top - safe, out=alpha)
    total *= alpha
    total += scores.sum(axis=-1)
    top[...] = greatest


def accumulate(out: Any, product: Any, alpha: Any) -> None:
    """Scale sums, and add to them; see `roundelay.collectives.attention.passes.accumulate`."""
    out *= alpha[..., None]
    out += product


def slope(scores: Any, products: Any, top: Any, delta: Any) -> None:
    """Turn scores into weights, products into slopes; see `roundelay.collectives.attention.passes.slope`."""
    np.subtract(scores, top[..., None], out=scores)
    np.exp(scores, out=scores)
    np.subtract(products, delta[..., None], out=products)
    np.multiply(products, scores, out=products)
