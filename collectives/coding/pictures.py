"""Pictures of simulated trainings: how long rounds take, and who straggles when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .traces import Seconds, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people who do not see all colours can tell apart.
_COLOURS = ("#777777", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00")


def draw_training(trace: Trace, rounds: Mapping[str, Seconds]) -> Figure:
    """Draw the rounds of some schemes, and the trace that they were simulated with.

    Parameters
    ----------
    trace : Trace
    rounds : mapping
        Seconds of each round, by the name of the scheme.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> from roundelay.collectives.coding.traces import markov_trace
    >>> draw_training(markov_trace(8, 20), {"uncoded": np.ones(20)}).axes[0].get_xlabel()
    's'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    draw_rounds(left, rounds)
    draw_trace(right, trace)
    return figure


def draw_rounds(axes: Axes, rounds: Mapping[str, Seconds]) -> None:
    """Draw the share of the rounds that have ended, over the time since their begin."""
    for (name, seconds), colour in zip(rounds.items(), _COLOURS, strict=False):
        axes.ecdf(seconds, label=f"{name}: {seconds.sum():.4g} s in all", color=colour)
    axes.set(xlabel="s", ylabel="rounds that have ended", ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")


def draw_trace(axes: Axes, trace: Trace) -> None:
    """Draw how many times as long as the median of its round each worker took."""
    from matplotlib.colors import BoundaryNorm

    slowness = trace.seconds / np.median(trace.seconds, axis=1, keepdims=True)
    norm = BoundaryNorm([0, 1.25, 1.5, 2, 2.5, 3, 4], 256, extend="max")
    shown = axes.imshow(slowness.T, aspect="auto", interpolation="none", cmap="magma_r", norm=norm)
    axes.set(xlabel="round", ylabel="worker")
    axes.figure.colorbar(shown, ax=axes, label="time / median of the round")
