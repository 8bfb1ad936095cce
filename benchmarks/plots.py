"""Pictures and tables from the JSON files that the benchmarks write.

    python -m benchmarks.plots

draws the results in `benchmark-results` into the same folder and prints their tables. With ``--fill-in`` it
draws the published results, those in `benchmarks/results`, into `docs/pictures`, and fills in the tables that
README.md and the pages in `docs` mark with a line ``<!-- figure: name -->`` before and a line
``<!-- end of figure -->`` after them. No picture and no table holds a number that is not in the JSON.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks import (
    plots_allreduce,
    plots_attention,
    plots_coding,
    plots_gpu,
    plots_grid,
    plots_monitor,
    plots_recovery,
)
from benchmarks.drawing import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARKS,
    MISSING,
    ORANGE,
    Plots,
    Results,
    Tables,
    in_bytes,
    label_bytes,
    label_ratios,
    read,
    table,
    title_of,
    values_of,
)
from benchmarks.overhead import SMALL
from benchmarks.pack import LARGE_ROW
from benchmarks.results import OWN, PUBLISHED

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
MARKED = re.compile(r"(<!-- figure: ([\w-]+) -->\n).*?(<!-- end of figure -->)", re.DOTALL)

# Pictures -----------------------------------------------------------------------------------------


def draw_pack_gain(runs: list[Results]) -> Figure:
    """How many times faster than the library each DDTBench row is packed and unpacked."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    tests = values_of(runs, "test")
    for axes, results in zip(panels, runs, strict=True):
        for direction, colour, mark, shift in (("pack", BLUE, "o", -0.17), ("unpack", ORANGE, "^", 0.17)):
            for large in (True, False):
                rows = [
                    row
                    for row in results["rows"]
                    if row["direction"] == direction and (row["bytes"] >= LARGE_ROW) == large
                ]
                axes.scatter(
                    [row["library/ours"] for row in rows],
                    [tests.index(row["test"]) + shift for row in rows],
                    s=34,
                    marker=mark,
                    edgecolors=colour,
                    facecolors=colour if large else "none",
                    label=f"{direction}, {'16 KiB and more' if large else 'less than 16 KiB'}",
                )
        axes.axvline(1, color=GREY, linewidth=1)
        axes.set(title=title_of(results), xlabel="times as fast as the library", xscale="log")
        axes.grid(alpha=0.3)
    label_ratios(panels[0], "x")
    panels[0].set_yticks(range(len(tests)), tests)
    panels[0].invert_yaxis()
    finish(figure, panels[0], "DDTBench datatypes: roundelay beside the library's Pack and Unpack")
    return figure


def draw_pack_rate(runs: list[Results]) -> Figure:
    """Bytes packed a second over the length of the runs."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    series = (("memcpy", GREY, "_"), ("library", ORANGE, "^"), ("numpy", GREEN, "s"), ("ours", BLUE, "o"))
    labels = {
        "ours": "roundelay's Pack",
        "library": "the library's Pack",
        "numpy": "NumPy by hand",
        "memcpy": "contiguous copy",
    }
    for axes, results in zip(panels, runs, strict=True):
        rows = [row for row in results["rows"] if row["direction"] == "pack" and row["bytes"] >= LARGE_ROW]
        for name, colour, mark in series if rows else ():
            axes.scatter(
                [row["run_bytes"] for row in rows],
                [1e-3 * row["bytes"] / row["microseconds"][name] for row in rows],
                s=30,
                marker=mark,
                color=colour,
                alpha=0.8,
                label=labels[name],
            )
        axes.set(title=title_of(results), xlabel="mean length of a run", xscale="log", yscale="log")
        label_bytes(axes, [4 << 2 * step for step in range(7)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("GB/s of packed bytes")
    finish(figure, panels[0], "Packing DDTBench datatypes of 16 KiB and more")
    return figure


def draw_overhead(runs: list[Results]) -> Figure:
    """Time added to contiguous messages over their size."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    modes = values_of(runs, "mode")
    for axes, results in zip(panels, runs, strict=True):
        for mode, colour, mark in zip(modes, LINES, MARKS, strict=False):
            rows = [row for row in results["rows"] if row["mode"] == mode and row["bytes"] <= 64 << 10]
            # A logarithmic axis has no zero: the empty message stands left of one byte.
            sizes = [row["bytes"] or 0.25 for row in rows]
            added = [row["added"]["median"] for row in rows]
            axes.plot(sizes, added, color=colour, marker=mark, label=mode)
            if mode == modes[0]:
                low, high = (
                    [row["added"][f"{side} quartile"] for row in rows] for side in ("lower", "upper")
                )
                axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set(title=title_of(results), xlabel="message size", xscale="log", ylim=(-0.2, 1.2))
        label_bytes(axes, [0.25, *(1 << 2 * step for step in range(0, 9, 2))])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("microseconds added")
    finish(figure, panels[0], "Time added to contiguous messages (band: quartiles of the first)")
    return figure


def draw_pingpong(runs: list[Results]) -> Figure:
    """How many times faster a message with gaps is than the alternatives, over its size."""
    kinds = (
        ("vector", "library/ours", "vector datatypes:\nlibrary's engine / roundelay"),
        ("indexed", "library/ours", "indexed datatypes:\nlibrary's engine / roundelay"),
        ("vector", "hand/array", "strided arrays:\ncopies by hand / roundelay"),
    )
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    panels = figure.subplots(len(kinds), len(runs), sharex=True, sharey="row", squeeze=False)
    for column, results in zip(panels.T, runs, strict=True):
        column[0].set_title(title_of(results))
        for axes, (kind, name, _) in zip(column, kinds, strict=True):
            draw_ratios(axes, [row for row in results["rows"] if row["kind"] == kind], name)
        column[-1].set_xlabel("message size")
    for axes, (_, _, label) in zip(panels[:, 0], kinds, strict=True):
        axes.set_ylabel(label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(title="runs of", fontsize="small", loc="best")
    figure.suptitle("One-way time between two ranks on one machine: above 1, roundelay is faster")
    return figure


def draw_ratios(axes: Axes, rows: list[dict[str, Any]], name: str) -> None:
    """Draw a ratio over the size of the message, a line for each length of the runs."""
    for run, colour, mark in zip(sorted({row["run_bytes"] for row in rows}), LINES, MARKS, strict=False):
        chosen = [row for row in rows if row["run_bytes"] == run]
        ratios = [row[name] for row in chosen]
        axes.plot([row["bytes"] for row in chosen], ratios, color=colour, marker=mark, label=in_bytes(run))
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set(xscale="log", yscale="log")
    label_bytes(axes, [64 << 2 * step for step in range(8)])
    label_ratios(axes, "y")
    axes.grid(alpha=0.3)


def finish(figure: Figure, axes: Axes, title: str) -> None:
    """Give a figure its title, and one legend for all panels."""
    figure.suptitle(title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


# Figures ------------------------------------------------------------------------------------------


def gain(field: str, value: str, name: str) -> Callable[[Results], str]:
    """Geometric mean and range of a ratio over the rows of 16 KiB and more whose field has that value."""

    def of(run: Results) -> str:
        gains = [row[name] for row in run["rows"] if row[field] == value and row["bytes"] >= LARGE_ROW]
        if not gains:
            return MISSING
        return f"{statistics.geometric_mean(gains):.2f} ({min(gains):.2f} to {max(gains):.1f})"

    return of


def pack_table(runs: list[Results]) -> str:
    """How many times as fast as the library's engine our methods, and the kernel alone, pack DDTBench."""
    rows = {
        "`Datatype.Pack`": gain("direction", "pack", "library/ours"),
        "`Datatype.Unpack`": gain("direction", "unpack", "library/ours"),
        "kernel alone, packing": gain("direction", "pack", "library/kernel"),
        "kernel alone, unpacking": gain("direction", "unpack", "library/kernel"),
    }
    return table("times as fast as", rows, runs)


def pingpong_table(runs: list[Results]) -> str:
    """How many times faster messages with gaps are than the library's engine and than copies by hand."""
    rows = {
        "vector datatypes, compared with the library's engine": gain("kind", "vector", "library/ours"),
        "indexed datatypes, compared with the library's engine": gain("kind", "indexed", "library/ours"),
        "strided arrays, compared with copies by hand": gain("kind", "vector", "hand/array"),
    }
    return table("times as fast", rows, runs)


def overhead_table(runs: list[Results]) -> str:
    """Microseconds added to small contiguous messages."""

    def of(mode: str) -> Callable[[Results], str]:
        def figure(run: Results) -> str:
            added = run["small"]["added"].get(mode)
            return f"{added['median']:.2f} µs" if added else MISSING

        return figure

    modes = dict.fromkeys(mode for run in runs for mode in run["small"]["added"])
    head = f"added to contiguous messages of up to {SMALL} bytes"
    return table(head, {f"`{mode}`": of(mode) for mode in modes}, runs)


PLOTS: Plots = {
    "pack-gain": (draw_pack_gain, ["pack"]),
    "pack-rate": (draw_pack_rate, ["pack"]),
    "overhead": (draw_overhead, ["overhead"]),
    "pingpong": (draw_pingpong, ["pingpong"]),
    **plots_allreduce.PLOTS,
    **plots_attention.PLOTS,
    **plots_coding.PLOTS,
    **plots_gpu.PLOTS,
}
TABLES: Tables = {
    "pack": (pack_table, ["pack"]),
    "pingpong": (pingpong_table, ["pingpong"]),
    "overhead": (overhead_table, ["overhead"]),
    **plots_allreduce.TABLES,
    **plots_attention.TABLES,
    **plots_coding.TABLES,
    **plots_gpu.TABLES,
    **plots_grid.TABLES,
    **plots_monitor.TABLES,
    **plots_recovery.TABLES,
}


def draw_pictures(results: Path) -> dict[str, bytes]:
    """Draw each picture whose benchmark has results, as a PNG file for each name."""
    drawn = {}
    for name, (draw, benchmarks) in PLOTS.items():
        if runs := read(benchmarks, results):
            image = io.BytesIO()
            draw(runs).savefig(image, dpi=130)
            drawn[name] = image.getvalue()
    return drawn


def write_pictures(drawn: dict[str, bytes], output: Path) -> None:
    """Write pictures into a folder, and say where."""
    output.mkdir(parents=True, exist_ok=True)
    for name, image in drawn.items():
        (output / f"{name}.png").write_bytes(image)
        print(f"drew {output / name}.png")


def tables(results: Path) -> dict[str, str]:
    """Each table whose benchmark has results."""
    return {
        name: tabulate(runs)
        for name, (tabulate, benchmarks) in TABLES.items()
        if (runs := read(benchmarks, results))
    }


def fill_in(text: str) -> str:
    """Put the tables of the published results into the places that a page marks for them."""

    def fill(place: re.Match[str]) -> str:
        tabulate, benchmarks = TABLES[place[2]]
        return f"{place[1]}\n{tabulate(read(benchmarks, PUBLISHED))}\n{place[3]}"

    return MARKED.sub(fill, text)


def pages() -> list[Path]:
    """All pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill_in_documentation() -> None:
    """Write the pictures and tables of the published results into the documentation."""
    # Compute all of it before writing any, so that an error does not leave the documentation half changed.
    drawn = draw_pictures(PUBLISHED)
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    filled = {page: fill_in(text) for page, text in texts.items()}
    write_pictures(drawn, PICTURES)
    for page, text in filled.items():
        if text != texts[page]:
            page.write_text(text, encoding="utf-8")
            print(f"filled in {page.relative_to(ROOT)}")


@click.command()
@click.option(
    "--results",
    default=OWN,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the results of benchmarks; the pictures are drawn into it.",
)
@click.option(
    "--fill-in",
    "fills_in",
    is_flag=True,
    help="Draw the published results, and write their pictures and tables into the documentation.",
)
def main(results: Path, fills_in: bool) -> None:
    """Draw the pictures of what was measured, and print its tables."""
    if fills_in:
        fill_in_documentation()
        return
    if not list(results.glob("*.json")):
        raise click.ClickException(f"{results} has no results: run a benchmark, or name another folder")
    drawn, tabulated = draw_pictures(results), tables(results)
    write_pictures(drawn, results)
    for name, text in tabulated.items():
        print(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
