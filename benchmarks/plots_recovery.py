"""Tables of jobs that lose ranks, and of what a commit costs."""

from __future__ import annotations

from benchmarks.drawing import Results, Tables, table


def kills_table(runs: list[Results]) -> str:
    """What became of jobs whose ranks were killed."""
    rows = {
        "ranks killed": lambda run: f"{run['kills']}",
        "recoveries": lambda run: f"{run['recoveries']}",
        "jobs that failed, or had another result": lambda run: f"{run['failed'] + run['wrong']}",
        "complete commits lost": lambda run: f"{run['lost_commits']}",
        "from the kill to the next good collective, median": lambda run: (
            f"{1e3 * run['seconds_median']:.0f} ms"
        ),
        "the same, worst": lambda run: f"{1e3 * run['seconds_worst']:.0f} ms",
    }
    return table("seeded kills, 3, 4 and 8 ranks", rows, runs)


def commit_table(runs: list[Results]) -> str:
    """A commit beside the copy alone."""
    rows = {
        "copy, as by `np.copyto`": lambda run: f"{1e3 * run['seconds']['copy']:.1f} ms",
        "`commit`, times that": lambda run: f"{run['ratios']['commit']:.2f}",
        "all that a commit adds to the steps, times what the copy adds": lambda run: (
            f"{run['ratios']['all that a commit adds']:.2f}"
        ),
    }
    return table("64 MiB on each of two ranks", rows, runs)


TABLES: Tables = {"recovery": (kills_table, ["recovery"]), "commit": (commit_table, ["commit-2"])}
