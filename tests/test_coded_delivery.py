"""The master among workers that answer late, twice, in any order, or not at all: never a wrong gradient.

    python -m tests.test_coded_delivery

does the same with 10,000 seeds, in half a minute.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from roundelay.collectives.coding.arrays import Packing, Signature
from roundelay.collectives.coding.catalogue import scheme
from roundelay.collectives.coding.crew import Place
from roundelay.collectives.coding.info import Limits
from roundelay.collectives.coding.master import Master
from roundelay.collectives.coding.messages import Report, Start
from roundelay.collectives.coding.shown import Shown

SEEDS, MANY_SEEDS, JOBS = 100, 2000, 5


def value(version: float, partition: int) -> float:
    """The gradient of a partition: another one for each version of the parameters."""
    return float(np.sin(1.0 + version) * (partition + 1) + np.cos(version * (partition + 2)))


class Chaos:
    """Stands for the crew and its messages: any that is under way may be the next to arrive.

    Vectors are as the real ones: made from the parameters that came with the job, named by who and what.
    Those that are dead answer at times, but send nothing.
    """

    def __init__(self, rng: np.random.Generator, ranks: list[int], dead: set[int]) -> None:
        self.rng, self.dead = rng, dead
        self.signature = Signature(((1,),), ("float64",), True)
        self._free = dict.fromkeys(ranks, True)
        self._has: dict[int, dict[int, float]] = {rank: {} for rank in ranks}
        self._parameters: dict[int, np.ndarray] = {}
        self._reports: list[tuple[int, Report]] = []
        self._coming: list[Place] = []
        self._made: dict[Place, np.ndarray] = {}
        self._here: dict[Place, np.ndarray] = {}
        self._wanted: set[Place] = set()

    def is_free(self, rank: int) -> bool:
        """Whether a worker has answered."""
        return self._free[rank]

    def silent(self, seconds: float) -> list[int]:
        """Nobody is lost."""
        return []

    def begin(self) -> None:
        """All are free."""

    def begin_anew(self) -> None:
        """Forget all but what is under way."""
        self._wanted.clear()
        self._here.clear()
        for has in self._has.values():
            has.clear()

    def start(self, rank: int, start: Start) -> None:
        """Have a worker compute: its report is under way."""
        assert self._free[rank]
        self._free[rank] = False
        for task in start.tasks:
            self._has[rank].setdefault(task.job, float(self._parameters[task.job].view(np.float64)[0]))
            gradients = [value(self._has[rank][task.job], each) for each in task.partitions]
            place = Place(start.era, rank, task.job, task.slot)
            # A result that is computed again is the same, to the rounding of its sum.
            self._made[place] = np.array([float(task.weights[:, 0] @ gradients)])
        done = {(task.job, task.slot): self._show() for task in start.tasks}
        if rank not in self.dead or self.rng.random() < 0.5:
            self._reports.append((rank, Report(start.era, start.turn, done, self.signature, 0.0)))

    def abandon(self, rank: int) -> None:
        """Cut a report that is under way; or be too late."""
        for place, (sender, report) in enumerate(self._reports):
            if sender == rank and self.rng.random() < 0.5:
                kept = list(report.done.items())[: int(self.rng.integers(len(report.done) + 1))]
                self._reports[place] = (rank, report._replace(done=dict(kept)))

    def _show(self) -> Shown | None:
        """A vector in memory that the master sees, or one that must be sent."""
        return Shown(0, 0, 0, 8) if self.rng.random() < 0.5 else None

    def pull(self, place: Place, pieces: int, shown: Shown | None = None) -> bool:
        """Ask for a vector: it is under way, or here."""
        assert pieces == 1
        if place not in self._wanted:
            self._wanted.add(place)
            if shown is None and place.rank not in self.dead:
                self._coming.append(place)
            elif shown is not None:
                self._here[place] = self._made[place]
        return place in self._here

    def asked(self) -> list[int]:
        """Workers whose vectors are not here."""
        return sorted({place.rank for place in self._wanted - self._here.keys()})

    def is_late(self) -> bool:
        """Whether others that were offered are asked for, too."""
        return bool(self._wanted - self._here.keys()) and self.rng.random() < 0.2

    def room(self, job: int, nbytes: int) -> np.ndarray:
        """Memory for parameters."""
        self._parameters[job] = np.empty(nbytes, np.uint8)
        return self._parameters[job]

    def forget_parameters(self, job: int) -> None:
        """Each job has memory of its own."""

    def vector(self, place: Place) -> np.ndarray | None:
        """A vector that is here."""
        return self._here.get(place)

    def drop(self, job: int) -> None:
        """Forget the vectors of a job."""
        self._here = {place: each for place, each in self._here.items() if place.job != job}
        self._wanted = {place for place in self._wanted if place.job != job}

    def listen(self) -> tuple[list[tuple[int, Report]], list[Place]]:
        """Let one thing arrive; a report may arrive once more later."""
        if not self._reports and not self._coming:
            return [], []
        chosen = int(self.rng.integers(len(self._reports) + len(self._coming)))
        if chosen < len(self._reports):
            rank, report = self._reports[chosen]
            if self.rng.random() > 0.1 or not self._free[rank]:
                self._reports.pop(chosen)
            self._free[rank] = True
            return [(rank, report)], []
        place = self._coming.pop(chosen - len(self._reports))
        if place not in self._wanted:
            return [], []
        self._here[place] = self._made[place]
        return [], [place]

    def stop(self, error: Exception | None) -> None:
        """No training fails."""
        assert error is None

    def part(self) -> None:
        """Nobody waits for anything."""


class Silence(Chaos):
    """Dead workers are noticed at one of the times that the master looks whether any is silent."""

    def __init__(self, rng: np.random.Generator, ranks: list[int], dead: set[int], looks: int) -> None:
        super().__init__(rng, ranks, dead)
        self._looks = looks

    def silent(self, seconds: float) -> list[int]:
        """The dead ones, from some time on."""
        self._looks -= 1
        return sorted(self.dead) if self._looks < 0 else []


def gradients(
    chaos: Any, name: str, how: dict[str, int], workers: int, jobs: int, replan: Any = None
) -> Iterator[tuple[float, float]]:
    """Gradients as the master decodes them, and as they are; it may go on with another scheme in between."""
    each = scheme(name, workers, **how)
    models = [np.full(1, 10.0 * stream) for stream in range(each.delay + 1)]
    limits = Limits(patience=0.0, deadline=None, on_deadline="raise", lost_after=1e9)
    master = Master(
        chaos, each, list(range(1, workers + 1)), [Packing(model) for model in models], limits, replan
    )
    for total, info in master.rounds(jobs):
        model = models[info.stream]
        count = len(master._scheme.partitions)
        yield float(total[0]), sum(value(float(model[0]), partition) for partition in range(count))
        model += 1.0
        if replan is None and chaos.rng.random() < 0.1:
            master.switch(scheme(name, workers, **how))


CASES = (
    ("gc", 4, {"stragglers": 1}, 1),
    ("gc", 5, {"stragglers": 2}, 2),
    ("sr-sgc", 4, {"burst": 1, "window": 2, "stragglers": 2}, 0),
    ("m-sgc", 4, {"burst": 1, "window": 2, "stragglers": 1}, 0),
    ("m-sgc", 3, {"burst": 1, "window": 3, "stragglers": 3}, 0),
)


@pytest.mark.parametrize(("name", "workers", "how", "dead"), CASES)
def test_never_a_wrong_gradient(name, workers, how, dead):
    check(name, workers, how, dead, SEEDS)


@pytest.mark.parametrize("looks", range(20))
def test_the_lost_are_replaced_whenever_it_is_noticed(looks):
    """Also between two looks at what a round waits for."""
    chaos = Silence(np.random.default_rng(looks), [1, 2, 3], {2}, looks)
    found = list(gradients(chaos, "uncoded", {}, 3, JOBS, lambda left: scheme("uncoded", left)))
    assert len(found) == JOBS
    for total, right in found:
        assert total == pytest.approx(right)


def check(name: str, workers: int, how: dict[str, int], dead: int, seeds: int) -> None:
    """Train once for each seed."""
    for seed in range(seeds):
        rng = np.random.default_rng([seed, workers])
        lost = set(rng.choice(workers, dead, replace=False).tolist())
        chaos = Chaos(rng, list(range(1, workers + 1)), {rank + 1 for rank in lost})
        found = list(gradients(chaos, name, how, workers, JOBS))
        assert len(found) == JOBS
        for total, right in found:
            assert total == pytest.approx(right, rel=1e-7, abs=1e-7), seed


if __name__ == "__main__":
    for case in CASES:
        check(*case, MANY_SEEDS)
        print(f"{MANY_SEEDS} seeds: {case}")
