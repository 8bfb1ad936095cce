"""Copies from one layout to another in one pass, against the same bytes taken by their indices."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from mpi4py import MPI

from roundelay import Layout
from roundelay.datatypes.composed import compose
from roundelay.datatypes.layout import Blocks, Dense, Runs, Stream
from roundelay.datatypes.movers import UNPACK, mover
from tests.trees import built, draw_pair


def places(layout):
    """The address of each byte of a layout, in order."""
    offsets, lengths = layout.runs()
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(offsets, lengths) + within


def check(source, target):
    """Copy by a composed program, and by indices; compare all memory around. Give the program's rows."""
    spans = [layout.bounds() for layout in (source, target)]
    memory = np.random.default_rng(0).integers(0, 256, spans[0][1] - spans[0][0] + 1, np.uint8)
    found = np.random.default_rng(1).integers(0, 256, spans[1][1] - spans[1][0] + 1, np.uint8)
    wanted = found.copy()
    wanted[places(target) - spans[1][0]] = memory[places(source) - spans[0][0]]
    program = compose(source, target)
    base, there = (array.ctypes.data - span[0] for array, span in zip((memory, found), spans, strict=True))
    mover()(UNPACK, base, there, program.address, 1)
    np.testing.assert_array_equal(found, wanted)
    return int(program.words[0])


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_random_pairs_of_one_signature(first):
    for seed in range(first, first + 250):
        tree, other = draw_pair(seed)
        with built(tree) as one, built(other) as two:
            counts = (1, 1) if one.Get_size() == two.Get_size() else (two.Get_size(), one.Get_size())
            source, target = (
                Layout.from_datatype(datatype, count * (1 + seed % 3))
                for datatype, count in zip((one, two), counts, strict=True)
            )
            check(source, target)


@pytest.mark.parametrize("seed", range(200))
def test_views_of_arrays(seed):
    """As many elements in other shapes, orders and steps; negative steps, too."""
    draw = Random(seed)
    count = draw.choice([24, 60, 96, 210, 720])

    def view():
        left = count
        shape: list[int] = []
        while left > 1 and len(shape) < 4:
            shape.append(draw.choice([each for each in range(1, left + 1) if left % each == 0]))
            left //= shape[-1]
        shape.append(left)
        draw.shuffle(shape)
        steps = [draw.choice([1, 1, 1, 2, 3, -1, -2]) for _ in shape]
        whole = np.zeros([each * abs(step) + 2 for each, step in zip(shape, steps, strict=True)])
        cut = tuple(
            slice(1, 1 + each * step, step) if step > 0 else slice(each * -step, None, step)
            for each, step in zip(shape, steps, strict=True)
        )
        found = whole[cut][tuple(slice(each) for each in shape)]
        return found.transpose(draw.sample(range(found.ndim), found.ndim))

    check(Layout.from_array(view()), Layout.from_array(view()))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.complex128])
def test_faces_of_boxes_are_one_row_each(dtype):
    """However far apart the rows of each box are."""
    box, other = np.zeros((20, 30, 40), dtype), np.zeros((22, 34, 46), dtype)
    inner = other[1:-1, 2:-2, 3:-3]
    for face in (np.s_[0], np.s_[:, 0], np.s_[:, :, 0], np.s_[:, :, 2:5]):
        rows = check(Layout.from_array(box[face]), Layout.from_array(inner[face]))
        assert rows == 1


def test_runs_that_do_not_match():
    """Runs of 12 bytes to runs of 8, with one that is left over."""
    source = Layout(Stream(7, 20, Dense(12)), 4)
    target = Layout(Blocks((0, 500), (Stream(10, 16, Dense(8)), Dense(4))), 8)
    assert check(source, target) >= 1
    assert check(Layout(Stream(6, 20, Dense(12))), Layout(Stream(9, 9, Dense(8)))) >= 1


def test_listed_runs_on_both_sides():
    order = np.random.default_rng(2).permutation(1000).astype(np.int64)
    source = Layout(Runs(order * 24, np.full(1000, 24, np.int64)))
    target = Layout(Runs(order[::-1] * 40, np.full(1000, 24, np.int64)))
    assert check(source, target) == 1


def test_no_bytes():
    assert check(Layout(Dense(0)), Layout(Dense(0))) == 0


def test_sizes_that_differ():
    with pytest.raises(ValueError, match="expected the same number of bytes, got 8 and 4"):
        compose(Layout.from_datatype(MPI.DOUBLE), Layout.from_datatype(MPI.INT))
