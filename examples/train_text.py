"""A small language model in PyTorch that learns from a sequence which the ranks share.

Each rank has some of the characters of every sequence; `roundelay.pytorch` lets them attend to those of all
ranks, and `roundelay.allreduce_many` adds up the gradients of the weights. Run it on any number of ranks:

    mpiexec -n 4 python examples/train_text.py

It trains on 1, 2, 4, ... ranks one after another, and compares the losses of all steps: they differ by the
rounding of float32 only, which a step hands on to the next. The text is Python's own documentation, as
`help("topics")` shows it, so it needs nothing but PyTorch. It takes about half a minute on two cores; the
picture in docs/attention.md is that of `--steps 150 --length 512`.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import roundelay
from roundelay import MPI

try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed: pip install '.[pytorch]'")
from torch.nn import GELU, Embedding, LayerNorm, Linear, ModuleList, Sequential
from torch.nn.functional import cross_entropy

from roundelay.pytorch import SequenceParallelAttention
from roundelay.terminal import track

SIZE, HEADS, LAYERS = 64, 4, 2
BATCH = 4
LEARNING_RATE = 5e-3
# A gradient below this counts little in a step; else rounding decides where weights go that hardly matter.
ADAM_EPSILON = 1e-5
# Rounding that steps hand on to one another, relative to the loss.
TOLERANCE = 1e-4
PAUSE_S = 0.02


def read_text() -> tuple[NDArray[np.int64], int]:
    """Read the text as numbers of characters, and count the different ones."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    characters, numbers = np.unique(np.array(list(text)), return_inverse=True)
    return numbers.astype(np.int64), len(characters)


def turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864): halves of x as pairs, turned by angles."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


class Block(torch.nn.Module):
    """Attention, and two layers for each character alone."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        super().__init__()
        self.even, self.project = LayerNorm(SIZE), Linear(SIZE, 3 * SIZE, bias=False)
        self.attend = SequenceParallelAttention(comm, placement="zigzag")
        self.join = Linear(SIZE, SIZE)
        self.think = Sequential(LayerNorm(SIZE), Linear(SIZE, 4 * SIZE), GELU(), Linear(4 * SIZE, SIZE))

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Add what was found; x is (sequences, this rank's characters, SIZE)."""
        query, key, value = self.project(self.even(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = self.attend(turn(query, angles), turn(key, angles), value, is_causal=True)
        x = x + self.join(found.transpose(1, 2).flatten(2))
        return x + self.think(x)


class Model(torch.nn.Module):
    """Scores of all characters to come next; those of this rank see those of all ranks before them."""

    def __init__(self, comm: MPI.Intracomm, characters: int) -> None:
        super().__init__()
        self.characters = Embedding(characters, SIZE)
        self.blocks = ModuleList(Block(comm) for _ in range(LAYERS))
        self.scores = Sequential(LayerNorm(SIZE), Linear(SIZE, characters))

    def forward(self, numbers: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Score; `places` are those of this rank's characters in the sequence."""
        angles = places[:, None] * 1000.0 ** -torch.linspace(0, 1, SIZE // HEADS // 2)
        x = self.characters(numbers)
        for block in self.blocks:
            x = block(x, angles)
        return self.scores(x)


def train(comm: MPI.Intracomm, steps: int, length: int) -> list[float]:
    """Train on the ranks of `comm`; return the mean cross-entropy of each step.

    Parameters
    ----------
    comm : Intracomm
    steps : int
    length : int
        Characters in a sequence, of all ranks together.
    """
    text, characters = read_text()
    counts = [length * (rank + 1) // comm.size - length * rank // comm.size for rank in range(comm.size)]
    places = roundelay.positions(counts, "zigzag")[comm.rank]
    torch.manual_seed(0)  # The same weights on all ranks.
    model = Model(comm, characters)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON)
    rng, losses = np.random.default_rng(0), []
    for _ in track(range(steps), f"steps on {comm.size}", visible=comm.rank == 0):
        begins = rng.integers(len(text) - length, size=(BATCH, 1))
        given, next_ones = (torch.from_numpy(text[begins + places + shift]) for shift in (0, 1))
        optimizer.zero_grad()
        scores = model(given, torch.from_numpy(places))
        # A sum over this rank's characters, but a share of the mean over all.
        loss = cross_entropy(scores.flatten(0, 1), next_ones.flatten(), reduction="sum") / (BATCH * length)
        loss.backward()
        total = loss.detach()
        roundelay.allreduce_many(comm, [total, *(each.grad for each in model.parameters())])
        optimizer.step()
        losses.append(float(total))
    return losses


def train_on(ranks: int, steps: int, length: int) -> tuple[list[float], float]:
    """Train on the first ranks; return the losses, and the seconds that it took."""
    part = MPI.COMM_WORLD.Split(0 if MPI.COMM_WORLD.rank < ranks else MPI.UNDEFINED)
    begin = time.perf_counter()
    losses: list[float] = []
    if part != MPI.COMM_NULL:
        losses = train(part, steps, length)
        part.Free()
    # Ranks that wait leave the cores to those that train.
    finished = MPI.COMM_WORLD.Ibarrier()
    while not finished.Test():
        time.sleep(PAUSE_S)
    return losses, time.perf_counter() - begin


def draw(curves: dict[int, list[float]], output: Path) -> str:
    """Draw the losses on each number of ranks, and tell what was written."""
    if find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install matplotlib)"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.add_subplot(
        xlabel="step", ylabel="cross-entropy (nats per character)", title="Learning to write documentation"
    )
    for place, (ranks, losses) in enumerate(curves.items()):
        style = {"linewidth": 2 + 2.5 * (len(curves) - 1 - place), "color": f"C{place}"}
        label = f"{ranks} ranks" if ranks > 1 else "one rank"
        axes.plot(np.arange(1, len(losses) + 1), losses, label=label, **style)
    axes.legend()
    figure.savefig(output, dpi=150)
    return f"wrote {output}"


@click.command()
@click.option("--steps", default=60, show_default=True, type=click.IntRange(min=1), help="Steps.")
@click.option(
    "--length",
    default=256,
    show_default=True,
    type=click.IntRange(min=1, max=65536),
    help="Characters in a sequence.",
)
@click.option("--output", default="train_text.png", type=click.Path(path_type=Path), help="Picture.")
def main(steps: int, length: int, output: Path) -> None:
    """Train a language model on 1, 2, 4, ... ranks, and compare."""
    # Ranks share the cores.
    torch.set_num_threads(1)
    comm = MPI.COMM_WORLD
    curves: dict[int, list[float]] = {}
    for ranks in sorted({comm.size, *(2**power for power in range((comm.size - 1).bit_length()))}):
        curves[ranks], seconds = train_on(ranks, steps, length)
        if comm.rank == 0:
            first, last = curves[ranks][0], curves[ranks][-1]
            print(f"on {ranks}: {steps} steps in {seconds:.0f} s: loss {first:.3f} to {last:.4f}", flush=True)
    if comm.rank:
        return
    alone = np.array(curves[1])
    difference = max(float(np.max(abs(np.array(losses) - alone) / alone)) for losses in curves.values())
    same = difference <= TOLERANCE
    are = "are" if same else "are NOT"
    print(f"the losses {are} those of one rank: they differ by {difference:.1e} at most")
    print(draw(curves, output), flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
