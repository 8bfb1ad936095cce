"""A plan for sequences of unequal lengths: who has which of their tokens, and attention as it says.

Short sequences are whole on one rank. Each long one has a ring of its own over some of the ranks, without a
communicator of its own (hybrid data parallelism, ByteScale, Ge et al. 2025, arXiv 2502.21231).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...datatypes.plain import MPI
from ..consent import agree_on
from ..units import format_bytes, format_seconds
from .functions import attention, attention_backward
from .placement import Positions, positions
from .tiles import Array

Shards = Mapping[int, Array]


class Assignment(NamedTuple):
    """Who has a sequence.

    Attributes
    ----------
    length : int
        Tokens.
    ranks : tuple of int
        In the order of the ring.
    counts : tuple of int
        Tokens of each of these ranks.
    """

    length: int
    ranks: tuple[int, ...]
    counts: tuple[int, ...]


class Load(NamedTuple):
    """The work of a rank for the attention of all its sequences, forward.

    Attributes
    ----------
    flops : int
        Floating-point operations of both matrix products, for what its tokens see.
    bytes, messages : int
        Sent, exactly as `roundelay.count_traffic` counts them.
    tokens : int
    memory : int
        Bytes of the queries, keys, values, outputs and log-sum-exps of its tokens.
    seconds : float
        Computing, or sending what takes longer; without waiting for ranks that begin a sequence later.
    """

    flops: int = 0
    bytes: int = 0
    messages: int = 0
    tokens: int = 0
    memory: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SequencePlan:
    """Who computes the attention of which sequences, in which order; made by `plan_sequences`.

    Attributes
    ----------
    sequences : tuple of Assignment
        As the lengths were given.
    loads : tuple of Load
        Of each rank.
    order : tuple of int
        All sequences in the order in which ranks compute them. It is one order for all: the first sequence
        in it that is not done is the next one of all its ranks, so it goes on, and none waits for ever.
    causal : bool
    seconds : float
        Until the last rank is done, with all that ranks wait for each other.
    efficiency : float
        Mean over the ranks of what share of these seconds they need for arithmetic alone.
    """

    sequences: tuple[Assignment, ...]
    loads: tuple[Load, ...]
    order: tuple[int, ...]
    causal: bool
    seconds: float
    efficiency: float

    def of_rank(self, rank: int) -> list[int]:
        """The sequences of which a rank has tokens, in the order in which it computes them."""
        return [index for index in self.order if rank in self.sequences[index].ranks]

    def placement(self, sequence: int) -> str:
        """How a sequence lies over its ranks: "zigzag" or "contiguous"."""
        return "zigzag" if self.causal and len(self.sequences[sequence].ranks) > 1 else "contiguous"

    def positions(self, sequence: int) -> dict[int, Positions]:
        """Places in a sequence of the tokens of each of its ranks, in the order in which the rank has them.

        They gather a rank's shard, `tokens[plan.positions(sequence)[rank]]`, and are its position ids.
        """
        _, ranks, counts = self.sequences[sequence]
        return dict(zip(ranks, positions(counts, self.placement(sequence)), strict=True))

    def describe(self) -> str:
        """The plan as a table with a line for each rank."""
        lengths = [each.length for each in self.sequences]
        spread = sum(len(each.ranks) > 1 for each in self.sequences)
        lines = [
            f"{len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens, {spread} of them spread, "
            f"on {len(self.loads)} ranks: {format_seconds(self.seconds)}, efficiency {self.efficiency:.2f}",
            "rank  sequences     tokens      memory     FLOPs  messages        sent      time",
        ]
        for rank, load in enumerate(self.loads):
            lines.append(
                f"{rank:4}  {len(self.of_rank(rank)):9}  {load.tokens:9}  {format_bytes(load.memory):>10}"
                f"  {load.flops:8.2e}  {load.messages:8}  {format_bytes(load.bytes):>10}"
                f"  {format_seconds(load.seconds):>8}"
            )
        return "\n".join(lines)

    def attention(
        self, comm: MPI.Intracomm, q: Shards, k: Shards, v: Shards, **options: Any
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """`roundelay.attention` of all sequences; called by all ranks of the plan together.

        Parameters
        ----------
        comm : Intracomm
            Of as many ranks as the plan.
        q, k, v : dict of arrays
            This rank's shard of each of its sequences, `of_rank(comm.rank)`, as for `roundelay.attention`;
            what the plan says of bytes is for B = 1.
        **options
            Of `roundelay.attention`, but for `causal`, `placement` and `ranks`, which the plan decides.
            Without another `algorithm` it is a ring, of which the plan says the bytes.

        Returns
        -------
        out, lse : dicts of arrays
            For each of this rank's sequences.

        Raises
        ------
        ValueError
            On all ranks: another number of ranks, another plan on one of them, or shards that are not those
            of the plan. On all ranks of a sequence: the errors of `roundelay.attention`.

        Examples
        --------
        >>> import numpy as np
        >>> from roundelay import MPI
        >>> from roundelay import plan_sequences
        >>> comm = MPI.COMM_WORLD
        >>> plan = plan_sequences([5, 300, 70], comm.size, heads=2, key_heads=2, size=4)
        >>> tokens = {
        ...     each: np.ones((1, len(plan.positions(each)[comm.rank]), 2, 4))
        ...     for each in plan.of_rank(comm.rank)
        ... }
        >>> out, lse = plan.attention(comm, tokens, tokens, tokens)
        >>> [out[each].shape == tokens[each].shape for each in out] == [True] * len(out)
        True
        """
        arrays = {"q": q, "k": k, "v": v}
        agree_on(comm, "attention of a plan", lambda: self._check(comm, arrays, options))
        options = {"algorithm": "ring", **options}
        out, lse = {}, {}
        for index in self.of_rank(comm.rank):
            how = self._how(index)
            out[index], lse[index] = attention(q[index], k[index], v[index], comm, **how, **options)
        return out, lse

    def attention_backward(
        self,
        comm: MPI.Intracomm,
        dout: Shards,
        q: Shards,
        k: Shards,
        v: Shards,
        out: Shards,
        lse: Shards,
        **options: Any,
    ) -> tuple[dict[int, Array], dict[int, Array], dict[int, Array]]:
        """`roundelay.attention_backward` of all sequences, from what `attention` returned.

        Parameters
        ----------
        comm : Intracomm
        dout : dict of arrays
            Gradients of the outputs.
        q, k, v, out, lse : dicts of arrays
            As `attention` had and returned them.
        **options
            As `attention` had them.

        Returns
        -------
        dq, dk, dv : dicts of arrays
            For each of this rank's sequences.

        Raises
        ------
        ValueError
            As `attention`.
        """
        arrays = {"dout": dout, "q": q, "k": k, "v": v, "out": out, "lse": lse}
        agree_on(comm, "attention_backward of a plan", lambda: self._check(comm, arrays, options))
        options = {"algorithm": "ring", **options}
        dq, dk, dv = {}, {}, {}
        for index in self.of_rank(comm.rank):
            how = self._how(index)
            dq[index], dk[index], dv[index] = attention_backward(
                dout[index], q[index], k[index], v[index], out[index], lse[index], comm, **how, **options
            )
        return dq, dk, dv

    def _how(self, sequence: int) -> dict[str, Any]:
        return {
            "causal": self.causal,
            "placement": self.placement(sequence),
            "ranks": self.sequences[sequence].ranks,
        }

    def _check(
        self, comm: MPI.Intracomm, arrays: Mapping[str, Shards], options: Mapping[str, Any]
    ) -> tuple[None, dict[str, Any]]:
        """Raise `ValueError` for what does not fit the plan, else say what all ranks must have alike."""
        if comm.size != len(self.loads):
            raise ValueError(
                f"communicator of {comm.size} ranks: expected {len(self.loads)}, those of the plan"
            )
        mine = self.of_rank(comm.rank)
        for name, shards in arrays.items():
            if set(shards) != set(mine):
                raise ValueError(f"{name} of sequences {sorted(shards)}: expected {sorted(mine)}")
        axis = options.get("heads", "BSHD").find("S")
        for index in mine:
            _, ranks, counts = self.sequences[index]
            expected, found = counts[ranks.index(comm.rank)], tuple(arrays["q"][index].shape)
            if found[axis] != expected:
                raise ValueError(f"q[{index}] of shape {found}: expected {expected} tokens")
        return None, {"sequences": self.sequences, "order": self.order}
