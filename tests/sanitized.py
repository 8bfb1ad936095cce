"""Tests with the interposer compiled for sanitizers: ``python -m tests.sanitized``.

It needs CMake and a compiler that has sanitizers. Both modules are compiled by CMake into a copy of the
package in a folder of its own, and the tests of the interposer run with them, serially and on two ranks: for
AddressSanitizer and UndefinedBehaviorSanitizer, or with ``--threads`` the tests of threads for
ThreadSanitizer. Every report of a sanitizer is a failure. Files that are named are tested in place of those.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import roundelay
from tests import launch
from tests.__main__ import Choice, command, summarize
from tests.stage import Stage

SUBJECTS = [
    "pointtopoint", "collective", "requests", "unfinished", "lifetime", "interposer", "errors",
    "random_views", "random_trees", "threads",
]  # fmt: skip


@dataclass(frozen=True)
class Sanitizer:
    """What is compiled in, and what a process needs for it.

    Attributes
    ----------
    name
        For the compiler.
    library
        The runtime, which must be loaded first because Python is not compiled for it.
    options
        By the names of the runtimes' environment variables.
    subjects
        What is tested.
    """

    name: str
    library: str
    options: dict[str, str]
    subjects: list[str]


ADDRESSES = Sanitizer(
    "address,undefined",
    "libasan.so",
    # Python itself leaves memory at its end.
    {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    SUBJECTS,
)
THREADS = Sanitizer("thread", "libtsan.so", {"TSAN_OPTIONS": "exitcode=0"}, ["threads"])


def build(sanitizer: Sanitizer, folder: Path) -> Path:
    """Copy the installed package into `folder` and compile its modules anew; return what holds the copy."""
    package = folder / "packages" / "roundelay"
    compiled = shutil.ignore_patterns("_mpich.*", "_openmpi.*", "__pycache__")
    shutil.copytree(Path(roundelay.__file__).parent, package, ignore=compiled)
    options = {
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package / "comm" / "interposer",
        "Python_EXECUTABLE": sys.executable,
        "ROUNDELAY_SANITIZE": sanitizer.name,
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    made = str(folder / "build")
    for line in (["-S", str(launch.ROOT), "-B", made, *arguments], ["--build", made]):
        subprocess.run(["cmake", *line], check=True, stdout=subprocess.DEVNULL)
    return package.parent


def surroundings(sanitizer: Sanitizer, packages: Path, reports: Path) -> list[str]:
    """Return what stands before the command line of a process that uses the modules in `packages`."""
    compiler = os.environ.get("CC", "cc")
    asked = [compiler, f"-print-file-name={sanitizer.library}"]
    library = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    variables = {
        "LD_PRELOAD": library,
        "PYTHONPATH": str(packages),
        # One by one, so that what is used after its end or beyond it is seen.
        "PYTHONMALLOC": "malloc",
        **{name: f"{value}:log_path={reports / name}" for name, value in sanitizer.options.items()},
    }
    # ThreadSanitizer wants its memory at addresses that Linux may give to others.
    return ["setarch", "-R", "env", *(f"{name}={value}" for name, value in variables.items())]


def take_reports(stage: Stage, reports: Path) -> Iterator[str]:
    """Enter what the sanitizers have reported in a stage as failures, and give the texts."""
    for report in sorted(reports.iterdir()):
        stage.account.outcomes[f"the sanitizers ({report.name})"] = "failed"
        yield report.read_text(errors="replace")
        report.unlink()


def main(argv: list[str]) -> int:
    """Build, run the stages one after the other, and look for reports."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitized", description=__doc__)
    parser.add_argument("--threads", action="store_true", help="for ThreadSanitizer")
    parser.add_argument("--ranks", type=int, choices=(1, 2), help="run one of the two stages")
    options, files = parser.parse_known_args(argv)
    sanitizer = THREADS if options.threads else ADDRESSES
    files = files or [str(launch.ROOT / "tests" / f"test_{subject}.py") for subject in sanitizer.subjects]
    # Address space is limited there, of which the sanitizers reserve most.
    choice = Choice([], ["-k", "not without_memory", *files], names_files=True, minutes=None)
    launch.exit_when_terminated()
    with tempfile.TemporaryDirectory(prefix="roundelay-sanitized-") as name:
        folder = Path(name)
        reports = folder / "reports"
        reports.mkdir()
        before = surroundings(sanitizer, build(sanitizer, folder), reports)
        stages = []
        for ranks in (options.ranks,) if options.ranks else (1, 2):
            line = functools.partial(command, None if ranks == 1 else ranks, choice, before=before)
            stages.append(Stage(f"{sanitizer.name}, {ranks} ranks", line, folder / f"{ranks} ranks"))
            stages[-1].run()
            print(*take_reports(stages[-1], reports), sep="\n", end="")
        return summarize(stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
