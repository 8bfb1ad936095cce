"""The parts of the build that `pyproject.toml` cannot say: the packages' folders, and the interposer.

Each folder at the top of the repository is a subsystem and installs as ``roundelay.<folder>``; `api` is
``roundelay`` itself.
"""

import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

# Where the build backend is; known to pip, but not to who runs this file by hand.
sys.path.insert(0, str(Path(__file__).parent / "cmake"))
from native_build import MODULES, BuildInterposer

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
    own = (top / FOLDERS["roundelay"]).iterdir()
    files = [file for file in own if file.is_file() or (file / "__init__.py").is_file()]
    folders = [top / folder for name, folder in FOLDERS.items() if name != "roundelay"]
    for target in files + folders:
        (package / target.name).symlink_to(target)
    return package.parent.name


if "editable_wheel" in sys.argv:
    folder = link()
    package_dir = {"": folder}
    packages = find_packages(folder)
else:
    package_dir = FOLDERS
    packages = [
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
    ]
setup(
    package_dir=package_dir,
    packages=packages,
    ext_modules=MODULES,
    cmdclass={"build_ext": BuildInterposer},
)
