"""Measurements of an MPI library on a class of hosts, and how they become the model of the links.

`roundelay measure` makes the table, and whoever predicts or chooses reads it. Figures belong to a placement
(how many ranks on how many nodes) and, in it, to a class of pairs of ranks: two on one node share memory,
two on different nodes share a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .links import Links
from .nodes import counts_of, placement

PairClass = Literal["same node", "between nodes"]
SAME_NODE: PairClass = "same node"
BETWEEN_NODES: PairClass = "between nodes"

# [bytes, seconds] or [bytes, seconds per byte], by ascending bytes.
Curve = list[list[float]]


@dataclass(frozen=True)
class Figures:
    """Figures of one class of pairs, in seconds and seconds per byte, as in `Links`.

    Attributes
    ----------
    latency, per_byte, overhead, gap : float
        With one message under way.
    per_byte_crowded : float
        While every rank sends to every other one and receives from it.
    spread : dict
        Quartile range of the samples of each figure, relative to their median.
    """

    latency: float
    per_byte: float
    overhead: float
    gap: float
    per_byte_crowded: float
    spread: dict[str, float] = field(default_factory=dict)


# Where nothing was measured: two processes of a server that copy through shared memory, and servers on
# 10-gigabit Ethernet (a round trip of 25 us, 1.1 of 1.25 GB/s).
TYPICAL: dict[PairClass, Figures] = {
    SAME_NODE: Figures(0.4e-6, 1 / 10e9, 0.3e-6, 0.3e-6, 1 / 6e9),
    BETWEEN_NODES: Figures(10e-6, 1 / 1.1e9, 1.2e-6, 1.2e-6, 1 / 1.1e9),
}
TYPICAL_REDUCTION: Curve = [[32 << 10, 1 / 20e9], [8 << 20, 1 / 8e9]]
TYPICAL_STEP = 1e-6
# Of one core with AVX-512.
TYPICAL_ATTENTION = 60e9
# Up to how many times the largest size that was tried the trials tell more than predictions do.
TRIED_BEYOND = 2


@dataclass
class Table:
    """Measured figures of one MPI library on one class of hosts; `Table()` has typical ones instead.

    Attributes
    ----------
    host, library : str
        What was measured, from `nodes.host_class` and `table.library`.
    figures : dict
        For each placement and class of pairs.
    reduction : dict
        For each placement, of `numpy.add` on float64 by all ranks at the same time: a list of
        [bytes, seconds for each byte of the result].
    attention : dict
        For each placement, floating-point operations a second of one rank's attention in float32, while all
        ranks compute.
    step : float
        Seconds that a step of a schedule takes beside its messages: Python, mpi4py and the call of NumPy.
    native : dict
        For each operation and placement, seconds of the library's own collective: a list of
        [bytes, seconds], where bytes are those of the whole vector.
    trials : dict
        The same of roundelay's algorithms, by the text of each, those that were predicted to be the fastest.
    pairs : dict
        Latency and seconds per byte for each sending and each receiving host, by their names.
    others : dict
        What other parts of roundelay keep in the same file.
    """

    host: str = ""
    library: str = ""
    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)
    reduction: dict[str, Curve] = field(default_factory=dict)
    attention: dict[str, float] = field(default_factory=dict)
    step: float = TYPICAL_STEP
    native: dict[str, dict[str, Curve]] = field(default_factory=dict)
    trials: dict[str, dict[str, dict[str, Curve]]] = field(default_factory=dict)
    pairs: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def updated(self, newer: Table) -> Table:
        """The table with what was measured anew in the place of what it has of the same placements."""
        return replace(
            newer,
            figures=self.figures | newer.figures,
            reduction=self.reduction | newer.reduction,
            attention=self.attention | newer.attention,
            native=_merged(self.native, newer.native),
            trials=_merged(self.trials, newer.trials),
            pairs=_merged(self.pairs, newer.pairs),
            others=self.others | newer.others,
        )

    def figures_for(self, nodes: Sequence[Sequence[int]], pair_class: PairClass) -> Figures:
        """Figures of a class of pairs, measured in the placement most like the one asked for.

        Parameters
        ----------
        nodes : sequence of sequences of int
            Ranks of each node.
        pair_class : str
            "same node" or "between nodes".
        """
        known = {text: classes[pair_class] for text, classes in self.figures.items() if pair_class in classes}
        return known[_most_alike(known, nodes)] if known else TYPICAL[pair_class]

    def links(
        self, nodes: Sequence[Sequence[int]], nbytes: int = 1 << 20, hosts: Sequence[str] | None = None
    ) -> Links:
        """The model of the links between the ranks of some nodes.

        Seconds per byte are those under many flows, as in most steps of a schedule. On several nodes the
        overhead and the gap are those of the network, and the ranks of a node share a port.

        Parameters
        ----------
        nodes : sequence of sequences of int
            Ranks of each node.
        nbytes : int
            Size in bytes of what is reduced, in cache or beyond.
        hosts : sequence of str, optional
            Host name of each node, to use what was measured of each pair of them.

        Examples
        --------
        >>> Table().links([(0, 1)]).latency
        4e-07
        >>> Table().links([(0, 1), (2, 3)]).ports
        array([0, 0, 1, 1])
        """
        reduce_per_byte = self.reduce_per_byte(nodes, nbytes)
        alone = len(nodes) == 1
        main = self.figures_for(nodes, SAME_NODE if alone else BETWEEN_NODES)
        pairs = None if hosts is None or alone else self._matrices(hosts, main)
        if pairs is None and (alone or all(len(ranks) == 1 for ranks in nodes)):
            return Links(main.latency, main.per_byte_crowded, main.overhead, main.gap, reduce_per_byte)
        if pairs is None:
            shape = (len(nodes), len(nodes))
            pairs = np.full(shape, main.latency), np.full(shape, main.per_byte_crowded)
        ports = np.empty(sum(map(len, nodes)), np.int64)
        for node, ranks in enumerate(nodes):
            ports[list(ranks)] = node
        inside = self.figures_for(nodes, SAME_NODE)
        for matrix, value in zip(pairs, (inside.latency, inside.per_byte_crowded), strict=True):
            np.fill_diagonal(matrix, value)
        latency, per_byte = (matrix[np.ix_(ports, ports)] for matrix in pairs)
        return Links(latency, per_byte, main.overhead, main.gap, reduce_per_byte, ports)

    def _matrices(
        self, hosts: Sequence[str], figures: Figures
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Latency and crowded seconds per byte between hosts, or None where no pair of them was measured."""
        latency = np.full((len(hosts), len(hosts)), figures.latency)
        per_byte = np.full((len(hosts), len(hosts)), figures.per_byte_crowded)
        crowding = max(1.0, figures.per_byte_crowded / figures.per_byte) if figures.per_byte else 1.0
        found = False
        for row, sender in enumerate(hosts):
            for column, receiver in enumerate(hosts):
                pair = self.pairs.get(sender, {}).get(receiver)
                if pair is not None:
                    found = True
                    latency[row, column] = pair["latency"]
                    per_byte[row, column] = pair["per_byte"] * crowding
        return (latency, per_byte) if found else None

    def reduce_per_byte(self, nodes: Sequence[Sequence[int]], nbytes: int) -> float:
        """Seconds for each byte of the result of a reduction, between and beyond the measured sizes."""
        known = self.reduction
        curve = known[_most_alike(known, nodes)] if known else TYPICAL_REDUCTION
        sizes, seconds = zip(*curve, strict=True)
        return float(np.interp(log(max(nbytes, 1)), np.log(sizes), seconds))

    def attention_rate(self, nodes: Sequence[Sequence[int]]) -> float:
        """Floating-point operations a second of one rank's attention."""
        return self.attention[_most_alike(self.attention, nodes)] if self.attention else TYPICAL_ATTENTION

    def native_seconds(self, operation: str, nodes: Sequence[Sequence[int]], nbytes: int) -> float | None:
        """Seconds of the library's own collective, or None where it was not measured in this placement.

        Parameters
        ----------
        operation : str
            Such as "allreduce".
        nodes : sequence of sequences of int
            Ranks of each node.
        nbytes : int
            Bytes of the whole vector.

        Examples
        --------
        >>> table = Table(native={"bcast": {"2": [[8, 1e-6], [32, 1e-6], [128, 4e-6]]}})
        >>> [f"{table.native_seconds('bcast', [(0, 1)], nbytes):.1e}" for nbytes in (1, 64, 256)]
        ['1.0e-06', '2.0e-06', '8.0e-06']
        """
        curve = self.native.get(operation, {}).get(placement(nodes))
        return _on_curve(curve, nbytes) if curve else None

    def is_tried(self, operation: str, nodes: Sequence[Sequence[int]]) -> bool:
        """Whether the library's own was timed in this placement, and algorithms of ours beside it."""
        where = placement(nodes)
        return all(where in measured.get(operation, {}) for measured in (self.native, self.trials))

    def trial_seconds(
        self, operation: str, nodes: Sequence[Sequence[int]], nbytes: int
    ) -> dict[str, float] | None:
        """Seconds of the algorithms that were tried, by their texts, or None where none was of this size."""
        curves = self.trials.get(operation, {}).get(placement(nodes), {})
        near = {text: curve for text, curve in curves.items() if nbytes <= TRIED_BEYOND * curve[-1][0]}
        return {text: _on_curve(curve, nbytes) for text, curve in near.items()} or None


def _merged(older: dict[str, dict[str, Any]], newer: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: older.get(name, {}) | newer.get(name, {}) for name in older | newer}


def _on_curve(curve: Curve, nbytes: int) -> float:
    """Interpolate between powers; past the last point time grows as before, or half to all as bytes do."""
    sizes, seconds = zip(*curve, strict=True)
    if nbytes < sizes[-1]:
        return float(np.exp(np.interp(log(max(nbytes, 1)), np.log(sizes), np.log(seconds))))
    per_byte = seconds[-1] / sizes[-1]
    if len(curve) > 1:
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        per_byte = min(per_byte, max(slope, per_byte / 2))
    return float(seconds[-1] + per_byte * (nbytes - sizes[-1]))


def _most_alike(placements: Iterable[str], nodes: Sequence[Sequence[int]]) -> str:
    wanted = list(map(len, nodes))
    return min(placements, key=lambda text: (_distance(counts_of(text), wanted), text))


def _distance(known: Sequence[int], wanted: Sequence[int]) -> float:
    """How unlike two placements are: by what factor ranks, nodes, and ranks of a node differ."""
    return sum(
        abs(log(mine / yours)) for mine, yours in zip(_features(known), _features(wanted), strict=True)
    )


def _features(counts: Sequence[int]) -> tuple[int, int, int]:
    return sum(counts), len(counts), max(counts)
