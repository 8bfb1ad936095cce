"""Data-parallel training of a small network on scikit-learn's handwritten digits, in NumPy.

Each rank computes the gradients of its share of every batch; `roundelay.allreduce_many` adds those of all
ranks, as one message, and every rank takes the same step. Run it on any number of ranks:

    mpiexec -n 4 python examples/train_digits.py

It compares the loss of each epoch with that of one rank, which differs by the rounding of the sums only,
and draws it. It needs scikit-learn, of which the 1797 digits of 8 by 8 pixels are a part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import roundelay
from roundelay import MPI

Array = NDArray[np.float64]
Weights = list[Array]
# Adds the gradients, and what else is summed over the samples, of all that take part.
Reduce = Callable[[list[Array]], None]

HIDDEN, DIGITS = 32, 10
LEARNING_RATE, MOMENTUM = 0.1, 0.9
TEST_SAMPLES = 297
# Sums of the same terms in another order, over all steps of a training.
TOLERANCE = 1e-8


def load_digits() -> tuple[Array, NDArray[np.int64]]:
    """Pixels from 0 to 1, (samples, 64), and the digits that they show."""
    from sklearn import datasets

    pixels, digits = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    return pixels[order] / 16.0, digits[order].astype(np.int64)


def start_weights() -> Weights:
    """Weights and biases of the two layers, the same on all ranks."""
    rng = np.random.default_rng(1)
    return [
        rng.standard_normal((64, HIDDEN)) / np.sqrt(64),
        np.zeros(HIDDEN),
        rng.standard_normal((HIDDEN, DIGITS)) / np.sqrt(HIDDEN),
        np.zeros(DIGITS),
    ]


def infer(weights: Weights, pixels: Array) -> tuple[Array, Array]:
    """The hidden layer, and the probability of each digit."""
    hidden = np.maximum(pixels @ weights[0] + weights[1], 0.0)
    scores = hidden @ weights[2] + weights[3]
    scores -= scores.max(axis=1, keepdims=True)
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return hidden, probabilities


def gradients(weights: Weights, pixels: Array, digits: NDArray[np.int64]) -> tuple[list[Array], float]:
    """Gradients of the loss, and the loss itself, summed over the samples."""
    hidden, probabilities = infer(weights, pixels)
    chosen = (np.arange(len(digits)), digits)
    loss = -float(np.log(probabilities[chosen]).sum())
    error = probabilities
    error[chosen] -= 1.0
    behind = (error @ weights[2].T) * (hidden > 0)
    return [pixels.T @ behind, behind.sum(axis=0), hidden.T @ error, error.sum(axis=0)], loss


def train(epochs: int, batch: int, share: slice, reduce: Reduce) -> tuple[Weights, list[float]]:
    """Train on a share of each batch; return the weights and the mean loss of each epoch.

    Parameters
    ----------
    epochs, batch : int
        Passes over the data, and samples in a batch of all ranks.
    share : slice
        This rank's samples of each batch: a slice with a start and a step.
    reduce : callable
        Adds arrays over the ranks, in place.
    """
    pixels, digits = (each[TEST_SAMPLES:] for each in load_digits())
    weights, losses = start_weights(), []
    velocity = [np.zeros_like(each) for each in weights]
    for _ in range(epochs):
        total = 0.0
        for first in range(0, len(digits), batch):
            part = slice(first, first + batch)
            size = len(digits[part])
            found, loss = gradients(weights, pixels[part][share], digits[part][share])
            summed = [*found, np.array(loss)]
            reduce(summed)
            total += float(summed[-1])
            for weight, speed, gradient in zip(weights, velocity, summed, strict=False):
                speed *= MOMENTUM
                speed -= LEARNING_RATE / size * gradient
                weight += speed
        losses.append(total / len(digits))
    return weights, losses


def accuracy(weights: Weights) -> float:
    """Part of the digits that were kept apart which the network reads rightly."""
    pixels, digits = (each[:TEST_SAMPLES] for each in load_digits())
    return float(np.mean(infer(weights, pixels)[1].argmax(axis=1) == digits))


def draw(losses: list[float], alone: list[float], ranks: int, output: Path) -> str:
    """Draw the loss of all ranks and of one, and tell what was written."""
    if find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install matplotlib)"
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.add_subplot(
        xlabel="epoch", ylabel="cross-entropy", title="Training on handwritten digits"
    )
    epochs = np.arange(1, len(losses) + 1)
    axes.semilogy(epochs, losses, label=f"{ranks} ranks")
    axes.semilogy(epochs, alone, "k:", linewidth=2.5, label="one rank")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend()
    figure.savefig(output, dpi=150)
    return f"wrote {output}"


@click.command()
@click.option(
    "--epochs", default=20, show_default=True, type=click.IntRange(min=1), help="Passes over the data."
)
@click.option(
    "--batch", default=100, show_default=True, type=click.IntRange(min=1), help="Samples in a batch."
)
@click.option("--output", default="train_digits.png", type=click.Path(path_type=Path), help="Picture.")
def main(epochs: int, batch: int, output: Path) -> None:
    """Train a network to read digits, on all ranks."""
    if find_spec("sklearn") is None:
        raise click.ClickException("scikit-learn is not installed: pip install scikit-learn")
    comm = MPI.COMM_WORLD
    mine = slice(comm.rank, None, comm.size)
    weights, losses = train(epochs, batch, mine, lambda arrays: roundelay.allreduce_many(comm, arrays))
    if comm.rank:
        return
    _, alone = train(epochs, batch, slice(None), lambda arrays: None)
    difference = float(np.max(np.abs(np.subtract(losses, alone)) / alone))
    print(f"{comm.size} ranks, {epochs} epochs: loss {losses[0]:.3f} to {losses[-1]:.4f}")
    print(f"digits read rightly that were not trained on: {100 * accuracy(weights):.1f} %")
    same = difference <= TOLERANCE
    are = "are" if same else "are NOT"
    print(f"the losses {are} those of one rank: they differ by {difference:.1e} at most")
    print(draw(losses, alone, comm.size, output), flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
