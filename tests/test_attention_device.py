"""Attention of arrays on a device: by CuPy where there is a GPU, by a stand-in for it everywhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import roundelay

pytestmark = pytest.mark.mpi

TOKENS = 8


OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "all": lambda size: {},
    "causal": lambda size: {"causal": True},
    "window": lambda size: {"window": (3, 0)},
    "documents": lambda size: {"documents": [0, 3, TOKENS * size]},
    "padding": lambda size: {"key_padding": np.arange(TOKENS)[None] % 3 > 0},
    "dropout": lambda size: {"dropout": 0.3, "seed": 3},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("algorithm", roundelay.attention_algorithms())
def test_results_are_those_of_the_host(comm, put, algorithm, options):
    how = {"algorithm": algorithm, **OPTIONS[options](comm.size)}
    if algorithm in ("zigzag", "striped"):
        how["placement"] = algorithm
    if algorithm == "balanced":
        how["causal"] = True
    rng = np.random.default_rng(comm.rank)
    own = [rng.standard_normal((1, TOKENS, heads, 16), np.float32) for heads in (4, 2, 2, 4)]
    expected, found = (results(comm, arrays, how) for arrays in (own, list(map(put, own))))
    for there, here in zip(expected, found, strict=True):
        assert_allclose(here.get(), there, atol=2e-5)


def results(comm, arrays, how):
    q, k, v, dout = arrays
    out, lse = roundelay.attention(q, k, v, comm, **how)
    return out, lse, *roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how)
