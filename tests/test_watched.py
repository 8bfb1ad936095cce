"""The algorithm of the calls of one kind, and when it changes; by a clock that only the candidates move."""

import numpy as np
import pytest

from roundelay import MPI
from roundelay.collectives import watched as module
from roundelay.collectives.figures import Table
from roundelay.collectives.processes import Wanted
from roundelay.collectives.service import service_of
from roundelay.collectives.watched import PATIENCE, RETRY, SOON, TURNS, Watched

pytestmark = pytest.mark.mpi

PERIOD = 40


class Calls:
    """Calls whose times are given for each candidate, and may be another on each rank."""

    def __init__(self, comm, monkeypatch, **seconds):
        self.now, self.seconds, self.run = 0.0, seconds, []
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        names = list(seconds)
        self.watched = Watched(comm, names[0], seconds[names[0]], PERIOD, lambda: names)

    def __call__(self, times=1):
        """Call so often, and give what runs the calls then."""
        for _ in range(times):
            self.watched.run(self._call)
        return self.watched.current

    def _call(self, name):
        self.run.append(name)
        self.now += self.seconds[name]


@pytest.fixture
def plain(comm):
    return MPI.Intracomm(comm)


def test_steady(plain, monkeypatch):
    calls = Calls(plain, monkeypatch, ring=1.0, star=0.1)
    assert calls(1000) == "ring"
    calls.seconds["ring"] = 1.4
    assert calls(1000) == "ring"
    calls.seconds["ring"] = 0.7
    assert calls(1000) == "ring"
    assert set(calls.run) == {"ring"}


def test_the_slowest_rank_counts(plain, monkeypatch):
    calls = Calls(plain, monkeypatch, ring=1.0, star=2.0, tree=3.0)
    if plain.rank == plain.size - 1:
        calls.seconds["ring"] = 5.0
    enough = PERIOD + PATIENCE * (SOON + module.SAMPLES) + 3 * (1 + TURNS)
    assert calls(enough) == "star"
    assert calls.run[:PERIOD] == ["ring"] * PERIOD
    assert calls(500) == "star"


def test_expectations_are_adjusted(plain, monkeypatch):
    """The first look may find twice what was expected, and that is expected from then on."""
    calls = Calls(plain, monkeypatch, ring=1.0, star=0.1)
    calls.seconds["ring"] = 2.0
    assert calls(1000) == "ring"
    calls.seconds["ring"] = 3.5
    assert calls(1000) == "star"


def test_a_short_disturbance(plain, monkeypatch):
    calls = Calls(plain, monkeypatch, ring=1.0, star=0.1)
    calls(PERIOD)
    calls.seconds["ring"] = 10.0
    calls(PATIENCE * (SOON + module.SAMPLES) - 2 * SOON)
    calls.seconds["ring"] = 1.0
    assert calls(500) == "ring"
    assert "star" not in calls.run


def test_back_when_it_has_recovered(plain, monkeypatch):
    calls = Calls(plain, monkeypatch, ring=1.0, star=2.0)
    calls.seconds["ring"] = 4.0
    assert calls(300) == "star"
    calls.seconds["ring"] = 1.0
    assert calls((RETRY + 1) * (PERIOD + module.SAMPLES) + 100) == "ring"


def test_in_vain(plain, monkeypatch):
    """Times that stray are borne longer and longer."""
    calls = Calls(plain, monkeypatch, ring=1.0, star=5000.0)
    for factor in 2.0 ** np.arange(6):
        calls.seconds["ring"] = 10.0 * factor
        assert calls(2000) == "ring"
    assert calls.run.count("star") < 6 * TURNS


def measured(comm, monkeypatch, star):
    """Give a service that believes the star to be the best, to take `seconds`, and looks often."""
    monkeypatch.setattr(module, "GRAIN", 0.0)
    monkeypatch.setattr("roundelay.collectives.processes._PERIODS", (32, 32))
    nodes = (tuple(range(comm.size)),)
    text = str(comm.size)
    table = Table(
        native={"allreduce": {text: [[8, 5e-6], [1 << 20, 5e-6]]}},
        trials={"allreduce": {text: {"star hub 0": [[8, star], [1 << 20, star]]}}},
    )
    service = service_of(comm)
    assert service.nodes == nodes
    for name, value in {"table": table, "cores": comm.size, "_decisions": {}}.items():
        monkeypatch.setattr(service.processes, name, value)
    comm.Set_info(MPI.Info.Create({"roundelay_allreduce": "auto"}))
    return service


@pytest.mark.mpi(min_size=2)
def test_allreduce_changes_and_stays_right(comm, monkeypatch):
    """A star that was believed to take a nanosecond is found out; all sums are right meanwhile."""
    service = measured(comm, monkeypatch, star=1e-9)
    choice = service.choose(Wanted("allreduce", 800))
    assert str(choice.current.algorithm) == "star hub 0"
    seen = set()
    for call in range(3000):
        result = np.empty(100)
        comm.Allreduce(np.full(100, float(comm.rank + call)), result)
        assert (result == comm.size * call + sum(range(comm.size))).all()
        seen.add(None if choice.current is None else str(choice.current.algorithm))
    assert None in seen
    assert "star hub 0" in seen
    assert len(seen) > 2
    assert len({str(each) for each in comm.allgather(choice.current and choice.current.algorithm)}) == 1


@pytest.mark.mpi(min_size=2)
def test_forms_of_one_call_are_counted_together(comm, monkeypatch):
    """Ranks that pass other objects of the same size count, and change, as the others do."""
    service = measured(comm, monkeypatch, star=1e-9)
    array = np.ones((10, 20))
    sends = [array[:, ::2], np.ones(100), [np.ones(100), MPI.DOUBLE], np.ones(100).data, MPI.IN_PLACE]
    for call in range(800):
        result = np.ones(100)
        received = [result, MPI.DOUBLE] if (call + comm.rank) % 3 == 0 else result
        comm.Allreduce(sends[(call + comm.rank) % len(sends)], received)
        assert (result == comm.size).all()
    counts = comm.allgather(service.choose(Wanted("allreduce", 800)).left)
    assert len(set(counts)) == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["ring", "native"])
def test_what_was_asked_for_is_not_watched(comm, name):
    service = service_of(comm)
    assert not service.choose(Wanted("allreduce", 800, name=name)).is_watched
    assert not service.choose(Wanted("allreduce", 800, reproducible=True)).is_watched


@pytest.mark.mpi(min_size=2)
def test_ranks_that_share_cores_are_not_watched(comm, monkeypatch):
    service = measured(comm, monkeypatch, star=1e-9)
    monkeypatch.setattr(service.processes, "cores", comm.size - 1)
    assert not service.choose(Wanted("allreduce", 800)).is_watched
