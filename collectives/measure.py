"""Measuring the figures of the running MPI library on the nodes that it was started on.

Latency and bandwidth come from ping-pongs of disjoint pairs, overhead and gap from bursts (Culler et al.,
"Assessing Fast Network Interfaces", IEEE Micro 1996), the cost of a byte under load from exchanges of all
ranks. Times are medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datatypes.plain import MPI
from . import probes
from .catalogue import NATIVE, Setting
from .figures import BETWEEN_NODES, SAME_NODE, TYPICAL, Curve, Figures, PairClass, Table
from .nodes import Nodes, host_class, hosts_of, nodes_of, placement
from .sampling import Run, Sampler, Seconds, first_share, longest, taking_part, typically
from .selection import Candidate, promising, rank_candidates
from .shared import SharedMemory, share
from .table import library

# Called with what comes next, and how much of the whole is done, from 0 to 1.
Report = Callable[[str, float], None]
Round = list[tuple[int, int]]

BUDGET_SECONDS = 110.0
MESSAGE_SIZES = (probes.SMALL_BYTES, 64 << 10, 1 << 20)
ADDITION_SIZES = (16, 32 << 10, 512 << 10, 8 << 20)
NATIVE_SIZES = tuple(8 * 4**power for power in range(11))
# Rounds of a tournament that are enough for the figures of a class; with links, all are played.
ROUNDS = 7
# Faster than any memory: what a difference of two times is taken for where noise has made it negative.
LEAST_PER_BYTE = 1e-13

# How many of the algorithms that are predicted to be the fastest for a size are tried.
TRIALS = 8
# How often each has its turn, and how many calls that takes at least.
TURNS = 5
CALLS = 2 * TURNS

_SHARES = {"links": 0.18, "flows": 0.08, "additions": 0.04, "attention": 0.03}
_TRIAL_SHARES = {"allreduce": 0.27, "reduce_scatter": 0.1, "allgather": 0.1, "bcast": 0.1, "reduce": 0.1}


class _Pairs(NamedTuple):
    """Seconds and seconds per byte of messages between the lower rank and the upper one of each pair."""

    pairs: Round
    small: NDArray[np.float64]
    per_byte: NDArray[np.float64]
    spread: dict[str, float]


def measure(
    comm: MPI.Intracomm,
    budget: float = BUDGET_SECONDS,
    links: bool = False,
    report: Report | None = None,
) -> Table:
    """Measure what the MPI library does; collective over `comm`.

    Parameters
    ----------
    comm : Intracomm
        Communicator whose placement is measured. With one rank there are only reductions to measure.
    budget : float
        Seconds that it may take on rank 0. Where that is not enough, the longest messages are left out.
    links : bool
        Whether to measure each pair of nodes for itself.
    report : callable, optional
        Told on every rank what is measured next.

    Returns
    -------
    Table
        The figures, the same on all ranks. They are not saved.

    Raises
    ------
    ValueError
        The budget is not positive.
    """
    if not budget > 0:
        raise ValueError(f"budget {budget!r}: expected seconds, more than 0")
    own = MPI.Intracomm(comm).Dup()
    table = _Measurement(own, budget, links, report or (lambda text, done: None)).table()
    own.Free()
    return table


class _Measurement:
    def __init__(self, comm: MPI.Intracomm, budget: float, links: bool, report: Report) -> None:
        self.comm = comm
        self.sampler = Sampler(comm)
        self.budget = budget
        self.all_pairs = links
        self._report = report
        self._done = 0.0
        self.nodes = nodes_of(comm)
        self.result = Table(host=host_class(), library=library())

    def table(self) -> Table:
        if self.comm.size > 1:
            self._measure_classes()
        self._measure_host(self._begin("reductions", _SHARES["additions"]))
        block = self.sampler.sample(probes.attention(), self._begin("attention", _SHARES["attention"]))
        self.result.attention[placement(self.nodes)] = probes.ATTENTION_FLOPS / typically(block)[0]
        if self.comm.size > 1:
            for operation, share in _TRIAL_SHARES.items():
                self._try(operation, self._begin(operation, share))
        self._report("done", 1.0)
        return self.result

    def _begin(self, text: str, share: float) -> float:
        """Report a part and return its seconds."""
        self._report(text, self._done)
        self._done += share
        return self.budget * share

    def _measure_classes(self) -> None:
        classes = _rounds(self.nodes, self.all_pairs)
        found = self.result.figures[placement(self.nodes)] = {}
        for pair_class, rounds in classes.items():
            seconds = self._begin(f"links, {pair_class}", _SHARES["links"] / len(classes))
            pairs, figures = self._figures(pair_class, rounds, seconds)
            seconds = self._begin(f"many flows, {pair_class}", _SHARES["flows"] / len(classes))
            found[pair_class] = self._crowded(figures, pair_class, seconds)
            if self.all_pairs and pair_class == BETWEEN_NODES:
                self._keep_pairs(pairs, figures)

    def _figures(
        self, pair_class: PairClass, rounds: Sequence[Round], seconds: float
    ) -> tuple[_Pairs, Figures]:
        """Figures of a class without load."""
        parts = [self._play(each, 0.7 * seconds / len(rounds), pair_class) for each in rounds]
        pairs = _Pairs(
            [pair for part in parts for pair in part.pairs],
            np.concatenate([part.small for part in parts]),
            np.concatenate([part.per_byte for part in parts]),
            {name: float(np.median([part.spread[name] for part in parts])) for name in parts[0].spread},
        )
        partner = probes.partner_of(self.comm.rank, rounds[0])
        bursts = [
            typically(self.sampler.sample(probes.burst(self.comm, partner, injection), 0.15 * seconds))
            for injection in (True, False)
        ]
        (sending, sending_spread), (total, total_spread) = bursts
        small = float(np.median(pairs.small))
        # A ping-pong is the surer one of both, and a message that is never under way cannot be.
        overhead = min(sending, 0.45 * small)
        gap = max((total - 2 * small) / (probes.BURST - 1), overhead)
        spread = pairs.spread | {"overhead": sending_spread, "gap": total_spread}
        per_byte = float(np.median(pairs.per_byte))
        return pairs, Figures(small - 2 * overhead, per_byte, overhead, gap, per_byte, spread)

    def _play(self, pairs: Round, seconds: float, pair_class: PairClass) -> _Pairs:
        """One round of a tournament."""
        partner = probes.partner_of(self.comm.rank, pairs)
        samples = self.sampler.ascend(
            lambda nbytes: probes.pingpong(self.comm, partner, nbytes), MESSAGE_SIZES, seconds
        )
        # The columns that hold times are those of the lower ranks, ascending as the pairs are.
        medians = {nbytes: np.median(taking_part(each), axis=0) for nbytes, each in samples.items()}
        small = medians.pop(probes.SMALL_BYTES)
        per_byte = _slope(small, medians) if medians else np.full(len(pairs), TYPICAL[pair_class].per_byte)
        spread = {
            "latency": typically(samples[probes.SMALL_BYTES])[1],
            "per_byte": typically(samples[max(samples)])[1],
        }
        return _Pairs(pairs, small, per_byte, spread)

    def _crowded(self, figures: Figures, pair_class: PairClass, seconds: float) -> Figures:
        """The figures with the costs of a message and of a byte while all ranks of the class exchange."""
        destinations, sources, flows = _flows(self.comm.rank, self.nodes, pair_class)
        samples = self.sampler.ascend(
            lambda nbytes: probes.exchange(self.comm, destinations, sources, nbytes), MESSAGE_SIZES, seconds
        )
        times = {nbytes: longest(each) for nbytes, each in samples.items()}
        small = times.pop(probes.SMALL_BYTES)[0]
        if flows > 1:
            # Small messages of all to all wait for one another in more places than their ports. The model has
            # one gap for them and for those of one rank: the mean is the least wrong for both.
            alone = figures.latency + 2 * figures.overhead
            crowded_gap = (small - alone) / (flows - 1)
            figures = replace(figures, gap=max(figures.gap, (figures.gap + crowded_gap) / 2))
        if not times:
            return figures
        through = {nbytes * flows: np.array([time]) for nbytes, (time, _) in times.items()}
        crowded = float(_slope(np.array([small]), through)[0])
        spread = figures.spread | {"per_byte_crowded": times[max(times)][1]}
        return replace(figures, per_byte_crowded=crowded, spread=spread)

    def _keep_pairs(self, found: _Pairs, figures: Figures) -> None:
        hosts = hosts_of(self.comm, self.nodes)
        host_of = {ranks[0]: host for ranks, host in zip(self.nodes, hosts, strict=True)}
        for (a, b), small, per_byte in zip(found.pairs, found.small, found.per_byte, strict=True):
            latency = max(float(small) - 2 * figures.overhead, 0.1 * float(small))
            pair = {"latency": latency, "per_byte": float(per_byte)}
            for sender, receiver in ((a, b), (b, a)):
                self.result.pairs.setdefault(host_of[sender], {})[host_of[receiver]] = dict(pair)

    def _measure_host(self, seconds: float) -> None:
        """Measure what needs no messages: reductions and the calls of a step."""
        samples = self.sampler.ascend(probes.addition, ADDITION_SIZES, 0.8 * seconds)
        call = typically(samples.pop(ADDITION_SIZES[0]))[0]
        if samples:
            self.result.reduction[placement(self.nodes)] = [
                [nbytes, max((typically(each)[0] - call) / nbytes, LEAST_PER_BYTE)]
                for nbytes, each in samples.items()
            ]
        self.result.step = typically(self.sampler.sample(probes.empty_step(self.comm), 0.2 * seconds))[0]

    def _try(self, operation: str, seconds: float) -> None:
        """Time the library's own beside the algorithms predicted to be the fastest, for each size."""
        # Each rank has as many elements of what is scattered or gathered.
        unit = 8 * self.comm.size if operation in ("reduce_scatter", "allgather") else 8
        sizes = sorted({max(unit, nbytes // unit * unit) for nbytes in NATIVE_SIZES})
        curves: dict[str, Curve] = {NATIVE: []}
        end = self.sampler.elapsed + seconds
        memory = None
        for place, nbytes in enumerate(sizes):
            candidates = self._promising(operation, nbytes)
            left = end - self.sampler.elapsed
            if curves[NATIVE]:
                candidates = _affordable(candidates, curves[NATIVE], nbytes, left / CALLS)
                if not candidates:
                    break
            if memory is None and any(each.algorithm and each.algorithm.shares_memory for each in candidates):
                mapped = share(self.comm, SharedMemory.nbytes(self.comm.size))
                memory = None if mapped is None else SharedMemory(self.comm, mapped)
            runs = {str(each.algorithm): self._run(operation, each, memory, nbytes) for each in candidates}
            runs[NATIVE] = probes.collective(self.comm, operation, nbytes)
            each = left * first_share(sizes[place:]) / (TURNS * len(runs))
            for name, found in self._in_turn(runs, each).items():
                curves.setdefault(name, []).append([nbytes, found])
        where = placement(self.nodes)
        self.result.native[operation] = {where: curves.pop(NATIVE)}
        if curves:
            self.result.trials[operation] = {where: curves}

    def _promising(self, operation: str, nbytes: int) -> list[Candidate]:
        setting = Setting(self.comm.size, nodes=self.nodes)
        figures = replace(self.result, native={}, trials={})
        return promising(rank_candidates(operation, setting, nbytes, figures), of_a_family=1, most=TRIALS)

    def _run(self, operation: str, candidate: Candidate, memory: SharedMemory | None, nbytes: int) -> Run:
        assert candidate.algorithm is not None
        return probes.schedule(self.comm, operation, candidate.algorithm, memory, nbytes)

    def _in_turn(self, runs: dict[str, Run], seconds: float) -> dict[str, float]:
        """Seconds of each run, the median of several turns, for a machine may be slower for a while."""
        turns: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(TURNS):
            for name, run in runs.items():
                turns[name].append(longest(self.sampler.sample(run, seconds))[0])
        return {name: float(np.median(found)) for name, found in turns.items()}


def _affordable(candidates: list[Candidate], native: Curve, nbytes: int, seconds: float) -> list[Candidate]:
    """The first candidates that take no more than so long, with the library's own and for a call of each."""
    size, last = native[-1]
    ends = accumulate((each.seconds for each in candidates), initial=last * nbytes / size)
    return candidates[: max(0, sum(end <= seconds for end in ends) - 1)]


def _rounds(nodes: Nodes, every: bool) -> dict[PairClass, list[Round]]:
    """Rounds of disjoint pairs for each class: within all nodes at once, and of one rank of each node."""
    inside = [
        [pair for pairs in rounds for pair in pairs]
        for rounds in zip_longest(
            *(probes.tournament(ranks) for ranks in nodes if len(ranks) > 1), fillvalue=[]
        )
    ]
    outside = probes.tournament([ranks[0] for ranks in nodes]) if len(nodes) > 1 else []
    classes: dict[PairClass, list[Round]] = {SAME_NODE: _some(inside)}
    classes[BETWEEN_NODES] = outside if every else _some(outside)
    return {pair_class: [sorted(each) for each in rounds] for pair_class, rounds in classes.items() if rounds}


def _some(rounds: list[Round]) -> list[Round]:
    return rounds if len(rounds) <= ROUNDS else [rounds[i * len(rounds) // ROUNDS] for i in range(ROUNDS)]


def _flows(rank: int, nodes: Nodes, pair_class: PairClass) -> tuple[list[int], list[int], int]:
    """Destinations and sources of a rank, and the most messages that go through one port."""
    node_of = {member: node for node, ranks in enumerate(nodes) for member in ranks}
    if pair_class == SAME_NODE:
        members = nodes[node_of[rank]]
        most = max(len(probes.flows(ranks[0], ranks)[0]) for ranks in nodes)
        return *probes.flows(rank, members), most
    everyone = sorted(node_of)
    through = [0] * len(nodes)
    for each in everyone:
        through[node_of[each]] += sum(
            node_of[other] != node_of[each] for other in probes.flows(each, everyone)[0]
        )
    destinations, sources = (
        [other for other in others if node_of[other] != node_of[rank]]
        for others in probes.flows(rank, everyone)
    )
    return destinations, sources, max(through)


def _slope(small: Seconds, times: dict[int, Seconds]) -> Seconds:
    """Seconds per byte that, added to the times of small messages, come nearest to those of large ones.

    Nearest by the squares of the relative errors.
    """
    nbytes = np.array(list(times))[:, None]
    seconds = np.array(list(times.values()))
    x, y = nbytes / seconds, 1 - small / seconds
    return np.asarray(np.maximum((x * y).sum(0) / (x * x).sum(0), LEAST_PER_BYTE))
