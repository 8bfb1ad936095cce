"""Random calls with random datatypes: drawn alike on all ranks, but for the trees and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roundelay import MPI
from tests.buffer_calls import (
    BUFFERED_SENDS,
    COMPLETIONS,
    EXCHANGES,
    FORMS,
    POSTED,
    READY_SENDS,
    RECEIVES,
    SENDS,
    Collective,
    Exchange,
    Message,
    Packing,
)
from tests.random_calls import MOVING, ROOT_RECEIVES, ROOT_SENDS
from tests.trees import (
    GUARD,
    Signature,
    Tree,
    bounds,
    build,
    disjoint,
    draw_signature,
    draw_tree,
    release,
    span,
    spread,
    typemap,
)

# Of each collective, whether a rank gives and gets one block, or one for each rank or each neighbour.
NEIGHBORS = {
    "Neighbor_allgather": "one all",
    "Neighbor_allgatherv": "one all",
    "Neighbor_alltoall": "all all",
    "Neighbor_alltoallv": "all all",
    "Neighbor_alltoallw": "all all",
}
NEIGHBOR_STEPS = (1, 0, -1)
"""From a rank to those that it sends to; the other way round, to those that it receives from."""

COLLECTIVES = {**MOVING, "Alltoallw": "all all", **NEIGHBORS}
IN_PLACE = {"Allgather", "Allgatherv", "Alltoall", "Alltoallv", "Alltoallw"}

NAMES = ["message", "packing", *EXCHANGES, *COLLECTIVES]
OPEN_MPI = "Open MPI" in MPI.Get_library_version()
if MPI.COMM_WORLD.size == 1 and OPEN_MPI:
    # There, Open MPI 5.0.11 takes displacements for extents, and writes elsewhere.
    NAMES.remove("Alltoallw")


@dataclass
class Argument:
    """Memory on this rank for blocks of instances of a datatype, or of one for each block.

    Attributes
    ----------
    trees, counts, places
        One for each block; the places are in extents where there is one datatype, and else in bytes.
    kind
        How a call takes it: "" for one block or equal ones that follow one another, "v" or "w".
    """

    trees: list[Tree]
    counts: list[int]
    places: list[int]
    kind: str

    def __post_init__(self) -> None:
        units = [1 if self.kind == "w" else bounds(tree)[1] for tree in self.trees]
        self.starts = [place * unit for place, unit in zip(self.places, units, strict=True)]
        spans = [span(tree, count) for tree, count in zip(self.trees, self.counts, strict=True)]
        low = min([0, *(start + low for start, (low, _) in zip(self.starts, spans, strict=True))])
        high = max([0, *(start + high for start, (_, high) in zip(self.starts, spans, strict=True))])
        self.origin = GUARD * (1 - low // GUARD)
        self.memory: NDArray[np.uint8] = np.zeros(self.origin + high + GUARD, np.uint8)

    def __str__(self) -> str:
        trees = self.trees if self.kind == "w" else self.trees[0]
        return f"{self.counts} at {self.places} of {trees}"

    def build(self) -> None:
        """Make the datatypes."""
        self.datatypes = [build(tree, MPI) for tree in (self.trees if self.kind == "w" else self.trees[:1])]

    def free(self) -> None:
        """Free them."""
        for datatype in self.datatypes:
            release(datatype)

    def blocks(self) -> list[NDArray[np.int64]]:
        """Give the places in memory of the bytes of each block, in the order of its typemap."""
        every = zip(self.starts, self.trees, self.counts, strict=True)
        return [self.origin + start + spread(*typemap(tree, count)) for start, tree, count in every]

    def fill(self, seed: int) -> None:
        """Put in random bytes."""
        self.memory[:] = np.random.default_rng(seed).integers(0, 256, len(self.memory), np.uint8)

    def write(self) -> Any:
        """Write the argument as a call takes it."""
        buffer = self.memory[self.origin :]
        if not self.kind:
            return [buffer, self.counts[0], self.datatypes[0]]
        if self.kind == "w":
            return [buffer, (self.counts, self.places), self.datatypes]
        return [buffer, (self.counts, self.places), self.datatypes[0]]


@dataclass
class Trial:
    """One call on this rank: what is sent and where to receive, where this rank does."""

    call: Message | Exchange | Collective | Packing
    out: Argument | None
    into: Argument | None

    def __str__(self) -> str:
        return f"{self.call}: out {self.out}; into {self.into}"

    @property
    def arguments(self) -> list[Argument]:
        """Each of them once."""
        both = [self.out, None if self.into is self.out else self.into]
        return [argument for argument in both if argument]


def draw_trial(name: str, seed: int, index: int, comm: Any) -> Trial:
    """Draw a call of the given name for this rank."""
    return _Drawing(name, seed, index, comm).draw()


def walk(trial: Trial, before: list[NDArray[np.uint8]], comm: Any) -> list[NDArray[np.uint8]]:
    """Give the memory of a call's arguments after it, by their typemaps; the ranks call this together."""
    memory = dict(zip(map(id, trial.arguments), before, strict=True))
    call, out = trial.call, trial.out
    in_place = isinstance(call, Collective) and call.in_place
    sending = trial.into if in_place else out
    packed = [memory[id(sending)][places] for places in sending.blocks()] if sending else []
    if in_place and "gather" in str(call):
        packed = [packed[comm.rank]]
    everyone = comm.allgather(packed)
    after = {key: array.copy() for key, array in memory.items()}
    for places, data in zip(
        trial.into.blocks() if trial.into else [], arriving(call, everyone, comm), strict=False
    ):
        after[id(trial.into)][places[: len(data)]] = data
    return [after[id(argument)] for argument in trial.arguments]


def arriving(call: Any, everyone: list[list[NDArray[np.uint8]]], comm: Any) -> list[NDArray[np.uint8]]:
    """Give the packed data of each block that this rank receives, of what each rank sends."""
    rank, ranks = comm.rank, range(comm.size)
    if isinstance(call, Packing):
        return everyone[rank]
    if not isinstance(call, Collective):
        return everyone[call.peer] if call.peer in ranks else []
    gives, takes = COLLECTIVES[call.name].split()
    if call.name in NEIGHBORS:
        sources = [(rank + step) % comm.size for step in NEIGHBOR_STEPS[::-1]]
        return [everyone[source][number if gives == "all" else 0] for number, source in enumerate(sources)]
    sources = list(ranks) if takes == "all" else [call.named["root"]]
    return [everyone[source][rank if gives == "all" else 0] for source in sources if everyone[source]]


class _Drawing:
    """Generators: `common`, which draws the same on all ranks, and `own`, which does not."""

    def __init__(self, name: str, seed: int, index: int, comm: Any) -> None:
        self.name, self.comm = name, comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.common, self.own = Random(f"{seed} {index}"), Random(f"{seed} {index} {comm.rank}")
        self.signature: Signature = draw_signature(self.common)

    def draw(self) -> Trial:
        if self.name == "message":
            return self.draw_message()
        if self.name == "packing":
            count = self.common.randint(0, 3)
            return Trial(Packing(self.own.randint(0, 9)), self.one(count, "send"), self.one(count))
        return self.draw_exchange() if self.name in EXCHANGES else self.draw_collective()

    def tree(self, instances: int, role: str) -> Tree:
        """Grow a tree of the signature that is common to all; what is received into may not overlap."""
        # Open MPI 5.0.11 packs the wrong bytes of some datatypes that overlap.
        may_overlap = role == "send" and not OPEN_MPI
        tree = draw_tree(self.own, self.signature, overlap=may_overlap and self.own.random() < 0.3)
        # With a negative extent, Open MPI 5.0.11 moves nothing in an Alltoallw, and ends in an Allgather.
        suits = bounds(tree)[1] > 0 or self.name not in COLLECTIVES
        if suits and (may_overlap or disjoint(*typemap(tree, instances))):
            return tree
        low, high = span(tree, 1)
        return ("resized", low, high - low, tree)

    def one(self, count: int, role: str = "receive") -> Argument:
        return Argument([self.tree(count, role)], [count], [0], "")

    def draw_message(self) -> Trial:
        send, receive = self.common.choice(SENDS + READY_SENDS + BUFFERED_SENDS), self.common.choice(RECEIVES)
        complete, peer = self.own.choice(COMPLETIONS), self.partner()
        if send in BUFFERED_SENDS and peer == self.rank:
            # Where a rank sends itself many pairs so, MPICH 5.0.2 says that it cannot.
            send = send.replace("bs", "s").replace("Bs", "S")
        sends = peer == self.rank or self.rank % 2 == self.common.randrange(2)
        receives = peer == self.rank or not sends
        count, room = self.common.randint(0, 3), self.common.choice((0, 0, 0, 1, 5))
        if send in READY_SENDS:
            receive = self.common.choice(POSTED)
        elif peer == self.rank and receive not in POSTED:
            send = send if "I" in send or "_init" in send else f"I{send.lower()}"
        out = self.one(count, "send") if sends else None
        into = self.one(count + room) if receives else None
        return Trial(Message(send, receive, complete, peer), out, into)

    def draw_exchange(self) -> Trial:
        count, room = self.common.randint(0, 3), self.common.choice((0, 0, 2))
        peer = self.partner()
        if not self.name.endswith("replace"):
            return Trial(Exchange(self.name, peer), self.one(count, "send"), self.one(count + room))
        if peer == self.rank and self.size > 1:
            # MPICH 5.0.2 says that a rank of several cannot replace many pairs by its own.
            peer = MPI.PROC_NULL
        both = self.one(count)
        return Trial(Exchange(self.name, peer), both, both)

    def partner(self) -> int:
        """Give the rank with which this one talks: the one beside it, or itself."""
        return self.rank if self.rank ^ 1 >= self.size else self.rank ^ 1

    def draw_collective(self) -> Trial:
        name, root = self.name, self.common.randrange(self.size)
        form, in_place = self.common.choice(FORMS), name in IN_PLACE and self.common.random() < 0.2
        given, taken = self.draw_counts(root, in_place)
        gives, takes = COLLECTIVES[name].split()
        out = into = None
        if not in_place and (name not in ROOT_SENDS or self.rank == root):
            out = self.blocks(given, gives, "send")
        if name not in ROOT_RECEIVES | {"Bcast"} or (self.rank == root) != (name == "Bcast"):
            into = self.blocks(taken, takes, "receive")
        named: dict[str, Any] = {"root": root} if name in ROOT_SENDS | ROOT_RECEIVES else {}
        return Trial(Collective(name, form, in_place, named), out, into)

    def draw_counts(self, root: int, in_place: bool) -> tuple[list[int], list[int]]:
        """Draw how many instances this rank gives and takes: in each block."""
        count, ranks = self.common.randint(0, 3), range(self.size)
        if self.name in NEIGHBORS:
            return [count] * self.comm.outdegree, [count] * self.comm.indegree
        counts = [[count for _ in ranks] for _ in ranks]
        if self.name[-1] in "vw" and not in_place:
            counts = [[self.common.randint(0, 3) for _ in ranks] for _ in ranks]
        if self.name in ("Gatherv", "Allgatherv"):
            counts = [[row[0] for _ in ranks] for row in counts]
        elif self.name == "Scatterv":
            counts = [counts[0] for _ in ranks]
        gives, takes = COLLECTIVES[self.name].split()
        given, taken = counts[self.rank], [row[self.rank] for row in counts]
        return given if gives == "all" else given[root:][:1], taken if takes == "all" else taken[root:][:1]

    def blocks(self, counts: list[int], which: str, role: str) -> Argument:
        """Draw an argument for one block, or for several."""
        if which == "one":
            return self.one(counts[0] if counts else 0, role)
        if self.name[-1] not in "vw":
            tree = self.tree(sum(counts), role)
            places = [number * count for number, count in enumerate(counts)]
            return Argument([tree] * len(counts), counts, places, "")
        places, end = [0] * len(counts), self.own.choice((0, 2))
        order = self.own.sample(range(len(counts)), len(counts))
        if self.name[-1] == "v":
            for block in order:
                places[block], end = end, end + counts[block] + self.own.choice((0, 0, 3))
            return Argument([self.tree(end, role)] * len(counts), counts, places, "v")
        trees = [self.tree(count, role) for count in counts]
        for block in order:
            low, high = span(trees[block], counts[block])
            places[block], end = end - low, end + high - low + self.own.choice((0, 0, 13))
        return Argument(trees, counts, places, "w")
