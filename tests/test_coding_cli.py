"""`roundelay coding`: loads, simulations, recommendations and drawn traces."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from roundelay.__main__ import main
from roundelay.collectives.coding.catalogue import SCHEMES, scheme
from roundelay.collectives.coding.recommend import recommend
from roundelay.collectives.coding.simulation import simulate
from roundelay.collectives.coding.traces import Trace, markov_trace


def run(*arguments):
    return CliRunner().invoke(main, ["coding", *map(str, arguments)])


def rows(output):
    """The cells of the table by scheme, without its head."""
    cells = [[cell.strip() for cell in line.split("│")] for line in output.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in cells}


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.npz"
    markov_trace(16, 100, seed=1).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "load", "delay"),
    [
        ("m-sgc -B 1 -W 2 --lambda 27", "0.007543", 1),
        ("m-sgc --burst 1 --window 2 --lambda 256", "0.007812", 1),
        ("sr-sgc -B 2 -W 3 --lambda 23", "0.050781", 2),
        ("gc -s 15", "0.062500", 0),
        ("uncoded", "0.003906", 0),
    ],
)
def test_loads(arguments, load, delay):
    result = run("load", *arguments.split(), "--workers", 256)
    assert result.exit_code == 0, result.output
    first, second = result.output.splitlines()
    assert first.startswith(f"load {load}, ")
    assert second == f"delay {delay}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("load gc --workers 8", "gc: expected only -s"),
        ("load gc --workers 8 -s 1 -B 2", "gc: expected only -s"),
        ("load m-sgc --workers 8 -s 1", "m-sgc: expected only -s, -B, -W"),
        ("load uncoded --workers 8 -s 1", "uncoded: expected none of -B, -W and -s"),
        ("load gc --workers 8 -s 8", "8 stragglers of 8 workers"),
        ("load uncoded --workers 0", "0 workers: expected at least 1"),
        ("load sr-sgc --workers 8 -B 2 -W 4 --lambda 2", "burst 2, window 4"),
        ("load m-sgc --workers 8 -B 2 -W 2 --lambda 2", "burst 2, window 2"),
        ("load none --workers 8", "none"),
        ("simulate --trace TRACE --schemes gc,none", "scheme 'none': expected one of"),
        ("simulate --trace TRACE --patience -1", "patience -1.0: expected 0 or more"),
        ("simulate --trace TRACE --jobs 0", "--jobs"),
        ("simulate --trace nowhere.npz", "nowhere.npz"),
        ("recommend --trace TRACE --most-delay -1", "--most-delay"),
        ("recommend", "--trace"),
        ("trace --workers 0 --rounds 3 --output new.npz", "--workers"),
        ("trace --workers 2 --rounds 3 --output TRACE/new.npz", "cannot be written"),
        ("trace --kind none --workers 2 --rounds 3 --output new.npz", "none"),
    ],
)
def test_errors_name_what_is_wrong(trace, arguments, message):
    result = run(*arguments.replace("TRACE", str(trace)).split())
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert message in " ".join(result.output.split())


def test_foreign_traces_are_named(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, seconds=[[1.0, np.nan]], load=0.5, slope=1.0)
    result = run("recommend", "--trace", path)
    assert result.exit_code == 2
    assert "other.npz: seconds at (0, 1) are nan" in " ".join(result.output.split())


@pytest.mark.parametrize("kind", ["markov", "pareto", "gilbert-elliott"])
def test_traces_are_drawn(tmp_path, kind):
    path = tmp_path / "drawn"
    for seed in (0, 0, 1):
        result = run("trace", "--kind", kind, "--workers", 5, "--rounds", 7, "--output", path, "--seed", seed)
        assert result.exit_code == 0, result.output
        assert "7 rounds of 5 workers" in result.output
        found = Trace.read(path)
        assert found.seconds.shape == (7, 5)
        if seed == 0:
            first = found.seconds
            assert np.array_equal(first, Trace.read(path).seconds)
    assert not np.array_equal(first, found.seconds)


def test_simulations_are_shown(trace):
    result = run("simulate", "--trace", trace, "--schemes", "gc,sr-sgc,m-sgc,uncoded", "--jobs", 120)
    assert result.exit_code == 0, result.output
    table = rows(result.output)
    assert {name.split()[0] for name in table} == set(SCHEMES)
    # Parameters are chosen on the first 80 rounds.
    known = Trace.read(trace)
    best = next(each for each in recommend(known.first(80)) if each.name == "gc")
    seconds = simulate(scheme("gc", 16, **best.parameters), known, 120).seconds
    assert table[str(best)][2:4] == ["0", f"{seconds:.4g} s"]
    assert [row[-1] for row in table.values()] == sorted(row[-1] for row in table.values())


def test_patience_is_taken(trace):
    result = run("simulate", "--trace", trace, "--schemes", "gc", "--patience", 1)
    assert [row[2] for row in rows(result.output).values()] == ["1"]


def test_recommendations_are_shown(trace):
    result = run("recommend", "--trace", trace, "--most-delay", 1, "--jobs", 50)
    assert result.exit_code == 0, result.output
    found = recommend(Trace.read(trace), 50, most_delay=1)
    *_, last = result.output.splitlines()
    assert last.startswith(f"best of {len(found)}: roundelay.coding.scheme('{found[0].name}', 16")
    assert next(iter(rows(result.output))) == str(found[0])
    assert all(row[1] in "01" for row in rows(result.output).values())


def test_trainings_are_drawn(tmp_path, trace):
    picture = tmp_path / "trace.png"
    result = run("simulate", "--trace", trace, "--schemes", "gc,uncoded", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert f"drawn in {picture}" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = run("simulate", "--trace", trace, "--schemes", " uncoded", "--plot", tmp_path / "other")
    assert result.output.endswith(f"drawn in {tmp_path / 'other.png'}\n")
    assert (tmp_path / "other.png").read_bytes().startswith(b"\x89PNG")
    result = run("simulate", "--trace", trace, "--schemes", "uncoded", "--plot", tmp_path / "none" / "a.png")
    assert "a.png cannot be written" in " ".join(result.output.split())


def test_drawing_needs_matplotlib(monkeypatch, trace):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    result = run("simulate", "--trace", trace, "--schemes", "uncoded", "--plot", "a.png")
    assert result.exit_code == 1
    assert "--plot needs matplotlib" in result.output
    assert "pip install matplotlib" in result.output


def test_command_line_loads_neither_mpi_nor_matplotlib():
    code = (
        "import sys\nfrom roundelay.__main__ import main\n"
        "assert 'roundelay.coding_commands' not in sys.modules\n"
        "main('coding load gc -s 1 --workers 8'.split(), standalone_mode=False)\n"
        "assert 'roundelay.coding_commands' in sys.modules\n"
        "assert not {'matplotlib', 'mpi4py.MPI'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_is_of_the_command_itself():
    result = run("recommend", "--help")
    assert result.exit_code == 0
    assert "Usage: main coding recommend [OPTIONS]" in result.output
    assert "--most-delay" in result.output
    assert "  coding " in CliRunner().invoke(main, ["--help"]).output
