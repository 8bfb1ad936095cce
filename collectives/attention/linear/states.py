"""The states of linear attention between ranks: what comes in from those before, or behind.

A state is the sum of the products of keys and values, and decays by a factor for each token that it passes.
In the all-gather of LASP-2 (arXiv 2502.07563) each member sends its state to all that read it, and these sum
up: one round. In a chain (LASP-1, arXiv 2404.02882; in blocks it is the All-Scan of ZeCO, arXiv 2507.01004) a
member receives the sum of all states before its own, adds its own and hands it on: one state sent by each,
and all are busy once the first block has come through.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import sched_yield
from typing import Protocol

import numpy as np

from ....datatypes.plain import MPI
from ..group import Group, progress, wait
from ..parcel import Parcel
from ..tiles import Array

# Of a block in a chain: long enough that a message costs little beside its bytes.
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class State:
    """The sum of a member's tokens.

    Attributes
    ----------
    sums : (B, Hk, G, Dk, Dv) array
        Contiguous; G is 1 where nothing decays.
    rates : (Hk, G) float64 array, optional
        By what its logarithm decays per token.
    count : int
        Tokens of the member.
    """

    sums: Array
    rates: Array | None
    count: int

    def left(self, count: int) -> Array | None:
        """Decay of a state over a number of tokens, as (Hk, G, 1, 1); None where nothing decays."""
        if self.rates is None:
            return None
        left: Array = np.exp(-self.rates * count)[..., None, None]
        return left.astype(self.sums.dtype)


class Exchange(Protocol):
    """An exchange of states under way."""

    def poll(self) -> None:
        """Let messages move on."""

    def finish(self) -> Array:
        """Wait for what comes in: the sum of the states of all members before, 0 if there are none."""


class AllGather:
    """Each state is sent to all members that read it.

    Parameters
    ----------
    group : Group
    state : State
    reverse : bool
        Whether states are read by the members before, not behind.
    """

    def __init__(self, group: Group, state: State, reverse: bool) -> None:
        self._state = state
        before, behind = list(range(group.index)), list(range(group.index + 1, group.size))
        sources, targets = (behind[::-1], before) if reverse else (before, behind)
        shape, dtype = state.sums.shape, state.sums.dtype
        # How much decays on the way past a member depends on how many tokens it has.
        length = [] if state.rates is None else [((1,), np.dtype(np.int64))]
        self._parcel = Parcel(*length, (shape, dtype))
        contents = [*([np.array([state.count])] if length else []), state.sums]
        self._received = [self._parcel.room(state.sums) for _ in sources]
        self._sent = self._parcel.packed(*contents)
        self._requests = [
            group.receive(memory, source) for memory, source in zip(self._received, sources, strict=True)
        ]
        self._requests += [group.send(self._sent, target) for target in targets]

    def poll(self) -> None:
        """Let messages move on."""
        progress(self._requests)

    def finish(self) -> Array:
        """Wait for the states, and add them up from the farthest one on."""
        wait(self._requests)
        found = np.zeros_like(self._state.sums)
        for memory in self._received:
            *length, sums = self._parcel.views(memory)
            if length:
                found *= self._state.left(int(length[0][0]))
            found += sums
        return found


class Chain:
    """The sum of the states goes from member to member, in blocks.

    Parameters
    ----------
    group : Group
    state : State
    reverse : bool
        Whether it goes from the last member to the first.
    """

    def __init__(self, group: Group, state: State, reverse: bool) -> None:
        self._group = group
        step = -1 if reverse else 1
        source, self._target = group.index - step, group.index + step
        self._is_last = not 0 <= self._target < group.size
        width = state.sums.shape[-1]
        self._own = state.sums.reshape(-1, width)
        self._left = rows_left(state)
        self._found = np.zeros_like(state.sums)
        self._incoming = self._found.reshape(-1, width)
        self._outgoing = np.empty_like(self._own)
        rows = max(1, _BLOCK_BYTES // max(1, width * self._own.itemsize))
        self._blocks = [slice(begin, begin + rows) for begin in range(0, len(self._own), rows)]
        self._passed = 0
        self._sends: list[MPI.Request] = []
        self._receives: list[MPI.Request] = []
        if 0 <= source < group.size:
            self._receives = [group.receive(self._incoming[block], source) for block in self._blocks]
        else:
            for block in self._blocks:
                self._pass_on(block)

    def poll(self) -> None:
        """Hand on the blocks that have come, and let messages move on."""
        while self._passed < len(self._receives) and self._receives[self._passed].Test():
            self._pass_on(self._blocks[self._passed])
            self._passed += 1
        progress(self._sends)

    def finish(self) -> Array:
        """Wait until all blocks have come and gone."""
        self.poll()
        while self._passed < len(self._receives):
            sched_yield()
            self.poll()
        wait(self._sends)
        return self._found

    def _pass_on(self, block: slice) -> None:
        if self._is_last:
            return
        outgoing = self._outgoing[block]
        if self._left is None:
            np.add(self._incoming[block], self._own[block], out=outgoing)
        else:
            np.multiply(self._incoming[block], self._left[block], out=outgoing)
            outgoing += self._own[block]
        self._sends.append(self._group.send(outgoing, self._target))


def rows_left(state: State) -> Array | None:
    """Decay of each row of a state over a member's tokens, a column; None where nothing decays."""
    left = state.left(state.count)
    return None if left is None else np.broadcast_to(left, (*state.sums.shape[:-1], 1)).reshape(-1, 1)
