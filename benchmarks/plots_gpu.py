"""Pictures and tables of arrays on a GPU: messages beside copies by hand, attention beside its kernel."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.drawing import (
    BLUE,
    GREY,
    LINES,
    MARKS,
    MISSING,
    ORANGE,
    Plots,
    Results,
    Tables,
    library_of,
    row_with,
    values_of,
)

SERIES = {
    (False, False): "forward",
    (True, False): "forward, causal",
    (False, True): "with gradients",
    (True, True): "with gradients, causal",
}


def draw_attention(runs: list[Results]) -> Figure:
    """Share of the kernel's speed that the ring of one rank has, over the tokens."""
    (results,) = runs
    kinds = list(dict.fromkeys((row["dtype"], row["size"]) for row in results["rows"]))
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = list(figure.subplots(2, 2, sharex=True, sharey=True).flat)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    for axes, (dtype, size) in zip(panels, kinds, strict=False):
        for (which, label), colour, mark in zip(SERIES.items(), LINES, MARKS, strict=True):
            rows = [
                row
                for row in results["rows"]
                if (row["dtype"], row["size"], row["causal"], row["gradients"]) == (dtype, size, *which)
            ]
            tokens = [row["tokens"] for row in rows]
            shares = [row["share of the kernel"] for row in rows]
            axes.plot(tokens, shares, color=colour, marker=mark, label=label)
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set(title=f"{dtype}, D = {size}", xscale="log", ylim=(0, 1.05))
        axes.xaxis.set_major_locator(FixedLocator(sorted({row["tokens"] for row in results["rows"]})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("speed / speed of the kernel")
    figure.axes[2].set_ylabel("speed / speed of the kernel")
    for axes in figure.axes[2:]:
        axes.set_xlabel("tokens")
    figure.axes[0].legend()
    figure.suptitle(f"Attention of one rank, 16 heads, {results['gpu']}, PyTorch {results['torch']}")
    return figure


def draw_messages(runs: list[Results]) -> Figure:
    """One-way times of messages of parts of a cube."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    parts = values_of(runs, "part")
    for axes, results in zip(figure.subplots(1, len(runs), sharey=True, squeeze=False)[0], runs, strict=True):
        places = [parts.index(row["part"]) for row in results["rows"]]
        for name, colour, shift in (("ours", BLUE, -0.2), ("hand", ORANGE, 0.2)):
            micros = [row["microseconds"][name] for row in results["rows"]]
            label = "roundelay" if name == "ours" else "copies by hand"
            bars = axes.barh([place + shift for place in places], micros, 0.38, color=colour, label=label)
            axes.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
        axes.set_yticks(range(len(parts)), parts)
        axes.set(title=f"{library_of(results)}: {way_of(results)}", xlabel="µs", xscale="log", xlim=(30, 3e4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.axes[0].invert_yaxis()
    figure.axes[0].legend(loc="upper right")
    figure.suptitle(f"One-way time between two ranks on one {runs[0]['gpu']}, float32")
    return figure


def way_of(results: Results) -> str:
    """Which way messages take."""
    return "it reads the memory of the GPU" if results["direct"] else "staged on the host"


def messages_table(runs: list[Results]) -> str:
    """How many times as fast as copies by hand messages are."""
    lines = [f"| | {' | '.join(f'{library_of(run)}, {way_of(run)}' for run in runs)} |"]
    lines += ["|---" + "|---:" * len(runs) + "|"]
    for part in values_of(runs, "part"):
        rows = (row_with(run, "part", part) for run in runs)
        cells = (
            f"{row['microseconds']['ours']:.0f} µs, {row['speed-up']:.2f}" if row else MISSING for row in rows
        )
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


PLOTS: Plots = {
    "gpu-messages": (draw_messages, ["gpu-messages"]),
    "gpu-attention": (draw_attention, ["attention-gpu"]),
}
TABLES: Tables = {"gpu-messages": (messages_table, ["gpu-messages"])}
