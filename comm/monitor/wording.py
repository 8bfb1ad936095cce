"""MPI's functions by what they wait for, and the words of sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .memory import ANY_RANK
from .reading import LOOKS

_SYNCHRONISING = {
    "Barrier", "Allreduce", "Allgather", "Allgatherv", "Alltoall", "Alltoallv", "Alltoallw",
    "Reduce_scatter", "Reduce_scatter_block",
}  # fmt: skip


def dropped(counts: Mapping[str, int]) -> str:
    """Say what the watcher has refused, by the reason; empty if nothing was."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


class Functions:
    """Which functions do what, by their numbers in the record.

    Parameters
    ----------
    names : sequence of str
        Without ``MPI_``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sends = self._numbers(("Send", "Ssend", "Rsend", "Sendrecv", "Sendrecv_replace"))
        self.receives = self._numbers(("Recv", "Probe", "Mprobe", "Sendrecv", "Sendrecv_replace"))
        # Their tag is the one that they send with.
        self.exchanges = self._numbers(("Sendrecv", "Sendrecv_replace", "Isendrecv", "Isendrecv_replace"))
        self.synchronous = self._numbers(("Ssend", "Issend", "Ssend_init"))
        self.buffered = self._numbers(("Bsend", "Ibsend", "Bsend_init"))
        self.synchronising = self._numbers(_SYNCHRONISING)
        self.barriers = self._numbers(("Barrier", "Ibarrier"))
        self.finalize = self._numbers(("Finalize",))
        self.looks = self._numbers(LOOKS)
        # Collectives that only begin.
        self.starts = frozenset(
            number
            for number, name in enumerate(self.names)
            if (name[0] == "I" and name != "Intercomm_merge") or name.endswith("_init") or "idup" in name
        )

    def _numbers(self, names: Iterable[str]) -> frozenset[int]:
        wanted = set(names)
        return frozenset(number for number, name in enumerate(self.names) if name in wanted)


def ranks_of(mask: int) -> list[int]:
    """The ranks in a set of bits."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def listed(words: Iterable[object]) -> str:
    """Name several things."""
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def named(ranks: Sequence[int]) -> str:
    """Name ranks: "rank 2", "ranks 1 and 2"."""
    return f"rank{'s' if len(ranks) != 1 else ''} {listed(ranks)}"


def counted(number: int, what: str) -> str:
    """Count things: "1 rank", "2 ranks"."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def places(ranks: Sequence[int]) -> str:
    """Where ranks are, to be filled in."""
    return listed(f"{{{rank}}}" for rank in ranks)


def peer(rank: int) -> str:
    """Name whom a call is for."""
    return "any rank" if rank == ANY_RANK else str(rank)


def tagged(tag: int) -> str:
    """Name a tag; a negative one is any."""
    return "any tag" if tag < 0 else f"tag {tag}"
