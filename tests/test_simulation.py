"""Traces, simulated rounds, and the scheme that is recommended for a trace."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.coding import published
from roundelay.collectives.coding.catalogue import SCHEMES, scheme
from roundelay.collectives.coding.recommend import recommend
from roundelay.collectives.coding.repetition import uncoded
from roundelay.collectives.coding.scheme import GradientCoding
from roundelay.collectives.coding.simulation import PATIENCE, PATIENCES, round_end, simulate
from roundelay.collectives.coding.traces import Trace, gilbert_elliott_trace, markov_trace, pareto_trace

DRAWN: dict[str, Any] = {
    "markov": markov_trace,
    "gilbert-elliott": gilbert_elliott_trace,
    "pareto": pareto_trace,
}
CASES = [
    ("uncoded", {}),
    ("gc", {"stragglers": 3}),
    ("gc", {"stragglers": 4}),
    ("sr-sgc", {"burst": 1, "window": 2, "stragglers": 6}),
    ("sr-sgc", {"burst": 2, "window": 3, "stragglers": 8}),
    ("m-sgc", {"burst": 1, "window": 2, "stragglers": 5}),
    ("m-sgc", {"burst": 2, "window": 3, "stragglers": 16}),
]


def trace_of(rows, load=0.25, slope=0.0):
    return Trace(np.array(rows, float), load, slope)


# Traces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DRAWN)
def test_traces_are_kept_in_files(tmp_path, kind):
    trace, file = DRAWN[kind](6, 9, seed=3), tmp_path / "trace.npz"
    trace.save(file)
    found = Trace.read(file)
    assert (found.rounds, found.workers, found.load) == (9, 6, 1 / 6)
    assert_array_equal(found.seconds, trace.seconds)
    assert_array_equal(found.slope, trace.slope)
    assert_array_equal(found.at(0.5), trace.at(0.5))


@pytest.mark.parametrize("kind", DRAWN)
def test_seeds_make_traces(kind):
    draw = DRAWN[kind]
    assert_array_equal(draw(5, 20, seed=1).seconds, draw(5, 20, seed=1).seconds)
    assert (draw(5, 20, seed=1).seconds != draw(5, 20, seed=2).seconds).any()


def test_loads_change_the_times():
    trace = trace_of([[1.0, 2.0], [3.0, 0.5]], slope=4.0)
    assert_allclose(trace.at(0.5), [[2.0, 3.0], [4.0, 1.5]])
    assert_allclose(trace.at(np.array([0.25, 0.0])), [[1.0, 1.0], [3.0, 0.0]])
    slopes = Trace(trace.seconds, 0.25, np.array([[4.0, 8.0], [0.0, 4.0]]))
    assert_allclose(slopes.at(0.5), [[2.0, 4.0], [3.0, 1.5]])
    assert_allclose(slopes.first(1).at(0.5), [[2.0, 4.0]])
    assert trace.first(1).rounds == 1
    assert trace.first(9).rounds == 2


def test_markov_traces_have_the_stragglers_asked_for():
    trace = markov_trace(200, 2000, share=0.1, stay=0.4, jitter=0.0, base=1.0, factors=(2.0, 2.0))
    slow = trace.seconds > 1.5
    assert abs(slow.mean() - 0.1) < 0.005
    assert abs(slow[1:][slow[:-1]].mean() - 0.4) < 0.01
    assert_array_equal(np.unique(trace.seconds), [1.0, 2.0])


@pytest.mark.parametrize(
    ("seconds", "load", "slope", "message"),
    [
        ([[1.0, np.nan]], 0.5, 1.0, r"seconds at \(0, 1\) are nan"),
        ([[1.0, 2.0], [np.inf, 1.0]], 0.5, 1.0, r"seconds at \(1, 0\) are inf"),
        ([[1.0, -2.0]], 0.5, 1.0, r"seconds at \(0, 1\) are -2.0"),
        ([1.0, 2.0], 0.5, 1.0, r"seconds of shape \(2,\)"),
        ([[]], 0.5, 1.0, r"seconds of shape \(1, 0\)"),
        ([[1.0, 2.0]], -0.5, 1.0, r"load at \(0,\) are -0.5"),
        ([[1.0, 2.0]], 0.5, np.nan, r"slope at \(0,\) are nan"),
        ([[1.0, 2.0]], 0.5, [1.0, 2.0], r"slope of shape \(2,\)"),
    ],
)
def test_wrong_traces_are_refused(tmp_path, seconds, load, slope, message):
    with pytest.raises(ValueError, match=message):
        Trace(np.array(seconds), load, slope if np.ndim(slope) == 0 else np.array(slope))
    file = tmp_path / "wrong.npz"
    np.savez(file, seconds=seconds, load=load, slope=slope)
    with pytest.raises(ValueError, match=rf"wrong.npz: {message}"):
        Trace.read(file)


def test_foreign_files_are_refused(tmp_path):
    text, other, pickled = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"
    text.write_text("seconds", encoding="utf-8")
    np.savez(other, seconds=np.ones((2, 2)))
    np.savez(pickled, seconds=np.array([{}]), load=1.0, slope=1.0)
    plain = tmp_path / "d.npy"
    np.save(plain, np.ones((2, 2)))
    strings = tmp_path / "e.npz"
    np.savez(strings, seconds=[["a"]], load=1.0, slope=1.0)
    cut = tmp_path / "f.npz"
    cut.write_bytes(other.read_bytes()[:100])
    empty = tmp_path / "g.npz"
    empty.write_bytes(b"")
    for file in (text, other, pickled, plain, strings, cut, empty):
        with pytest.raises(ValueError, match=rf"{file.name}: expected arrays"):
            Trace.read(file)
    with pytest.raises(FileNotFoundError):
        Trace.read(tmp_path / "none.npz")
    loads = tmp_path / "h.npz"
    np.savez(loads, seconds=np.ones((2, 2)), load=[1.0, 2.0], slope=1.0)
    with pytest.raises(ValueError, match=r"h.npz: load of shape \(2,\)"):
        Trace.read(loads)


@pytest.mark.parametrize(
    "settings", [{"share": 1.0}, {"share": -0.1}, {"stay": 1.1}, {"share": 0.9, "stay": 0.0}]
)
def test_shares_are_probabilities(settings):
    with pytest.raises(ValueError, match=r"share .*, stay "):
        markov_trace(4, 4, **settings)


# Rounds -------------------------------------------------------------------------------------------


class Allowing:
    """A pattern that allows a number of stragglers."""

    def __init__(self, most):
        self.most = most

    def allows(self, missing):  # noqa: D102
        return missing.sum() <= self.most

    def close(self, missing):  # noqa: D102
        pass


ROW = np.array([3.0, 1.0, 8.0, 2.0, 5.0])


@pytest.mark.parametrize(
    ("deadline", "most", "least", "full"),
    [
        # All are done before: the round ends with the last one.
        (9.0, 0, 8.0, 8.0),
        (8.0, 0, 8.0, 8.0),
        # The stragglers are allowed: it ends when patience does.
        (6.0, 1, 6.0, 6.0),
        (1.0, 4, 1.0, 1.0),
        # They are not: it goes on for the fewest, or for all.
        (6.0, 0, 8.0, 8.0),
        (4.0, 1, 5.0, 8.0),
        (1.0, 2, 3.0, 8.0),
        (1.0, 3, 2.0, 8.0),
        (1.0, 0, 8.0, 8.0),
    ],
)
def test_rounds_end(deadline, most, least, full):
    assert round_end(ROW, deadline, Allowing(most), wait_for_all=False) == least
    assert round_end(ROW, deadline, Allowing(most), wait_for_all=True) == full


def test_workers_that_finish_together_are_all_there():
    row = np.array([1.0, 4.0, 4.0, 4.0, 6.0])
    assert round_end(row, 1.0, Allowing(2), wait_for_all=False) == 4.0


def test_a_simulation_by_hand():
    """Two rounds, and the first one again, of a code for one straggler among two groups."""
    trace = trace_of([[1.0, 9.0, 2.0, 7.0], [4.0, 5.0, 3.0, 3.5]], load=0.5)
    found = simulate(scheme("gc", 4, stragglers=1), trace, 3)
    assert_array_equal(found.rounds, [2.0, 4.0, 2.0])
    assert_array_equal(found.missing, [[0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]])
    assert found.seconds == 8.0
    patient = simulate(scheme("gc", 4, stragglers=1), trace, 3, patience=3.0)
    assert_array_equal(patient.rounds, [4.0, 5.0, 4.0])
    assert patient.waited == 0


def test_uncoded_rounds_wait_for_all():
    trace = markov_trace(8, 20)
    for patience in (None, 0.0, 1.0):
        found = simulate(scheme("uncoded", 8), trace, 30, patience=patience)
        assert_array_equal(found.rounds, np.r_[trace.seconds, trace.seconds[:10]].max(axis=1))
        assert not found.missing.any()


def test_sequential_schemes_take_more_rounds():
    trace, reported = markov_trace(8, 20), list[int]()
    m_sgc = scheme("m-sgc", 8, burst=2, window=3, stragglers=4)
    found = simulate(m_sgc, trace, 10, report=reported.append)
    assert len(found.rounds) == 10 + m_sgc.delay == 13
    assert reported == list(range(1, 14))
    assert simulate(m_sgc, trace, 10).seconds == simulate(m_sgc, trace, 10, patience=PATIENCE).seconds


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("kind", DRAWN)
def test_waiting_for_the_fewest_never_ends_later(kind, name, parameters):
    """Each round by itself, from the same rounds before."""
    scheme_, trace = scheme(name, 16, **parameters), DRAWN[kind](16, 60, seed=4)
    times, pattern = trace.at(float(scheme_.load)), scheme_.pattern()
    for row in times:
        deadline = 1.5 * row.min()
        ends = [round_end(row, deadline, pattern, wait_for_all) for wait_for_all in (False, True)]
        assert ends[0] <= ends[1]
        assert pattern.allows(row > ends[0])
        # It ends as early as it may.
        earlier = [end for end in row if deadline <= end < ends[0]]
        assert not any(pattern.allows(row > end) for end in earlier)
        pattern.close(row > ends[0])


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_simulations_repeat(name, parameters):
    found = [simulate(scheme(name, 16, **parameters), markov_trace(16, 40, seed=5), 50) for _ in range(2)]
    assert_array_equal(found[0].rounds, found[1].rounds)
    assert_array_equal(found[0].missing, found[1].missing)


def test_simulations_of_thousands_need_no_matrix():
    trace = markov_trace(4096, 5)
    for name, parameters in (
        ("gc", {"stragglers": 299}),
        ("gc", {"stragglers": 255}),
        ("sr-sgc", {"burst": 1, "window": 2, "stragglers": 500}),
        ("m-sgc", {"burst": 1, "window": 2, "stragglers": 600}),
    ):
        large = scheme(name, 4096, **parameters)
        assert simulate(large, trace, 5).seconds > 0
        assert "matrix" not in vars(large.code)


def test_wrong_simulations_are_refused():
    trace = markov_trace(4, 4)
    with pytest.raises(ValueError, match="a trace of 4 workers: the scheme is for 5"):
        simulate(GradientCoding(uncoded(5)), trace, 4)
    with pytest.raises(ValueError, match="-1 jobs"):
        simulate(GradientCoding(uncoded(4)), trace, -1)
    with pytest.raises(ValueError, match=r"patience -0.5"):
        simulate(GradientCoding(uncoded(4)), trace, 4, patience=-0.5)


# Published schemes --------------------------------------------------------------------------------

# Seconds of 480 jobs by 256 workers, of another simulator with another trace of the same kind.
KNOWN = {
    ("uncoded", ()): 1071,
    ("gc", (14,)): 724,
    ("sr-sgc", (2, 3, 23)): 739,
    ("m-sgc", (2, 3, 42)): 708,
}
NAMES = ("burst", "window", "stragglers")


@pytest.mark.parametrize(("name", "values"), KNOWN)
def test_published_schemes_take_what_is_known(name, values):
    trace = markov_trace(256, 480)
    built = published(name, 256, **dict(zip(NAMES[-len(values) :], values, strict=False)))
    seconds = simulate(built, trace, 480, patience=1.0).seconds
    assert seconds == pytest.approx(KNOWN[name, values], rel=0.03)


@pytest.mark.parametrize(
    ("slope", "gc", "m_sgc", "gain"),
    [
        (2.2, 14, (2, 3, 42), 0.024),
        (8.0, 8, (2, 3, 42), 0.2),
        (32.0, 1, (2, 3, 55), 0.27),
        (128.0, 1, (1, 4, 39), 0.26),
    ],
)
def test_multiplexing_gains_with_the_time_of_the_data(slope, gc, m_sgc, gain):
    trace = markov_trace(256, 480, slope=slope)
    built = (
        published("gc", 256, stragglers=gc),
        published("m-sgc", 256, **dict(zip(NAMES, m_sgc, strict=True))),
    )
    seconds = [simulate(each, trace, 480, patience=1.0).seconds for each in built]
    assert 1 - seconds[1] / seconds[0] == pytest.approx(gain, abs=0.02)


# Recommendations ----------------------------------------------------------------------------------


def test_candidates_are_simulated_and_sorted():
    trace, reported = markov_trace(12, 30, slope=8.0), list[float]()
    found = recommend(trace, 40, report=reported.append)
    assert {each.name for each in found} == set(SCHEMES)
    assert [each.seconds for each in found] == sorted(each.seconds for each in found)
    assert reported == sorted(reported)
    assert 0 < reported[0] < reported[-1] <= 1
    for each in found:
        known = scheme(each.name, 12, **each.parameters)
        assert (each.load, each.delay) == (known.load, known.delay)
        assert each.delay <= 3
        assert each.patience in (PATIENCES if each.delay else (0.0,))
        assert each.seconds == simulate(known, trace, 40, patience=each.patience).seconds
    # Shorter patience is tried of all, longer patience until it is enough.
    assert {each.patience for each in found} == set(PATIENCES)
    names = [str(each) for each in found]
    assert {"uncoded", "gc (s=1)", "m-sgc (B=1, W=2, lambda=3)"} <= set(names)


def test_recommendations_keep_to_what_is_asked_for():
    trace = markov_trace(8, 20)
    assert {each.delay for each in recommend(trace, most_delay=0)} == {0}
    assert {each.delay for each in recommend(trace, most_delay=2, names=["m-sgc"])} == {1, 2}
    assert {each.patience for each in recommend(trace, patience=0.3)} == {0.3}
    with pytest.raises(ValueError, match="m-sgc: there is none with a delay of 0"):
        recommend(trace, most_delay=0, names=["m-sgc"])
    with pytest.raises(ValueError, match="most delay -1"):
        recommend(trace, most_delay=-1)
    with pytest.raises(ValueError, match="scheme 'none'"):
        recommend(trace, names=["none"])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_few_workers(workers):
    found = recommend(markov_trace(workers, 10))
    assert "uncoded" in {each.name for each in found}


def test_without_stragglers_nothing_is_coded():
    assert recommend(trace_of(np.ones((10, 8)), load=1 / 8, slope=1.0))[0].name == "uncoded"
