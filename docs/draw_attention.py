"""Draws who computes what when, from the routes that are run: `python docs/draw_attention.py`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from roundelay.collectives.attention import routes
from roundelay.collectives.attention.group import Group
from roundelay.collectives.attention.mesh import shares
from roundelay.collectives.attention.problem import Problem, Shape, geometry
from roundelay.collectives.attention.visibility import Rule

PICTURES = Path(__file__).parent / "pictures"
# So many tokens that the edge of what is seen goes through few of the tiles.
RANKS, TOKENS, HEADS = 4, 8192, 8
COLOURS, DEEPEST, DARK = colormaps["Blues"], 0.85, 0.55
INK, LIGHT, HELP = "#222222", "#777777", "#D55E00"
BY = "\N{MULTIPLICATION SIGN}"
CAUSAL = Rule(1 << 60, 0)


class Cell(NamedTuple):
    """Work of a rank in a step.

    Attributes
    ----------
    text : str
    amount : float
        Scores, relative to those of all queries of a rank with all keys of a rank, and all heads.
    helps : bool
        Whether the queries are another rank's.
    """

    text: str
    amount: float
    helps: bool = False


# For each step, what each rank computes.
Schedule = list[list[Cell]]
NOTHING = Cell("", 0.0)


def problem_of(placement: str) -> Problem:
    """Causal attention; routes ask the group for nothing but its size."""
    group = cast(Group, SimpleNamespace(size=RANKS))
    shape = Shape(1, HEADS, HEADS, 64, 64, np.dtype(np.float32))
    return Problem(group, shape, geometry(CAUSAL, (TOKENS,) * RANKS, placement, None), 1.0)


def amount(problem: Problem, queries: int, keys: int) -> float:
    """Share of the scores of a pair that are computed."""
    stripes = problem.geometry.stripes(queries, keys)
    return float(sum(tile.scores for stripe in stripes for tile in stripe.tiles) / TOKENS**2)


def by_route(route: routes.Route, placement: str = "contiguous") -> Schedule:
    """The tasks of a route that have something to compute, after what each rank has itself."""
    problem = problem_of(placement)
    own = [Cell(f"q{rank} {BY} k{rank}", amount(problem, rank, rank)) for rank in range(RANKS)]
    return [own, *([_of_rank(problem, step, rank) for rank in range(RANKS)] for step in route(problem))]


def _of_rank(problem: Problem, step: list[routes.Task], rank: int) -> Cell:
    tasks = [task for task in step if task.worker == rank and problem.sees(task.queries, task.keys)]
    if not tasks:
        return NOTHING
    total = sum(
        amount(problem, task.queries, task.keys) * (task.heads.stop - task.heads.start) / HEADS
        for task in tasks
    )
    owners = sorted(task.keys for task in tasks)
    keys = f"{owners[0]}-{owners[-1]}" if len(owners) > 2 else ", ".join(map(str, owners))
    heads = tasks[0].heads
    some = "" if heads == slice(0, HEADS) else f"\n{_heads(heads)}"
    return Cell(f"q{tasks[0].queries} {BY} k{keys}{some}", total, tasks[0].queries != rank)


def _heads(heads: slice) -> str:
    return f"heads {heads.start}, {heads.stop - 1}"


def ulysses() -> Schedule:
    """Some heads of all queries and keys, once heads were exchanged for tokens."""
    problem = problem_of("contiguous")
    total = sum(amount(problem, queries, keys) for queries in range(RANKS) for keys in range(RANKS))
    heads = [share.queries for share in shares(RANKS, HEADS, 1)]
    return [[Cell(f"all q {BY} all k\n{_heads(some)}", total / RANKS) for some in heads]]


def ring_self_attention() -> Schedule:
    """Whole rows of weights: all scores first, also hidden ones, and then what they give of the values."""
    around = [[(rank - step) % RANKS for rank in range(RANKS)] for step in range(RANKS)]
    scores = [[Cell(f"q{rank} {BY} k{owner}", 0.5) for rank, owner in enumerate(step)] for step in around]
    values = [[Cell(f"w{rank} {BY} v{owner}", 0.5) for rank, owner in enumerate(step)] for step in around]
    return scores + values


def draw(axes: Axes, name: str, schedule: Schedule) -> None:
    """One algorithm: steps from left to right, ranks from top to bottom."""
    for step, cells in enumerate(schedule):
        for rank, cell in enumerate(cells):
            _draw_cell(axes, step, rank, cell)
    waiting = sum(max(cell.amount for cell in cells) for cells in schedule)
    mean = sum(cell.amount for cells in schedule for cell in cells) / RANKS
    axes.set(xlim=(0, len(schedule)), ylim=(RANKS, 0))
    numbers = [f"step {step}" if step == 0 else f"{step}" for step in range(len(schedule))]
    axes.set_xticks([step + 0.5 for step in range(len(schedule))], numbers)
    axes.set_yticks([rank + 0.5 for rank in range(RANKS)], [f"rank {rank}" for rank in range(RANKS)])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_title(name, loc="left", fontsize=11, weight="bold", color=INK, pad=20)
    axes.text(
        0, -0.1, f"steps take {waiting:.2f}, a rank's mean {mean:.2f}", fontsize=8.5, color=LIGHT, va="bottom"
    )


def _draw_cell(axes: Axes, step: int, rank: int, cell: Cell) -> None:
    shade = min(cell.amount, 1.0)
    axes.add_patch(
        Rectangle(
            (step + 0.03, rank + 0.04),
            0.94,
            0.92,
            facecolor=COLOURS(DEEPEST * shade) if shade else "#f5f5f5",
            edgecolor=HELP if cell.helps else "none",
            linewidth=1.6,
        )
    )
    if cell.amount:
        colour = "white" if shade > DARK else INK
        share = f"{100 * cell.amount:.0f} %"
        axes.text(step + 0.5, rank + 0.5, f"{cell.text}\n{share}", ha="center", va="center", fontsize=7.5,
                  color=colour, linespacing=1.25)  # fmt: skip


def draw_schedules() -> Figure:
    """All algorithms."""
    lines = [
        [
            ("ring, contiguous", by_route(routes.ring)),
            ("ring, zigzag", by_route(routes.ring, "zigzag")),
            ("ring, striped", by_route(routes.ring, "striped")),
        ],
        [
            ("token-ring, contiguous", by_route(routes.token_ring)),
            ("bidirectional, contiguous", by_route(routes.bidirectional)),
            ("bidirectional, zigzag", by_route(routes.bidirectional, "zigzag")),
            ("balanced, contiguous", by_route(routes.balanced)),
        ],
        [
            ("all-gather, contiguous", by_route(routes.all_gather)),
            ("ulysses", ulysses()),
            ("rsa", ring_self_attention()),
        ],
    ]
    figure = Figure(figsize=(13, 10.4), layout="constrained")
    figure.suptitle(f"Causal attention over {RANKS} ranks: what each computes in each step", fontsize=14)
    heights = [*(1.0 for _ in lines), 0.28]
    *parts, foot = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat
    for part, line in zip(parts, lines, strict=True):
        # A single step needs room for its heading, too.
        widths = [max(1.7, len(schedule)) for _, schedule in line]
        for axes, (name, schedule) in zip(
            part.subplots(1, len(line), width_ratios=widths), line, strict=True
        ):
            draw(axes, name, schedule)
    draw_legend(foot)
    return figure


def draw_legend(foot: SubFigure) -> None:
    """A legend of the colours, below all."""
    shades = ListedColormap(COLOURS(DEEPEST * np.linspace(0, 1, 256)))
    bar = foot.colorbar(
        ScalarMappable(cmap=shades), cax=foot.add_axes((0.03, 0.6, 0.33, 0.2)), orientation="horizontal"
    )
    ticks = (0, 0.25, 0.5, 0.75, 1)
    bar.set_ticks(ticks, labels=[f"{100 * tick:.0f} %" for tick in ticks])
    bar.set_label("scores that are computed, of a rank's queries with a rank's keys", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    where = foot.transSubfigure
    frame = Rectangle((0.42, 0.66), 0.022, 0.2, fill=False, edgecolor=HELP, linewidth=1.6, transform=where)
    foot.add_artist(frame)
    lines = (
        "queries of another rank",
        f"q2 {BY} k1: queries of rank 2 with keys and values of rank 1;   w2: weights of rank 2",
        "steps take: what the slowest rank of each step computes, added up, in whole blocks of 100 %",
    )
    for place, line in enumerate(lines):
        foot.text(0.42 if place else 0.45, 0.76 - 0.29 * place, line, fontsize=9, va="center")


def main() -> None:
    """Draw it."""
    draw_schedules().savefig(PICTURES / "attention-schedules.png", dpi=110)


if __name__ == "__main__":
    main()
