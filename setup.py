"""The one thing `pyproject.toml` cannot say in one place: which folder is which package.

Each folder at the top of the repository is a subsystem and installs as ``roundelay.<folder>``; `api` is
``roundelay`` itself.
"""

import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = {
    "roundelay": "api",
    "roundelay.datatypes": "datatypes",
    "roundelay.comm": "comm",
    "roundelay.collectives": "collectives",
}


def link() -> str:
    """Make one package of the folders, by links; return the folder that has it.

    Type checkers follow paths, and not the import hook that setuptools would write for an editable install.
    """
    top = Path(__file__).parent.resolve()
    package = top / ".editable" / "roundelay"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    files = [file for file in (top / FOLDERS["roundelay"]).iterdir() if file.is_file()]
    folders = [top / folder for name, folder in FOLDERS.items() if name != "roundelay"]
    for target in files + folders:
        (package / target.name).symlink_to(target)
    return package.parent.name


if "editable_wheel" in sys.argv:
    folder = link()
    setup(package_dir={"": folder}, packages=find_packages(folder))
else:
    setup(
        package_dir=FOLDERS,
        packages=[
            package
            for name, folder in FOLDERS.items()
            for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
        ],
    )
