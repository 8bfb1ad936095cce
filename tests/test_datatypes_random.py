"""Random datatypes: read, packed, unpacked and exchanged as the MPI library does it."""

from contextlib import nullcontext

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

from roundelay import MPI, Layout, canonicalize, equivalent
from roundelay.comm.interposer import library_alone
from tests.trees import (
    CONSTRUCTORS,
    LEAVES,
    LIMIT,
    arena,
    bounds,
    built,
    check_movement,
    disjoint,
    draw_pair,
    kinds_of,
    span,
    typemap,
    walk_pack,
    walk_unpack,
)

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 3)


def examples(number):
    return settings(max_examples=number, derandomize=True, deadline=None, database=None)


@examples(1000)
@given(SEEDS)
def test_pack_and_unpack(seed):
    for tree in draw_pair(seed):
        for count in range(4):
            check_movement(tree, count)


@examples(600)
@given(SEEDS)
def test_pack_what_overlaps(seed):
    tree, _ = draw_pair(seed, overlap=True)
    for count in range(4):
        check_movement(tree, count)


@examples(600)
@given(SEEDS, COUNTS)
def test_canonical_form_is_that_of_the_listed_runs(seed, count):
    tree, other = draw_pair(seed)
    offsets, lengths = typemap(tree, count)
    listed = ("hindexed", tuple(lengths.tolist()), tuple(offsets.tolist()), ("named", "BYTE"))
    with built(tree, MPI) as datatype, built(listed, MPI) as bytes_:
        layout, flat = Layout.from_datatype(datatype, count), Layout.from_datatype(bytes_)
        assert canonicalize(layout) == layout, tree
        assert canonicalize(flat) == canonicalize(layout), tree
        assert equivalent(flat, layout), tree
        # The first line names the extent, which is not part of the form.
        assert layout.describe().splitlines()[1:] == flat.describe().splitlines()[1:], tree
    same = all(map(np.array_equal, typemap(other), typemap(tree)))
    with built(tree, MPI) as one, built(other, MPI) as another:
        assert equivalent(one, another) == same, (tree, other)


@examples(600)
@given(SEEDS, COUNTS)
def test_exchange_with_oneself(seed, count):
    trees = draw_pair(seed)
    arenas = []
    for module, way in ((PLAIN, library_alone()), (MPI, nullcontext())):
        with built(trees[0], module) as sent, built(trees[1], module) as received, way:
            source, from_ = arena(sent, count, seed)
            target, to = arena(received, count, seed + 1)
            expected = target.copy()
            walk_unpack(trees[1], count, walk_pack(trees[0], count, source, from_), expected, to)
            status = module.Status()
            module.COMM_SELF.Sendrecv(
                [source[from_:], count, sent], 0, 7, [target[to:], count, received], 0, 7, status
            )
            assert status.Get_count(received) == count
            assert status.Get_elements(module.BYTE) == count * sent.Get_size()
            arenas.append(target)
            assert_array_equal(
                target, expected, f"{module.__name__}: {count} of {trees[0]!r} into {trees[1]!r}"
            )
    assert_array_equal(arenas[0], arenas[1])


def test_drawn_trees_are_what_they_claim():
    """Every constructor is met, no tree reaches too far, and only those that may do overlap."""
    met, overlapping = set(), 0
    for seed in range(300):
        sent, received = draw_pair(seed, overlap=True)
        met |= kinds_of(sent) | kinds_of(received)
        overlapping += not disjoint(*typemap(sent))
        assert disjoint(*typemap(received, 3))
        assert typemap(sent)[1].sum() == typemap(received)[1].sum()
        for tree in (sent, received):
            assert max(map(abs, (*span(tree, 3), 3 * bounds(tree)[1]))) < 8 * LIMIT
        assert draw_pair(seed, overlap=True) == (sent, received)
    assert met >= CONSTRUCTORS | LEAVES - {"f90_complex"}
    assert overlapping > 30
