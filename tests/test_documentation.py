"""The documentation keeps its promises: names, extras, links, pictures and figures."""

import importlib
import inspect
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

import roundelay
from benchmarks.plots import MARKED, fill_in
from tests import launch

DOCS = launch.ROOT / "docs"
PAGES = [launch.ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TESTING = ["roundelay.testing.inject", "roundelay.testing.environment"]
MODULES = ["roundelay", "roundelay.coding", "roundelay.pytorch", *TESTING]

pytestmark = pytest.mark.timeout_s(300)


def name_of(page):
    return str(page.relative_to(launch.ROOT))


def find(pattern, text):
    """The one group of a pattern that must be there."""
    match = re.search(pattern, text, re.DOTALL)
    assert match, pattern
    return match[1]


def documented():
    """Names on the page of the API, by their module."""
    names: dict[str, set[str]] = {module: set() for module in MODULES}
    module = ""
    for kind, name in re.findall(
        r"^\.\. ([\w:]+):: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE
    ):
        if kind in {"py:module", "currentmodule", "automodule"}:
            module = name
        elif kind.startswith("auto"):
            names[module].add(name)
    return names


def import_or_skip(module):
    if module == "roundelay.pytorch":
        pytest.importorskip("torch")
    return importlib.import_module(module)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    public = set(import_or_skip(module).__all__)
    elsewhere = {"MPI", "CodedGradients"} if module == "roundelay" else set()
    assert documented()[module] == public - elsewhere


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    found = import_or_skip(module)
    things = {name: getattr(found, name) for name in found.__all__}
    assert [name for name, thing in things.items() if callable(thing) and not inspect.getdoc(thing)] == []


@pytest.mark.skipif(find_spec("sphinx") is None, reason="needs Sphinx: pip install '.[docs]'")
def test_sphinx_has_nothing_to_complain_about(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    result = subprocess.run(build, cwd=launch.ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 'id="roundelay.pack"' in (tmp_path / "reference.html").read_text()


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text()
    listed = set(find(r"```\{toctree\}(.*?)```", index).split()) - {":hidden:"}
    assert listed == {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert all(f"({page}.md)" in index for page in listed)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    files = [target for target in targets if not target.startswith(("http:", "https:"))]
    assert [file for file in files if not (page.parent / file).exists()] == []


def test_each_part_in_bold_is_a_paragraph_of_its_own():
    text = (launch.ROOT / "README.md").read_text()
    assert re.findall(r"\S\n(\*\*[^*\n]+\.\*\*)", text) == []


@pytest.mark.parametrize(
    "name", ["DamagedCheckpoint", "DataLost", "HangError", "RecoveryUnavailable", "RemoteFailure"]
)
def test_tracebacks_name_exceptions_as_programs_do(name):
    error = getattr(roundelay, name)
    assert f"{error.__module__}.{error.__qualname__}" == f"roundelay.{name}"
    assert pickle.loads(pickle.dumps(error)) is error


def test_every_picture_is_shown():
    shown = {name for page in PAGES for name in re.findall(r"pictures/([\w-]+\.png)", page.read_text())}
    assert shown == {path.name for path in (DOCS / "pictures").iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_are_those_of_the_results(page):
    """After a new measurement: python -m benchmarks.plots --fill-in."""
    text = page.read_text()
    assert text.count("<!-- figure:") == len(MARKED.findall(text))
    assert fill_in(text) == text


def extras_of_the_package():
    """Requirements of each extra in pyproject.toml, which tomllib reads from Python 3.11 on only."""
    text = (launch.ROOT / "pyproject.toml").read_text()
    section = find(r"\[project\.optional-dependencies\]\n(.*?)\n\[", text)
    return dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", section, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_exist(page):
    named = re.findall(r"pip install[^\n`]*?\[([\w,-]+)\]", page.read_text())
    assert {extra for extras in named for extra in extras.split(",")} <= extras_of_the_package().keys()


def test_the_first_command_installs_what_its_example_draws_with():
    """README: pip install ".[mpich,examples]" && mpiexec ... examples/halo_exchange.py, which draws."""
    first = find(r"```sh\n(.*?)```", (launch.ROOT / "README.md").read_text())
    extras = find(r"\[([\w,-]+)\]", first).split(",")
    assert "examples/halo_exchange.py" in first
    assert any("matplotlib" in extras_of_the_package()[extra] for extra in extras)
