"""Ranks that come late to collectives again and again: the others wait, and they do not."""

from __future__ import annotations

import numpy as np

from .pace import Chunk, Pace, Paces
from .verdict import Verdict
from .wording import Functions, listed, named

# Part of a step that the others lose.
SHARE = 0.1
# It is over where they lose no more than this.
ENDED_SHARE = 0.05
# On how much this rests: more steps show smaller differences.
OPS, SECONDS = (24, 46), 8.0
BLOCKS = 8
# In how many of the blocks.
AGREEING = 0.7
# By how many times the error of the mean it has to differ from nothing.
SURE = 4.5
SHORTEST_STEP = 1e-3
# A rank that was named is not named again for so long.
SECONDS_APART = 600.0
# Seconds between two looks at the same communicator.
_INTERVAL = 0.4


def shares_of(chunks: list[Chunk]) -> np.ndarray:
    """Give the part of the time that others lose by each rank, block after block; shape (blocks, ranks)."""
    ops = np.cumsum([chunk.ops for chunk in chunks])
    blocks = np.minimum((ops - 1) * BLOCKS // ops[-1], BLOCKS - 1)
    lateness = np.zeros((BLOCKS, len(chunks[0].lateness)))
    spans = np.zeros(BLOCKS)
    np.add.at(lateness, blocks, np.stack([chunk.lateness for chunk in chunks]))
    np.add.at(spans, blocks, [chunk.span for chunk in chunks])
    used = spans > 0
    return lateness[used] / spans[used, None]


def slow_members(chunks: list[Chunk]) -> np.ndarray:
    """Give the places of members that are slow."""
    shares = shares_of(chunks)
    ops, span = sum(chunk.ops for chunk in chunks), sum(chunk.span for chunk in chunks)
    mean = sum(chunk.lateness for chunk in chunks) / ops
    variance = np.maximum(sum(chunk.squares for chunk in chunks) / ops - mean**2, 0.0)
    # Noise lasts longer than a step where ranks share cores: blocks differ more than steps then.
    error = np.maximum(
        np.sqrt(variance / ops), shares.std(axis=0, ddof=1) / np.sqrt(len(shares)) * span / ops
    )
    is_slow = ((shares > SHARE).mean(axis=0) >= AGREEING) & (mean > SURE * error)
    return np.flatnonzero(is_slow)


def _step(chunks: list[Chunk]) -> float:
    return sum(each.span for each in chunks) / sum(each.ops for each in chunks)


class SlowRanks:
    """Names slow ranks, each once while it lasts.

    Attributes
    ----------
    slow : set of int
        Those that are slow now.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.slow: set[int] = set()
        self._looked: dict[int, tuple[float, int]] = {}
        self._said: dict[int, float] = {}

    def look(self, paces: Paces, now: float) -> list[Verdict]:
        """Judge those communicators that have got further."""
        found = []
        for comm, pace in paces.of.items():
            time, added = self._looked.get(comm, (0.0, 0))
            if now - time < _INTERVAL or pace.added == added:
                continue
            self._looked[comm] = now, pace.added
            for ops in OPS:
                chunks = pace.latest(ops, SECONDS)
                if chunks and _step(chunks) >= SHORTEST_STEP:
                    found += self._judge(pace, chunks, now)
        return found

    def _judge(self, pace: Pace, chunks: list[Chunk], now: float) -> list[Verdict]:
        places = slow_members(chunks)
        if 2 * len(places) >= len(pace.ranks):
            return []
        shares = np.median(shares_of(chunks), axis=0)
        over = {rank for rank, share in zip(pace.ranks.tolist(), shares, strict=True) if share < ENDED_SHARE}
        self.slow -= over
        fresh = [
            place
            for place in places.tolist()
            if (rank := int(pace.ranks[place])) not in self.slow
            and now - self._said.get(rank, -SECONDS_APART) >= SECONDS_APART
        ]
        self.slow |= {int(pace.ranks[place]) for place in places}
        return [self._verdict(pace, chunks, fresh, shares, now)] if fresh else []

    def _verdict(
        self, pace: Pace, chunks: list[Chunk], places: list[int], shares: np.ndarray, now: float
    ) -> Verdict:
        ranks = [int(pace.ranks[place]) for place in places]
        self._said.update(dict.fromkeys(ranks, now))
        ops, span = sum(each.ops for each in chunks), sum(each.span for each in chunks)
        share = float(shares[places].mean())
        witness = int(pace.ranks[int(np.argmin(shares))])
        function = self._functions.names[pace.function]
        factors = [1 / (1 - min(float(shares[place]), 0.99)) for place in places]
        sentence = (
            f"{named(ranks)} {'is' if len(ranks) == 1 else 'are'} slow: in {ops} steps of "
            f"{span / ops * 1e3:.3g} ms the others have waited for {'it' if len(ranks) == 1 else 'them'} in "
            f"{function} at {{{witness}}} for {share:.0%} of the time, as if its work took "
            f"{listed(f'{each:.2f}' for each in factors)} times as long"
        )
        evidence = {
            "share": dict(zip(map(str, ranks), shares[places].round(4).tolist(), strict=True)),
            "shares": dict(zip(map(str, pace.ranks.tolist()), shares.round(4).tolist(), strict=True)),
            "steps": ops,
            "seconds_per_step": span / ops,
        }
        return Verdict("slow-rank", tuple(ranks), sentence, span, evidence, witness)
