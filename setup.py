"""The one thing `pyproject.toml` cannot say in one place: which folder is which package.

Each folder at the top of the repository is a subsystem and installs as ``roundelay.<folder>``; `api` is
``roundelay`` itself.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "roundelay": "api",
    "roundelay.datatypes": "datatypes",
    "roundelay.comm": "comm",
    "roundelay.collectives": "collectives",
}

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
    ],
)
