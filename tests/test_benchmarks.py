"""Benchmarks as a visitor runs them: what they measure stays apart from what is published."""

import hashlib
import importlib
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from benchmarks import plots
from benchmarks.drawing import read
from benchmarks.results import PUBLISHED
from tests import launch

BENCHMARKS = launch.ROOT / "benchmarks"

pytestmark = pytest.mark.timeout_s(200)


def run(*command, cwd, ranks=None):
    environment = {**launch.environment(), "PYTHONPATH": str(launch.ROOT)}
    line = [sys.executable, "-m", *command]
    line = line if ranks is None else launch.mpiexec(ranks, line)
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def published():
    """A digest of all that measuring anew could change."""
    folders = (BENCHMARKS / "results", launch.ROOT / "docs")
    files = [launch.ROOT / "README.md", *(path for folder in folders for path in folder.rglob("*.*"))]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def test_results_and_pictures_go_to_a_folder_of_the_visitor(tmp_path):
    before = published()
    measured = run("benchmarks.pack", "--rounds", "1", "--only", "NAS_MG_x", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    (path,) = (tmp_path / "benchmark-results").glob("*.json")
    assert json.loads(path.read_text())["environment"]["library"]
    assert f"wrote benchmark-results/{path.name}" in measured.stdout
    drawn = run("benchmarks.plots", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "benchmark-results" / "pack-gain.png").exists()
    assert re.search(r"\| `Datatype.Unpack` \| [0-9.]+ ", drawn.stdout)
    assert published() == before
    assert [each.name for each in tmp_path.iterdir()] == ["benchmark-results"]


def test_the_folder_can_be_named(tmp_path):
    command = ("benchmarks.pack", "--rounds", "1", "--only", "NAS_MG_x", "--output", "mine")
    assert run(*command, cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "mine").glob("pack-*.json"))) == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_cell_of_the_grid_is_checked_and_timed(tmp_path, ranks):
    command = ("benchmarks.grid", "--rounds", "1", "--largest", "64")
    measured = run(*command, cwd=tmp_path, ranks=ranks)
    assert measured.returncode == 0, measured.stderr
    (path,) = (tmp_path / "benchmark-results").glob(f"grid-{ranks}-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 4 * 3
    for row in rows:
        takes_slices = row["call"] != "neighbours" and row["problem"] != "transpose"
        assert set(row["microseconds"]) == {"ours", "library", "hand", *(["array"] if takes_slices else [])}


def test_the_grid_needs_an_even_number_of_ranks(tmp_path):
    measured = run("benchmarks.grid", cwd=tmp_path)
    assert measured.returncode != 0
    assert "expected an even number of ranks, got 1" in measured.stderr


def test_halos_of_mpiarray(tmp_path):
    has_mpiarray = importlib.util.find_spec("mpiarray") is not None
    command = ("benchmarks.mpiarray_halos", "--rounds", "1", "--largest", "32")
    measured = run(*command, cwd=tmp_path, ranks=2 if has_mpiarray else None)
    if not has_mpiarray:
        assert measured.returncode != 0
        assert "pip install mpiarray" in measured.stderr
        return
    assert measured.returncode == 0, measured.stderr
    (path,) = (tmp_path / "benchmark-results").glob("mpiarray-halos-*.json")
    assert [row["axis"] for row in json.loads(path.read_text())["rows"]] == [0, 1, 2]


def test_plots_without_results(tmp_path):
    before = published()
    drawn = run("benchmarks.plots", cwd=tmp_path)
    assert drawn.returncode != 0
    assert "benchmark-results has no results" in drawn.stderr
    assert published() == before


def with_rows(benchmarks, kept):
    """Published results with some of their rows, by their place; other rows for each library."""
    runs = read(benchmarks, PUBLISHED)
    for place, run in enumerate(runs):
        if "rows" in run:
            run["rows"] = run["rows"][kept[place % len(kept)]]
    return runs


KEPT = {
    "the first": [slice(1)],
    "the last": [slice(-1, None)],
    "one by one library": [slice(1), slice(None)],
    "others by each": [slice(0, None, 2), slice(1, None, 2)],
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("name", plots.TABLES)
def test_a_table_has_a_dash_for_each_missing_row(name, kept):
    tabulate, benchmarks = plots.TABLES[name]
    lines = tabulate(with_rows(benchmarks, kept)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in cells} == {len(cells[0])}
    assert not any("" in line[1:] for line in cells[2:])


@pytest.mark.parametrize(
    "kept", [KEPT["the last"], KEPT["others by each"]], ids=["the last", "others by each"]
)
@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_picture_leaves_missing_rows_out(name, kept, tmp_path):
    draw, benchmarks = plots.PLOTS[name]
    draw(with_rows(benchmarks, kept)).savefig(tmp_path / "picture.png", dpi=20)


def test_results_without_rows_are_left_out(tmp_path):
    results = json.loads((PUBLISHED / "pack-mpich.json").read_text())
    (tmp_path / "pack-mpich.json").write_text(json.dumps({**results, "rows": []}))
    assert not plots.tables(tmp_path)
    assert not plots.draw_pictures(tmp_path)


def test_fill_in_writes_nothing_if_a_table_fails(tmp_path, monkeypatch):
    def fail(runs):
        raise ValueError("no such row")

    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- figure: overhead -->\n<!-- end of figure -->\n")
    (tmp_path / "docs" / "page.md").write_text("<!-- figure: pack -->\n<!-- end of figure -->\n")
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    monkeypatch.setattr(plots, "PICTURES", tmp_path / "docs" / "pictures")
    monkeypatch.setattr(plots, "PLOTS", {"overhead": plots.PLOTS["overhead"]})
    with monkeypatch.context() as broken:
        broken.setitem(plots.TABLES, "pack", (fail, ["pack"]))
        with pytest.raises(ValueError, match="no such row"):
            plots.fill_in_documentation()
    assert not plots.PICTURES.exists()
    assert "|" not in (tmp_path / "README.md").read_text()
    plots.fill_in_documentation()
    assert (plots.PICTURES / "overhead.png").exists()
    assert all("\n|---|" in page.read_text() for page in plots.pages())


COMMANDS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "@click.command" in path.read_text())


@pytest.mark.parametrize("name", [*COMMANDS, "netlab"])
def test_help_needs_no_package_of_one_benchmark(tmp_path, name):
    """Neither CuPy, PyTorch nor mpiarray."""
    missing = "import runpy, sys; sys.modules.update(dict.fromkeys(('cupy', 'torch', 'mpiarray')))"
    start = (
        f"{missing}; sys.argv[1:] = ['--help']; runpy.run_module('benchmarks.{name}', run_name='__main__')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", start], cwd=launch.ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "Usage:" in shown.stdout


@pytest.mark.parametrize(
    ("name", "package"),
    [("gpu_messages", "cupy"), ("attention_gpu", "torch"), ("mpiarray_halos", "mpiarray")],
)
def test_a_missing_package_is_named_in_one_line(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    main = importlib.import_module(f"benchmarks.{name}").main
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert f"needs {package}" in result.output
    assert result.output.count("\n") == 1


def test_every_benchmark_has_the_same_two_options():
    """A command that writes results leaves it to `results_folder` where they go."""
    sources = {path.name: path.read_text() for path in BENCHMARKS.glob("*.py") if path.name != "results.py"}
    writing = {name for name, text in sources.items() if re.search(r"\bwrite(_json|_text|_bytes)?\(", text)}
    # Programs that benchmarks start write files of their own.
    programs = {"fault_links.py", "honest_programs.py"}
    asking = {name for name, text in sources.items() if "@results_folder" in text}
    assert writing - asking - programs == {"plots.py"}
    tell = "from benchmarks.pingpong import main; print(*(option.name for option in main.params))"
    shown = subprocess.run(
        [sys.executable, "-c", tell], cwd=launch.ROOT, capture_output=True, text=True, check=True
    )
    assert {"output", "update"} <= set(shown.stdout.split())
