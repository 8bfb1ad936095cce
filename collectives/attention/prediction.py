"""How long an algorithm is expected to take, and which one is therefore taken.

A member begins a step when it has done the one before and has what it lacks, which was sent when its sender
began that step. Of several messages that one member sends in a step each waits for those before it.
"""

from __future__ import annotations

import numpy as np

from .costs import Rates
from .problem import Problem
from .routes import Steps

# Seconds of a member for a pair, beside the arithmetic: calls of array functions.
PAIR_SECONDS = 50e-6
# The same of an exchange of heads for tokens.
SWAP_SECONDS = 100e-6
# Seconds that it takes for each byte of it, beside being sent.
PACKED = 0.6e-9


def pair_seconds(problem: Problem, rates: Rates, queries: int, keys: int, heads: int) -> float:
    """Seconds that some heads of a pair of members take to compute."""
    shape = problem.shape
    stripes = problem.geometry.stripes(queries, keys)
    scores = sum(tile.scores for stripe in stripes for tile in stripe.tiles)
    flops = 2 * shape.batch * heads * scores * (shape.size + shape.value_size)
    return flops / rates.flops + PAIR_SECONDS


def route_seconds(problem: Problem, steps: Steps, rates: Rates) -> float:
    """Seconds that the forward pass along a route takes the slowest member."""
    size, shape = problem.group.size, problem.shape
    begun = np.zeros(size)
    done = np.array([pair_seconds(problem, rates, member, member, shape.heads) for member in range(size)])
    for step in steps:
        arrivals, sent, work = done.copy(), np.zeros(size), np.zeros(size)
        for task in step:
            heads = task.heads.stop - task.heads.start
            sent[task.via] += _bytes(problem, task.fetches_keys, task.owner, heads)
            arrival = begun[task.via] + rates.latency + sent[task.via] / rates.bandwidth
            arrivals[task.worker] = max(arrivals[task.worker], arrival)
            if problem.sees(task.queries, task.keys):
                work[task.worker] += pair_seconds(problem, rates, task.queries, task.keys, heads * shape.each)
        begun, done = arrivals, arrivals + work
        for task in step:
            if not task.fetches_keys:
                answer = _bytes(problem, False, task.owner, shape.key_heads) / rates.bandwidth + rates.latency
                done[task.owner] = max(done[task.owner], done[task.worker] + answer)
    return float(done.max())


def _bytes(problem: Problem, keys: bool, owner: int, heads: int) -> int:
    shape, count = problem.shape, problem.count(owner)
    if keys:
        return shape.keys_and_values(count, heads, shape.dtype).nbytes
    return shape.queries(count, heads * shape.each, shape.dtype).nbytes


def swap_seconds(problem: Problem, width: int, rates: Rates) -> float:
    """Seconds that rows of some width take to exchange heads for tokens, and back."""
    shape, count = problem.shape, max(problem.count(member) for member in range(problem.group.size))
    heads = 2 * shape.heads + 2 * max(shape.key_heads, width)
    nbytes = shape.batch * count * heads * (shape.size + shape.value_size) / 2 * shape.dtype.itemsize
    # Those of an exchange are under way together. They are packed and unpacked at either end.
    moved = nbytes * (width - 1) / width
    return 2 * (SWAP_SECONDS + rates.latency) + moved / rates.bandwidth + moved * PACKED if width > 1 else 0.0
