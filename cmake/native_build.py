"""The step of setuptools that compiles the interposer, by CMake.

roundelay works without it: the MPI library then moves the data. If it cannot be built, the installation says
why and goes on, unless ROUNDELAY_REQUIRE_INTERPOSER=1 makes that an error. CMake gets the arguments in the
variable CMAKE_ARGS, too.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

from native_tools import CannotBuildError, check_python, find_tools

TOP = Path(__file__).resolve().parent.parent
# CMake finds their sources.
MODULES = [Extension(f"roundelay.comm.interposer.{name}", sources=[]) for name in ("_mpich", "_openmpi")]


class BuildInterposer(build_ext):
    """Compile both modules into the folder that setuptools expects them in."""

    def build_extensions(self) -> None:
        """Build both, or warn and leave them out."""
        module = Path(self.get_ext_fullpath(MODULES[0].name)).resolve()
        try:
            build(Path(self.build_temp).resolve() / "interposer", module.parent)
        except CannotBuildError as error:
            if os.environ.get("ROUNDELAY_REQUIRE_INTERPOSER") == "1":
                raise CompileError(f"roundelay's interposer cannot be built: {error}") from None
            self.warn(f"roundelay is installed without its interposer, which cannot be built: {error}")
            # setuptools would copy the files.
            self.extensions = []


def build(folder: Path, modules: Path) -> None:
    """Build in `folder`, and put the results into `modules`.

    Raises
    ------
    CannotBuildError
        Something is missing, or the build failed.
    """
    check_python()
    # A build that failed leaves its folder to look at; CMake remembers tools there that pip has removed.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tools = find_tools(folder)
    options = {
        "CMAKE_MAKE_PROGRAM": tools.make,
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": modules,
        "Python_EXECUTABLE": sys.executable,
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    arguments += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    # The variable may hold arguments, too; CMake takes them apart.
    os.environ["CC"] = tools.compiler
    run([tools.cmake, "-S", str(TOP), "-B", str(folder), "-G", tools.generator, *arguments])
    run([tools.cmake, "--build", str(folder), "--parallel", str(len(os.sched_getaffinity(0)))])
    shutil.rmtree(folder)


def run(command: Sequence[str]) -> None:
    """Run a command, which prints what it does."""
    if subprocess.run(command, check=False).returncode:
        raise CannotBuildError(f"'{shlex.join(command)}' failed, and said why above (pip shows it with -v)")
