"""The sum of the states of all members: all that linear attention without a mask needs of other ranks."""

from __future__ import annotations

import numpy as np

from ....datatypes.plain import MPI
from ...functions import allreduce
from ..group import Group, wait
from ..tiles import Array


def by_all_gather(group: Group, state: Array) -> Array:
    """Each member sends its state to all others (LASP-2); one round."""
    states = np.empty((group.size, *state.shape), state.dtype)
    states[group.index] = state
    others = [member for member in range(group.size) if member != group.index]
    requests = [group.receive(states[member], member) for member in others]
    requests += [group.send(states[group.index], member) for member in others]
    wait(requests)
    total: Array = states.sum(axis=0)
    return total


def by_all_reduce(group: Group, state: Array) -> Array:
    """Each member sums up its part of the states, and sends the sum to all others; two rounds of less."""
    flat = state.reshape(-1)
    bounds = [flat.size * member // group.size for member in range(group.size + 1)]
    parts = [slice(bounds[member], bounds[member + 1]) for member in range(group.size)]
    others = [member for member in range(group.size) if member != group.index]
    mine = np.empty((group.size, flat[parts[group.index]].size), state.dtype)
    mine[group.index] = flat[parts[group.index]]
    requests = [group.receive(mine[member], member) for member in others]
    requests += [group.send(flat[parts[member]], member) for member in others]
    wait(requests)
    total = np.empty_like(flat)
    mine.sum(axis=0, out=total[parts[group.index]])
    requests = [group.receive(total[parts[member]], member) for member in others]
    requests += [group.send(total[parts[group.index]], member) for member in others]
    wait(requests)
    return total.reshape(state.shape)


def by_allreduce_of(comm: MPI.Intracomm, state: Array) -> Array:
    """The allreduce that was chosen for the communicator."""
    total = np.empty_like(state)
    allreduce(comm, state, total)
    return total
