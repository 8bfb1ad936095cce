"""Faults that are injected, and what the monitor says of them: how often rightly, and after how long.

    python -m benchmarks.faults [--repeats 20] [--ranks 3,4,8] [--only killed --only slow-2]
    python -m benchmarks.faults --clean 3600
    python -m benchmarks.faults --programs 10000

The first line runs each case over and over, each time as a job of its own that is ended after a limit, with
the MPI library of this interpreter's mpi4py. The others look for false alarms: in a job that does honest work
of all kinds on cores that it has too few of, and in random programs that are correct.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from benchmarks.fault_jobs import Outcome, run_job
from benchmarks.fault_links import run_on_links
from benchmarks.results import results_folder, write_json

# A job has this long in all, its start included.
LIMIT_SECONDS = 45.0
PLACE = re.compile(r"\.py:\d+")
# No false alarm may be of these kinds; slow ones are counted apart.
GRAVE = ("dead", "stuck", "deadlock", "mismatch", "leak")


class Case(NamedTuple):
    """One kind of fault.

    Attributes
    ----------
    kind
        Of the verdict that is right.
    limit
        Seconds within which it is to be found.
    share
        Of repeats in which it is.
    includes
        Whether a verdict may name more ranks than those that have the fault: those that wait for them.
    on_links
        Whether it needs an emulated network.
    """

    kind: str
    limit: float
    share: float = 1.0
    includes: bool = False
    on_links: bool = False


CASES = {
    "killed": Case("dead", 3.0),
    "stopped": Case("stuck", 3.0),
    "hanging": Case("stuck", 3.0),
    "hanging-in-c": Case("stuck", 3.0),
    "skipped": Case("mismatch", 2.0),
    "wrong-function": Case("mismatch", 2.0),
    "wrong-count": Case("mismatch", 2.0),
    "wrong-root": Case("mismatch", 2.0),
    "wrong-op": Case("mismatch", 2.0),
    "cycle": Case("deadlock", 2.0, includes=True),
    "knot": Case("deadlock", 2.0, includes=True),
    "slow-2": Case("slow-rank", 10.0, share=0.99),
    "slow-1.3": Case("slow-rank", 10.0, share=0.95),
    "slow-link": Case("slow-link", 10.0, share=0.99, on_links=True),
    "netlab": Case("slow-link", 10.0, share=0.99, on_links=True),
}


class Finding(NamedTuple):
    """What a job with a fault came to.

    Attributes
    ----------
    seconds
        From the fault to the right verdict; None where there was none.
    wrong
        Sentences of other verdicts before that, or at all.
    later
        How many came after it.
    has_place
        Whether the right one says where in the program, of all ranks of which it says so of one.
    """

    seconds: float | None
    wrong: list[str]
    later: int
    has_place: bool = False


def culprits(outcome: Outcome) -> set[int]:
    """Ranks that have the fault: those that said so, and the other end of a link."""
    return {entry[end] for entry in outcome.injected for end in ("rank", "peer") if end in entry}


def is_right(case: Case, verdict: dict[str, Any], ranks: set[int]) -> bool:
    """Whether a verdict names the fault and the ranks that have it."""
    named = set(verdict.get("ranks", ()))
    return verdict.get("kind") == case.kind and (named >= ranks if case.includes else named == ranks)


def judge(case: Case, outcome: Outcome) -> Finding:
    """Compare the verdicts of a job with what was injected."""
    ranks = culprits(outcome)
    right = next((v for v in outcome.verdicts if ranks and is_right(case, v, ranks)), None)
    others = [v for v in outcome.verdicts if not is_right(case, v, ranks)]
    if right is None:
        return Finding(None, [_sentence(v) for v in others], 0)
    before = [v for v in others if v["time"] < right["time"]]
    # What several ranks do begins with the last of them.
    start = max(entry["time"] for entry in outcome.injected)
    later = len(others) - len(before)
    sentence = right.get("sentence", "")
    has_place = PLACE.search(sentence) is not None and "an unknown line" not in sentence
    return Finding(right["time"] - start, list(map(_sentence, before)), later, has_place)


def _sentence(verdict: dict[str, Any]) -> str:
    return f"{verdict.get('kind')} {verdict.get('ranks')}: {verdict.get('sentence', '')}"


def run_case(name: str, ranks: int, seed: int) -> tuple[Outcome, Finding]:
    """Run a case once."""
    case = CASES[name]
    program = ["-m", "benchmarks.fault_programs", name, str(seed)]

    def is_found(verdicts: list[dict[str, Any]]) -> bool:
        return any(verdict.get("kind") == case.kind for verdict in verdicts)

    with tempfile.TemporaryDirectory() as folder:
        run = run_on_links if case.on_links else run_job
        outcome = run(program, ranks, Path(folder), LIMIT_SECONDS, is_found)
    return outcome, judge(case, outcome)


def measure(name: str, ranks: int, seeds: Iterable[int]) -> dict[str, Any]:
    """Run a case over and over."""
    case = CASES[name]
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        outcome, finding = run_case(name, ranks, seed)
        runs.append({"seed": seed, **finding._asdict(), "job": outcome.seconds, "left": outcome.left})
        if finding.seconds is None or finding.wrong:
            # What it takes to see why.
            runs[-1] |= {"verdicts": outcome.verdicts, "injected": outcome.injected, "status": outcome.status}
            runs[-1] |= {"output": outcome.output, "has_report": outcome.has_report}
    times = [run["seconds"] for run in runs if run["seconds"] is not None]
    in_time = sum(seconds <= case.limit for seconds in times)
    return {
        "case": name,
        "ranks": ranks,
        "repeats": len(runs),
        "named": len(times),
        "in time": in_time,
        "limit": case.limit,
        "is enough": in_time >= case.share * len(runs),
        "median": statistics.median(times) if times else None,
        "worst": max(times) if times else None,
        "placed": sum(run["has_place"] for run in runs),
        "wrong": sum(len(run["wrong"]) for run in runs),
        "later": sum(run["later"] for run in runs),
        "left behind": sum(len(run["left"]) for run in runs),
        "runs": runs,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of cases."""
    heads = ["case", "ranks", "named", "in time", "median s", "worst s", "limit s"]
    heads += ["placed", "wrong", "later", "left"]
    table = Table(*heads, show_edge=False)
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['ranks']}",
            f"{row['named']} of {row['repeats']}",
            f"{row['in time']}",
            _seconds(row["median"]),
            _seconds(row["worst"]),
            _seconds(row["limit"]),
            f"{row['placed']}",
            f"{row['wrong']}",
            f"{row['later']}",
            f"{row['left behind']}",
            style=None if row["is enough"] and not row["wrong"] else "bold red",
        )
    Console(width=120).print(table)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# False alarms


def look_for_false_alarms(
    what: str, program: list[str], ranks: int, limit: float, tell: Callable[[str], None] = click.echo
) -> dict[str, Any]:
    """Run a correct program and count what is said of it."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_job(program, ranks, Path(folder), limit)
    grave = [verdict for verdict in outcome.verdicts if verdict.get("kind") in GRAVE]
    slow = len(outcome.verdicts) - len(grave)
    tell(
        f"{what}, {ranks} ranks: {outcome.seconds:.0f} s, {len(grave)} false alarms, {slow} slow verdicts, "
        f"{100 * outcome.watcher_share:.1f} % of a core for the watcher"
    )
    for verdict in outcome.verdicts:
        tell(f"  {_sentence(verdict)}")
    if outcome.status != 0 or not outcome.has_report:
        tell(f"  it ended with status {outcome.status}, report: {outcome.has_report}\n{outcome.output}")
    return {
        "ranks": ranks,
        "seconds": outcome.seconds,
        "watcher share": outcome.watcher_share,
        "status": outcome.status,
        "has report": outcome.has_report,
        "false alarms": len(grave),
        "slow": slow,
        "verdicts": outcome.verdicts,
        "left behind": outcome.left,
    }


def run_clean(seconds: float, ranks: int) -> dict[str, Any]:
    """Honest work for so long."""
    program = ["-m", "benchmarks.honest_programs", "clean", str(seconds)]
    return look_for_false_alarms("honest work", program, ranks, seconds + 60.0)


def run_programs(programs: int, first: int, a_job: int, ranks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Random programs, some of them in each job."""
    rows = []
    for number, start in enumerate(range(first, first + programs, a_job)):
        count = min(a_job, first + programs - start)
        program = ["-m", "benchmarks.honest_programs", "random", str(start), str(count)]
        size = ranks[number % len(ranks)]
        what = f"programs {start} to {start + count - 1}"
        row = look_for_false_alarms(what, program, size, 60.0 + 2.0 * count)
        rows.append({"first": start, "programs": count, **row})
    return rows


def show_total(rows: list[dict[str, Any]]) -> None:
    """Print how many false alarms there were in all."""
    programs, alarms, slow = (sum(row[key] for row in rows) for key in ("programs", "false alarms", "slow"))
    failed = sum(row["status"] != 0 for row in rows)
    click.echo(f"{programs} programs in {len(rows)} jobs, {failed} of which failed:")
    click.echo(f"{alarms} false alarms, {slow} slow verdicts")


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(int, value.split(",")))
        except ValueError:
            self.fail(f"{value!r}: expected numbers with commas", param, ctx)


@click.command()
@results_folder
@click.option("--repeats", default=20, show_default=True, help="Of each case on each number of ranks.")
@click.option("--ranks", type=_Numbers(), default="3,4,8", show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(CASES)), help="Cases to run, of all of them.")
@click.option("--seed", default=0, show_default=True, help="Of the first repeat, or the first program.")
@click.option(
    "--clean", type=float, metavar="SECONDS", help="Honest work for so long, on the first of --ranks."
)
@click.option("--programs", type=int, metavar="N", help="Number of random correct programs.")
@click.option("--a-job", default=250, show_default=True, help="How many of them one job runs.")
def main(
    repeats: int,
    ranks: tuple[int, ...],
    only: tuple[str, ...],
    seed: int,
    clean: float | None,
    programs: int | None,
    a_job: int,
    output: Path,
) -> None:
    """Inject faults, or look for false alarms, and print what the monitor says."""
    if clean is not None:
        row = run_clean(clean, ranks[0])
        write_json(output / f"faults-clean-{library()}.json", row)
        return
    if programs is not None:
        rows = run_programs(programs, seed, a_job, ranks)
        show_total(rows)
        write_json(output / f"faults-programs-{library()}.json", {"rows": rows})
        return
    rows = []
    for name in only or CASES:
        for size in ranks:
            rows.append(measure(name, size, range(seed, seed + repeats)))
            show(rows[-1:])
    show(rows)
    write_json(output / f"faults-{library()}.json", {"rows": rows})


def library() -> str:
    """Short name of the MPI library; MPI is initialized only when all jobs have ended."""
    from benchmarks.measure import library_key

    return library_key()


if __name__ == "__main__":
    main()
