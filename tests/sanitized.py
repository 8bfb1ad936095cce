"""Tests with the interposer compiled for sanitizers: ``python -m tests.sanitized``.

It needs CMake and a compiler that has AddressSanitizer and UndefinedBehaviorSanitizer. Both modules are
compiled by CMake into a copy of the package in a folder of its own, and the tests of the interposer run with
them, serially and on two ranks. Every report of a sanitizer is a failure; two deliberate faults show first
that reports arrive. Files that are named are tested in place of those.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import roundelay
from tests import launch
from tests.__main__ import Choice, command, summarize
from tests.stage import Stage

SUBJECTS = [
    "pointtopoint", "collective", "requests", "unfinished", "lifetime", "interposer", "errors",
    "random_views", "random_trees", "threads",
]  # fmt: skip
# The address space is limited there, of which the sanitizers reserve most.
LEFT_OUT = ["-k", "not without_memory"]
# The functions of faults.c, and words of the report on each.
FAULTS = {"overflow": "signed integer overflow", "overrun": "heap-buffer-overflow"}


def build(folder: Path) -> Path:
    """Copy the installed package into `folder` and compile its modules anew; return what holds the copy."""
    package = folder / "packages" / "roundelay"
    compiled = shutil.ignore_patterns("_mpich.*", "_openmpi.*", "__pycache__")
    shutil.copytree(Path(roundelay.__file__).parent, package, ignore=compiled)
    options = {
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package / "comm" / "interposer",
        "Python_EXECUTABLE": sys.executable,
        "ROUNDELAY_SANITIZE": "address,undefined",
    }
    arguments = [f"-D{name}={value}" for name, value in options.items()]
    made = str(folder / "build")
    for line in (["-S", str(launch.ROOT), "-B", made, *arguments], ["--build", made]):
        subprocess.run(["cmake", *line], check=True, stdout=subprocess.DEVNULL)
    return package.parent


def surroundings(packages: Path, reports: Path) -> list[str]:
    """Return what stands before the command line of a process that uses the modules in `packages`."""
    asked = [os.environ.get("CC", "cc"), "-print-file-name=libasan.so"]
    library = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    variables = {
        # Python is not compiled for it.
        "LD_PRELOAD": library,
        "PYTHONPATH": str(packages),
        # Each object of Python on its own, so that what is used after its end or beyond it is seen.
        "PYTHONMALLOC": "malloc",
        # Python itself leaves memory at its end.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={reports / 'address'}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports / 'undefined'}",
    }
    return ["env", *(f"{name}={value}" for name, value in variables.items())]


def check_reports(faults: Path, before: list[str], reports: Path) -> None:
    """Commit the faults of the library `faults`.

    Raises
    ------
    SystemExit
        When one of them leaves no report in the folder `reports`.
    """
    for function, words in FAULTS.items():
        code = f"import ctypes; ctypes.CDLL({str(faults)!r}).{function}(1)"
        subprocess.run([*before, sys.executable, "-c", code], check=False, capture_output=True)
        found = list(reports.iterdir())
        if not any(words in report.read_text(errors="replace") for report in found):
            message = f"python -m tests.sanitized: no report of a deliberate {words}; nothing was tested"
            raise SystemExit(message)
        for report in found:
            report.unlink()


def take_reports(stage: Stage, reports: Path) -> Iterator[str]:
    """Enter what the sanitizers have reported in a stage as failures, and give the texts."""
    for report in sorted(reports.iterdir()):
        stage.account.outcomes[f"the sanitizers ({report.name})"] = "failed"
        yield report.read_text(errors="replace")
        report.unlink()


def main(argv: list[str]) -> int:
    """Build, run the stages one after the other, and look for reports."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitized", description=__doc__)
    parser.add_argument("--ranks", type=int, choices=(1, 2), help="run one of the two stages")
    options, files = parser.parse_known_args(argv)
    files = files or [str(launch.ROOT / "tests" / f"test_{subject}.py") for subject in SUBJECTS]
    choice = Choice([], [*LEFT_OUT, *files], names_files=True, minutes=None)
    launch.exit_when_terminated()
    with tempfile.TemporaryDirectory(prefix="roundelay-sanitized-") as name:
        folder = Path(name)
        reports = folder / "reports"
        reports.mkdir()
        packages = build(folder)
        before = surroundings(packages, reports)
        check_reports(packages / "roundelay" / "comm" / "interposer" / "libfaults.so", before, reports)
        stages = []
        for ranks in (options.ranks,) if options.ranks else (1, 2):
            line = functools.partial(command, None if ranks == 1 else ranks, choice, before=before)
            stages.append(Stage(f"sanitizers, {ranks} ranks", line, folder / f"{ranks} ranks"))
            stages[-1].run()
            print(*take_reports(stages[-1], reports), sep="\n", end="")
        return summarize(stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
