"""Where the results of benchmarks lie: those that the documentation shows, and those of whoever runs one."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# The figures of README.md and docs/ are made from these.
PUBLISHED = Path(__file__).parent / "results"
OWN = Path("benchmark-results")


def results_folder(command: Callable[..., None]) -> Callable[..., None]:
    """Give a click command the options `--output` and `--update`; it gets the folder as `output`."""

    @click.option(
        "--output",
        default=OWN,
        show_default=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder to write the results to.",
    )
    @click.option("--update", is_flag=True, help="Replace the published results, in benchmarks/results.")
    @functools.wraps(command)
    def run(output: Path, update: bool, **options: Any) -> None:
        command(output=PUBLISHED if update else output, **options)

    return run


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results together with what they were measured on, and say where."""
    from benchmarks.measure import environment

    write(path, {"environment": environment(), **results})


def write(path: Path, results: dict[str, Any], indent: int | None = 1) -> None:
    """Write results as they are, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=indent) + "\n", encoding="utf-8")
    print(f"wrote {path}", flush=True)
