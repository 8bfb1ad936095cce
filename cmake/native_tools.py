"""The tools that compile the interposer: the machine's own if they work, and those from pip if not.

pip installs its part before it builds (`requirements`); the build then takes the tools that are there
(`find_tools`). Only the standard library is needed.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

OLDEST_CMAKE = (3, 20)
# zig links against any version of glibc, whatever is installed; this one is older than every cluster's.
GLIBC = "2.17"
ZIG_MACHINES = ("x86_64", "aarch64")
# CentOS 7's gcc knows no <stdatomic.h>, and a compiler may be installed without the C library's headers.
TRIAL = "#include <pthread.h>\n#include <stdatomic.h>\natomic_int number;\n"

Found = TypeVar("Found")


class CannotBuildError(Exception):
    """The interposer cannot be built here; the message says why."""


@dataclass(frozen=True)
class Tools:
    """Everything that a build runs.

    Attributes
    ----------
    cmake
        Path of CMake.
    generator, make
        What CMake calls the tool that runs the compiler, and the tool's path.
    compiler
        Command that compiles C, as in the variable CC.
    """

    cmake: str
    generator: str
    make: str
    compiler: str


def requirements() -> list[str]:
    """Return what pip has to install before it builds; nothing where that would not help either."""
    try:
        check_python()
    except CannotBuildError:
        return []
    wanted = []
    if find_cmake() is None:
        wanted.append(f"cmake>={oldest_cmake()}")
    if find_make() is None:
        wanted.append("ninja")
    if find_compiler() is None and not os.environ.get("CC") and zig_target() is not None:
        wanted.append("ziglang")
    return wanted


def find_tools(folder: Path) -> Tools:
    """Return the tools; `folder` is for the script that makes a compiler of zig.

    Raises
    ------
    CannotBuildError
        One of them is missing.
    """
    cmake = need(find_cmake(), f"CMake {oldest_cmake()} or later")
    generator, make = need(find_make(), "ninja or make")
    compiler = need(find_compiler() or make_zig_compiler(folder), missing_compiler())
    return Tools(cmake, generator, make, compiler)


def need(found: Found | None, name: str) -> Found:
    """Return what was found."""
    if found is None:
        raise CannotBuildError(f"it needs {name}")
    return found


def missing_compiler() -> str:
    """Return a description of the compiler that was not found."""
    chosen = os.environ.get("CC")
    return "a C11 compiler" + (f", which CC={shlex.quote(chosen)} is not" if chosen else "")


def check_python() -> None:
    """Raise `CannotBuildError` if this is not Linux, or Python is installed without its headers."""
    if sys.platform != "linux":
        raise CannotBuildError(f"it is for Linux, and this is {sys.platform}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise CannotBuildError(f"it needs {header} (Debian: python3-dev, Red Hat: python3-devel)")


def oldest_cmake() -> str:
    """Return the oldest version of CMake that will do."""
    return ".".join(map(str, OLDEST_CMAKE))


def find_cmake() -> str | None:
    """Return the path of a CMake that is new enough."""
    path = find("cmake")
    if path is None:
        return None
    version = re.search(r"(\d+)\.(\d+)", output([path, "--version"]) or "")
    return path if version and (int(version[1]), int(version[2])) >= OLDEST_CMAKE else None


def find_make() -> tuple[str, str] | None:
    """Return CMake's name for the tool that runs the compiler, and the tool's path."""
    for generator, name in (("Ninja", "ninja"), ("Unix Makefiles", "make")):
        path = find(name)
        if path is not None:
            return generator, path
    return None


def find_compiler() -> str | None:
    """Return the first command that compiles C: the one in the variable CC and no other, if it is set."""
    chosen = os.environ.get("CC")
    return next((name for name in ([chosen] if chosen else ["cc", "gcc", "clang"]) if compiles(name)), None)


def compiles(compiler: str) -> bool:
    """Return whether the command makes a shared library of C11 with atomics."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.c")
        source.write_text(TRIAL)
        library = source.with_suffix(".so")
        arguments = ["-std=gnu11", "-shared", "-fPIC", str(source), "-o", str(library)]
        return output([*shlex.split(compiler), *arguments]) is not None


def make_zig_compiler(folder: Path) -> str | None:
    """Write a script that compiles with the package ziglang; return its path, or None without the package."""
    target = zig_target()
    if target is None or importlib.util.find_spec("ziglang") is None:
        return None
    script = folder / "zig-cc"
    # zig has its own C library's headers, but Debian's Python.h includes one by its path from /usr/include.
    headers = Path(sysconfig.get_path("include")).parent
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-idirafter", str(headers)]
    # zig's cache grows in the home folder otherwise, which may not be writable.
    script.write_text(
        "#!/bin/sh\n"
        f"export ZIG_GLOBAL_CACHE_DIR={shlex.quote(str(folder / 'zig-cache'))}\n"
        'export ZIG_LOCAL_CACHE_DIR="$ZIG_GLOBAL_CACHE_DIR"\n'
        f'exec {shlex.join(command)} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def zig_target() -> str | None:
    """Return zig's name for this machine; None where ziglang has no wheel, or the C library is not glibc."""
    machine = sysconfig.get_platform().removeprefix("linux-")
    if machine not in ZIG_MACHINES or platform.libc_ver()[0] != "glibc":
        return None
    return f"{machine}-linux-gnu.{GLIBC}"


def find(name: str) -> str | None:
    """Return the path of a program that starts: on the PATH, else beside Python (an inactive environment)."""
    # While pip builds, a script that it installed into the surrounding environment does not start.
    places = (shutil.which(name), shutil.which(name, path=sysconfig.get_path("scripts")))
    return next((path for path in places if path and output([path, "--version"]) is not None), None)


def output(command: list[str]) -> str | None:
    """Return what a command prints; None if it does not run, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
