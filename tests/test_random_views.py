"""Random views of memory, in every call that takes a buffer: moved as mpi4py alone moves dense arrays.

More of them: ``[mpiexec -n 2] python -m tests.test_random_views --views 100000 --seed 1``; and the call of a
failure again, as its line says: ``--seed 1 --only 123 --call Bcast``.
"""

from __future__ import annotations

import sys
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as PLAIN

from roundelay import MPI
from roundelay.collectives.catalogue import NATIVE
from roundelay.collectives.processes import environment_names
from roundelay.comm.interposer import library_alone
from tests.random_calls import NAMES, Argument, Trial, draw_trial
from tests.random_views import CLASSES, NUMBERS, draw_count, draw_view
from tests.soak import read_options, soak

pytestmark = pytest.mark.mpi

CALLS = 80
"""How many of each name the tests make; a soak makes more."""

Outcome = tuple[str, Any]


def attempt(trial: Trial, comm: PLAIN.Intracomm, mpi: Any, buffers: dict[int, Any], tag: int) -> Outcome:
    """Make the call, and give what it returned or how it was refused."""
    out, into = (arg and arg.write(buffers[id(arg)], mpi) for arg in (trial.out, trial.into))
    try:
        return "returned", trial.call.make(comm, mpi, out, into, tag)
    except Exception as error:
        return type(error).__name__, str(error)


def attempt_alone(trial: Trial, comm: PLAIN.Intracomm, buffers: dict[int, Any], tag: int) -> Outcome:
    """Make the call as mpi4py alone does."""
    with library_alone():
        return attempt(trial, PLAIN.Intracomm(comm), PLAIN, buffers, tag)


def check(trial: Trial, comm: PLAIN.Intracomm, seed: int, tag: int) -> str | None:
    """Make a call with dense arrays and mpi4py alone, then with its views, and say what differs."""
    arguments = {id(arg): arg for arg in (trial.out, trial.into) if arg}
    for number, arg in enumerate(arguments.values()):
        arg.view.fill(1000 * seed + 10 * number + comm.rank, trial.small)
    dense = {key: arg.view.dense() for key, arg in arguments.items()}
    expected: Outcome = (trial.refused.__name__, "") if trial.refused else ("", "")
    if not trial.refused:
        expected = attempt_alone(trial, comm, as_given(arguments, dense), tag)
    memory = {key: arg.view.memory.copy() for key, arg in arguments.items()}
    if trial.into and expected[0] == "returned":
        memory[id(trial.into)] = trial.into.view.expect(dense[id(trial.into)])
    if trial.layered:
        views = {key: arg.view.buffer for key, arg in arguments.items()}
        found = attempt(trial, comm, MPI, views, tag + 1)
    else:
        dense = {key: arg.view.dense() for key, arg in arguments.items()}
        found = attempt_alone(trial, comm, as_given(arguments, dense), tag + 1)
    if found[0] != expected[0] or (found[0] == "returned" and found != expected):
        return f"{trial}: expected {expected}, got {found}"
    if not trial.layered and trial.into and found[0] == "returned":
        trial.into.view.memory[:] = trial.into.view.expect(dense[id(trial.into)])
    wrong = [count for key, arg in arguments.items() if (count := arg.view.differing(memory[key]))]
    return f"{trial}: {wrong} wrong bytes" if wrong else None


def as_given(arguments: dict[int, Argument], dense: dict[int, Any]) -> dict[int, Any]:
    """See dense arrays as objects of the views' classes, where mpi4py does not ask NumPy about them."""
    kinds = {key: arg.view.kind for key, arg in arguments.items()}
    return {
        key: CLASSES[kind](dense[key]) if kind in ("memoryview", "tensor") else dense[key]
        for key, kind in kinds.items()
    }


def examine(comm: PLAIN.Intracomm, name: str, seed: int, index: int) -> tuple[int, str | None]:
    """Make one random call; give how many views were met, and what differs, with what reproduces it."""
    trial = draw_trial(name, seed, index, comm.rank, comm.size)
    # Where the environment names an algorithm, every rank must have the layer.
    trial.layered = trial.layered or set(environment_names().values()) != {NATIVE}
    wrong = check(trial, comm, index, 2 * index % 32000)
    met = len({id(arg) for arg in (trial.out, trial.into) if arg})
    return met, f"--seed {seed} --only {index} --call {name}: {wrong}" if wrong else None


@pytest.mark.parametrize("name", NAMES)
def test_as_dense_with_mpi4py_alone(comm, name):
    found = [examine(comm, name, 1, index)[1] for index in range(CALLS)]
    wrong = [message for message in found if message]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("role", ["receive", "send", "overlap"])
def test_drawn_views_are_what_they_claim(role):
    kinds = set()
    for seed in range(300):
        rng = Random(seed)
        view = draw_view(rng, rng.choice(NUMBERS), draw_count(rng, 1000) + (role == "overlap"), role)
        kinds.add(view.kind)
        view.fill(seed, small=False)
        dense = view.dense()
        assert dense.tobytes() == view.array.ravel(order="K").tobytes(), view
        places = np.arange(view.dtype.itemsize)
        for length, stride in zip(view.layout.shape, view.layout.strides, strict=True):
            places = np.add.outer(stride * np.arange(length), places)
        if role != "send":
            overlaps = role == "overlap" and view.array.size > 1
            assert (len(np.unique(places)) < places.size) == overlaps, view
        if role == "receive":
            assert view.differing(view.expect(dense)) == 0, view
    assert kinds >= set(CLASSES) - {"recarray"}


def main(argv: list[str]) -> int:
    """Make calls until a number of views was met on all ranks together; print what differs."""
    options = read_options(argv, "views", __doc__, NAMES)
    comm, plain = MPI.COMM_WORLD.Dup(), PLAIN.Intracomm(MPI.COMM_WORLD)
    return soak(plain, "views", NAMES, options, partial(examine, comm))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
