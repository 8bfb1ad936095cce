"""The files that are installed, and those in a source distribution."""

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import roundelay
from tests import launch


def test_type_checkers_find_the_package_by_its_path():
    """They follow paths, and no import hooks: also where the installation is an editable one."""
    package = Path(roundelay.__file__).parent
    assert package.name == "roundelay"
    assert str(package.parent) in sys.path
    assert (package / "py.typed").is_file()
    for inner in ("datatypes", "comm", "collectives", "collectives/attention"):
        assert (package / inner / "__init__.py").is_file()


def test_a_source_distribution_has_what_the_readme_refers_to():
    text = (launch.ROOT / "README.md").read_text()
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link} - {""}
    assert len(links) > 5
    manifest = (launch.ROOT / "MANIFEST.in").read_text().split()
    always = set(metadata("roundelay").get_all("License-File") or ())
    for link in links - always:
        assert (launch.ROOT / link).exists(), link
        assert link.split("/")[0] in manifest, link
