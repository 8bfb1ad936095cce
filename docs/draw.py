"""Draws the pictures of architecture.md and guide.md, and the timelines of collectives.md.

`python docs/draw.py`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from roundelay.collectives.catalogue import Setting, members
from roundelay.collectives.links import Links
from roundelay.collectives.simulate import chunk_sizes, simulate
from roundelay.collectives.timeline import draw

PICTURES = Path(__file__).parent / "pictures"
OURS, INNER, THEIRS, LATER, ASKED = "#d7e8f7", "#f3f8fd", "#eeeeee", "#ffffff", "#fdf0d5"
INK, LIGHT = "#222222", "#777777"


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Empty drawing, measured in inches from its lower left corner."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def box(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], text: str, colour: str, head: str = ""
) -> None:
    """Box with its lower left corner, a bold head at the top, and text below it or in the middle."""
    (x, y), (width, height) = corner, size
    style = "dashed" if colour == LATER else "solid"
    shape = FancyBboxPatch(
        corner,
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour,
        edgecolor=LIGHT,
        linestyle=style,
    )
    axes.add_patch(shape)
    if head:
        axes.text(x + 0.12, y + height - 0.1, head, va="top", weight="bold", fontsize=9.5, color=INK)
        axes.text(x + 0.12, y + height - 0.36, text, va="top", fontsize=8.5, color=INK, linespacing=1.3)
    else:
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Arrow with a word beside its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    if start[1] == end[1]:
        axes.text(x, y + 0.06, text, ha="center", va="bottom", fontsize=8.5, color=INK)
    else:
        axes.text(x + 0.08, y, text, va="center", fontsize=8.5, color=INK)


def draw_folders() -> Figure:
    """The folders, what is in them, and which way imports point."""
    figure, axes = canvas(9.6, 7.4)
    commands = "__main__, information, measuring, planning, coding_commands"
    api = f"MPI    assembly    takeover    terminal    command line ({commands})"
    calls = "communicators    methods\nsubstitute    choice    settings"
    door = "door    methods    arrays    staging\noperation    requests    layouts"
    schedules = "collective    execution\nspecification    staging"
    box(axes, (0.3, 6.45), (9, 0.75), api, OURS, "api/, which installs as roundelay")
    box(axes, (0.3, 4.55), (9, 1.35), "", OURS, "collectives/")
    box(axes, (0.5, 4.67), (2.1, 0.85), "schedule    algorithms/\ncatalogue    verify", INNER, "describing")
    box(axes, (2.75, 4.67), (1.8, 0.85), "links    simulate\nmeasure    table", INNER, "predicting")
    running = "selection    service    calls\nplan    execute    progress"
    box(axes, (4.7, 4.67), (2.4, 0.85), running, INNER, "running")
    box(axes, (7.25, 4.67), (1.85, 0.85), "attention/\ncoding/", INNER, "using")
    box(axes, (0.3, 2.75), (9, 1.35), "", OURS, "comm/")
    box(axes, (0.5, 2.87), (2.7, 0.85), calls, INNER, "communicators")
    box(axes, (3.35, 2.87), (3.1, 0.85), door, INNER, "interposer/, the door, in C")
    box(axes, (6.6, 2.87), (2.5, 0.85), schedules, INNER, "for schedules")
    box(axes, (0.3, 0.9), (9, 1.3), "", OURS, "datatypes/")
    box(axes, (0.5, 1.0), (2.4, 0.85), "decode    arrays\nlayout    canonical", INNER, "describing")
    box(axes, (3.1, 1.0), (1.8, 0.85), "known    packing\nplain", INNER, "knowing, using")
    box(axes, (5.1, 1.0), (2.0, 0.85), "program    movers\nhost    words", INNER, "copying")
    box(axes, (7.3, 1.0), (1.8, 0.85), "kernels for GPUs", LATER)
    box(axes, (0.3, 0.1), (2.9, 0.4), "mpi4py and the MPI library", THEIRS)
    box(axes, (3.35, 0.1), (2.9, 0.4), "NumPy", THEIRS)
    box(axes, (6.4, 0.1), (2.9, 0.4), "Numba", THEIRS)
    for top, bottom in ((6.45, 5.9), (4.55, 4.1), (2.75, 2.2), (0.9, 0.5)):
        arrow(axes, (4.8, top), (4.8, bottom), "imports" if top > 1 else "")
    return figure


def draw_way() -> Figure:
    """The way of a message, from the call to MPI."""
    figure, axes = canvas(9.6, 5.6)
    tall = 0.72
    box(axes, (0.3, 4.55), (2.3, tall), "comm.Send(buffer, ...)\nmpi4py calls MPI_Send", THEIRS)
    box(axes, (3.4, 4.55), (2.6, tall), "the door: no gaps, and a\npredefined datatype?", ASKED)
    box(axes, (7.0, 2.95), (2.3, 2.32), "the MPI library", THEIRS)
    arrow(axes, (2.6, 4.91), (3.4, 4.91))
    arrow(axes, (6.0, 4.91), (7.0, 4.91), "yes")
    box(axes, (3.4, 2.95), (2.6, 1.0), "does the library move\nthis size and shape\nas well? (choice)", ASKED)
    box(axes, (0.3, 2.95), (2.3, 1.0), "what is known of this\ndatatype or array:\nlayout, program", OURS)
    arrow(axes, (4.7, 4.55), (4.7, 3.95), "no")
    arrow(axes, (2.6, 3.45), (3.4, 3.45))
    arrow(axes, (6.0, 3.45), (7.0, 3.45), "yes")
    box(axes, (3.4, 1.45), (2.6, 0.8), "take a stage from the pool", OURS)
    arrow(axes, (4.7, 2.95), (4.7, 2.25), "no")
    box(axes, (0.3, 0.25), (2.3, 0.8), "the program's memory,\nwith gaps", THEIRS)
    box(axes, (3.4, 0.25), (2.6, 0.8), "kernel: pack before,\nunpack after", OURS)
    box(axes, (7.0, 0.25), (2.3, 0.8), "stage:\ncontiguous bytes", OURS)
    arrow(axes, (4.7, 1.45), (4.7, 1.05))
    axes.annotate("", (3.4, 0.65), (2.6, 0.65), arrowprops={"arrowstyle": "<|-|>", "color": INK})
    axes.annotate("", (7.0, 0.65), (6.0, 0.65), arrowprops={"arrowstyle": "<|-|>", "color": INK})
    axes.annotate("", (8.15, 2.95), (8.15, 1.05), arrowprops={"arrowstyle": "<|-|>", "color": INK})
    return figure


def draw_order() -> Figure:
    """The order in which the elements of a slice travel, in C order and in Fortran order."""
    figure, axes = canvas(9.6, 3.3)
    orders: Any = (("C", 0.35, "the last index runs fastest"), ("F", 5.15, "the first index runs fastest"))
    for order, left, text in orders:
        matrix = np.zeros((4, 6), order=order)
        axes.text(left, 3.0, f'zeros((4, 6), order="{order}")[1:3, 1:5]:  {text}', fontsize=9.5, color=INK)
        corners = [(left + 0.68 * j, 2.3 - 0.5 * i) for i, j in np.ndindex(matrix.shape)]
        for corner in corners:
            axes.add_patch(Rectangle(corner, 0.68, 0.5, facecolor=THEIRS, edgecolor=LIGHT, linewidth=0.6))
        # Where a dense array with the same axes first would have them: that is what order "K" means.
        elements = np.arange(matrix.size).reshape(matrix.shape)[1:3, 1:5].ravel(order=order)
        for place, element in enumerate(elements):
            x, y = corners[element]
            axes.add_patch(Rectangle((x, y), 0.68, 0.5, facecolor=OURS, edgecolor=LIGHT, linewidth=0.6))
            axes.text(x + 0.34, y + 0.36, "{},{}".format(*divmod(element, 6)), ha="center", fontsize=8.5)
            cell = (left + 0.51 * place, 0.15)
            axes.add_patch(Rectangle(cell, 0.51, 0.38, facecolor=OURS, edgecolor=LIGHT, linewidth=0.6))
            text = "{},{}".format(*divmod(element, 6))
            axes.text(cell[0] + 0.255, 0.34, text, ha="center", va="center", fontsize=8.5)
        middles = [(corners[element][0] + 0.34, corners[element][1] + 0.22) for element in elements]
        axes.plot(*zip(*middles, strict=True), color="#c0504d", linewidth=1.2, alpha=0.6, zorder=3)
        axes.text(left, 0.58, "the message", fontsize=8.5, color=LIGHT)
    return figure


def draw_timeline(name: str) -> Figure:
    """An allreduce of 64 KiB, as it is predicted for eight hosts with 2 ms and 300 Mbit/s between them."""
    setting = Setting(8, nodes=tuple((rank,) for rank in range(8)))
    schedule = members("allreduce", setting, name)[0].build()
    links = Links(latency=2e-3, per_byte=8 / 300e6, overhead=10e-6, gap=50e-6)
    prediction = simulate(schedule, chunk_sizes(64 << 10, schedule.chunks, 8), links, timeline=True)
    return draw(prediction.timeline, schedule.ranks, f"{name}, 64 KiB")


def main() -> None:
    """Draw all."""
    PICTURES.mkdir(exist_ok=True)
    draw_folders().savefig(PICTURES / "folders.png", dpi=130)
    draw_way().savefig(PICTURES / "way-of-a-message.png", dpi=130)
    draw_order().savefig(PICTURES / "order-of-memory.png", dpi=130)
    for name in ("ring", "direct-parts"):
        draw_timeline(name).savefig(PICTURES / f"timeline-{name}.png", dpi=100)


if __name__ == "__main__":
    main()
