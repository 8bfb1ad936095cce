"""Pictures and tables of attention: rates beside peers, algorithms beside each other, and memory.

Who computes what when is drawn by `docs/draw_attention.py`, which needs no measurements.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

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
    label_ratios,
    library_of,
    table,
    title_of,
    values_of,
)
from benchmarks.plots_allreduce import BLACK, SKY, YELLOW

HAND, PACKAGE = "gloo ring", "ring-attention-pytorch"
LABELS = {HAND: "ring by hand: PyTorch's flash attention, gloo"}
NO_ALGORITHMS = ("auto", HAND, PACKAGE)
STYLES = {
    "auto": (BLACK, "o"),
    "ring": (BLUE, "o"),
    "zigzag": (BLUE, "x"),
    "bidirectional": (SKY, "s"),
    "token-ring": (ORANGE, "^"),
    "all-gather": (GREEN, "v"),
    "balanced": (PINK, "D"),
    "shared-memory": (YELLOW, "*"),
    "ulysses": (GREEN, "x"),
    "mesh": (ORANGE, "x"),
    "rsa": (GREY, "1"),
    HAND: (PINK, "P"),
    PACKAGE: (YELLOW, "X"),
}
TABLE_TOKENS = 2048
MIB = 1 << 20
Rows = list[dict[str, Any]]


class Mask(NamedTuple):
    """The tokens that each token sees, and how the sequence lies."""

    causal: bool
    placement: str
    label: str


MASKS = (
    Mask(False, "contiguous", "every token sees all"),
    Mask(True, "zigzag", "causal, zigzag"),
    Mask(True, "contiguous", "causal, contiguous"),
)


def select(results: Results, mask: Mask, backward: bool) -> Rows:
    """Rows of the usual shapes with one mask."""
    return [
        row
        for row in results["rows"]
        if (row["causal"], row["placement"], row["backward"]) == (mask.causal, mask.placement, backward)
        and (row["size"], row["key_heads"]) == (64, 8)
    ]


def label_counts(axes: Axes, counts: Iterable[int]) -> None:
    """Mark numbers along a logarithmic axis."""
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(counts))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def label_numbers(axes: Axes) -> None:
    """Mark numbers along a logarithmic axis that may be shorter than a decade."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def one_legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """Put a legend below, with all that is in any panel."""
    named: dict[Any, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named.update(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def what_is_computed(backward: bool) -> str:
    """Label of a row of panels."""
    return "forward and backward" if backward else "forward"


# Rates --------------------------------------------------------------------------------------------


def draw_rates(runs: list[Results]) -> Figure:
    """Operations a second of a rank over its tokens, beside the peers and beside what bounds them."""
    figure = Figure(figsize=(10, 7.2 * len(runs)), layout="constrained")
    panels = figure.subplots(2 * len(runs), 2, sharex=True, sharey=True, squeeze=False)
    for place, results in enumerate(runs):
        for backward in (False, True):
            for axes, mask in zip(panels[2 * place + backward], MASKS[:2], strict=True):
                _draw_rates(axes, results, mask, backward)
                axes.set_title(f"{mask.label}; {what_is_computed(backward)}", fontsize="medium")
            panels[2 * place + backward, 0].set_ylabel(f"GFLOP/s of each rank, {library_of(results)}")
    for axes in panels[-1]:
        axes.set_xlabel("tokens of a rank")
        label_counts(axes, (row["tokens"] for results in runs for row in results["rows"]))
    panels[0, 0].set_ylim(bottom=0)
    figure.suptitle(f"Attention over {runs[0]['ranks']} ranks with a core each, {title_of(runs[0])}")
    one_legend(figure, panels.flat, 3)
    return figure


def _draw_rates(axes: Axes, results: Results, mask: Mask, backward: bool) -> None:
    rows = select(results, mask, backward)
    # The package has no zigzag; what is counted is the same.
    contiguous = select(results, MASKS[2], backward) if mask.causal else rows
    series = (
        ("auto", "roundelay (auto)", rows, BLUE, "o"),
        (HAND, LABELS[HAND], rows, ORANGE, "^"),
        (PACKAGE, f"{PACKAGE} (contiguous)", contiguous, GREEN, "s"),
    )
    for name, label, some, colour, mark in series:
        shown = [row for row in some if name in row["gflops"]]
        if shown:
            rates = [row["gflops"][name] for row in shown]
            axes.plot([row["tokens"] for row in shown], rates, color=colour, marker=mark, label=label)
    for name, label, style in (("gemm", "matrix product", "-"), ("kernel", "local kernel alone", "--")):
        rates = [row[name] for row in rows]
        axes.plot([row["tokens"] for row in rows], rates, color=GREY, linestyle=style, label=label)
    axes.set_xscale("log")
    label_counts(axes, (row["tokens"] for row in rows))
    axes.grid(alpha=0.3)


# Algorithms ---------------------------------------------------------------------------------------


def draw_algorithms(runs: list[Results]) -> Figure:
    """Time of each algorithm relative to that of the choice, over the tokens of a rank."""

    def draw(axes: Axes, rows: Rows) -> None:
        _draw_series(axes, rows, "than auto")
        axes.axhline(1, color=BLACK, linewidth=1)
        axes.set(yscale="log")

    figure, panels = _draw_masks(runs, draw, "times as long as auto")
    for axes in panels:
        label_ratios(axes, "y")
    figure.suptitle(f"Algorithms of attention, {runs[0]['ranks']} ranks, {title_of(runs[0])}")
    return figure


def draw_network(runs: list[Results]) -> Figure:
    """Time of each algorithm between hosts, over the tokens of a rank."""

    def draw(axes: Axes, rows: Rows) -> None:
        _draw_series(axes, rows, "seconds", 1e3)
        chosen = [1e3 * row["seconds"]["auto"] for row in rows]
        axes.plot(
            [row["tokens"] for row in rows],
            chosen,
            linestyle="none",
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=BLACK,
            label="auto",
        )
        axes.set(yscale="log")

    figure, panels = _draw_masks(runs, draw, "ms")
    for axes in panels:
        label_numbers(axes)
    figure.suptitle(f"Attention over {runs[0]['ranks']} emulated hosts, {title_of(runs[0])}")
    return figure


def _draw_masks(
    runs: list[Results], draw: Callable[[Axes, Rows], None], ylabel: str
) -> tuple[Figure, list[Axes]]:
    """A panel for each mask, with and without gradients."""
    figure = Figure(figsize=(12, 6.8 * len(runs)), layout="constrained")
    panels = figure.subplots(2 * len(runs), len(MASKS), sharex=True, sharey="row", squeeze=False)
    for place, results in enumerate(runs):
        for backward in (False, True):
            line = panels[2 * place + backward]
            for axes, mask in zip(line, MASKS, strict=True):
                rows = [row for row in select(results, mask, backward) if len(row["seconds"]) > 3]
                draw(axes, rows)
                axes.set_xscale("log")
                axes.set_title(f"{mask.label}; {what_is_computed(backward)}", fontsize="medium")
                label_counts(axes, (row["tokens"] for row in rows))
                axes.grid(alpha=0.3)
            line[0].set_ylabel(f"{ylabel}, {library_of(results)}")
    for axes in panels[-1]:
        axes.set_xlabel("tokens of a rank")
    one_legend(figure, panels.flat, 6)
    return figure, list(panels.flat)


def _draw_series(axes: Axes, rows: Rows, figure: str, factor: float = 1.0) -> None:
    for name, (colour, mark) in STYLES.items():
        shown = [row for row in rows if name in row[figure] and name not in NO_ALGORITHMS]
        if shown:
            values = [factor * row[figure][name] for row in shown]
            style = "--" if mark == "x" else "-"
            axes.plot(
                [row["tokens"] for row in shown],
                values,
                color=colour,
                marker=mark,
                linestyle=style,
                label=name,
            )


# Memory -------------------------------------------------------------------------------------------


def draw_memory(runs: list[Results]) -> Figure:
    """By how much a rank grows over the number of ranks, with as many tokens on each."""
    libraries = list(dict.fromkeys(map(library_of, runs)))
    figure = Figure(figsize=(6 * len(libraries), 5), layout="constrained")
    panels = figure.subplots(1, len(libraries), sharey=True, squeeze=False)[0]
    for axes, library in zip(panels, libraries, strict=True):
        measured = [results for results in runs if library_of(results) == library]
        counts = [results["ranks"] for results in measured]
        for name in measured[0]["grown"]:
            colour, mark = STYLES[name]
            most = [max(results["grown"][name]) / MIB for results in measured]
            axes.plot(counts, most, color=colour, marker=mark, label=LABELS.get(name, name))
        axes.axhline(
            measured[0]["arguments"] / MIB, color=GREY, linestyle="--", label="queries, keys and values"
        )
        axes.set(xscale="log", yscale="log", xlabel="ranks")
        axes.set_title(f"{library}, {measured[0]['tokens']} tokens of each rank", fontsize="medium")
        label_numbers(axes)
        label_counts(axes, counts)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("MiB that a rank takes beside its arguments")
    one_legend(figure, panels, 2 * len(libraries))
    return figure


# Table --------------------------------------------------------------------------------------------


def rates_table(runs: list[Results]) -> str:
    """The choice: its rate, also relative to the kernel's and to a product's; and the ring by hand."""

    def of(mask: Mask, backward: bool) -> Callable[[Results], str]:
        def figure(run: Results) -> str:
            rows = [row for row in select(run, mask, backward) if row["tokens"] == TABLE_TOKENS]
            if not rows:
                return MISSING
            row = rows[0]
            kernel, product = (100 * row[f"of {name}"]["auto"] for name in ("kernel", "gemm"))
            text = f"{row['gflops']['auto']:.0f} GF/s ({kernel:.0f} %, {product:.0f} %)"
            return f"{text}, {row['than auto'][HAND]:.2f}" if HAND in row["than auto"] else text

        return figure

    named = {
        f"{mask.label}, {what_is_computed(backward)}": of(mask, backward)
        for backward in (False, True)
        for mask in MASKS
    }
    named["less time by the best algorithm, mean of all sizes"] = _best_table_figure
    return table(f"{TABLE_TOKENS} tokens of a rank", named, runs)


def _best_table_figure(run: Results) -> str:
    """Time that the fastest algorithm would have saved, over all rows with all algorithms."""
    losses = [
        max(0.0, 1 - min(ratio for name, ratio in row["than auto"].items() if name not in NO_ALGORITHMS))
        for row in run["rows"]
        if len(row["seconds"]) > 3
    ]
    if not losses:
        return MISSING
    return f"{100 * statistics.mean(losses):.0f} % (at most {100 * max(losses):.0f} %)"


def linear_table(runs: list[Results]) -> str:
    """How many times as long the softmax ring takes as linear attention with gathered states."""
    kinds = [(causal, backward) for causal in (False, True) for backward in (False, True)]
    titles = [f"{'causal' if causal else 'all'}, {what_is_computed(backward)}" for causal, backward in kinds]
    lines = [f"| tokens of a rank | {' | '.join(titles)} |", "|---|" + "---:|" * len(kinds)]
    for results in runs:
        figures = {
            (row["tokens"], row["causal"], row["backward"]): f"{row['softmax over']['all-gather']:.1f}"
            for row in results["rows"]
        }
        for tokens in values_of([results], "tokens"):
            shown = (figures.get((tokens, *kind), MISSING) for kind in kinds)
            lines.append(f"| {tokens} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


PLOTS: Plots = {
    "attention-rates": (draw_rates, ["attention-node-2"]),
    "attention-algorithms": (draw_algorithms, ["attention-node-2"]),
    "attention-memory": (draw_memory, [f"attention-memory-{ranks}" for ranks in (1, 2, 4, 8)]),
    "attention-netlab": (draw_network, ["attention-netlab-4"]),
}
TABLES: Tables = {
    "attention": (rates_table, ["attention-node-2"]),
    "attention-linear": (linear_table, ["attention-linear-2"]),
}
