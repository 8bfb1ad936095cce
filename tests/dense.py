"""Attention of a whole sequence at once: what the attention of ranks is compared with."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roundelay.collectives.attention.placement import positions

Array = NDArray[Any]


@dataclass(frozen=True)
class Sequence:
    """Queries, keys and values of all ranks, and a gradient of the output: (B, S, H, D).

    Attributes
    ----------
    counts : tuple of int
        Tokens of each rank.
    """

    counts: tuple[int, ...]
    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    size: int = 16
    value_size: int = 24
    dtype: Any = np.float32
    factor: float = 1.0
    seed: int = 0
    arrays: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        tokens = sum(self.counts)
        shapes = {
            "q": (self.heads, self.size),
            "k": (self.key_heads, self.size),
            "v": (self.key_heads, self.value_size),
            "dout": (self.heads, self.value_size),
        }
        arrays = {
            name: rng.standard_normal((self.batch, tokens, *shape)).astype(self.dtype)
            for name, shape in shapes.items()
        }
        arrays["q"] = (self.factor * arrays["q"]).astype(self.dtype)
        object.__setattr__(self, "arrays", arrays)

    def mine(self, name: str, rank: int, placement: str) -> Array:
        """A rank's part of an array."""
        return self.arrays[name][:, positions(self.counts, placement)[rank]]


def hidden_keys(
    tokens: int, causal: bool = False, window: Any = None, documents: Any = None
) -> NDArray[np.bool_]:
    """Which keys (columns) the queries (rows) do not see."""
    place = np.arange(tokens)
    distance = place[:, None] - place[None, :]
    hidden = (distance < 0) & causal
    if window is not None:
        before, after = window
        hidden |= distance > (tokens if before is None else before)
        hidden |= distance < -(tokens if after is None else after)
    if documents is not None:
        document = np.searchsorted(np.asarray(documents)[1:], place, side="right")
        hidden |= document[:, None] != document[None, :]
    return hidden


def dense(
    sequence: Sequence, hidden: NDArray[np.bool_], dtype: Any, kept: Array | None = None
) -> dict[str, Array]:
    """Output, log-sum-exp and gradients, computed in a dtype.

    `hidden` is (S, S) or (B, 1, S, S); `kept` is what weights (B, H, S, S) are multiplied by.
    """
    each = sequence.heads // sequence.key_heads
    q, k, v, dout = (sequence.arrays[name].astype(dtype).swapaxes(1, 2) for name in ("q", "k", "v", "dout"))
    k, v = (np.repeat(array, each, axis=1) for array in (k, v))
    scale = dtype(sequence.size**-0.5)
    scores = np.matmul(q, k.swapaxes(-1, -2)) * scale
    scores[np.broadcast_to(hidden, scores.shape)] = -np.inf
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top[np.isneginf(top)] = 0
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    weights /= np.where(total == 0, 1, total)
    factors = dtype(1) if kept is None else kept.astype(dtype)
    out = np.matmul(weights * factors, v)
    slopes = np.matmul(dout, v.swapaxes(-1, -2)) * factors
    slopes = weights * (slopes - (slopes * weights).sum(axis=-1, keepdims=True))
    found = {
        "out": out,
        "dq": np.matmul(slopes, k) * scale,
        "dk": _over_heads(np.matmul(slopes.swapaxes(-1, -2), q) * scale, each),
        "dv": _over_heads(np.matmul((weights * factors).swapaxes(-1, -2), dout), each),
    }
    return {name: array.swapaxes(1, 2) for name, array in found.items()} | {"lse": lse}


def _over_heads(array: Array, each: int) -> Array:
    """Add the gradients of query heads that share a key head."""
    batch, heads, tokens, size = array.shape
    summed: Array = array.reshape(batch, heads // each, each, tokens, size).sum(axis=2)
    return summed
