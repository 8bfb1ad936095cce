"""Benchmarks as a visitor runs them: what they measure stays apart from what is published."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from tests import launch

BENCHMARKS = launch.ROOT / "benchmarks"

pytestmark = pytest.mark.timeout_s(200)


def run(*command, cwd):
    environment = {**launch.environment(), "PYTHONPATH": str(launch.ROOT)}
    line = [sys.executable, "-m", *command]
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


def test_plots_without_results(tmp_path):
    before = published()
    drawn = run("benchmarks.plots", cwd=tmp_path)
    assert drawn.returncode != 0
    assert "benchmark-results has no results" in drawn.stderr
    assert published() == before


def test_every_benchmark_has_the_same_two_options():
    """A command that writes results leaves it to `results_folder` where they go."""
    sources = {path.name: path.read_text() for path in BENCHMARKS.glob("*.py") if path.name != "results.py"}
    writing = {name for name, text in sources.items() if re.search(r"\bwrite(_json|_text|_bytes)?\(", text)}
    assert writing - {name for name, text in sources.items() if "@results_folder" in text} == {"plots.py"}
    tell = "from benchmarks.pingpong import main; print(*(option.name for option in main.params))"
    shown = subprocess.run(
        [sys.executable, "-c", tell], cwd=launch.ROOT, capture_output=True, text=True, check=True
    )
    assert {"output", "update"} <= set(shown.stdout.split())
