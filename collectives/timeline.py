"""A picture of a simulated schedule: ranks from top to bottom, time from left to right, messages as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .simulate import Timeline
from .units import format_seconds, seconds_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More lines than pixels say nothing, and take minutes.
LARGEST = 300_000

# Colours that people who do not see all colours can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


def draw(timeline: Timeline, ranks: int, title: str) -> Figure:
    """Draw the messages of a simulation, in one colour for each lane.

    Parameters
    ----------
    timeline : Timeline
    ranks : int
        Number of ranks.
    title : str

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        For more than `LARGEST` messages.

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

    if len(timeline.start) > LARGEST:
        raise ValueError(
            f"{len(timeline.start)} messages: expected at most {LARGEST}, fewer ranks, to draw them"
        )
    end = float(timeline.end.max(initial=0.0))
    unit, scale = seconds_unit(end)
    figure = Figure(figsize=(10, min(2 + 0.3 * ranks, 8)), layout="constrained")
    axes = figure.subplots()
    starts = np.column_stack([timeline.start / scale, timeline.source])
    ends = np.column_stack([timeline.end / scale, timeline.destination])
    colours = np.array(_COLOURS)[timeline.lane % len(_COLOURS)]
    many = len(starts) > 2000
    lines = LineCollection(
        list(np.stack([starts, ends], axis=1)),
        colors=colours,
        linewidths=0.3 if many else 1.0,
        alpha=0.4 if many else 0.9,
        rasterized=many,
    )
    axes.add_collection(lines)
    axes.hlines(np.arange(ranks), 0, end / scale, color="#DDDDDD", linewidth=0.5, zorder=0)
    axes.set(xlim=(0, end / scale or 1), ylim=(ranks - 0.5, -0.5), xlabel=unit, ylabel="rank")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{title}: {format_seconds(end)}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
