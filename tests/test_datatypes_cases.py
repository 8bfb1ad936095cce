"""Datatypes with a name: the cases of MPICH's and Open MPI's datatype suites, and the defects of TEMPI."""

from __future__ import annotations

from itertools import combinations, product
from random import Random

import numpy as np
import pytest
from mpi4py import MPI as PLAIN
from numpy.testing import assert_array_equal

import roundelay
from benchmarks.ddtbench import cases
from roundelay import MPI, Layout, canonicalize, equivalent
from tests.trees import (
    Tree,
    arena,
    bounds,
    build,
    built,
    check_movement,
    disjoint,
    oracle_pack,
    oracle_unpack,
    release,
    seat,
    span,
    spread,
    typemap,
    walk_pack,
)

BYTE, CHAR, SHORT, INT = (("named", name) for name in ("BYTE", "CHAR", "SHORT", "INT"))
LONG, FLOAT, DOUBLE = (("named", name) for name in ("LONG", "FLOAT", "DOUBLE"))


def ids(trees: dict[str, Tree]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tree", trees.values(), ids=trees.keys())


def check_counts(tree: Tree, counts: range = range(4)) -> None:
    for count in counts:
        check_movement(tree, count)


# --- MPICH: bounds ------------------------------------------------------------------------------------------

PADDED = ("resized", -3, 9, ("contiguous", 4, BYTE))
BACKWARD = ("resized", 6, -9, ("contiguous", 4, BYTE))
LBUB = {  # size, lower bound, extent, true lower bound, true extent
    "padded": (PADDED, (4, -3, 9, 0, 4)),
    "padded contiguous": (("contiguous", 3, PADDED), (12, -3, 27, 0, 22)),
    "padded vector of one": (("vector", 3, 1, 1, PADDED), (12, -3, 27, 0, 22)),
    "padded vector that overlaps": (("vector", 3, 4, 1, PADDED), (48, -3, 54, 0, 49)),
    "padded vector": (("vector", 3, 4, 5, PADDED), (48, -3, 126, 0, 121)),
    "padded vector backwards": (("vector", 3, 4, -5, PADDED), (48, -93, 126, -90, 121)),
    "backward": (BACKWARD, (4, 6, -9, 0, 4)),
    "backward contiguous": (("contiguous", 3, BACKWARD), (12, -12, 9, -18, 22)),
    "backward vector": (("vector", 3, 4, 5, BACKWARD), (48, -111, 108, -117, 121)),
    "backward vector backwards": (("vector", 3, 4, -5, BACKWARD), (48, -21, 108, -27, 121)),
}


@pytest.mark.parametrize(("tree", "expected"), LBUB.values(), ids=LBUB.keys())
def test_lbub(tree, expected):
    size, lb, extent, true_lb, true_extent = expected
    with built(tree, MPI) as datatype:
        layout = Layout.from_datatype(datatype)
    assert (layout.size, layout.lb, layout.extent) == (size, lb, extent)
    offsets, lengths = layout.runs()
    assert (offsets.min(), (offsets + lengths).max()) == (true_lb, true_lb + true_extent)
    check_movement(tree)


# --- MPICH: packing -----------------------------------------------------------------------------------------

PAIR_BACK = {
    "struct": ("struct", (1, 1), (0, -4), (INT, INT)),
    "vector": ("vector", 2, 1, -1, INT),
    "indexed": ("indexed", (1, 1), (0, -1), INT),
}
UNUSUAL = PAIR_BACK | {
    "struct of struct": (
        "struct",
        (1, 1),
        (0, 16),
        (PAIR_BACK["struct"], ("resized", -4, 8, PAIR_BACK["vector"])),
    ),
    "indexed apart": ("indexed", (1, 1), (-2, 1), INT),
    "indexed block apart": ("indexed_block", 1, (-2, 1), INT),
    "indexed block apart, wide": ("indexed_block", 3, (-5, 4), INT),
}


@ids(UNUSUAL)
def test_unusual_noncontigs(tree):
    check_counts(tree)


@ids(PAIR_BACK)
def test_unusual_noncontigs_values(tree):
    numbers = np.arange(1, 9, dtype=np.intc)
    with built(tree, MPI) as datatype:
        packed = roundelay.pack(numbers, seat(Layout.from_datatype(datatype, 2), 8))
    assert packed.view(np.intc).tolist() == [3, 2, 5, 4]


TRANSPOSE = ("hvector", 100, 1, 4, ("vector", 100, 1, 100, INT))


def test_transpose_pack():
    matrix = np.arange(10_000, dtype=np.intc).reshape(100, 100)
    with built(TRANSPOSE, MPI) as datatype:
        packed = roundelay.pack(matrix, datatype)
        assert_array_equal(packed.view(np.intc), matrix.T.ravel())
        back = np.zeros_like(matrix)
        roundelay.unpack(packed, back, datatype)
    assert_array_equal(back, matrix)
    check_movement(TRANSPOSE)


def test_slice_pack():
    tree = ("hvector", 9, 1, 40_000, ("hvector", 9, 1, 400, ("vector", 9, 1, 2, INT)))
    cube = np.arange(1_000_000, dtype=np.intc).reshape(100, 100, 100)
    with built(tree, MPI) as datatype:
        assert_array_equal(roundelay.pack(cube, datatype).view(np.intc), cube[:9, :9, :18:2].ravel())
    check_movement(tree)


SUBARRAYS = [
    ((9,), (3,), (1,)),
    ((3, 3), (2, 2), (1, 1)),
    ((2, 6), (1, 2), (0, 4)),
    ((2, 2, 3, 6), (1, 2, 3, 1), (1, 0, 0, 4)),
    ((6, 3, 2, 2), (1, 3, 2, 1), (4, 0, 0, 1)),
    ((6, 2), (2, 1), (4, 0)),
    ((5, 4, 3, 2, 6), (3, 2, 1, 2, 3), (2, 1, 2, 0, 1)),
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("sizes", "subsizes", "starts"), SUBARRAYS)
def test_subarray_pack(sizes, subsizes, starts, order):
    tree = ("subarray", sizes, subsizes, starts, order, INT)
    array = np.arange(np.prod(sizes), dtype=np.intc).reshape(sizes, order=order)
    part = array[tuple(slice(start, start + taken) for start, taken in zip(starts, subsizes, strict=True))]
    with built(tree, MPI) as datatype:
        packed = roundelay.pack(array.ravel(order="K"), datatype)
    assert_array_equal(packed.view(np.intc), part.ravel(order=order))
    check_counts(tree)


DARRAYS: dict[str, tuple[tuple[int, ...], tuple[str, ...], tuple[int | None, ...], tuple[int, ...]]] = {
    "block of 3 x 3": ((3, 3), ("block", "block"), (None, None), (3, 3)),
    "block in four dimensions": ((6, 3, 2, 2), ("block", "block", "none", "none"), (None,) * 4, (6, 3, 1, 1)),
    **{f"cyclic on {n}": ((3 * n,), ("cyclic",), (None,), (n,)) for n in range(1, 5)},
    **{f"cyclic by 2 on {n}": ((4 * n,), ("cyclic",), (2,), (n,)) for n in range(1, 5)},
    "cyclic in two dimensions": ((14, 15), ("cyclic", "cyclic"), (None, None), (2, 3)),
    "cyclic by 2 and 3": ((8, 18), ("cyclic", "cyclic"), (2, 3), (2, 3)),
    "cyclic by 3, uneven": ((20, 7), ("cyclic", "block"), (3, None), (3, 2)),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("gsizes", "distribs", "dargs", "psizes"), DARRAYS.values(), ids=DARRAYS.keys())
def test_darray_pack(gsizes, distribs, dargs, psizes, order):
    processes = int(np.prod(psizes))
    trees = [("darray", processes, p, gsizes, distribs, dargs, psizes, order, INT) for p in range(processes)]
    for tree in trees:
        check_movement(tree)
        check_movement(tree, 2)
    owned = []
    for tree in trees:
        with built(tree, MPI) as datatype:
            owned.append(spread(*Layout.from_datatype(datatype).runs()))
    assert_array_equal(np.sort(np.concatenate(owned)), np.arange(4 * np.prod(gsizes)))


BLOCK_LISTS = {
    "uneven": ((1, 2, 1, 1, 1), (1, 2, 5, 6, 8)),
    "zero block first": ((0, 1, 1), (0, 1, 4)),
    "zero block in the middle": ((1, 0, 1), (1, 2, 4)),
    "zero block last": ((1, 1, 0), (1, 4, 7)),
    "zero blocks far away": ((0, 4, 0), (2**31 - 1, 0, 2**31 - 1)),
    "equal lengths, uneven places": ((0, 1, 1, 1), (0, 1, 3, 8)),
    "zeros": ((0, 0, 0), (1, 2, 3)),
    "downwards": ((2, 1, 3), (9, 5, 1)),
}


@pytest.mark.parametrize(("lengths", "places"), BLOCK_LISTS.values(), ids=BLOCK_LISTS.keys())
def test_indexed_misc(lengths, places):
    elements = ("indexed", lengths, places, INT)
    in_bytes = ("hindexed", lengths, tuple(4 * place for place in places), INT)
    check_counts(elements)
    check_counts(in_bytes)
    assert_same_layout([elements, in_bytes, ("struct", lengths, in_bytes[2], (INT,) * len(lengths))])


STRIDED_PAIR = ("vector", 2, 1, 2, INT)
BLOCKINDEXED = {
    "of vectors": ("indexed_block", 1, (1, 4, 5), STRIDED_PAIR),
    "of vectors, in bytes": ("hindexed_block", 1, (4, 16, 32), STRIDED_PAIR),
    "like a contiguous type": ("indexed_block", 1, (0, 1, 2, 3), INT),
    "like a vector": ("indexed_block", 2, (0, 3, 6, 9), INT),
    "hindexed zeros": ("hindexed", (0, 0, 0, 0), (1, 2, 3, 4), INT),
    "hindexed zeros, not in order": ("hindexed", (1, 0, 2, 1), (0, 4, 16, 8), INT),
}


@ids(BLOCKINDEXED)
def test_blockindexed_misc(tree):
    check_counts(tree)


EMPTY = {
    "contiguous": ("contiguous", 0, INT),
    "struct": ("struct", (), (), ()),
    "indexed block": ("indexed_block", 1, (), INT),
    "indexed": ("indexed", (), (), INT),
    "vector of none": ("vector", 0, 1, 1, INT),
    "vector of empty blocks": ("vector", 10, 0, 3, INT),
    "hvector of empty blocks": ("hvector", 10, 0, 12, INT),
    "of empty": ("contiguous", 10, ("struct", (), (), ())),
    "zero blocks": ("hindexed_block", 0, (5, -5), INT),
    "dup": ("dup", ("contiguous", 0, DOUBLE)),
    "struct_no_real_types": ("struct", (1, 1), (0, 16), (("contiguous", 0, INT), ("contiguous", 0, DOUBLE))),
    "subarray": ("contiguous", 3, ("subarray", (4,), (4,), (0,), "C", ("contiguous", 0, INT))),
}


@ids(EMPTY)
def test_zero_size(tree):
    check_counts(tree)
    with built(tree, MPI) as datatype:
        layout = Layout.from_datatype(datatype)
        offsets, lengths = layout.runs()
        assert (layout.size, len(offsets), len(lengths)) == (0, 0, 0)
        assert roundelay.pack_size(datatype) == 0
        assert equivalent(datatype, Layout.from_array(np.zeros(0)))


@pytest.mark.parametrize("tree", EMPTY.values(), ids=EMPTY.keys())
def test_bcastzerotype(tree):
    with built(tree, MPI) as datatype:
        MPI.COMM_SELF.Bcast([np.zeros(16), 3, datatype])


PARTLY_EMPTY = {
    "struct_empty_el": ("struct", (1, 0, 1), (0, -100, 8), (INT, DOUBLE, INT)),
    "struct_derived_zeros": (
        "struct",
        (1, 1, 1),
        (0, 64, -32),
        tuple(("hvector", count, 1, -8, INT) for count in (0, 1, 2)),
    ),
    "empty member far away": ("struct", (1, 1), (2000, 0), (("contiguous", 0, INT), INT)),
}


@ids(PARTLY_EMPTY)
def test_zero_members(tree):
    check_counts(tree, range(2))


# --- MPICH: resized types, structs and others ---------------------------------------------------------------


def nest_deeply(levels: int) -> Tree:
    """Alternate vectors, resized types and structs."""
    tree: Tree = INT
    for level in range(levels):
        extent = bounds(tree)[1]
        tree = (
            ("vector", 2, 1, 2, tree),
            ("resized", -4, extent + 12, tree),
            ("struct", (1, 1), (0, 2 * extent), (tree, CHAR)),
        )[level % 3]
    return tree


CHARS = ("resized", 0, 64, ("contiguous", 59, CHAR))
RESIZED = {
    "tresized": ("resized", 0, 12, INT),
    "tresized2": ("resized", -4, 12, INT),
    "simple_resized": ("resized", 0, 18, ("contiguous", 2, INT)),
    "struct_ezhov": ("contiguous", 1131, ("resized", 0, 340, ("struct", (56, 2), (0, 332), (FLOAT, FLOAT)))),
    "struct_verydeep": nest_deeply(10),
    "vecblklen": ("vector", 20, 5, 9, CHARS),
    "hvecblklen": ("hvector", 20, 5, 64 * 9 + 1, CHARS),
    "typelb": ("resized", -24, 96, ("hindexed", (1, 1), (-24, 40), DOUBLE)),
    "resized within": ("resized", 4, 8, ("contiguous", 4, INT)),
}


@ids(RESIZED)
def test_resized(tree):
    check_counts(tree, range(3 if "resized" in tree else 2))


STRUCTS = {
    "contigstruct": ("struct", (1,) * 8, tuple(range(56, -8, -8)), (LONG,) * 8),
    "struct_pack": ("struct", (1, 1), (0, 8), (INT, DOUBLE)),
    "structpack2": ("contiguous", 10, ("struct", (1, 1), (0, 4), (INT, CHAR))),
    "dataalign": ("struct", (1, 1, 1, 1), (0, 2, 4, 8), (CHAR, SHORT, FLOAT, DOUBLE)),
    "triangular_pack": ("indexed", tuple(range(1, 101)), tuple(range(0, 10_000, 100)), INT),
}


@ids(STRUCTS)
def test_struct_pack(tree):
    check_counts(tree)


def test_contigstruct_many():
    check_movement(STRUCTS["contigstruct"], 65_536)


PAIRS = ["SHORT_INT", "TWOINT", "LONG_INT", "FLOAT_INT", "DOUBLE_INT", "LONG_DOUBLE_INT"]


@pytest.mark.parametrize("name", PAIRS)
def test_pairtype_size(name):
    tree = ("named", name)
    with built(tree, MPI) as datatype:
        layout = Layout.from_datatype(datatype, 3)
        assert layout.size == roundelay.pack_size(layout) == 3 * datatype.Get_size()
        assert_array_equal(spread(*layout.runs()), spread(*typemap(tree, 3)))


@pytest.mark.parametrize("name", PAIRS[:-1])
def test_pairtype_pack(name):
    for tree in (
        ("named", name),
        ("vector", 3, 2, 3, ("named", name)),
        ("indexed", (1, 2), (4, 0), ("named", name)),
    ):
        check_counts(tree)


def test_pairtype_pack_long_double():
    """The padding of a long double is not data: only the bytes of number and index are compared."""
    pairs = np.zeros(5, np.dtype([("value", np.longdouble), ("index", np.intc)], align=True))
    pairs["value"], pairs["index"] = np.arange(5) / 7, np.arange(5)
    target = np.zeros_like(pairs)
    with built(("named", "LONG_DOUBLE_INT"), MPI) as datatype:
        packed = roundelay.pack(pairs, Layout.from_datatype(datatype, 5))
        oracle_unpack(datatype, 5, packed, target.view(np.uint8), 0)
    assert_array_equal(target["value"], pairs["value"])
    assert_array_equal(target["index"], pairs["index"])


def test_pack_mpi_bottom():
    """A struct of absolute addresses goes through communication; the arrays lie anywhere."""
    numbers, weights = np.arange(6, dtype=np.intc), np.arange(4) / 3
    places = [MPI.Get_address(numbers), MPI.Get_address(weights[1:])]
    struct = MPI.Datatype.Create_struct([6, 2], places, [MPI.INT, MPI.DOUBLE]).Commit()
    packed, expected = (
        np.zeros(40, np.uint8),
        np.concatenate([numbers.view(np.uint8), weights[1:3].view(np.uint8)]),
    )
    MPI.COMM_SELF.Sendrecv([MPI.BOTTOM, 1, struct], 0, 0, [packed, MPI.BYTE], 0, 0)
    assert_array_equal(packed, expected)
    numbers[:], weights[:] = 0, -1
    MPI.COMM_SELF.Sendrecv([packed, MPI.BYTE], 0, 0, [MPI.BOTTOM, 1, struct], 0, 0)
    struct.Free()
    assert_array_equal(numbers, np.arange(6))
    assert_array_equal(weights, [-1, 1 / 3, 2 / 3, -1])


GIBI = 2**30
LARGE = {  # what is touched, and what is between
    "hvector": ("hvector", 3, 5, 2 * GIBI + 16, INT),
    "hvector backwards": ("hvector", 3, 1, -2 * GIBI - 12, DOUBLE),
    "vector": ("vector", 2, 3, GIBI // 2 + 3, DOUBLE),
    "hindexed": ("hindexed", (3, 1, 2), (0, 4 * GIBI + 4, 2 * GIBI - 8), INT),
    "struct": ("struct", (2, 1), (4 * GIBI, -GIBI), (("vector", 2, 1, 3, SHORT), DOUBLE)),
    "resized": ("contiguous", 3, ("resized", 0, 2 * GIBI + 1, ("vector", 4, 1, 2, CHAR))),
    "subarray": ("subarray", (3, 300_000_000), (3, 2), (0, 299_999_997), "C", INT),
}


@ids(LARGE)
def test_large_span(tree):
    """More than 2 GiB from end to end: the memory is never touched but for a few pages."""
    low, high = span(tree, 1)
    assert high - low > 2 * GIBI
    origin = max(0, -low)
    memory = np.zeros(origin + high, np.uint8)
    places = origin + spread(*typemap(tree))
    memory[places] = expected = np.random.default_rng(0).integers(1, 255, len(places), np.uint8)
    with built(tree, MPI) as datatype:
        assert_array_equal(oracle_pack(datatype, 1, memory, origin), expected)
        layout = seat(Layout.from_datatype(datatype), origin)
        assert_array_equal(roundelay.pack(memory, layout), expected)
        roundelay.unpack(expected[::-1].copy(), memory, layout)
    assert_array_equal(memory[places], expected[::-1])


# --- Open MPI -----------------------------------------------------------------------------------------------

N = 25


def list_borders() -> Tree:
    """List the border of an N x N matrix: first row, both ends of the rows between, last row."""
    ends = [(row * N, row * N + N - 1) for row in range(1, N - 1)]
    places = [0, *(place for pair in ends for place in pair), N * (N - 1)]
    return ("indexed", (N, *[1] * (len(places) - 2), N), tuple(places), DOUBLE)


CONSTANT_GAP = ("struct", (1, 1, 1), (0, 8, 16), (FLOAT, FLOAT, FLOAT))
ZERO_EXTENT = ("resized", 0, 0, ("contiguous", 3, INT))
CORPUS = {
    "upper triangle": ("indexed", tuple(range(N, 0, -1)), tuple(range(0, N * N, N + 1)), DOUBLE),
    "lower triangle": ("indexed", tuple(range(1, N + 1)), tuple(range(0, N * N, N)), DOUBLE),
    "borders": list_borders(),
    "struct char double": ("struct", (1, 1), (0, 8), (CHAR, DOUBLE)),
    "struct char double, packed": ("struct", (1, 1), (0, 1), (CHAR, DOUBLE)),
    "constant gap struct": CONSTANT_GAP,
    "constant gap vector": ("vector", 3, 1, 2, FLOAT),
    "constant gap struct of structs": ("struct", (1, 1), (0, 24), (CONSTANT_GAP, CONSTANT_GAP)),
    "gap struct resized": ("resized", 0, 64, ("struct", (2, 1), (0, 24), (DOUBLE, INT))),
    "indexed gap": ("indexed", (3, 1, 4, 2), (0, 5, 9, 20), DOUBLE),
    "strange": (
        "struct",
        (1, 2, 1),
        (0, 80, 240),
        (
            ("vector", 3, 2, 4, SHORT),
            ("resized", 0, 48, ("struct", (3, 1), (0, 32), (INT, ("named", "SHORT_INT")))),
            ("hindexed", (2, 1), (8, 1), CHAR),
        ),
    ),
    "resized_extent": ("contiguous", 3, ("resized", 0, 6, INT)),
    "complex_hvector": ("hvector", 40, 1, 28, ("contiguous", 2, FLOAT)),
    "adv_zero_extent_overlap": ("struct", (4, 1), (0, 16), (ZERO_EXTENT, DOUBLE)),
    "adv_neg_extent": ("contiguous", 5, ("resized", 0, -24, ("vector", 2, 1, 2, INT))),
    "adv_mixed_promote": (
        "contiguous",
        6,
        ("struct", (1, 2, 1, 1), (0, 4, 8, 16), (INT, SHORT, DOUBLE, ("contiguous", 8, CHAR))),
    ),
}


@ids(CORPUS)
def test_open_mpi_corpus(tree):
    # Three negative extents span less than three instances need: more of them than one would overlap.
    check_counts(tree, range(2) if tree is CORPUS["adv_neg_extent"] else range(4))


SMALLEST = {case.name: case for case in sorted(cases(), key=lambda case: case.arena_bytes, reverse=True)}


@pytest.mark.parametrize("case", SMALLEST.values(), ids=SMALLEST.keys())
def test_ddtbench(case):
    memory = np.arange(case.arena_bytes // 4, dtype=np.uint32).view(np.uint8)
    for make, origin in ((case.send, case.send_origin), (case.recv, case.recv_origin)):
        datatype = make(MPI)
        layout = seat(Layout.from_datatype(datatype), origin)
        packed = oracle_pack(datatype, 1, memory, origin)
        assert_array_equal(roundelay.pack(memory, layout), packed)
        expected, ours = np.zeros_like(memory), np.zeros_like(memory)
        oracle_unpack(datatype, 1, packed, expected, origin)
        roundelay.unpack(packed, ours, layout)
        assert_array_equal(ours, expected)
        datatype.Free()


def test_resized_extent_is_kept():
    with built(CORPUS["resized_extent"], MPI) as datatype:
        offsets, _ = Layout.from_datatype(datatype, 2).runs()
    assert offsets.tolist() == [0, 6, 12, 18, 24, 30]


def test_mixed_types_promote_to_one_run():
    with built(CORPUS["adv_mixed_promote"], MPI) as datatype:
        offsets, lengths = Layout.from_datatype(datatype, 5).runs()
    assert (offsets.tolist(), lengths.tolist()) == ([0], [5 * 6 * 24])


# --- Canonical forms ----------------------------------------------------------------------------------------


def layouts_of(trees: list[Tree]) -> list[Layout]:
    layouts = []
    for tree in trees:
        with built(tree, MPI) as datatype:
            layouts.append(Layout.from_datatype(datatype))
    return layouts


def assert_same_layout(trees: list[Tree]) -> None:
    layouts = layouts_of(trees)
    datatypes = [build(tree, MPI) for tree in trees]
    for one, other in combinations(range(len(trees)), 2):
        message = f"{trees[one]!r} and {trees[other]!r}"
        assert canonicalize(layouts[one]) == canonicalize(layouts[other]), message
        assert hash(canonicalize(layouts[one])) == hash(canonicalize(layouts[other])), message
        assert equivalent(layouts[one], layouts[other]), message
        assert equivalent(datatypes[one], datatypes[other]), message
    for datatype in datatypes:
        release(datatype)


def draw_places(count: int) -> tuple[int, ...]:
    """Draw increasing displacements without a pattern."""
    return tuple(np.cumsum([Random(7).randint(2, 9) for _ in range(count)]).tolist())


IRREGULAR = tuple(sorted(Random(3).sample(range(2000), 90)))
SCATTERED = tuple(Random(4).sample(range(0, 4000, 2), 300))
COLUMN = ("resized", 0, 16, ("vector", 6, 1, 12, ("contiguous", 2, DOUBLE)))
SAME = {
    "contiguous": [
        ("contiguous", 16, INT),
        ("contiguous", 64, BYTE),
        ("contiguous", 8, DOUBLE),
        ("vector", 4, 4, 4, INT),
        ("vector", 16, 1, 1, INT),
        ("vector", 1, 16, -7, INT),
        ("hvector", 2, 1, 32, ("contiguous", 8, INT)),
        ("indexed", (4, 4, 0, 8), (0, 4, 99, 8), INT),
        ("indexed_block", 1, tuple(range(16)), INT),
        ("hindexed_block", 2, tuple(range(0, 64, 8)), INT),
        ("struct", (2, 1, 12), (0, 8, 16), (INT, DOUBLE, FLOAT)),
        ("subarray", (4, 2, 2), (4, 2, 2), (0, 0, 0), "C", INT),
        ("subarray", (16, 4), (4, 4), (0, 0), "C", INT),
        ("darray", 1, 0, (4, 4), ("none", "none"), (None, None), (1, 1), "F", INT),
        ("darray", 2, 0, (8, 4), ("block", "none"), (None, None), (2, 1), "C", INT),
        ("resized", -8, 100, ("dup", ("contiguous", 16, FLOAT))),
    ],
    "one column": [
        ("vector", 5, 1, 3, INT),
        ("hvector", 5, 1, 12, INT),
        ("contiguous", 5, ("resized", 0, 12, INT)),
        ("indexed_block", 1, (0, 3, 6, 9, 12), INT),
        ("hindexed", (1,) * 5, (0, 12, 24, 36, 48), INT),
        ("struct", (1,) * 5, (0, 12, 24, 36, 48), (INT, FLOAT, INT, FLOAT, INT)),
        ("subarray", (5, 3), (5, 1), (0, 0), "C", INT),
        ("subarray", (3, 5), (1, 5), (0, 0), "F", INT),
        ("darray", 3, 0, (15,), ("cyclic",), (1,), (3,), "C", INT),
        ("hindexed_block", 4, (0, 12, 24, 36, 48), BYTE),
    ],
    "box of 100 x 13 x 47 in 256 x 512 x 1024": [
        ("subarray", (1024, 512, 256), (47, 13, 100), (0, 0, 0), "C", BYTE),
        ("subarray", (256, 512, 1024), (100, 13, 47), (0, 0, 0), "F", BYTE),
        ("hvector", 47, 1, 131072, ("hvector", 13, 1, 256, ("vector", 100, 1, 1, BYTE))),
        ("hvector", 47, 1, 131072, ("vector", 13, 100, 256, BYTE)),
        ("hvector", 47, 1, 131072, ("hvector", 13, 1, 256, ("contiguous", 100, BYTE))),
        ("hindexed_block", 1, tuple(range(0, 47 * 131072, 131072)), ("vector", 13, 25, 64, INT)),
    ],
    "box with an offset": [
        ("subarray", (6, 5, 4), (3, 1, 2), (1, 2, 1), "C", INT),
        ("subarray", (4, 5, 6), (2, 1, 3), (1, 2, 1), "F", INT),
        ("struct", (3,), (116,), (("resized", 0, 80, ("contiguous", 2, INT)),)),
        ("indexed", (2, 2, 2), (29, 49, 69), INT),
    ],
    "two vectors that are one": [
        ("hvector", 2, 1, 4 * 96, ("vector", 4, 3, 12, ("contiguous", 2, FLOAT))),
        ("vector", 8, 3, 12, ("contiguous", 2, FLOAT)),
    ],
    "backwards": list(PAIR_BACK.values()),
    "upper triangle": [
        CORPUS["upper triangle"],
        ("hindexed", tuple(range(N, 0, -1)), tuple(range(0, 8 * N * N, 8 * (N + 1))), DOUBLE),
        (
            "struct",
            (1,) * N,
            tuple(range(0, 8 * N * N, 8 * (N + 1))),
            tuple(("contiguous", length, DOUBLE) for length in range(N, 0, -1)),
        ),
    ],
    "columns in order": [
        ("contiguous", 6, COLUMN),
        ("hvector", 6, 1, 16, ("hvector", 6, 1, 192, ("contiguous", 16, BYTE))),
        ("hindexed_block", 1, tuple(range(0, 96, 16)), COLUMN),
        ("hvector", 3, 2, 32, COLUMN),
    ],
    "pairs with a hole": [
        ("contiguous", 4, ("named", "SHORT_INT")),
        ("contiguous", 4, ("value_index", "SHORT", "INT")),
        ("hindexed", (2, 4) * 4, (0, 4, 8, 12, 16, 20, 24, 28), BYTE),
        ("contiguous", 4, ("struct", (1, 1), (0, 4), (SHORT, INT))),
        ("hindexed", (2, 6, 6, 6, 4), (0, 4, 12, 20, 28), CHAR),
    ],
    "irregular list": [
        ("indexed", (1,) * 90, IRREGULAR, DOUBLE),
        ("indexed_block", 1, IRREGULAR, DOUBLE),
        ("hindexed_block", 1, tuple(8 * place for place in IRREGULAR), ("contiguous", 2, FLOAT)),
        ("struct", (1,) * 90, tuple(8 * place for place in IRREGULAR), (DOUBLE,) * 90),
        ("contiguous", 1, ("dup", ("indexed", (1,) * 90, IRREGULAR, DOUBLE))),
    ],
    "scattered list": [
        ("indexed_block", 1, SCATTERED, INT),
        ("hindexed", (1,) * 300, tuple(4 * place for place in SCATTERED), INT),
        (
            "struct",
            (1, 1),
            (0, 0),
            (("indexed_block", 1, SCATTERED[:77], INT), ("indexed_block", 1, SCATTERED[77:], INT)),
        ),
    ],
    "repeated pattern, apart": [
        ("contiguous", 20, ("resized", 0, 64, ("indexed", (1, 2, 1), (0, 3, 9), INT))),
        ("hvector", 10, 2, 128, ("resized", 0, 64, ("indexed", (1, 2, 1), (0, 3, 9), INT))),
        ("hvector", 4, 5, 320, ("resized", -4, 64, ("struct", (1, 2, 1), (0, 12, 36), (INT, FLOAT, INT)))),
    ],
    "pairs with a hole, at an offset": [
        ("hindexed", (1,), (72,), ("contiguous", 4, ("named", "SHORT_INT"))),
        ("hindexed", (2, 6, 6, 6, 4), (72, 76, 84, 92, 100), CHAR),
        ("struct", (2, 2), (72, 88), (("named", "SHORT_INT"), ("value_index", "SHORT", "INT"))),
        ("subarray", (5, 4), (1, 4), (2, 0), "C", ("struct", (1, 1), (8, 12), (SHORT, INT))),
    ],
    "overlapping": [
        ("vector", 3, 2, 1, INT),
        ("indexed", (2, 2, 2), (0, 1, 2), INT),
        ("hindexed_block", 8, (0, 4, 8), CHAR),
    ],
    "zero stride": [
        ("hvector", 5, 1, 0, INT),
        ("indexed_block", 1, (0,) * 5, INT),
        ("contiguous", 5, ("resized", 0, 0, INT)),
    ],
    "nothing": list(EMPTY.values()),
    "constant gap": [
        CORPUS["constant gap struct of structs"],
        ("vector", 6, 1, 2, FLOAT),
        ("hvector", 2, 1, 24, CONSTANT_GAP),
    ],
}


@pytest.mark.parametrize("trees", SAME.values(), ids=SAME.keys())
def test_equal_types_have_one_canonical_form(trees):
    assert_same_layout(trees)
    if typemap(trees[0])[0].size < 1000:
        for tree in trees:
            check_movement(tree)


@pytest.mark.parametrize("trees", SAME.values(), ids=SAME.keys())
def test_canonical_form_is_fixed(trees):
    for layout in layouts_of(trees):
        assert canonicalize(layout) == layout
        assert canonicalize(canonicalize(layout)) == canonicalize(layout)


BASE = ("hvector", 4, 1, 4, ("vector", 4, 1, 4, INT))
DIFFERENT = {
    "transpose": (BASE, ("contiguous", 16, INT)),
    "other order": (("indexed", (1, 1), (0, 4), INT), ("indexed", (1, 1), (4, 0), INT)),
    "other offset": (("indexed_block", 2, (1,), INT), ("indexed_block", 2, (2,), INT)),
    "other length": (("vector", 4, 1, 2, INT), ("vector", 5, 1, 2, INT)),
    "other stride": (("vector", 4, 1, 2, INT), ("vector", 4, 1, 3, INT)),
    "other end": (("indexed", (1, 1, 1), (0, 2, 4), INT), ("indexed", (1, 1, 1), (0, 2, 5), INT)),
    "columns and rows": (
        ("hvector", 3, 1, 16, ("hvector", 5, 1, 53, ("contiguous", 13, BYTE))),
        ("hvector", 5, 1, 53, ("hvector", 3, 1, 16, ("contiguous", 13, BYTE))),
    ),
    "something and nothing": (("contiguous", 1, BYTE), ("contiguous", 0, BYTE)),
    "twice": (("hvector", 2, 1, 0, INT), INT),
    "swapped members": (
        ("struct", (1, 1), (0, 8), (("vector", 2, 1, 2, CHAR), INT)),
        ("struct", (1, 1), (8, 0), (INT, ("vector", 2, 1, 2, CHAR))),
    ),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_types_are_not_equivalent(one, other):
    first, second = layouts_of([one, other])
    assert canonicalize(first) != canonicalize(second)
    assert not equivalent(first, second)
    with built(one, MPI) as a, built(other, MPI) as b:
        assert not equivalent(a, b)
        assert equivalent(a, a)


def test_arrays_and_datatypes_are_equivalent():
    matrix = np.zeros((10, 12))
    for view, tree in (
        (matrix[:, 3:4], ("vector", 10, 1, 12, DOUBLE)),
        (matrix[2:8:2, 1:5], ("vector", 3, 4, 24, DOUBLE)),
        (matrix.T, ("hvector", 12, 1, 8, ("vector", 10, 1, 12, DOUBLE))),
        (matrix[::-1], ("vector", 10, 12, -12, DOUBLE)),
        (matrix, ("contiguous", 120, DOUBLE)),
    ):
        with built(tree, MPI) as datatype:
            assert equivalent(view, datatype)
            assert equivalent(datatype, Layout.from_array(view))
            assert not equivalent(view[:-1], datatype)


def test_plain_datatypes_are_read_too():
    with built(("indexed", (1, 2), (4, 1), INT)) as plain:
        assert type(plain) is PLAIN.Datatype
        assert roundelay.pack(np.arange(5, dtype=np.intc), plain).view(np.intc).tolist() == [4, 1, 2]


# --- TEMPI: each defect of it as a test that it would fail --------------------------------------------------


def test_tempi_1_order_of_the_typemap():
    matrix = np.arange(16, dtype=np.intc).reshape(4, 4)
    with built(BASE, MPI) as datatype:
        assert_array_equal(roundelay.pack(matrix, datatype).view(np.intc), matrix.T.ravel())
    for tree in (BASE, *DIFFERENT["columns and rows"]):
        check_counts(tree)


@pytest.mark.parametrize("order", ["C", "F"])
def test_tempi_2_offset_of_a_single_copy(order):
    for sizes, subsizes, starts in (
        ((4, 4), (1, 2), (2, 1)),
        ((6, 5, 4), (3, 1, 2), (1, 2, 1)),
        ((5, 5), (1, 1), (3, 2)),
        ((3, 4, 5, 6), (1, 2, 1, 3), (2, 1, 4, 2)),
    ):
        check_counts(("subarray", sizes, subsizes, starts, order, INT))
    for tree in (("hindexed", (1,), (28,), INT), ("indexed_block", 1, (5,), ("vector", 2, 1, 3, INT))):
        check_counts(tree)


def test_tempi_3_extent_between_instances():
    tree = ("subarray", (10,), (5,), (2,), "C", INT)
    numbers = np.arange(30, dtype=np.intc)
    with built(tree, MPI) as datatype:
        packed = roundelay.pack(numbers, Layout.from_datatype(datatype, 3))
        assert_array_equal(packed.view(np.intc), numbers.reshape(3, 10)[:, 2:7].ravel())
        received = np.zeros(15, np.intc)
        MPI.COMM_SELF.Sendrecv([numbers, 3, datatype], 0, 0, [received, MPI.INT], 0, 0)
        assert_array_equal(received, packed.view(np.intc))
    check_counts(tree)


@pytest.mark.parametrize("name", ["BYTE", "FLOAT", "DOUBLE"])
def test_tempi_4_plain_types(name):
    check_counts(("named", name))


TEMPI_UNKNOWN = {
    "indexed": ("indexed", (2, 1), (4, 0), INT),
    "hindexed": ("hindexed", (2, 1), (17, 0), INT),
    "indexed block": ("indexed_block", 2, (5, 1), INT),
    "hindexed block": ("hindexed_block", 2, (21, 1), INT),
    "struct": ("struct", (2, 1), (0, 16), (INT, DOUBLE)),
    "darray": ("darray", 2, 1, (9,), ("cyclic",), (2,), (2,), "C", INT),
    "resized": ("resized", -4, 24, ("vector", 2, 1, 2, INT)),
    "dup": ("dup", ("vector", 2, 1, 2, INT)),
    "f90": ("vector", 3, 1, 2, ("f90_real", 15, 300)),
    "f90 integer": ("contiguous", 3, ("f90_integer", 9)),
    "f90 complex": ("vector", 3, 1, 2, ("f90_complex", 6, 30)),
}


@ids(TEMPI_UNKNOWN)
def test_tempi_4_every_constructor(tree):
    check_counts(tree)


@pytest.mark.parametrize("dimensions", [4, 5, 6])
@pytest.mark.parametrize("order", ["C", "F"])
def test_tempi_5_many_dimensions(dimensions, order):
    sizes = tuple(range(3, 3 + dimensions))
    tree = ("subarray", sizes, (2,) * dimensions, (1,) * dimensions, order, SHORT)
    check_counts(tree, range(3))
    box = tuple(slice(1, 3) for _ in sizes)
    array = np.arange(np.prod(sizes), dtype=np.int16).reshape(sizes, order=order)
    with built(tree, MPI) as datatype:
        packed = roundelay.pack(array.ravel(order="K"), datatype)
    assert_array_equal(packed.view(np.int16), array[box].ravel(order=order))


TEMPI_SIGNED = {
    "negative stride": ("vector", 5, 2, -3, INT),
    "negative stride in bytes": ("hvector", 5, 2, -11, INT),
    "negative stride outside": ("hvector", 3, 1, -100, ("vector", 4, 1, 2, INT)),
    "negative stride inside": ("hvector", 3, 1, 100, ("vector", 4, 1, -2, INT)),
    "negative extent": ("resized", 0, -12, ("contiguous", 2, INT)),
    "zero extent, once": ("vector", 3, 1, 2, ("resized", 0, 8, INT)),
}


@ids(TEMPI_SIGNED)
def test_tempi_6_negative_strides(tree):
    check_counts(tree)


def test_tempi_6_zero_extent_and_zero_count():
    check_counts(("resized", 0, 0, INT))
    check_movement(("vector", 5, 2, -3, INT), 0)


@pytest.mark.parametrize("shift", range(16))
def test_tempi_7_misaligned_bases_and_strides(shift):
    for tree in (
        ("hvector", 9, 1, 12, DOUBLE),
        ("hvector", 9, 1, 13, DOUBLE),
        ("hvector", 9, 1, 17, ("contiguous", 16, BYTE)),
        ("hvector", 3, 1, 101, ("hvector", 9, 1, 9, ("contiguous", 8, BYTE))),
        ("resized", 0, 67, ("hindexed", (1, 2, 1), (1, 12, 43), DOUBLE)),
    ):
        with built(tree, MPI) as datatype:
            memory, origin = arena(datatype, 3)
            layout = seat(Layout.from_datatype(datatype, 3), origin)
            moved = np.concatenate([np.zeros(shift, np.uint8), memory])
            packed = walk_pack(tree, 3, memory, origin)
            assert_array_equal(roundelay.pack(moved[shift:], layout), packed)
            target = np.zeros(len(packed) + shift, np.uint8)
            roundelay.pack(memory, layout, out=target[shift:])
            assert_array_equal(target[shift:], packed)
            moved[shift:] = 0
            roundelay.unpack(target[shift:], moved[shift:], layout)
            expected = np.zeros_like(memory)
            oracle_unpack(datatype, 3, packed, expected, origin)
            assert_array_equal(moved[shift:], expected)


def test_tempi_10_a_handle_is_used_again():
    numbers = np.arange(64, dtype=np.intc)
    for round_, stride in product(range(100), (2, 3, 5)):
        datatype = MPI.INT.Create_vector(4, 1, stride).Commit()
        expected = numbers[: 4 * stride : stride]
        assert_array_equal(roundelay.pack(numbers, datatype).view(np.intc), expected, f"round {round_}")
        received = np.zeros(4, np.intc)
        MPI.COMM_SELF.Sendrecv([numbers, 1, datatype], 0, 0, [received, MPI.INT], 0, 0)
        datatype.Free()
        assert_array_equal(received, expected, f"round {round_}")


def test_tempi_11_the_packed_message_is_sent_as_bytes():
    tree = ("vector", 100, 3, 7, DOUBLE)
    with built(tree, MPI) as datatype:
        memory, origin = arena(datatype, 2)
        packed = walk_pack(tree, 2, memory, origin)
        received = np.zeros(len(packed) + 64, np.uint8)
        status = MPI.Status()
        MPI.COMM_SELF.Sendrecv([memory[origin:], 2, datatype], 0, 0, [received, MPI.BYTE], 0, 0, status)
        assert status.Get_count(MPI.BYTE) == len(packed)
        assert_array_equal(received[: len(packed)], packed)
        assert not received[len(packed) :].any()
        back = np.zeros_like(memory)
        MPI.COMM_SELF.Sendrecv([packed, MPI.BYTE], 0, 0, [back[origin:], 2, datatype], 0, 0)
        assert_array_equal(walk_pack(tree, 2, back, origin), packed)
        assert disjoint(*typemap(tree, 2))
        assert np.count_nonzero(back) <= len(packed)
