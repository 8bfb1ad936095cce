"""Results that workers offer in an era: those that are asked for, and those to decode gradients from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .channel import Vector
from .crew import Crew, Place
from .info import Limits
from .messages import Report
from .rounds import Round, decode
from .scheme import Combination, Scheme
from .shown import Shown


class Answer(NamedTuple):
    """A report of which all is here that was asked for, and how many of its vectors were of use."""

    rank: int
    report: Report
    used: int


@dataclass
class _Open:
    """A report, and what is not here yet of what was asked for."""

    rank: int
    report: Report
    awaited: set[Place] = field(default_factory=set)
    used: int = 0


class Offers:
    """Vectors of an era; a worker has answered once those that it was asked for are here.

    Of vectors that can stand for one another one is asked for, and the others, too, if it does not come soon.

    Parameters
    ----------
    crew : Crew
    scheme : Scheme
    era : int
    ranks : sequence of int
        Of each worker.
    first, jobs : int
        The first job, and how many there are.

    Attributes
    ----------
    progress : Progress
        By the vectors that are here.
    """

    def __init__(
        self, crew: Crew, scheme: Scheme, era: int, ranks: Sequence[int], first: int, jobs: int
    ) -> None:
        self._crew, self._pieces, self._era, self._ranks = crew, scheme.pieces, era, list(ranks)
        self._first = self._oldest = first
        self.progress = scheme.start(jobs)
        # By those that are here or asked for.
        self._expected = scheme.start(jobs)
        self._asked: set[Place] = set()
        self._spare: dict[Place, Shown | None] = {}
        self._open: list[_Open] = []

    def take(self, rank: int, report: Report) -> None:
        """Note what a worker offers, and ask for what is of use."""
        answer, worker = _Open(rank, report), self._ranks.index(rank)
        self._open.append(answer)
        for (job, slot), shown in report.done.items():
            place = Place(self._era, rank, job, slot)
            if job < self._oldest:
                continue
            if self._expected.receive(worker, job - self._first, slot):
                self._asked.add(place)
            # Computed once more, it is answered when it is here.
            if place in self._asked:
                answer.awaited.add(place)
                self._ask(place, shown)
            else:
                self._spare[place] = shown

    def answers(self, arrived: Iterable[Place]) -> list[Answer]:
        """Those that are whole, now that some vectors have arrived."""
        for place in arrived:
            self._receive(place)
        if self._spare and self._crew.is_late():
            spare, self._spare = self._spare, {}
            self._asked.update(spare)
            for place, shown in spare.items():
                self._ask(place, shown)
        done = [Answer(each.rank, each.report, each.used) for each in self._open if not each.awaited]
        self._open = [each for each in self._open if each.awaited]
        return done

    def _ask(self, place: Place, shown: Shown | None) -> None:
        if self._crew.pull(place, self._pieces, shown):
            self._receive(place)

    def _receive(self, place: Place) -> None:
        """Note that a vector is here."""
        worker = self._ranks.index(place.rank)
        is_used = self.progress.receive(worker, place.job - self._first, place.slot)
        for each in self._open:
            if place in each.awaited:
                each.awaited.remove(place)
                each.used += is_used

    def combine(
        self, round_: Round, job: int, exactly: bool, limits: Limits, silent: Collection[int]
    ) -> Combination | None:
        """How to decode the era's job when a round may end; None if a vector is still to come.

        Raises `TooFewWorkers` if the workers that were asked for it are `silent`.
        """
        found = self.progress.combine(job, exactly)
        if found is None and round_.breaks_off(self._crew.asked(), limits, silent):
            found = self.progress.combine(job, exactly=False)
        return found

    def decode(self, job: int, combination: Combination) -> Vector:
        """The gradient of the era's job, which is forgotten with all before it."""
        number = self._first + job
        places = [Place(self._era, self._ranks[term.worker], number, term.slot) for term in combination.terms]
        whole = decode(self._crew, combination, places, self._pieces)
        self.forget(job)
        return whole

    def forget(self, job: int) -> None:
        """Drop what is known of a job."""
        number = self._first + job
        self._oldest = number + 1
        self._crew.drop(number)
        self.progress.forget(job)
        self._expected.forget(job)
        self._asked = {place for place in self._asked if place.job != number}
        self._spare = {place: shown for place, shown in self._spare.items() if place.job != number}
        for each in self._open:
            each.awaited = {place for place in each.awaited if place.job != number}
