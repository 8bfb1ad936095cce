"""Pictures and tables of the allreduces: times over sizes, predictions, and a choice that changes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawing import (
    BLUE,
    GREEN,
    GREY,
    MISSING,
    ORANGE,
    PINK,
    Plots,
    Results,
    Tables,
    in_bytes,
    label_bytes,
    label_seconds,
    library_of,
    row_with,
    table,
    title_of,
    values_of,
)

SKY, YELLOW, WINE, BLACK = "#56B4E9", "#E69F00", "#882255", "#000000"
STYLES = {
    "native": (BLACK, "s"),
    "ring": (BLUE, "o"),
    "bidirectional-ring": (SKY, "o"),
    "star": (ORANGE, "*"),
    "direct": (GREEN, "^"),
    "direct-parts": (PINK, "v"),
    "shared-memory": (YELLOW, "D"),
    "recursive-multiplying": (GREEN, "x"),
    "reduce-scatter-allgather": (PINK, "x"),
    "tree": (GREY, "1"),
    "double-tree": (WINE, "2"),
}


def draw_times(runs: list[Results]) -> Figure:
    """Time of each allreduce over its size, and which one is chosen."""
    figure = Figure(figsize=(6 * len(runs), 6), layout="constrained")
    for axes, results in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        rows = results["rows"]
        for name, (colour, mark) in STYLES.items():
            shown = [row for row in rows if name in row["seconds"]]
            if shown:
                axes.plot(
                    [row["bytes"] for row in shown],
                    [row["seconds"][name] for row in shown],
                    color=colour,
                    marker=mark,
                    linewidth=2 if name == "native" else 1,
                    label=name,
                )
        axes.plot(
            [row["bytes"] for row in rows],
            [row["seconds"]["auto"] for row in rows],
            linestyle="none",
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=BLACK,
            label="chosen",
        )
        axes.set(xscale="log", yscale="log", xlabel="size of the array", ylabel="time of an allreduce")
        label_seconds(axes)
        label_bytes(axes, [row["bytes"] for row in rows][::2])
        axes.set_title(f"{library_of(results)}, {results['ranks']} ranks")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def draw_predictions(runs: list[Results]) -> Figure:
    """Times that the model of the links predicts, relative to those measured."""
    figure = Figure(figsize=(6 * len(runs), 5), layout="constrained")
    for axes, results in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        axes.axhspan(0.75, 1.25, color=GREEN, alpha=0.12, label="within 25 %")
        for name, (colour, mark) in STYLES.items():
            shown = [row for row in results["rows"] if name != "native" and name in row["seconds"]]
            if shown:
                ratios = [row["predicted"][name] / row["seconds"][name] for row in shown]
                axes.plot([row["bytes"] for row in shown], ratios, color=colour, marker=mark, label=name)
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set(xscale="log", ylim=(0, None), xlabel="size of the array", ylabel="predicted / measured")
        label_bytes(axes, [row["bytes"] for row in results["rows"]][::2])
        axes.set_title(f"{title_of(results)}, {results['ranks']} ranks", fontsize="small")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def draw_watching(runs: list[Results]) -> Figure:
    """One call after another, while a link becomes slow, in a colour for each choice."""
    figure = Figure(figsize=(10, 3.5 * len(runs)), layout="constrained")
    for axes, results in zip(figure.subplots(len(runs), 1, squeeze=False)[:, 0], runs, strict=True):
        _draw_calls(axes, results["calls"])
        axes.axvline(len(results["calls"]["seconds"]) // 4, color=BLACK, linestyle="--", linewidth=1)
        axes.set_title(
            f"Allreduce of {in_bytes(results['bytes'])} on eight emulated hosts, {library_of(results)};"
            f" at the dashed line {change_of(results)}",
            fontsize="small",
        )
    return figure


def change_of(results: Results) -> str:
    """Describe what becomes slower, and how much."""
    place, factor = results["change"].split(":")
    what = f"the link between hosts {' and '.join(place.split('-'))}" if "-" in place else f"host {place}"
    return f"{what} becomes {factor} times slower"


def _draw_calls(axes: Axes, calls: dict[str, list[Any]]) -> None:
    names = list(dict.fromkeys(calls["choice"]))
    counted = sorted(names, key=lambda name: -calls["choice"].count(name))
    for name in names:
        places = [place for place, each in enumerate(calls["choice"]) if each == name]
        colour = (BLUE, ORANGE)[counted.index(name)] if counted.index(name) < 2 else GREY
        label = name if counted.index(name) < 2 else None
        seconds = [1e3 * calls["seconds"][place] for place in places]
        axes.scatter(places, seconds, s=4, color=colour, label=label)
    axes.scatter([], [], s=4, color=GREY, label="tried in between")
    top = 1.5e3 * statistics.quantiles(calls["seconds"], n=200)[-1]
    beyond = [1e3 * each for each in calls["seconds"] if 1e3 * each > top]
    axes.set(xlabel="call", ylabel="time of the call [ms]", ylim=(0, top))
    if beyond:
        above = f"not shown: {len(beyond)} of up to {max(beyond):.0f} ms"
        axes.text(0.01, 0.93, above, transform=axes.transAxes)
    axes.legend(fontsize="small", loc="upper right")


def gains_table(runs: list[Results]) -> str:
    """How many times as fast as the MPI library's own what is chosen is, by size."""

    def of(size: int) -> Callable[[Results], str]:
        def figure(run: Results) -> str:
            row = row_with(run, "bytes", size)
            return f"{row['native/auto']:.2f} ({row['chosen']})" if row else MISSING

        return figure

    named = {in_bytes(size): of(size) for size in sorted(values_of(runs, "bytes"))}
    named["mean regret"] = lambda run: f"{100 * statistics.mean(row['regret'] for row in run['rows']):.1f} %"
    return table("array", named, runs)


def watching_table(runs: list[Results]) -> str:
    """Milliseconds at the end, of what is chosen then, of what was chosen first, and of the library's own."""
    lines = ["| | | chosen at the end | chosen first | the library's own |", "|---|---|---:|---:|---:|"]
    for run in runs:
        case = f"{in_bytes(run['bytes'])}, a slow {'link' if '-' in run['change'] else 'host'}"
        seconds = run["seconds"]
        shown = (
            f"{1e3 * seconds['auto']:.1f} ms ({run['last']})",
            f"{1e3 * seconds['static']:.1f} ms ({run['first']})",
            f"{1e3 * seconds['native']:.1f} ms",
        )
        lines.append(f"| {case} | {library_of(run)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


PLOTS: Plots = {
    "allreduce-node-2": (draw_times, ["allreduce-node-2"]),
    "allreduce-node-4": (draw_times, ["allreduce-node-4"]),
    "allreduce-netlab": (draw_times, ["allreduce-netlab-8"]),
    "prediction": (draw_predictions, ["allreduce-netlab-8"]),
    "watching": (draw_watching, ["watching-link-1024"]),
}
TABLES: Tables = {
    "allreduce-node-2": (gains_table, ["allreduce-node-2"]),
    "allreduce-node-4": (gains_table, ["allreduce-node-4"]),
    "allreduce-netlab": (gains_table, ["allreduce-netlab-8"]),
    "watching": (watching_table, ["watching-link-1024", "watching-link-262144", "watching-host-16384"]),
}
