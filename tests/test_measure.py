"""The measured figures: what is measured, the file that keeps it, and the model of the links made from it."""

import json
import re
import warnings
from collections import Counter
from dataclasses import asdict
from math import isfinite, nan
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from click.testing import CliRunner
from mpi4py import MPI

from roundelay.__main__ import main
from roundelay.collectives import measure as measuring
from roundelay.collectives import nodes, probes, sampling, table
from roundelay.collectives.catalogue import Setting
from roundelay.collectives.figures import BETWEEN_NODES, SAME_NODE, TYPICAL, Figures
from roundelay.collectives.selection import rank_candidates
from roundelay.information import information
from roundelay.measuring import show

INSIDE = Figures(1e-6, 1e-10, 2e-7, 3e-7, 2e-10, {"latency": 0.1})
OUTSIDE = Figures(1e-3, 4e-9, 5e-6, 6e-6, 8e-9)
TWO_BY_TWO = ((0, 1), (2, 3))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of this test's own, and not the user's."""
    monkeypatch.setenv("ROUNDELAY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loaded(file=None):
    """Content of the file, which must be good."""
    found = table.load(file)
    assert found is not None
    return found


def filled():
    return table.Table(
        host=nodes.host_class(),
        library=table.library(),
        figures={"2x2": {SAME_NODE: INSIDE, BETWEEN_NODES: OUTSIDE}},
        reduction={"2x2": [[1024.0, 1e-11], [4096.0, 3e-11]]},
        attention={"2x2": 5e10},
        step=2e-6,
        native={"allreduce": {"2x2": [[8.0, 1e-3], [32.0, 2e-3]]}},
        pairs={"a": {"b": {"latency": 2e-3, "per_byte": 1e-9}}},
    )


# The file


def test_what_is_saved_is_loaded(folder):
    file = table.save(filled())
    assert file.parent == folder
    assert file == table.path()
    assert re.fullmatch(r"[A-Za-z0-9.-]+\.json", file.name)
    assert table.load() == filled()
    assert [each.name for each in folder.iterdir()] == [file.name]


def test_nothing_measured():
    assert table.load() is None
    assert information()["measured figures"] == "not measured"


def test_information_names_the_file():
    file = table.save(filled())
    assert information()["measured figures"] == str(file)
    assert information()["ROUNDELAY_CACHE_DIR"] == str(file.parent)


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ROUNDELAY_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / name)
    assert table.path().parent == tmp_path / "roundelay"


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """Nothing can be kept, and nothing else is lost."""

    def no_home(name, **_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("ROUNDELAY_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    assert table.load() is None
    assert information()["measured figures"] == "not measured"
    done = CliRunner().invoke(main, ["measure", "--budget", "0.5s"])
    assert done.exit_code == 1
    assert "the figures cannot be written: could not determine the home directory" in done.output


def change(*names, to):
    """A change of the value that is reached by some names."""

    def changed(data):
        inner = data
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = to
        return json.dumps(data)

    return changed


def drop(name):
    return lambda data: json.dumps({key: value for key, value in data.items() if key != name})


FIGURES = ("figures", "2x2", SAME_NODE)
DAMAGE = {
    "empty": (lambda data: "", "Expecting value"),
    "half": (lambda data: json.dumps(data)[:200], ""),
    "no text": (lambda data: b"\xff\xfe\x00", "decode"),
    "a list": (lambda data: "[]", "expected an object"),
    "nested": (lambda data: "[" * 100_000, ""),
    "other format": (change("format", to=2), "format 2: expected 1"),
    "no format": (drop("format"), "format None: expected 1"),
    "other library": (change("library", to="Other MPI 1.0"), "library 'Other MPI 1.0': expected"),
    "other host": (change("host", to="z80"), "host 'z80': expected"),
    "no figures": (drop("figures"), "figures is None: expected an object"),
    "no native": (drop("native"), "native is None: expected an object"),
    "attention": (
        change("attention", "2x2", to=0),
        "attention 2x2 is 0: expected a finite number of at least 1",
    ),
    "no step": (drop("step"), "step is None: expected a number"),
    "NaN": (change(*FIGURES, "latency", to=nan), "number NaN"),
    "infinite": (change("step", to=float("inf")), "number Infinity"),
    "beyond floats": (change("step", to=10**400), "expected a finite number"),
    "too large a float": (
        lambda data: json.dumps(data | {"step": "x"}).replace('"x"', "1e999"),
        "step is inf",
    ),
    "negative": (change(*FIGURES, "gap", to=-1e-9), "gap is -1e-09"),
    "text": (change(*FIGURES, "per_byte", to="fast"), "per_byte is 'fast': expected a number"),
    "truth": (change(*FIGURES, "overhead", to=True), "overhead is True: expected a number"),
    "spread": (change(*FIGURES, "spread", to=[1]), "spread is [1]: expected an object"),
    "class of pairs": (change("figures", "2x2", "next door", to={}), "unknown class of pairs 'next door'"),
    "placement": (change("figures", "0x2", to={}), "placement '0x2': expected counts"),
    "huge placement": (change("figures", "99999999999x1", to={}), "expected counts"),
    "no points": (change("reduction", "2x2", to=[]), "expected a list of [bytes, seconds]"),
    "half a point": (change("native", "allreduce", "2x2", to=[[8]]), "expected [bytes, seconds]"),
    "no time": (change("native", "allreduce", "2x2", to=[[8, 0.0]]), "seconds is 0.0"),
    "descending": (change("native", "allreduce", "2x2", to=[[32, 1.0], [8, 1.0]]), "expected ascending ones"),
    "pairs": (change("pairs", "a", "b", to={"latency": 1.0}), "pairs a b per_byte is None"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_and_ignored(kind):
    damage, told = DAMAGE[kind]
    file = table.save(filled())
    text = damage(json.loads(file.read_text()))
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert table.load() is None
    (warning,) = caught
    assert str(file) in str(warning.message)
    assert told in str(warning.message)
    assert warning.filename == __file__
    # Measuring again repairs it.
    table.save(filled())
    assert table.load() == filled()


def test_a_folder_in_place_of_the_file():
    table.path().mkdir(parents=True)
    with pytest.warns(UserWarning, match="directory"):
        assert table.load() is None


def test_what_others_keep_stays():
    file = table.save(filled())
    change("packing", to={"rate": [1, 2]})(data := json.loads(file.read_text()))
    file.write_text(json.dumps(data))
    kept = loaded()
    assert kept.others == {"packing": {"rate": [1, 2]}}
    table.save(kept)
    assert table.load() == kept
    # Also what is made without reading first, and what came into the file since it was read.
    table.save(filled())
    assert table.load() == kept
    kept.others["packing"] = 3
    table.save(kept)
    assert loaded().others == {"packing": 3}


def test_a_failed_write_leaves_the_file_as_it_was(monkeypatch):
    file = table.save(filled())
    before = file.read_text()

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        table.save(table.Table(step=1.0))
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_figures_that_are_not_finite_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        table.save(table.Table(step=nan))
    assert not table.path().exists()


def test_a_new_measurement_keeps_other_placements():
    newer = table.Table(
        figures={"8": {SAME_NODE: OUTSIDE}},
        reduction={"2x2": [[8.0, 1e-9]]},
        native={"bcast": {"8": [[8.0, 1.0]]}, "allreduce": {"8": [[8.0, 1.0]]}},
        attention={"8": 7e10},
        step=5e-6,
    )
    both = filled().updated(newer)
    assert both.figures == filled().figures | newer.figures
    assert both.reduction == newer.reduction
    assert both.native["allreduce"].keys() == {"2x2", "8"}
    assert both.native["bcast"] == newer.native["bcast"]
    assert both.pairs == filled().pairs
    assert both.attention == {"2x2": 5e10, "8": 7e10}
    assert both.step == 5e-6


# The model


def test_links_of_one_node_are_scalars():
    links = filled().links([(0, 1, 2)])
    assert (links.latency, links.per_byte) == (INSIDE.latency, INSIDE.per_byte_crowded)
    assert (links.overhead, links.gap) == (INSIDE.overhead, INSIDE.gap)
    assert links.ports is None


def test_links_of_single_ranks_on_nodes_are_scalars():
    links = filled().links([(0,), (1,), (2,)])
    assert (links.latency, links.per_byte) == (OUTSIDE.latency, OUTSIDE.per_byte_crowded)
    assert links.ports is None


@pytest.mark.parametrize("ranks", [TWO_BY_TWO, ((0, 2), (1, 3)), ((3, 1), (2, 0)), ((2,), (0, 1, 3))])
def test_links_of_several_nodes(ranks):
    links = filled().links(ranks)
    node = {rank: index for index, members in enumerate(ranks) for rank in members}
    for a in range(4):
        assert links.ports[a] == node[a]
        for b in range(4):
            figures = INSIDE if node[a] == node[b] else OUTSIDE
            assert links.latency[a, b] == figures.latency
            assert links.per_byte[a, b] == figures.per_byte_crowded
    assert (links.overhead, links.gap) == (OUTSIDE.overhead, OUTSIDE.gap)


def test_links_of_named_hosts():
    links = filled().links(TWO_BY_TWO, hosts=["a", "b"])
    assert links.latency[0, 2] == 2e-3
    # A link that was measured alone costs as much more under load as its class does.
    assert links.per_byte[1, 3] == pytest.approx(2e-9)
    assert links.latency[2, 0] == OUTSIDE.latency
    assert links.latency[0, 1] == INSIDE.latency
    assert np.ndim(filled().links([(0,), (1,)], hosts=["c", "d"]).latency) == 0


def test_a_slow_link_is_avoided():
    """With figures of each pair, the direct exchange gives way to a star with a hub at neither end of it."""
    hosts = ("a", "b", "c", "d")
    fast, slow = {"latency": 1e-3, "per_byte": 1e-9}, {"latency": 1e-2, "per_byte": 1e-9}
    pairs = {one: {other: dict(fast) for other in hosts if other != one} for one in hosts}
    nodes = tuple((rank,) for rank in range(4))
    best = [
        str(
            rank_candidates("allreduce", Setting(4, 0, nodes, hosts), 8, table.Table(pairs=each))[0].algorithm
        )
        for each in (pairs, pairs | {"a": pairs["a"] | {"b": slow}, "b": pairs["b"] | {"a": slow}})
    ]
    assert best == ["direct", "star hub 2"]


def test_links_of_the_placement_most_alike():
    figures: dict[str, dict[str, Figures]] = {
        str(ranks): {SAME_NODE: Figures(ranks, 1, 1, 1, 1)} for ranks in (2, 4, 16)
    }
    measured = table.Table(figures=figures)
    chosen = [measured.links([tuple(range(ranks))]).latency for ranks in (2, 3, 4, 7, 12, 64)]
    assert chosen == [2, 4, 4, 4, 16, 16]
    assert measured.links([(0,), (1,)]).latency == TYPICAL[BETWEEN_NODES].latency


def test_reductions_between_the_measured_sizes():
    seconds = [
        filled().links(TWO_BY_TWO, nbytes).reduce_per_byte for nbytes in (0, 1024, 2048, 4096, 1 << 30)
    ]
    assert seconds == pytest.approx([1e-11, 1e-11, 2e-11, 3e-11, 3e-11])


def test_the_librarys_own_collectives():
    measured = filled()
    times = [measured.native_seconds("allreduce", TWO_BY_TWO, nbytes) for nbytes in (0, 8, 16, 32, 320)]
    assert times == pytest.approx([1e-3, 1e-3, 2**0.5 * 1e-3, 2e-3, 14e-3])
    assert measured.native_seconds("allreduce", [(0, 1, 2, 3)], 8) is None
    assert measured.native_seconds("bcast", TWO_BY_TWO, 8) is None


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([(0,)], "1"), ([(0,), (1,)], "2x1"), ([(4,), (0, 1), (2, 3)], "2x2+1"), ([tuple(range(12))], "12")],
)
def test_placements(ranks, text):
    assert nodes.placement(ranks) == text
    assert nodes.counts_of(text) == sorted(map(len, ranks), reverse=True)


# Measurements


@pytest.mark.parametrize("size", range(2, 12))
def test_a_tournament(size):
    rounds = probes.tournament(range(size))
    for pairs in rounds:
        assert len({rank for pair in pairs for rank in pair}) == 2 * len(pairs)
    met = Counter(pair for pairs in rounds for pair in pairs)
    assert met == Counter((a, b) for a in range(size) for b in range(a + 1, size))
    assert len(rounds) == size - 1 + size % 2


@pytest.mark.parametrize(
    "ranks", [TWO_BY_TWO, ((0, 3, 4), (1,), (2, 5)), ((0,), (1,), (2,)), (tuple(range(70)),)]
)
@pytest.mark.parametrize("pair_class", [SAME_NODE, BETWEEN_NODES])
def test_flows_fit_together(ranks, pair_class):
    node = {rank: index for index, members in enumerate(ranks) for rank in members}
    sent: Counter[tuple[int, int]] = Counter()
    received: Counter[tuple[int, int]] = Counter()
    through: Counter[int] = Counter()
    for rank, home in node.items():
        destinations, sources, most = measuring._flows(rank, ranks, pair_class)
        sent.update((rank, other) for other in destinations)
        received.update((other, rank) for other in sources)
        through[home if pair_class == BETWEEN_NODES else rank] += len(destinations)
        assert len(destinations) <= probes.MOST_FLOWS
    assert sent == received
    assert all((node[a] == node[b]) == (pair_class == SAME_NODE) and a != b for a, b in sent)
    assert max(through.values()) == most


def test_rounds_of_nodes():
    rounds = measuring._rounds(((0, 3, 4), (1,), (2, 5)), every=True)
    inside = {pair for pairs in rounds[SAME_NODE] for pair in pairs}
    assert inside == {(0, 3), (0, 4), (3, 4), (2, 5)}
    assert {pair for pairs in rounds[BETWEEN_NODES] for pair in pairs} == {(0, 1), (0, 2), (1, 2)}
    # Many ranks do not all meet, unless each link is asked for.
    many = tuple((rank,) for rank in range(40))
    assert len(measuring._rounds(many, every=False)[BETWEEN_NODES]) == measuring.ROUNDS
    assert len(measuring._rounds(many, every=True)[BETWEEN_NODES]) == 39
    assert BETWEEN_NODES not in measuring._rounds((tuple(range(4)),), every=True)


def test_the_slope_of_a_straight_line():
    small = np.array([1e-6, 5e-6])
    per_byte = np.array([1e-9, 3e-10])
    times = {nbytes: small + nbytes * per_byte for nbytes in (1 << 16, 1 << 20)}
    np.testing.assert_allclose(measuring._slope(small, times), per_byte)
    # Noise that makes a long message the faster one gives no negative bandwidth.
    assert measuring._slope(np.array([1.0]), {1024: np.array([0.5])}) > 0


@pytest.mark.mpi
@pytest.mark.parametrize("links", [False, True])
def test_measuring(comm, links):
    """All figures are there, positive and the same on all ranks; a small budget leaves long messages out."""
    # A single rank needs little of it, but may be put aside for long.
    budget = 3.0 if comm.size > 1 else 15.0
    comm.Barrier()
    start = perf_counter()
    measured = measuring.measure(comm, budget, links)
    # Each of some 60 parts may finish what it has begun; ranks that share a processor take long for it.
    assert perf_counter() - start < budget + 20
    assert comm.allgather(asdict(measured)) == [asdict(measured)] * comm.size
    place = nodes.placement(nodes.nodes_of(comm))
    numbers = [measured.step, measured.attention[place], *(value for _, value in measured.reduction[place])]
    if comm.size == 1:
        assert not measured.figures
    else:
        for figures in measured.figures[place].values():
            values = asdict(figures)
            spread = values.pop("spread")
            assert all(isfinite(value) and value >= 0 for value in spread.values())
            numbers += values.values()
        assert measured.native.keys() == {"allreduce", "reduce_scatter", "allgather", "bcast", "reduce"}
        numbers += [
            number for curves in measured.native.values() for point in curves[place] for number in point
        ]
    assert all(isfinite(number) and number > 0 for number in numbers)
    if comm.rank == 0:
        table.save(measured)
        assert table.load() == measured


@pytest.mark.mpi(min_size=2)
def test_pairs_of_nodes(comm, monkeypatch):
    """Each rank as a node of its own: the ranks of this test share one."""
    monkeypatch.setattr(measuring, "nodes_of", lambda comm: tuple((rank,) for rank in range(comm.size)))
    measured = measuring.measure(comm, 2.0, links=True)
    assert measured.figures[f"{comm.size}x1"].keys() == {BETWEEN_NODES}
    assert len(measured.pairs) == comm.size
    for sender, row in measured.pairs.items():
        assert len(row) == comm.size - 1
        assert sender not in row
        assert all(isfinite(value) and value > 0 for pair in row.values() for value in pair.values())
    hosts = nodes.hosts_of(comm, tuple((rank,) for rank in range(comm.size)))
    assert len(set(hosts)) == comm.size
    matrix = np.asarray(measured.links(tuple((rank,) for rank in range(comm.size)), hosts=hosts).latency)
    for a, sender in enumerate(hosts):
        for b, receiver in enumerate(hosts):
            assert a == b or matrix[a, b] == measured.pairs[sender][receiver]["latency"]


@pytest.mark.mpi(min_size=2)
def test_ranks_agree_on_counts(comm):
    """However differently long it takes them, and whatever their clocks say."""
    counts = []

    def run(count):
        counts.append(count)
        start = perf_counter()
        while perf_counter() - start < 50e-6 * (1 + comm.rank) * count:
            pass
        return perf_counter() - start

    samples = sampling.Sampler(comm).sample(run, 0.2)
    assert samples.shape[1] == comm.size
    assert comm.allgather(counts) == [counts] * comm.size
    assert comm.allgather(samples.tolist()) == [samples.tolist()] * comm.size


@pytest.mark.mpi
def test_nodes(comm):
    found = nodes.nodes_of(comm)
    assert comm.allgather(found) == [found] * comm.size
    assert sorted(rank for ranks in found for rank in ranks) == list(range(comm.size))
    ours = next(ranks for ranks in found if comm.rank in ranks)
    shared = comm.Split_type(MPI.COMM_TYPE_SHARED)
    assert tuple(shared.allgather(comm.rank)) == ours
    shared.Free()


def test_a_long_message_is_left_out(monkeypatch):
    """Sizes go up no further than the time allows."""
    begun: list[float] = []
    monkeypatch.setattr(sampling, "perf_counter", lambda: sum(begun))

    def prepare(nbytes):
        def run(count):
            begun.append(count * nbytes * 1e-3)
            return nbytes * 1e-3

        return run

    samples = sampling.Sampler(MPI.COMM_SELF).ascend(prepare, [8, 32, 128, 512, 2048], 2.0)
    assert 8 in samples
    assert 512 not in samples
    assert sum(begun) < 2.5


# The command


def test_the_command_on_one_rank(tmp_path):
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(main, ["measure", "--budget", "1s", "--output", str(file)])
    assert done.exit_code == 0, done.output
    assert "only reductions were measured" in done.output
    assert f"written to {file}" in done.output
    measured = loaded(file)
    assert measured.reduction.keys() == {"1"}
    assert not measured.figures
    assert table.load() is None


def test_the_command_keeps_what_was_measured():
    file = table.save(filled())
    done = CliRunner().invoke(main, ["measure", "--budget", "0.5"])
    assert done.exit_code == 0, done.output
    assert loaded(file).figures == filled().figures
    assert loaded(file).reduction.keys() == {"1", "2x2"}


@pytest.mark.parametrize("budget", ["0", "-3s", "soon", "3 h", ""])
def test_a_budget_that_is_none(budget):
    done = CliRunner().invoke(main, ["measure", "--budget", budget])
    assert done.exit_code == 2
    assert repr(budget) in done.output
    assert "expected a time such as 30s or 2min" in done.output


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(
        main, ["measure", "--budget", "0.5s", "--output", str(tmp_path / "file" / "x.json")]
    )
    assert done.exit_code == 2
    assert "x.json cannot be written" in done.output


def test_no_folder_is_made_for_a_file_that_is_named(tmp_path):
    """As of all other commands; and it is refused before anything is measured."""
    done = CliRunner().invoke(main, ["measure", "--output", str(tmp_path / "none" / "x.json")])
    assert done.exit_code == 2
    assert "x.json cannot be written" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", [0, -1, nan])
def test_a_budget_that_is_not_positive(budget):
    with pytest.raises(ValueError, match="expected seconds, more than 0"):
        measuring.measure(MPI.COMM_SELF, budget)


def test_what_is_faster_is_shown(capsys):
    """Below the library's own time, where an algorithm was faster by more than its measurement is sure."""
    measured = table.Table(
        library="MPI",
        native={"bcast": {"4": [[8.0, 2e-3], [32.0, 2e-3], [128.0, 2e-3]]}},
        trials={"bcast": {"4": {"star": [[8.0, 1e-3], [32.0, 1.9e-3]], "chain": [[8.0, 1.5e-3]]}}},
    )
    show(measured)
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "bcast 8 B 2.00 ms star: 2.0 times" in lines
    assert "bcast 32 B 2.00 ms" in lines
    assert "bcast 128 B 2.00 ms" in lines


def test_no_cell_is_cut_or_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    algorithm = "recursive-multiplying of a radix that is long 4x4x4x4"
    measured = table.Table(
        library="MPI",
        native={"reduce_scatter": {"4": [[8.0, 2e-3]]}},
        trials={"reduce_scatter": {"4": {algorithm: [[8.0, 1e-3]]}}},
    )
    show(measured)
    output = capsys.readouterr().out
    assert f"{algorithm}: 2.0 times" in output
    assert "reduce_scatter" in output
    assert "\x1b" not in output


def test_doubtful_figures_are_named(capsys):
    """Where other work ran, the choices made from what was measured may be wrong."""
    good, bad = ({"latency": spread, "gap": 0.1} for spread in (0.2, 31.37))
    for spread, told in ((good, False), (bad, True)):
        figures = Figures(1e-6, 1e-10, 2e-7, 3e-7, 2e-10, spread)
        show(table.Table(library="MPI", figures={"2": {SAME_NODE: figures}}))
        output = capsys.readouterr().out
        assert ("Spread of more than 33%: same node: latency (3137%)." in output) == told
        assert ("Measure again" in output) == told
