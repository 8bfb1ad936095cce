"""Attention for programs that call it: `roundelay.attention` and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...comm.recorded import recorded
from ...datatypes.plain import MPI
from ..array_views import as_arrays, results_like
from .arrays import by_head
from .backward import Queries
from .call import Call, Options, read
from .catalogue import Algorithm, find
from .tiles import contiguous

Array = NDArray[Any]
Window = tuple[int | None, int | None] | int | None


@recorded
def attention(  # noqa: PLR0913
    q: Array,
    k: Array,
    v: Array,
    comm: MPI.Intracomm,
    *,
    causal: bool = False,
    scale: float | None = None,
    placement: str = "contiguous",
    heads: str = "BSHD",
    window: Window = None,
    documents: Sequence[int] | None = None,
    key_padding: NDArray[np.bool_] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    ranks: Sequence[int] | None = None,
    algorithm: str = "auto",
) -> tuple[Array, Array]:
    """Softmax attention of a sequence of which each rank has a part; called by all of them together.

    Ring Self-Attention (Li et al. 2021, arXiv 2105.13120, section 3.2) and what came after it; the algorithms
    are described in the documentation.

    Parameters
    ----------
    q : (B, S, Hq, D) array
        Queries of this rank's tokens, of NumPy, CuPy or PyTorch, of any strides; of float32, float64, or a
        smaller floating-point dtype, which is computed in float32. Ranks may have different numbers of
        tokens, also none.
    k : (B, S, Hk, D) array
        Keys of the same tokens. Hq is a multiple of Hk: query heads share them in order.
    v : (B, S, Hk, Dv) array
        Values of the same tokens.
    comm : Intracomm
    causal : bool
        Whether a token sees none after it.
    scale : float, optional
        What scores are multiplied by; D ** -0.5 if not given.
    placement : str
        How the sequence lies over the ranks: "contiguous", "zigzag" or "striped", see `roundelay.shard`.
    heads : str
        "BSHD", or "BHSD" for arrays of shape (B, H, S, D).
    window : (int or None, int or None) or int, optional
        How many tokens before and after itself a token sees; one number for both.
    documents : sequence of int, optional
        Where documents begin in the whole sequence, and the last one ends, from 0 on: [0, 120, 1248]. Tokens
        see those of their own document.
    key_padding : (B, S) bool array, optional
        Which of this rank's keys are there; the others are seen by nobody.
    dropout : float
        What share of the weights is dropped.
    seed : int, optional
        Says which; the same on any number of ranks.
    ranks : sequence of int, optional
        The ranks that take part, in the order of the sequence; all if not given.
    algorithm : str
        A name from `roundelay.attention_algorithms()`, or "auto".

    Returns
    -------
    out : (B, S, Hq, Dv) array
        Of the dtype of `q`, and laid out as `heads` says; 0 for a token that sees none.
    lse : (B, Hq, S) array
        Natural logarithm of the sum of the exponentials of the scaled scores, in float32, or float64 for
        float64; -inf for a token that sees none.

    Raises
    ------
    ValueError
        On all ranks: arguments that do not fit or differ between ranks, or an algorithm that is unknown or
        cannot serve them.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> tokens = np.random.default_rng(MPI.COMM_WORLD.rank).standard_normal((3, 1, 8, 2, 4))
    >>> out, lse = attention(*tokens, MPI.COMM_WORLD, causal=True)
    >>> out.shape, lse.shape
    ((1, 8, 2, 4), (1, 2, 8))
    """
    given = q
    q, k, v = as_arrays(q, k, v)
    padding = _padding(key_padding)
    options = Options(
        causal, scale, placement, heads, window, documents, padding, dropout, seed, ranks, algorithm
    )
    call = read(comm, "attention", {"q": q, "k": k, "v": v}, options)
    out, lse = _algorithm(call).forward(call.problem, call.q, call.k, call.v)
    out, lse = results_like(given, _as_given(out, call), lse)
    return out, lse


@recorded
def attention_backward(  # noqa: PLR0913
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    comm: MPI.Intracomm,
    *,
    causal: bool = False,
    scale: float | None = None,
    placement: str = "contiguous",
    heads: str = "BSHD",
    window: Window = None,
    documents: Sequence[int] | None = None,
    key_padding: NDArray[np.bool_] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    ranks: Sequence[int] | None = None,
    algorithm: str = "auto",
) -> tuple[Array, Array, Array]:
    """Gradients of `attention`, from what it returned: of its results nothing is computed again.

    Parameters
    ----------
    dout : (B, S, Hq, Dv) array
        Gradient of the output.
    q, k, v : arrays
        As `attention` had them.
    out, lse : arrays
        As `attention` returned them.
    comm : Intracomm

    The other arguments are those of `attention`, with the same values; the algorithm may be another one.

    Returns
    -------
    dq, dk, dv : arrays
        Of the shapes of q, k and v and their dtype; added up in float32 or better.

    Raises
    ------
    ValueError
        As `attention`.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> tokens = np.random.default_rng(MPI.COMM_WORLD.rank).standard_normal((3, 1, 8, 2, 4))
    >>> out, lse = attention(*tokens, MPI.COMM_WORLD)
    >>> gradients = attention_backward(np.ones_like(out), *tokens, out, lse, MPI.COMM_WORLD)
    >>> [gradient.shape for gradient in gradients]
    [(1, 8, 2, 4), (1, 8, 2, 4), (1, 8, 2, 4)]
    """
    given = q
    dout, q, k, v, out, lse = as_arrays(dout, q, k, v, out, lse)
    padding = _padding(key_padding)
    options = Options(
        causal, scale, placement, heads, window, documents, padding, dropout, seed, ranks, algorithm
    )
    arrays = {"q": q, "k": k, "v": v, "dout": dout, "out": out, "lse": lse}
    call = read(comm, "attention_backward", arrays, options)
    tokens = call.problem.geometry.tokens[call.problem.group.index]
    queries = Queries(call.q, by_head(dout, heads), lse, tokens, out=by_head(out, heads))
    found = _algorithm(call).backward(call.problem, queries, call.k, call.v)
    dq, dk, dv = results_like(given, *(_as_given(each, call) for each in (found.q, found.k, found.v)))
    return dq, dk, dv


def _padding(key_padding: Any) -> Any:
    return None if key_padding is None else as_arrays(key_padding)[0]


def _algorithm(call: Call) -> Algorithm:
    return find(call.problem, call.options.algorithm, call.options.placement)


def _as_given(array: Array, call: Call) -> Array:
    """A (B, H, S, D) array as the program has its own."""
    return contiguous(by_head(array, call.options.heads), call.problem.shape.dtype)
