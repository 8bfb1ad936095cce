"""Linear attention over ranks, without and with decay: LASP-2 and its kin.

Only states of (Dk, Dv) for each head go between ranks, however long the sequence is. While they are under
way, a rank computes the part that needs its own tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....comm.recorded import recorded
from ....datatypes.plain import MPI
from ...array_views import as_arrays, results_like
from ..tiles import Array, Work
from . import passes
from .call import AUTO, LinearCall, Options
from .chunks import multiply


@recorded
def linear_attention(  # noqa: PLR0913
    q: Array,
    k: Array,
    v: Array,
    comm: MPI.Intracomm,
    *,
    causal: bool = False,
    decay: Array | None = None,
    heads: str = "BSHD",
    ranks: Sequence[int] | None = None,
    algorithm: str = AUTO,
) -> Array:
    """Attend linearly, without softmax, scale or normalizer, to the tokens of all ranks: O = (Q K^T * M) V.

    M is 1 everywhere; if `causal`, exp(-decay (i - j)) where query i does not come before key j, and 0
    elsewhere.

    Parameters
    ----------
    q : (B, S, Hq, Dk) array of float16, bfloat16, float32 or float64
        This rank's part of the sequence, in the order of the ranks. S may differ between ranks, and be 0.
        What is narrower than float32 is computed in float32.
    k : (B, S, Hk, Dk) array of the same dtype
        Hk divides Hq.
    v : (B, S, Hk, Dv) array of the same dtype
    comm : Intracomm
    causal : bool
        Whether queries see no later keys.
    decay : (Hq,) array of float, optional
        By what the logarithm of a weight decays per token, 0 or more; only if `causal`.
    heads : {"BSHD", "BHSD"}
        Order of the axes of q, k, v and the output.
    ranks : sequence of int, optional
        Who calls, in the order of the sequence; all ranks of `comm` in their order if not given.
    algorithm : str
        How states go between ranks. Causal: "all-gather" (LASP-2), "chain" (LASP-1, in blocks as in ZeCO) or
        "exscan" (MPI's, on all ranks). Else: "all-gather" or "all-reduce". By "auto" that is an all-reduce;
        if causal, an all-gather where a rank receives at most 4 MiB, and a chain for more.

    Returns
    -------
    (B, S, Hq, Dv) array of the dtype of q

    Raises
    ------
    ValueError
        Shapes, dtypes or heads that do not fit together, a decay that is negative or not causal, or an
        algorithm that is unknown or cannot serve the call; before anything is sent.

    References
    ----------
    Sun et al. 2025, "LASP-2", arXiv 2502.07563, algorithms 1 and 2; with decay Sun et al. 2024, "Linear
    Attention Sequence Parallelism", arXiv 2404.02882.

    Examples
    --------
    Each rank has one token, which adds 1 to the state:

    >>> from roundelay import MPI
    >>> comm = MPI.COMM_WORLD
    >>> one = np.ones((1, 1, 1, 1))
    >>> bool(linear_attention(one, one, one, comm).item() == comm.size)
    True
    >>> bool(linear_attention(one, one, one, comm, causal=True).item() == comm.rank + 1)
    True
    """
    given = q
    q, k, v = as_arrays(q, k, v)
    arrays = {"q": q, "k": k, "v": v}
    call = LinearCall("linear_attention", arrays, comm, Options(causal, decay, heads, ranks, algorithm))
    out, view = call.result("q", v.shape[3])
    if causal:
        passes.forward(call, view)
    else:
        (total,) = _totals(call, ("k", "v"))
        np.matmul(call.views["q"], total, out=view)
    result: Array = results_like(given, out.astype(q.dtype, copy=False))[0]
    return result


@recorded
def linear_attention_backward(  # noqa: PLR0913
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    comm: MPI.Intracomm,
    *,
    causal: bool = False,
    decay: Array | None = None,
    heads: str = "BSHD",
    ranks: Sequence[int] | None = None,
    algorithm: str = AUTO,
) -> tuple[Array, Array, Array]:
    """Gradients of `linear_attention`.

    The state of keys and values goes from rank to rank as in the forward pass, that of queries and gradients
    the other way. (Where nothing is masked the latter is summed over all ranks; algorithm 3 of the paper has
    a sum from the next rank on.)

    Parameters
    ----------
    dout : (B, S, Hq, Dv) array
        Gradient with respect to the output, of the dtype of q.
    q, k, v, comm, causal, decay, heads, ranks, algorithm
        As in the forward pass.

    Returns
    -------
    dq, dk, dv : arrays like q, k and v

    Raises
    ------
    ValueError
        As in the forward pass.

    References
    ----------
    Sun et al. 2025, "LASP-2", arXiv 2502.07563, algorithms 3 and 4.

    Examples
    --------
    Each rank has one token, which all queries read:

    >>> from roundelay import MPI
    >>> comm = MPI.COMM_WORLD
    >>> one = np.ones((1, 1, 1, 1))
    >>> dq, dk, dv = linear_attention_backward(one, one, one, one, comm)
    >>> bool(dq.item() == dk.item() == dv.item() == comm.size)
    True
    """
    given = q
    dout, q, k, v = as_arrays(dout, q, k, v)
    arrays = {"q": q, "k": k, "v": v, "dout": dout}
    options = Options(causal, decay, heads, ranks, algorithm)
    call = LinearCall("linear_attention_backward", arrays, comm, options)
    results = [call.result(name, array.shape[3]) for name, array in (("q", q), ("k", k), ("k", v))]
    dq, dk, dv = (view for _, view in results)
    if causal:
        passes.backward(call, (dq, dk, dv))
    else:
        state, slopes = _totals(call, ("k", "v"), ("q", "dout"))
        np.matmul(call.views["dout"], state.swapaxes(-1, -2), out=dq)
        np.matmul(call.views["v"], slopes.swapaxes(-1, -2), out=dk)
        np.matmul(call.views["k"], slopes, out=dv)
    found = (each.astype(q.dtype, copy=False) for each, _ in results)
    found_q, found_k, found_v = results_like(given, *found)
    return found_q, found_k, found_v


def _totals(call: LinearCall, *pairs: tuple[str, str]) -> Array:
    """The sum over all tokens of the products of each pair, by one exchange."""
    batch, key_heads = call.views["q"].shape[:2]
    shape = call.views["q"].shape[-1], call.views["v"].shape[-1]
    states = np.empty((len(pairs), batch, key_heads, 1, *shape), call.dtype)
    work = Work(states)
    for state, (keys, values) in zip(states, pairs, strict=True):
        multiply(work, call.views[keys].swapaxes(-1, -2), call.views[values], state)
    return call.total(states)
