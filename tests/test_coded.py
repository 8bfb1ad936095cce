"""Gradients from a master and workers, of which some are late, wrong or gone."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from roundelay.collectives.coding.catalogue import scheme
from roundelay.collectives.coding.coded import PURPOSE, CodedGradients
from roundelay.collectives.coding.info import RoundInfo, TooFewWorkers, WorkerError
from roundelay.collectives.coding.injection import Injection
from roundelay.collectives.coding.recommend import MOST_DELAY, recommend
from roundelay.collectives.coding.recorder import Recorder
from roundelay.collectives.service import service_of

pytestmark = pytest.mark.mpi(min_size=2)

ROWS = np.random.default_rng(0).standard_normal((120, 5))
JOBS = 6


def schemes(workers):
    """Some of each kind that there is for that number of workers."""
    found = [scheme("uncoded", workers)]
    found += [scheme("gc", workers, stragglers=s) for s in range(1, workers)]
    if workers > 1:
        found += [scheme("sr-sgc", workers, burst=1, window=2, stragglers=1)]
        found += [scheme("m-sgc", workers, burst=1, window=2, stragglers=s) for s in (1, workers)]
        found += [scheme("m-sgc", workers, burst=2, window=3, stragglers=workers - 1)]
    return found


def load(partition):
    return ROWS[partition.rows(len(ROWS))]


def slope(weights, rows):
    """Gradient of the sum of squares of the rows' products with the weights, less 1."""
    return 2 * rows.T @ (rows @ weights - 1)


def models(scheme_):
    """As many models as the scheme needs, all different."""
    return tuple(np.full(5, 0.1 * (stream + 1)) for stream in range(scheme_.delay + 1))


def train(comm, scheme_, jobs=JOBS, gradient=slope, **options):
    """Train by the coded gradients; the master compares each with the direct one."""
    weights = models(scheme_)
    coded = CodedGradients(comm, scheme_, gradient, load, weights, **options)
    infos = []
    for total, info in coded.rounds(jobs):
        model = weights[info.stream]
        assert_allclose(total, slope(model, ROWS), rtol=1e-8, atol=1e-8)
        assert info.stream == info.job % len(weights)
        model -= 1e-3 * total
        infos.append(info)
    assert [info.job for info in infos] == (list(range(jobs)) if comm.rank == 0 else [])
    comm.Barrier()
    # A communicator that is made when this one is freed could receive it.
    assert not service_of(comm).private(PURPOSE).Iprobe()
    return infos


def test_each_scheme_gives_the_gradient(comm):
    for each in schemes(comm.size - 1):
        train(comm, each)


def test_stragglers_are_not_waited_for(comm):
    """One worker sleeps in some rounds for longer than all others take together."""
    workers = comm.size - 1
    for each in schemes(workers):
        if workers < 3 or each.name in ("uncoded", "cyclic-mds", "cyclic-repetition"):
            continue
        delays = [0.0, 0.0, 0.4] if comm.rank == comm.size - 1 else [0.0]
        infos = train(comm, each, jobs=9, injection=Injection(delays))
        if comm.rank == 0:
            late = [info for info in infos if info.turn % 3 == 2]
            assert any(comm.size - 1 in info.missing for info in late)


@pytest.mark.parametrize("kind", ["sleep", "burn", "stop"])
def test_kinds_of_stragglers(comm, kind):
    delays = [0.0, 0.1] if comm.rank == comm.size - 1 else [0.0]
    for each in schemes(comm.size - 1):
        train(comm, each, jobs=4, injection=Injection(delays, kind))


def test_random_stragglers(comm):
    """All workers may be slow at any time."""
    rng = np.random.default_rng(comm.rank)
    delays = np.where(rng.random(40) < 0.2, rng.uniform(0, 10e-3, 40), 0.0)
    for each in schemes(comm.size - 1):
        train(comm, each, jobs=40, injection=Injection(delays))


def test_data_is_loaded_once_and_only_where_needed(comm):
    each, loaded = schemes(comm.size - 1)[-1], []

    def noting(partition):
        loaded.append(partition.number)
        return load(partition)

    weights = models(each)
    for _ in CodedGradients(comm, each, slope, noting, weights).rounds(8):
        pass
    if comm.rank == 0:
        assert not loaded
    else:
        assert len(loaded) == len(set(loaded))
        assert set(loaded) <= set(each.placement[comm.rank - 1])


def test_lists_chunks_and_strided_arrays(comm):
    """Two arrays, one of them transposed; returned as a list, and as chunks from a generator."""
    for each in schemes(comm.size - 1):
        if each.delay:
            continue
        parameters = [np.asfortranarray(np.full((3, 2), 0.5, np.float32)), np.zeros(7, np.float32)[::2]]

        def both(arrays, rows):
            matrix, vector = arrays
            return [
                (matrix * rows.sum()).astype(np.float32),
                (vector + rows[:, :4].sum(axis=0)).astype(np.float32),
            ]

        def chunks(arrays, rows):
            yield from both(arrays, rows)

        for gradient in (both, chunks):
            coded = CodedGradients(comm, each, gradient, load, parameters)
            for total, _ in coded.rounds(3):
                expected = both(parameters, ROWS)
                expected[1] = parameters[1] * each.code.partitions + ROWS[:, :4].sum(axis=0)
                assert isinstance(total, list)
                for found, right in zip(total, expected, strict=True):
                    assert found.dtype == np.float32
                    assert_allclose(found, right, rtol=1e-3, atol=1e-3)
                parameters[0] += 1
                parameters[1][...] += 1


def test_pieces_of_a_gradient(comm):
    from roundelay.collectives.coding.placed import communication_efficient
    from roundelay.collectives.coding.scheme import GradientCoding

    workers = comm.size - 1
    for pieces in range(1, workers + 1):
        train(comm, GradientCoding(communication_efficient(workers, 0, pieces)))


def test_half_precision_on_the_wire(comm):
    each = scheme("gc", comm.size - 1, stragglers=comm.size - 2)
    weights = np.full(5, 0.1, np.float32)
    coded = CodedGradients(
        comm, each, lambda w, rows: slope(w, rows).astype(np.float32), load, weights, wire="float16"
    )
    for total, _ in coded.rounds(2):
        assert total.dtype == np.float32
        assert_allclose(total, slope(weights, ROWS), rtol=2e-3)


def test_an_exception_reaches_all(comm):
    def failing(weights, rows):
        if comm.rank == comm.size - 1:
            raise KeyError("no such feature")
        return slope(weights, rows)

    with pytest.raises(WorkerError, match=rf"(?s)rank {comm.size - 1} raised.*in failing.*no such feature"):
        train(comm, scheme("uncoded", comm.size - 1), gradient=failing)
    # The communicator can be used again.
    train(comm, scheme("uncoded", comm.size - 1))


def test_gradients_of_another_shape(comm):
    calls = []

    def growing(weights, rows):
        calls.append(1)
        return np.zeros(5 + (len(calls) > 2 or comm.rank == 2))

    with pytest.raises(WorkerError, match=r"float64\[5\]"):
        for _ in CodedGradients(comm, scheme("uncoded", comm.size - 1), growing, load, np.zeros(5)).rounds(8):
            pass


@pytest.mark.mpi(min_size=3)
def test_too_few_workers(comm):
    slow = Injection([0.6]) if comm.rank == comm.size - 1 else None
    each = scheme("uncoded", comm.size - 1)
    with pytest.raises(TooFewWorkers, match=rf"ranks \[{comm.size - 1}\] have not answered"):
        train(comm, each, jobs=1, deadline=0.1, injection=slow)
    weights = np.full(5, 0.1)
    options: dict[str, Any] = {"deadline": 0.1, "on_deadline": "approximate", "injection": slow}
    rest = np.concatenate([load(each.partitions[worker]) for worker in range(comm.size - 2)])
    for total, info in CodedGradients(comm, each, slope, load, weights, **options).rounds(2):
        assert info.error == 1.0
        assert_allclose(total, slope(weights, rest))
    train(comm, each, jobs=1, deadline=0.1, on_deadline="wait", injection=slow)


@pytest.mark.mpi(min_size=3)
def test_a_worker_that_is_lost(comm):
    """It sleeps in its gradient for long: the others take its part of the data."""
    workers, calls = comm.size - 1, []
    released = threading.Event()

    def stuck(weights, rows):
        calls.append(1)
        if comm.rank == comm.size - 1 and len(calls) == 3:
            released.wait(1.5)
        return slope(weights, rows)

    for name in ("uncoded", "m-sgc"):
        calls.clear()
        how = {} if name == "uncoded" else {"burst": 1, "window": 2, "stragglers": 1}
        lost = set()
        for info in train(
            comm,
            scheme(name, workers, **how),
            jobs=8,
            gradient=stuck,
            lost_after=0.3,
            replan=lambda left: scheme("uncoded", left),
        ):
            lost.update(info.lost)
        assert lost == ({workers} if comm.rank == 0 else set())


def test_switching_schemes(comm):
    workers = comm.size - 1
    found = schemes(workers)
    weights = models(found[-1])
    coded = CodedGradients(comm, found[0], slope, load, weights)
    for total, info in coded.rounds(3 * len(found)):
        assert_allclose(total, slope(weights[info.stream], ROWS), rtol=1e-8, atol=1e-8)
        weights[info.stream][...] -= 1e-3 * total
        if info.job % 3 == 2:
            coded.switch(found[min(info.job // 3 + 1, len(found) - 1)])


@pytest.mark.mpi(min_size=3)
def test_beginning_uncoded_to_look_and_switch(comm):
    """Uncoded rounds and some of a code are recorded; what is recommended goes on."""
    workers = comm.size - 1
    found = [scheme("uncoded", workers), scheme("gc", workers, stragglers=workers - 1)]
    weights = tuple(np.full(5, 0.1 * (stream + 1)) for stream in range(MOST_DELAY + 1))
    slow = Injection([0.0, 0.01]) if comm.rank == comm.size - 1 else None
    coded = CodedGradients(comm, found[0], slope, load, weights, injection=slow)
    recorder, running = Recorder(list(range(1, comm.size))), found[0]
    for total, info in coded.rounds(20):
        assert_allclose(total, slope(weights[info.stream], ROWS), rtol=1e-8, atol=1e-8)
        recorder.add(info, running)
        if info.job == 5:
            coded.switch(running := found[1])
        elif info.job == 9:
            trace = recorder.trace()
            assert trace.seconds.shape == (10, workers)
            best = recommend(trace)[0]
            coded.switch(running := scheme(best.name, workers, **best.parameters))


def test_recording_needs_rounds_and_loads():
    recorder = Recorder([1])
    with pytest.raises(ValueError, match="no rounds"):
        recorder.trace()
    info = RoundInfo(0, 0, 0, 0.5, (1,), {}, 0, (), 0.0, 1.0)
    recorder.add(info, scheme("uncoded", 1))
    assert recorder.trace(slope=2.0).seconds.tolist() == [[0.5]]
    with pytest.raises(ValueError, match="all rounds had the load 1"):
        recorder.trace()


def test_leaving_early(comm):
    """A loop that is left, and one whose body fails, let the workers go."""
    each = scheme("uncoded", comm.size - 1)
    for _ in CodedGradients(comm, each, slope, load, np.zeros(5)).rounds(100):
        break
    coded = CodedGradients(comm, each, slope, load, np.zeros(5))
    if comm.rank == 0:
        rounds: Any = coded.rounds(100)
        next(rounds)
        with pytest.raises(ZeroDivisionError):
            rounds.throw(ZeroDivisionError)
    else:
        assert not list(coded.rounds(100))
    train(comm, each)


def test_what_ranks_must_agree_on(comm):
    workers = comm.size - 1
    for wrong, message in (
        (scheme("uncoded", workers + 1), rf"^CodedGradients: a scheme for {workers + 1} workers"),
        (scheme("uncoded", workers + (comm.rank == 1)), r"rank 1: a scheme for"),
    ):
        with pytest.raises(ValueError, match=message):
            CodedGradients(comm, wrong, slope, load, np.zeros(5))
    each = scheme("uncoded", workers)
    for options, message in (
        ({"master": comm.size}, f"master {comm.size}: expected None or a rank"),
        ({"deadline": -1.0}, "deadline -1.0"),
        ({"on_deadline": "hope"}, "on_deadline 'hope'"),
        ({"patience": -1.0}, "patience -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            CodedGradients(comm, each, slope, load, np.zeros(5), **options)
    with pytest.raises(ValueError, match=r"rank 1 has .*6"):
        CodedGradients(comm, each, slope, load, np.zeros(5 + (comm.rank == 1)))
    with pytest.raises(ValueError, match="1 models: m-sgc with a delay of 1 needs 2"):
        CodedGradients(
            comm, scheme("m-sgc", workers, burst=1, window=2, stragglers=workers), slope, load, np.zeros(5)
        )


@pytest.mark.mpi(min_size=1)
def test_taking_turns(comm):
    """All ranks compute and have the same parameters after each round, bit for bit."""
    for stragglers in range(comm.size):
        each = scheme("gc", comm.size, stragglers=stragglers)
        rng = np.random.default_rng(comm.rank)
        slow = Injection(np.where(rng.random(12) < 0.2, 5e-3, 0.0))
        weights = np.full(5, 0.1)
        coded = CodedGradients(comm, each, slope, load, weights, master=None, injection=slow)
        for total, info in coded.rounds(12):
            assert_allclose(total, slope(weights, ROWS), rtol=1e-8, atol=1e-8)
            weights -= 1e-3 * total
            assert info.error < 1e-6
        assert len({each.tobytes() for each in comm.allgather(weights)}) == 1


def test_exceptions_of_ranks_that_take_turns(comm):
    calls = []

    def failing(weights, rows):
        calls.append(1)
        if comm.rank == 1 and len(calls) == 3:
            raise KeyError("no such feature")
        return slope(weights, rows)

    with pytest.raises(WorkerError, match=r"(?s)rank 1 raised.*no such feature"):
        for _ in CodedGradients(
            comm, scheme("uncoded", comm.size), failing, load, np.zeros(5), master=None
        ).rounds(9):
            pass


def test_another_master(comm):
    weights = np.full(5, 0.1)
    coded = CodedGradients(comm, scheme("uncoded", comm.size - 1), slope, load, weights, master=comm.size - 1)
    count = 0
    for total, _ in coded.rounds(3):
        assert_allclose(total, slope(weights, ROWS))
        count += 1
    assert count == (3 if comm.rank == comm.size - 1 else 0)


def test_repetition_gives_the_same_bits_whoever_straggles(comm):
    """Workers of a group send the same sum."""
    workers = comm.size - 1
    results = []
    for seed in range(2):
        rng = np.random.default_rng([seed, comm.rank])
        injection = Injection(rng.uniform(0, 5e-3, 8))
        weights = np.full(5, 0.1, np.float32)
        single = CodedGradients(
            comm,
            scheme("gc", workers, stragglers=workers - 1),
            lambda w, rows: slope(w, rows).astype(np.float32),
            load,
            weights,
            injection=injection,
        )
        results.append([total.copy() for total, _ in single.rounds(8)])
    assert_array_equal(results[0], results[1])
