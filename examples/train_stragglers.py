"""Training with workers that are slow now and then: uncoded, without them, and by gradient codes.

Three softmax regressions with different penalties learn scikit-learn's handwritten digits in turn, so that a
gradient may come one or two rounds late. Rank 0 has the models; the other ranks, which each have a part of
the digits, compute gradients, and straggle as a random trace says, by sleeping. Run it with 8 workers:

    mpiexec -n 9 python examples/train_stragglers.py

It checks that the weights are those of the direct computation, prints how long each scheme takes, and draws
the loss over time. It needs scikit-learn, of which the 1797 digits of 8 by 8 pixels are a part.

Do not expect the sequential codes, SR-SGC and M-SGC, to win here. They save redundant work, and the digits
are so little work that gradient coding does it several times at next to no cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from roundelay import MPI, coding
from roundelay.terminal import track

Array = NDArray[np.float64]
Data = tuple[Array, NDArray[np.int64]]
Models = tuple[Array, ...]

DIGITS = 10
PENALTIES = (1e-4, 1e-3, 1e-2)
LEARNING_RATE = 0.5
# Seconds of a round beside the computing, and of computing all of the data, which one processor for many
# ranks would not show: ranks sleep for so long.
ROUND_SECONDS, DATA_SECONDS = 15e-3, 20e-3
TOLERANCE = 1e-8
WHY = """\
SR-SGC and M-SGC save redundant work, which gains little here: one worker computes all of the data in
{data:.0f} ms, and the rest of a round takes {round:.0f} ms. They may be slower than gradient coding, because
their rounds wait where more workers straggle than they are made for, and M-SGC sends more vectors; on fewer
cores than ranks they may be slower than uncoded, too. They are for data that takes most of a round:
`roundelay coding recommend` compares all schemes on a trace of your own."""


def load_digits() -> Data:
    """Pixels from 0 to 1 and a one, (samples, 65), and the digits that they show."""
    from sklearn import datasets

    pixels, digits = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    ones = np.ones((len(digits), 1))
    return np.hstack([pixels[order] / 16.0, ones]), digits[order].astype(np.int64)


def start_models() -> Models:
    """Weights of each model."""
    return tuple(np.zeros((65, DIGITS)) for _ in PENALTIES)


def probabilities(weights: Array, pixels: Array) -> Array:
    """Of each digit, (samples, digits)."""
    scores = pixels @ weights
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def gradient(weights: Array, data: Data) -> Array:
    """Gradient of the cross-entropy, summed over the samples."""
    pixels, digits = data
    error = probabilities(weights, pixels)
    error[np.arange(len(digits)), digits] -= 1.0
    return np.asarray(pixels.T @ error)


def loss(models: Models, data: Data) -> float:
    """Mean cross-entropy over the samples and the models."""
    pixels, digits = data
    chosen = (np.arange(len(digits)), digits)
    return float(np.mean([-np.log(probabilities(each, pixels)[chosen]).mean() for each in models]))


def step(weights: Array, total: Array, samples: int, stream: int) -> None:
    """Change the weights of a model by its gradient."""
    weights -= LEARNING_RATE * (total / samples + PENALTIES[stream] * weights)


def schemes(workers: int) -> dict[str, coding.Scheme]:
    """All that are compared, for about a quarter of stragglers."""
    few = max(1, workers // 4)
    return {
        "uncoded": coding.scheme("uncoded", workers),
        "ignoring stragglers": coding.GradientCoding(coding.ignore_stragglers(workers, few)),
        "gradient coding": coding.scheme("gc", workers, stragglers=few),
        "SR-SGC": coding.scheme("sr-sgc", workers, burst=1, window=2, stragglers=few),
        "M-SGC": coding.scheme("m-sgc", workers, burst=1, window=2, stragglers=few),
    }


class Training(NamedTuple):
    """Seconds and losses after each gradient, and the weights at the end."""

    seconds: list[float]
    losses: list[float]
    models: Models


def train(
    comm: MPI.Intracomm, name: str, scheme: coding.Scheme, jobs: int, injection: coding.Injection | None
) -> Training:
    """Train by a scheme; workers return a training that is empty."""
    data, models = load_digits(), start_models()
    count = len(data[0])

    def load(partition: coding.Partition) -> Data:
        rows = partition.rows(count)
        return data[0][rows], data[1][rows]

    def slow_gradient(weights: Array, part: Data) -> Iterator[Array]:
        sleep(DATA_SECONDS * len(part[0]) / count)
        yield gradient(weights, part)

    coded = coding.CodedGradients(comm, scheme, slow_gradient, load, models, injection=injection)
    seconds, losses, start = [], [], perf_counter()
    for totals, info in track(coded.rounds(jobs), name, total=jobs, visible=comm.rank == 0):
        step(models[info.stream], totals[0], count, info.stream)
        seconds.append(perf_counter() - start)
        losses.append(loss(models, data))
    return Training(seconds, losses, models)


def direct(jobs: int) -> Models:
    """Weights by one rank, from the gradients of all data."""
    data, models = load_digits(), start_models()
    for job in range(jobs):
        stream = job % len(models)
        step(models[stream], gradient(models[stream], data), len(data[0]), stream)
    return models


def draw(trainings: dict[str, Training], workers: int, output: Path) -> str:
    """Draw the losses over time, and tell what was written."""
    if find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install matplotlib)"
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    title = f"Training on handwritten digits, {workers} workers that straggle"
    axes: Any = figure.add_subplot(xlabel="seconds", ylabel="cross-entropy", title=title)
    for (name, training), style in zip(trainings.items(), ("k-", "k:", "C0-", "C2-", "C1-"), strict=True):
        axes.semilogy(training.seconds, training.losses, style, label=name)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(output, dpi=150)
    return f"wrote {output}"


@click.command()
@click.option("--jobs", default=150, show_default=True, type=click.IntRange(min=10), help="Gradients.")
@click.option("--seed", default=0, show_default=True, help="Of the stragglers.")
@click.option("--output", default="train_stragglers.png", type=click.Path(path_type=Path), help="Picture.")
def main(jobs: int, seed: int, output: Path) -> None:
    """Train by each scheme, with the same stragglers."""
    if find_spec("sklearn") is None:
        raise click.ClickException("scikit-learn is not installed: pip install scikit-learn")
    comm = MPI.COMM_WORLD
    workers = comm.size - 1
    if workers < 2:
        raise click.ClickException(f"{comm.size} ranks: expected a master and at least 2 workers")
    slope = {"base": ROUND_SECONDS, "slope": 0.0, "share": 0.1, "factors": (3.0, 6.0)}
    trace = coding.markov_trace(workers, jobs, seed=seed, **slope)
    injection = coding.Injection(trace.seconds[:, comm.rank - 1]) if comm.rank else None
    # Imports and compilation would count as the first scheme's.
    train(comm, "preparing", schemes(workers)["gradient coding"], len(PENALTIES), None)
    trainings, expected, are_right = {}, direct(jobs), True
    for name, each in schemes(workers).items():
        training = train(comm, name, each, jobs, injection)
        if comm.rank:
            continue
        trainings[name] = training
        error = max(float(np.abs(a - b).max()) for a, b in zip(training.models, expected, strict=True))
        print(
            f"{name}: {training.seconds[-1]:.2f} s, loss {training.losses[-1]:.4f}, "
            f"weights differ by {error:.1e}",
            flush=True,
        )
        are_right &= error <= TOLERANCE or name == "ignoring stragglers"
    if comm.rank:
        return
    print("the weights are" + ("" if are_right else " NOT") + " those of the direct computation")
    print(WHY.format(data=1e3 * DATA_SECONDS, round=1e3 * ROUND_SECONDS))
    print(draw(trainings, workers, output), flush=True)
    sys.exit(0 if are_right else 1)


if __name__ == "__main__":
    main()
