"""mpi4py's own suite with the layer in place: ``python -m tests.mpi4py_suite --ranks 2``.

pip fetches the source distribution of the installed mpi4py, which has the suite. It is run under ``roundelay
run``, or with ``--imported-first`` in a program that imports roundelay only when it has mpi4py's own module:
then MPI's functions are intercepted beneath mpi4py's classes. Tests that do not pass there are run with plain
mpi4py, too: a test that is worse off under the layer fails, unless the list of the MPI library in
``mpi4py_expected`` has it with a reason. A listed test that passes fails too. Arguments that ``--help`` does
not list go to the suite's main.py, such as ``-i test_comm`` for one of its files.
"""

import argparse
import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import mpi4py

from tests import launch
from tests.record import Account
from tests.stage import Stage

VERSION = importlib.metadata.version("mpi4py")
EXPECTED = Path(__file__).with_name("mpi4py_expected")


def cache_folder() -> Path:
    """Return the folder for what is fetched: in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "roundelay" / f"mpi4py-{VERSION}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A user without a home.
        folder = Path(tempfile.gettempdir(), f"roundelay-{os.getuid()}", f"mpi4py-{VERSION}")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(cache: Path) -> Path:
    """Return the folder of the suite, fetched where it is not in `cache` yet."""
    source = cache / "source"
    if not source.exists():
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "mpi4py"]
            subprocess.run([*pip, "--dest", fresh, f"mpi4py=={VERSION}"], check=True)
            (archive,) = Path(fresh).glob("*.tar.gz")
            shutil.unpack_archive(archive, fresh)
            # One rename, so that whoever fetches at the same time finds all of it or nothing.
            Path(fresh, f"mpi4py-{VERSION}").rename(source)
    return source / "test"


def library() -> str:
    """Return the name of the MPI library."""
    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return str(MPI.get_vendor()[0]).lower().replace(" ", "")


def command(ranks: int, launcher: list[str], suite: Path, arguments: list[str], session: Path) -> list[str]:
    """Return the command line of a session of the suite."""
    rank = ["-m", *launcher, str(session), str(suite), *arguments]
    return launch.mpiexec(ranks, [sys.executable, *rank])


def expected_failures(path: Path) -> dict[str, str]:
    """Read a list of tests with reasons: ``module.Class.test  # reason``.

    Raises
    ------
    ValueError
        When an entry has no reason.
    """
    reasons = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        test, _, reason = (part.strip() for part in line.partition("#"))
        if test and not reason:
            message = f"{path}: {test!r} has no reason; expected 'module.Class.test  # reason'"
            raise ValueError(message)
        if test:
            reasons[test] = reason
    return reasons


def whole(test: str) -> str:
    """Return the name of the test that `test` is, or is a subtest of."""
    return test.split(" ", maxsplit=1)[0] if test.startswith("test_") else test


def worse(plain: Account, layer: Account) -> set[str]:
    """Return the tests that pass with plain mpi4py only, or that fail under the layer only.

    Subtests are compared one by one and named by their test.
    """
    tests = plain.outcomes.keys() | layer.outcomes.keys()
    pairs = {test: (plain.outcomes.get(test), layer.outcomes.get(test)) for test in tests}
    lost = {test for test, (before, now) in pairs.items() if before == "passed" != now}
    failing = {test for test, (before, now) in pairs.items() if now == "failed" != before}
    return {whole(test) for test in lost | failing}


def report(plain: Account, layer: Account, expected: dict[str, str], complete: bool) -> int:
    """Print what differs and the sums; return the exit status."""
    unexpected = sorted(worse(plain, layer) - expected.keys())
    for test in unexpected:
        before, now = plain.outcomes.get(test, "not run"), layer.outcomes.get(test, "not run")
        print(f"FAILED {test}: {before} with plain mpi4py, {now} under the layer")
        print(*(text for name, text in layer.messages.items() if whole(name) == test), sep="\n")
    missing = "not run" if complete else "skipped"
    stale = sorted(test for test in expected if layer.outcomes.get(test, missing) in ("passed", "not run"))
    for test in stale:
        print(f"FAILED {test}: listed as failing, {layer.outcomes.get(test, 'not in the suite')}")
    passed = sum(outcome == "passed" for outcome in layer.outcomes.values())
    print(f"{passed} passed, {len(unexpected) + len(stale)} failed")
    return 0 if passed and not unexpected and not stale else 1


def main(argv: list[str]) -> int:
    """Run the suite under the layer and what does not pass there with plain mpi4py, and compare."""
    program = "python -m tests.mpi4py_suite"
    parser = argparse.ArgumentParser(prog=program, description=__doc__, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks (default 2)")
    first_help = "import mpi4py.MPI before roundelay, without roundelay run"
    parser.add_argument("--imported-first", action="store_true", help=first_help)
    options, arguments = parser.parse_known_args(argv)
    launch.exit_when_terminated()
    suite = fetch(cache_folder())

    def run(what: str, launcher: list[str], done: Iterable[str] = ()) -> Account:
        name = f"mpi4py's suite on {options.ranks} ranks, {what}"
        line = functools.partial(command, options.ranks, launcher, suite, arguments)
        return Stage(name, line, Path(folder, what), shows_failures=False, done=done).run()

    with tempfile.TemporaryDirectory(prefix="roundelay-suite-") as folder:
        first = ["mpi4py", "-m", "tests.mpi4py_rank", "--layer"]
        below = ["roundelay", "run", "-m", "tests.mpi4py_rank"]
        layer = run("layer", first if options.imported_first else below)
        passed = [test for test, outcome in layer.outcomes.items() if outcome == "passed"]
        plain = run("plain, what did not pass", ["mpi4py", "-m", "tests.mpi4py_rank"], done=passed)
    # The lists name tests of our classes.
    listed = {} if options.imported_first else expected_failures(EXPECTED / f"{library()}.txt")
    return report(plain, layer, listed, complete=not arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
