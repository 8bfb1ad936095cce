"""Random calls with random views: drawn alike on all ranks, but for the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from roundelay import MPI
from tests.buffer_calls import (
    COMPLETIONS,
    EXCHANGES,
    FORMS,
    POSTED,
    RECEIVES,
    SENDS,
    Collective,
    Exchange,
    Message,
)
from tests.random_views import NUMBERS, View, draw_count, draw_dtype, draw_view

MOST_BYTES = 1 << 21
"""No rank sends more in one call."""

# Of each collective, whether a rank gives and gets one block, or one for each rank.
MOVING = {
    "Bcast": "one one",
    "Gather": "one all",
    "Scatter": "all one",
    "Allgather": "one all",
    "Alltoall": "all all",
    "Gatherv": "one all",
    "Scatterv": "all one",
    "Allgatherv": "one all",
    "Alltoallv": "all all",
}
REDUCING = {
    "Allreduce": "one one",
    "Reduce": "one one",
    "Scan": "one one",
    "Exscan": "one one",
    "Reduce_scatter_block": "all one",
    "Reduce_scatter": "all one",
}
ROOT_SENDS, ROOT_RECEIVES = {"Bcast", "Scatter", "Scatterv"}, {"Gather", "Gatherv", "Reduce"}
VARYING = {"Gatherv", "Scatterv", "Allgatherv", "Alltoallv", "Reduce_scatter"}
OPERATIONS = {"b": ["LOR"], "i": ["SUM", "MAX", "BXOR"], "u": ["SUM", "MAX", "BXOR"], "f": ["SUM", "MAX"]}
IN_PLACE = {"Allgather", "Alltoall", "Allreduce", "Scan"}

CHARACTERS = [np.dtype("S1"), np.dtype("U1")]

NAMES = ["message", *EXCHANGES, *MOVING, *REDUCING]


@dataclass
class Argument:
    """A buffer argument: a view, how its datatype is written, and counts of its elements."""

    view: View
    style: str
    counts: Sequence[Any] = ()

    def write(self, buffer: Any, mpi: Any) -> Any:
        """Write the argument with `buffer` in the view's place."""
        if self.style == "bare":
            return [buffer, *self.counts] if self.counts else buffer
        dtype = self.view.dtype
        datatype = mpi.BYTE if self.style == "bytes" else mpi._typedict[dtype.char]
        # A text of several characters is as many elements of its datatype.
        scaled = [_scale(count, dtype.itemsize // datatype.Get_size()) for count in self.counts]
        return [buffer, *scaled, dtype.char if self.style == "code" else datatype]

    def __str__(self) -> str:
        counts = f", counts and displacements {self.counts}" if self.counts else ""
        return f"{self.view} ({self.style}{counts})"


def _scale(counts: Any, unit: int) -> Any:
    """Turn counts, or counts and displacements, of elements into such of parts of them."""
    if isinstance(counts, int):
        return counts * unit
    return type(counts)(_scale(count, unit) for count in counts)


@dataclass
class Trial:
    """One call on this rank.

    Attributes
    ----------
    out, into
        What is sent and where to receive, where this rank does; the same in both for what is replaced.
    small
        Whether elements are small numbers.
    refused
        The exception expected where plain mpi4py with a dense array would not raise it.
    layered
        Whether this rank makes the call with the layer; else with dense arrays and plain mpi4py.
    """

    call: Message | Exchange | Collective
    out: Argument | None
    into: Argument | None
    small: bool = False
    refused: type[Exception] | None = None
    layered: bool = True

    def __str__(self) -> str:
        return f"{self.call}{'' if self.layered else ', plain'}: out {self.out}; into {self.into}"


def draw_trial(name: str, seed: int, index: int, rank: int, size: int) -> Trial:
    """Draw a call of the given name for this rank."""
    drawing = _Drawing(name, seed, index, rank, size)
    trial = drawing.draw()
    mixed = size > 1 and not trial.refused and drawing.common.random() < 0.2
    trial.layered = not mixed or drawing.own.random() < 0.5
    return trial


class _Drawing:
    """Generators: `common`, which draws the same on all ranks, and `own`, which does not."""

    def __init__(self, name: str, seed: int, index: int, rank: int, size: int) -> None:
        self.name, self.rank, self.size = name, rank, size
        self.common, self.own = Random(f"{seed} {index}"), Random(f"{seed} {index} {rank}")
        self.dtype = draw_dtype(self.common)
        if name in REDUCING and self.dtype in CHARACTERS:
            # MPI sends characters, but has no sum of them.
            self.dtype = self.common.choice(NUMBERS)
        self.count = draw_count(self.common, MOST_BYTES // self.dtype.itemsize // size)
        self.style = self.common.choice(["bare", "bare", "typed", "bytes"])
        if name in REDUCING and not self.dtype.hasobject:
            # MPI has no sum of bytes.
            self.style = "bare"
        if self.style == "typed" and not vars(MPI)["_typedict"].get(self.dtype.char):
            self.style = "bare"
        self.role, self.refused = self.draw_refusal()
        self.sending = "gaps" if self.role == "gaps" else "send"

    def draw_refusal(self) -> tuple[str, type[Exception] | None]:
        """Draw whether this is a call to refuse: where that is, every rank must have to refuse it."""
        alone = self.size == 1 and self.name != "Bcast"
        alike = alone or self.name not in ROOT_SENDS | ROOT_RECEIVES
        if self.count < 2 or self.name in VARYING or not alike:
            if self.dtype.hasobject:
                self.style = "bare"
            return "receive", None
        if self.dtype.hasobject and self.style == "bytes":
            return "gaps", BufferError
        if self.dtype in NUMBERS and self.common.random() < 0.1:
            return self.common.choice((("read-only", None), ("overlap", ValueError)))
        return "receive", None

    def draw(self) -> Trial:
        if self.name == "message":
            return self.draw_message()
        return self.draw_exchange() if self.name in EXCHANGES else self.draw_collective()

    def argument(self, count: int, role: str, counts: Sequence[Any] = ()) -> Argument:
        style = self.style
        if self.dtype in NUMBERS and style != "bytes" and len(counts) < 2:
            style = self.own.choice(["bare", "typed", "code"])
        return Argument(draw_view(self.own, self.dtype, count, role), style, counts)

    def one(self, count: int, role: str) -> Argument:
        """Draw an argument for `count` elements, of as many or of the first of more."""
        if self.own.random() < 0.7 or self.role != "receive":
            return self.argument(count, role)
        return self.argument(count + self.own.choice((0, 1, 5)), role, [count])

    def draw_message(self) -> Trial:
        send, receive = self.common.choice(SENDS), self.common.choice(RECEIVES)
        complete = self.own.choice(COMPLETIONS)
        peer = self.partner()
        sends = peer == self.rank or self.rank % 2 == self.common.randrange(2)
        receives = peer == self.rank or not sends
        room = self.count + self.common.choice((0, 0, 0, 1, 40))
        if self.dtype not in NUMBERS or self.role != "receive":
            # A message that is not sent cannot be probed for.
            receive = receive.removeprefix("Mprobe, ")
        if self.role in ("read-only", "overlap"):
            sends, receives = False, True
        if peer == self.rank and receive not in POSTED:
            send = send if "I" in send or "_init" in send else f"I{send.lower()}"
        out = self.one(self.count, self.sending) if sends else None
        into = self.argument(room, self.role) if receives else None
        return Trial(Message(send, receive, complete, peer), out, into, refused=self.refused)

    def draw_exchange(self) -> Trial:
        replaces, peer = self.name.endswith("replace"), self.partner()
        counts = [self.count, self.count + (0 if replaces else self.common.choice((0, 1, 9)))]
        room = counts[peer % 2] + (0 if replaces else self.common.choice((0, 0, 5)))
        if replaces and peer == self.rank and self.size > 1 and self.dtype == np.clongdouble:
            # MPICH 5.0.2 ends the job where a rank of several replaces 16 KiB of these by its own.
            room = min(room, 400)
        into = self.one(room, self.role) if replaces else self.argument(room, self.role)
        out = into if replaces else self.one(counts[self.rank % 2], self.sending)
        return Trial(Exchange(self.name, peer), out, into, refused=self.refused)

    def partner(self) -> int:
        """Give the rank with which this one talks: the one beside it, or itself."""
        return self.rank if self.rank ^ 1 >= self.size else self.rank ^ 1

    def draw_collective(self) -> Trial:
        name, root = self.name, self.common.randrange(self.size)
        in_place = name in IN_PLACE and self.common.random() < 0.2
        given, taken = self.draw_counts(root)
        out = into = None
        if not in_place and (name not in ROOT_SENDS or self.rank == root):
            out = self.blocks(given, self.sending)
        if name not in ROOT_RECEIVES | {"Bcast"} or (self.rank == root) != (name == "Bcast"):
            into = self.blocks(taken, self.role)
        named: dict[str, Any] = {"root": root} if name in ROOT_SENDS | ROOT_RECEIVES else {}
        if name == "Reduce_scatter":
            named["recvcounts"] = given
        if name in REDUCING:
            named["op"] = self.common.choice(OPERATIONS.get(self.dtype.kind, ["SUM"]))
        call = Collective(name, self.common.choice(FORMS), in_place, named)
        return Trial(call, out, into, name in REDUCING, self.refused)

    def draw_counts(self, root: int) -> tuple[int | list[int], int | list[int]]:
        """Draw how many elements this rank gives and takes: in all, or of each rank."""
        ranks = range(self.size)
        counts = [[self.count for _ in ranks] for _ in ranks]
        if self.name in VARYING:
            most = MOST_BYTES // self.dtype.itemsize // self.size
            counts = [[draw_count(self.common, most) for _ in ranks] for _ in ranks]
        if self.name in ("Gatherv", "Allgatherv"):
            counts = [[row[0] for _ in ranks] for row in counts]
        elif self.name != "Alltoallv":
            counts = [counts[0] for _ in ranks]
        given, taken = counts[self.rank], [row[self.rank] for row in counts]
        gives, takes = {**MOVING, **REDUCING}[self.name].split()
        return given if gives == "all" else given[root], taken if takes == "all" else taken[root]

    def blocks(self, counts: int | list[int], role: str) -> Argument:
        """Draw an argument for one block, or for one of each rank."""
        if isinstance(counts, int):
            return self.one(counts, role)
        if self.name not in VARYING or self.name in REDUCING:
            written = [counts[0]] if self.name in MOVING and self.own.random() < 0.3 else []
            return self.argument(sum(counts), role, written)
        if self.own.random() < 0.3:
            return self.argument(sum(counts), role, [counts])
        places, end = [0] * len(counts), self.own.choice((0, 2))
        for rank in self.own.sample(range(len(counts)), len(counts)):
            places[rank] = end
            end += counts[rank] + self.own.choice((0, 0, 3))
        apart = self.style in ("typed", "bytes") and self.own.random() < 0.5
        return self.argument(end, role, [counts, places] if apart else [(counts, places)])
