"""One rank's part of a schedule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .schedule import Fold, Ranks, Schedule, Step


class Message(NamedTuple):
    """A message of one rank: the other rank, the chunks from `chunk` on, and what is done with them."""

    peer: int
    chunk: int
    length: int
    fold: Fold

    @property
    def chunks(self) -> range:
        """The chunks that it carries."""
        return range(self.chunk, self.chunk + self.length)


class RankStep(NamedTuple):
    """Messages that one rank sends and receives in a step of a lane, each in the order of the waves."""

    lane: int
    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


def rank_steps(schedule: Schedule, rank: int) -> list[RankStep]:
    """The steps in which a rank takes part.

    Examples
    --------
    >>> from roundelay.collectives.algorithms.star import star_bcast
    >>> rank_steps(star_bcast(3), 2)[0].receives
    (Message(peer=0, chunk=0, length=1, fold=<Fold.TAKE: 0>),)
    """
    found = (_part(step, rank) for step in schedule)
    return [part for part in found if part.sends or part.receives]


def _part(step: Step, rank: int) -> RankStep:
    sends: list[Message] = []
    receives: list[Message] = []
    for wave in step.waves:
        for ends, peers, messages in (
            (wave.source, wave.destination, sends),
            (wave.destination, wave.source, receives),
        ):
            (places,) = np.nonzero(ends == rank)
            messages += [_message(peers, wave.chunk, wave.length, wave.fold, int(place)) for place in places]
    return RankStep(step.lane, tuple(sends), tuple(receives))


def _message(peers: Ranks, chunk: Ranks, length: Ranks, fold: Ranks, place: int) -> Message:
    return Message(int(peers[place]), int(chunk[place]), int(length[place]), Fold(fold[place]))
