"""Pictures and tables of codes against stragglers: run times, a crossover, rounds, and who straggles."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.drawing import (
    BLUE,
    GREEN,
    GREY,
    MISSING,
    ORANGE,
    Plots,
    Results,
    Tables,
    library_of,
    row_with,
    values_of,
)

STYLES = {"uncoded": (GREY, "s"), "gc": (ORANGE, "^"), "sr-sgc": (GREEN, "D"), "m-sgc": (BLUE, "o")}
TITLES = {"published": "as published, cyclic codes", "here": "roundelay, repetition in groups"}
PATTERN = {"gc": "s", "ignore": "s", "sr-sgc": "B, W, λ", "m-sgc": "B, W, λ"}


def named(name: str, figures: dict[str, Any]) -> str:
    """A scheme with its parameters."""
    values = ", ".join(map(str, figures["parameters"].values()))
    return f"{name} ({PATTERN[name]} = {values})" if values else name


def draw_times(runs: list[Results]) -> Figure:
    """Time of a training by each scheme, for each number of workers."""
    (results,) = runs
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(results["sizes"]), squeeze=False)[0]
    for axes, run in zip(panels, results["sizes"], strict=True):
        schemes = {name: run["schemes"][name] for name in STYLES}
        names = [named(name, each).replace(" (", "\n(") for name, each in schemes.items()]
        seconds = [each["seconds"] for each in schemes.values()]
        bars = axes.barh(names, seconds, color=[colour for colour, _ in STYLES.values()])
        axes.bar_label(bars, fmt="%.0f s", label_type="center", color="white")
        axes.tick_params("y", labelsize="small")
        axes.invert_yaxis()
        axes.set(title=f"{run['workers']} workers", xlabel="seconds of the training")
    figure.suptitle(f"Simulated: {results['jobs']} gradients, 5 % of the workers 2 to 3.5 times as slow")
    return figure


def draw_slopes(runs: list[Results]) -> Figure:
    """Time of each scheme, relative to uncoded rounds, over the time of the data."""
    (results,) = runs
    rows = results["slopes"]
    ratios = [row["slope"] / results["base"] for row in rows]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, how in zip(figure.subplots(1, 2, sharey=True), ("published", "here"), strict=True):
        for name, (colour, mark) in STYLES.items():
            times = [row[how]["schemes"] for row in rows]
            parts = [each[name]["seconds"] / each["uncoded"]["seconds"] for each in times]
            # Gradient coding and SR-SGC may take the same time.
            style = "--" if name == "sr-sgc" else "-"
            axes.plot(ratios, parts, style, color=colour, marker=mark, label=name)
        axes.set(
            title=TITLES[how], xscale="log", xlabel="time of all data on one worker / of a round without data"
        )
        axes.xaxis.set_major_locator(FixedLocator(ratios))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:.2g}" if value < 10 else f"{value:.0f}")
        )
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time / time of uncoded rounds")
    figure.axes[0].legend()
    figure.suptitle(f"Simulated: {rows[0]['here']['workers']} workers, {results['jobs']} gradients")
    return figure


def draw_rounds(runs: list[Results]) -> Figure:
    """How long rounds take, for each kind of trace."""
    (results,) = runs
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(results["kinds"]), sharey=True)
    for axes, (kind, run) in zip(panels, results["kinds"].items(), strict=True):
        for name, (colour, _) in STYLES.items():
            seconds = np.array(run["schemes"][name]["percentiles of rounds"].split(), float)
            share = np.linspace(0, 100, len(seconds))
            # SR-SGC often takes as long as gradient coding, and would hide it.
            style = "--" if name == "sr-sgc" else "-"
            axes.plot(seconds, share, style, color=colour, label=named(name, run["schemes"][name]))
        axes.set(title=f"{kind} trace", xlabel="seconds of a round", xscale="log")
        axes.xaxis.set_major_locator(FixedLocator([0.7, 1, 1.5, 2, 3, 5, 10, 20]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
    panels[0].set_ylabel("rounds that have ended, %")
    figure.suptitle(
        f"Simulated rounds of {run['workers']} workers, with the patience that is best for each scheme"
    )
    return figure


def draw_stragglers(runs: list[Results]) -> Figure:
    """Who straggles in which round of each kind of trace."""
    (results,) = runs
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (kind, run) in zip(
        figure.subplots(1, len(results["kinds"]), sharey=True), results["kinds"].items(), strict=True
    ):
        slow = np.zeros((run["workers"], len(run["stragglers"])))
        for turn, workers in enumerate(run["stragglers"]):
            slow[np.array(workers.split(), int), turn] = 1
        axes.imshow(slow, aspect="auto", interpolation="none", cmap="Greys")
        axes.set(title=f"{kind} trace: {100 * slow.mean():.1f} %", xlabel="round")
    figure.axes[0].set_ylabel("worker")
    figure.suptitle("Workers that take more than twice as long as the first one of their round")
    return figure


def gains_table(runs: list[Results]) -> str:
    """Seconds of each scheme, and what it gains over uncoded rounds."""
    lines = ["| workers | uncoded | gc | sr-sgc | m-sgc |", "|---|---:|---:|---:|---:|"]
    for results in runs:
        for run in results["sizes"]:
            schemes = run["schemes"]
            whole = schemes["uncoded"]["seconds"]
            shown = [
                f"{each['seconds']:.0f} s, {100 * (each['seconds'] / whole - 1):+.0f} %"
                for each in (schemes[name] for name in ("gc", "sr-sgc", "m-sgc"))
            ]
            lines.append(f"| {run['workers']} | {whole:.0f} s | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def codes_table(runs: list[Results]) -> str:
    """Errors and times of decoding, for each code."""
    titles = ("workers, stragglers", "code", "largest weight", "error, float32", "float16", "ms for weights")
    lines = [f"| {' | '.join(titles)} |", "|---|---|---:|---:|---:|---:|"]
    for results in runs:
        for row in sorted(results["rows"], key=lambda each: (each["workers"], -each["stragglers"])):
            figures = (
                f"{row['workers']}, {row['stragglers']}",
                row["code"],
                f"{row['coefficient']:.3g}",
                f"{row['float32']:.0e}",
                f"{row['float16']:.0e}",
                f"{row['milliseconds']:.2f}",
            )
            lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def overhead_table(runs: list[Results]) -> str:
    """How long a round takes, relative to a broadcast and a reduction."""
    lines = [f"| bytes | {' | '.join(map(library_of, runs))} |", "|---:|" + "---:|" * len(runs)]
    for size in values_of(runs, "bytes"):
        rows = (row_with(results, "bytes", size) for results in runs)
        figures = (f"{1e3 * row['ours']:.2f} ms, {row['ratio']:.2f}" if row else MISSING for row in rows)
        lines.append(f"| {size:,} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def training_table(runs: list[Results]) -> str:
    """Measured and predicted seconds of trainings."""
    lines = ["| library | workers | scheme | load | seconds | predicted |", "|---|---:|---|---:|---:|---:|"]
    for results in runs:
        for row in results["rows"]:
            times = f"{row['seconds']:.1f} | {row['predicted']:.1f}"
            scheme = f"{named(row['scheme'], row)} | {row['load']:.3f}"
            lines.append(f"| {library_of(results)} | {results['workers']} | {scheme} | {times} |")
    return "\n".join(lines) + "\n"


PLOTS: Plots = {
    "coding-times": (draw_times, ["coding-simulation"]),
    "coding-slopes": (draw_slopes, ["coding-simulation"]),
    "coding-rounds": (draw_rounds, ["coding-simulation"]),
    "coding-stragglers": (draw_stragglers, ["coding-simulation"]),
}
TABLES: Tables = {
    "coding-codes": (codes_table, ["coding-codes"]),
    "coding-overhead": (overhead_table, ["coding-overhead-8"]),
    "coding-simulation": (gains_table, ["coding-simulation"]),
    "coding-training": (training_table, ["coding-training-8", "coding-training-16"]),
}
