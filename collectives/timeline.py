"""A picture of a simulated schedule: ranks from top to bottom, time from left to right, messages as lines.

All messages of many ranks are a mat of lines: those that one rank sends stand out, the others lie behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .simulate import Timeline
from .units import format_seconds, seconds_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More lines than pixels say nothing, and take minutes: beyond this only those of one rank are drawn.
LARGEST = 300_000

# The most messages that can be told apart.
_FEW = 60

# Colours that people who do not see all colours can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


def draw(timeline: Timeline, ranks: int, title: str, rank: int = 0) -> Figure:
    """Draw the messages of a simulation, in one colour for each lane; in grey where they are not of one rank.

    Parameters
    ----------
    timeline : Timeline
    ranks : int
        Number of ranks.
    title : str
    rank : int
        The one whose messages, or those to it if it sends none, have colours where there are many.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> from roundelay.collectives.algorithms.star import star_allreduce
    >>> from roundelay.collectives.links import Links
    >>> from roundelay.collectives.simulate import simulate
    >>> prediction = simulate(star_allreduce(4), [1024], Links(1e-3, 1e-8), timeline=True)
    >>> draw(prediction.timeline, 4, "star").axes[0].get_xlabel()
    'ms'
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    end = float(timeline.end.max(initial=0.0))
    unit, scale = seconds_unit(end)
    figure = Figure(figsize=(10, min(2 + 0.3 * ranks, 8)), layout="constrained")
    axes = figure.subplots()
    starts = np.column_stack([timeline.start / scale, timeline.source])
    ends = np.column_stack([timeline.end / scale, timeline.destination])
    colours = np.array(_COLOURS)[timeline.lane % len(_COLOURS)]
    lines = np.stack([starts, ends], axis=1)
    if len(lines) > _FEW:
        sent = timeline.source == rank
        told = sent if sent.any() else timeline.destination == rank
        title += f", {'in colour' if len(lines) <= LARGEST else 'only'}"
        title += f" what rank {rank} {'sends' if sent.any() else 'receives'}"
        if len(lines) <= LARGEST:
            others = LineCollection(list(lines[~told]), colors="#AAAAAA", linewidths=0.3)
            others.set(rasterized=len(lines) > 2000, alpha=max(0.02, min(1.0, 1000 / len(lines))))
            axes.add_collection(others)
        lines, colours = lines[told], colours[told]
    axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.0, alpha=0.9))
    axes.hlines(np.arange(ranks), 0, end / scale, color="#DDDDDD", linewidth=0.5, zorder=0)
    axes.set(xlim=(0, end / scale or 1), ylim=(ranks - 0.5, -0.5), xlabel=unit, ylabel="rank")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{title}: {format_seconds(end)}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
