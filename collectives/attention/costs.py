"""Costs of attention for a rank: arithmetic for what its tokens see, and the keys that it passes on in rings.

Seconds follow FlexSP (Wang et al. 2025, arXiv 2412.01523), a rank's part of the arithmetic and of what is
sent, except that a ring sends while it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datatypes.plain import MPI
from ..figures import TYPICAL_ATTENTION
from ..service import Service, service_of

Ints = NDArray[np.int64]


class Rates(NamedTuple):
    """How fast ranks compute and send.

    Attributes
    ----------
    flops : float
        Floating-point operations a second of one rank's attention; by default what one core with AVX-512
        reaches in float32.
    latency : float
        Seconds of a message of no bytes; by default between ranks that share memory.
    bandwidth : float
        Bytes a second of a message while all ranks send; by default as well.
    """

    flops: float = TYPICAL_ATTENTION
    latency: float = 1e-6
    bandwidth: float = 6e9


def measured_rates(comm: MPI.Intracomm) -> Rates:
    """Rates of kernels and the slowest link, as rank 0's `roundelay measure` found them; called by all ranks.

    A ring goes at the pace of its slowest link, and a plan may put one over any ranks. Where nothing was
    measured the figures are typical ones.

    Parameters
    ----------
    comm : Intracomm

    Returns
    -------
    Rates
        The same on all ranks.

    Examples
    --------
    >>> from roundelay import MPI
    >>> measured_rates(MPI.COMM_WORLD).flops > 0
    True
    """
    return rates_of(service_of(comm))


def rates_of(service: Service | None) -> Rates:
    """Rates of the ranks of a communicator, typical ones for one that has no service."""
    if service is None:
        return Rates()
    # Each call asks, and the table of a communicator does not change.
    found: Rates | None = service.kept.get("rates")
    if found is None:
        found = service.kept["rates"] = _rates(service)
    return found


def _rates(service: Service) -> Rates:
    links = service.table.links(service.nodes)
    latency, per_byte = float(np.max(links.latency)), float(np.max(links.per_byte))
    return Rates(
        service.table.attention_rate(service.nodes),
        latency + 2 * links.overhead,
        1 / per_byte if per_byte else float("inf"),
    )


@dataclass(frozen=True)
class Work:
    """The shapes of a step's attention, and what they cost.

    Attributes
    ----------
    heads, key_heads : int
    sizes : int
        Numbers in a key and a value together.
    itemsize : int
    causal : bool
    rates : Rates
    """

    heads: int
    key_heads: int
    sizes: int
    itemsize: int
    causal: bool
    rates: Rates

    @property
    def flops_of_pair(self) -> int:
        """Operations for a query and a key that it sees."""
        return 2 * self.heads * self.sizes

    @property
    def bytes_of_keys(self) -> int:
        """Bytes of the keys and values of a token."""
        return self.key_heads * self.sizes * self.itemsize

    @property
    def memory_of_token(self) -> int:
        """Bytes of all that attention has of a token; its log-sum-exp takes 4 each at least."""
        numbers = (self.heads + self.key_heads) * self.sizes
        return numbers * self.itemsize + self.heads * max(self.itemsize, 4)

    def arithmetic(self, lengths: Any) -> Any:
        """Seconds that whole sequences take one rank."""
        pairs = lengths * (lengths + 1.0) / 2 if self.causal else lengths * (lengths + 0.0)
        return pairs * (self.flops_of_pair / self.rates.flops)

    def seconds(self, lengths: Any, degrees: Any, largest: Any) -> Any:
        """Seconds of rings over some ranks, which keep the pace of the one with the largest shard.

        The first step computes what is there; in each other one, keys came during the step before.
        """
        step = self.arithmetic(lengths) * largest / np.maximum(lengths, 1) / degrees
        hop = self.rates.latency + largest * (self.bytes_of_keys / self.rates.bandwidth)
        return step + (degrees - 1) * np.maximum(step, hop)


def shares(counts: Sequence[int], causal: bool) -> Ints:
    """The share of a sequence that each member of a ring has.

    Parameters
    ----------
    counts : sequence of int
        Tokens of each member, which lie in a zigzag if attention is causal.
    causal : bool

    Returns
    -------
    (4, members) int64 array
        Pairs of a query and a key that it sees; tokens whose keys are sent; messages; tokens.

    Examples
    --------
    >>> shares([4, 4], causal=True).tolist()
    [[18, 18], [4, 4], [1, 1], [4, 4]]
    """
    tokens = np.asarray(counts, np.int64)
    pairs, passed = (_zigzag if causal else _everything)(tokens)
    return np.array([pairs, tokens @ passed, passed.sum(0), tokens])


def _everything(tokens: Ints) -> tuple[Ints, Ints]:
    return tokens * tokens.sum(), _passed_on(np.ones((len(tokens), len(tokens)), np.int64))


def _zigzag(tokens: Ints) -> tuple[Ints, Ints]:
    members = len(tokens)
    chunks = np.concatenate([(tokens + 1) // 2, (tokens // 2)[::-1]])
    ends = np.cumsum(chunks)
    # The last token of a chunk sees all up to its end, the one before one less, and so on.
    pairs = chunks * ends - chunks * (chunks - 1) // 2
    first, early_end, late_end = (ends - chunks)[:members], ends[:members], ends[: members - 1 : -1]
    seen = np.where(tokens > 1, late_end, early_end) > first[:, None]
    return pairs[:members] + pairs[: members - 1 : -1], _passed_on(seen)


def _passed_on(seen: NDArray[Any]) -> Ints:
    """Whose keys (rows) each member sends to the next one: they go as far as somebody sees them."""
    members = np.arange(len(seen))
    away = (members - members[:, None]) % len(members)
    passed: Ints = (away < (away * seen).max(1, keepdims=True)).astype(np.int64)
    return passed
