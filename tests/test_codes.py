"""Gradient codes: whoever may be missing, the rest gives the sum; what is wrong is refused."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, combinations
from math import comb, gcd

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from roundelay.collectives.coding.approximate import ErasureHead, OptimalDecoding, ignore_stragglers
from roundelay.collectives.coding.catalogue import best_code
from roundelay.collectives.coding.code import Code, Decoding
from roundelay.collectives.coding.cyclic import cyclic_mds, cyclic_repetition
from roundelay.collectives.coding.placed import Placed, communication_efficient, heterogeneity_aware
from roundelay.collectives.coding.repetition import fractional_repetition, uncoded
from roundelay.collectives.coding.rounding import check_wire, rounding_gain, straggler_sets
from roundelay.collectives.coding.scheme import GradientCoding
from roundelay.collectives.coding.weighted import _BLOCK, weighted_sum

# Not divided by the pieces that are tried.
SIZE = 31
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def speeds(workers):
    return np.random.default_rng(workers).uniform(1.0, 4.0, workers).tolist()


def exact_codes(workers, stragglers):
    yield fractional_repetition(workers, stragglers)
    yield cyclic_repetition(workers, stragglers)
    if (workers - stragglers) % 2 and workers <= 64:
        yield cyclic_mds(workers, stragglers)
    for pieces in range(2, min(4, workers - stragglers + 1)):
        yield communication_efficient(workers, stragglers, pieces)
    yield heterogeneity_aware(speeds(workers), stragglers)
    if workers % (stragglers + 1):
        yield best_code(workers, stragglers)


def drawn_sets(workers, lost, count):
    rng = np.random.default_rng([workers, lost])
    yield from (rng.choice(workers, lost, replace=False).tolist() for _ in range(count))


def rest(code, lost):
    return sorted(set(range(code.workers)).difference(lost))


def decoding_of(code: Code, returned: Iterable[int]) -> Decoding:
    found = code.decode(list(returned))
    assert found is not None, (code, returned)
    return found


def encoded(code, gradients):
    """Messages of all workers; nothing but zeros from one without partitions."""
    messages = np.zeros((code.workers, -(-gradients.shape[1] // code.pieces)), gradients.dtype)
    for worker, held in enumerate(code.placement):
        if held:
            messages[worker] = code.encode(worker, gradients[list(held)])
    return messages


def assert_decodes(code, sets, tolerance=1e-9):
    """Without each set, messages of the rest give the sum of gradients."""
    gradients = np.random.default_rng(0).standard_normal((code.partitions, SIZE))
    messages, whole = encoded(code, gradients), gradients.sum(axis=0)
    for lost in sets:
        decoding = decoding_of(code, rest(code, lost))
        assert not set(decoding.workers) & set(lost), (code, lost)
        assert decoding.error < tolerance, (code, lost)
        found = (decoding.coefficients @ messages[list(decoding.workers)]).ravel()[:SIZE]
        assert np.linalg.norm(found - whole) < tolerance * np.linalg.norm(whole), (code, lost)


# Who may be missing


@pytest.mark.parametrize("workers", range(1, 11))
def test_any_stragglers(workers):
    """All sets of as many as a code is for, and of fewer."""
    for stragglers in range(workers):
        for code in exact_codes(workers, stragglers):
            assert code.stragglers >= stragglers
            sets = [combinations(range(workers), lost) for lost in range(stragglers + 1)]
            assert_decodes(code, chain.from_iterable(sets))


@pytest.mark.parametrize(
    ("workers", "stragglers", "sets"),
    [
        (16, 3, 60),
        (17, 4, 60),
        (32, 5, 40),
        (33, 7, 40),
        (64, 7, 30),
        (64, 8, 30),
        (128, 15, 8),
        (256, 27, 4),
    ],
)
def test_any_stragglers_of_many(workers, stragglers, sets):
    tolerance = 1e-9 if workers <= 64 else 1e-7
    runs = [(start + np.arange(stragglers)) % workers for start in range(0, workers, workers // 4)]
    for code in exact_codes(workers, stragglers):
        for lost in (1, stragglers // 2, stragglers):
            assert_decodes(code, drawn_sets(workers, lost, sets), tolerance)
        assert_decodes(code, runs, tolerance)


def test_one_straggler_too_many():
    for workers in range(2, 9):
        for stragglers in (each for each in range(workers) if gcd(workers, each + 1) == 1):
            code = cyclic_repetition(workers, stragglers)
            for lost in combinations(range(workers), stragglers + 1):
                assert not code.decodable(rest(code, lost)), (code, lost)
    for code in (cyclic_repetition(64, 8), communication_efficient(16, 3, 2)):
        for lost in drawn_sets(code.workers, code.stragglers + 1, 50):
            assert not code.decodable(rest(code, lost))
            assert not code.allows(np.isin(np.arange(code.workers), lost))


def test_more_stragglers_that_do_no_harm():
    """Rows 1 + x and x^2 (1 + x) of a cyclic code add up to ones."""
    code = cyclic_mds(4, 1)
    assert code.decodable([0, 2])
    assert not code.decodable([0, 1])


@pytest.mark.parametrize(
    ("lost", "probability"),
    [(3, 1.0), (4, 0.997), (5, 0.988), (6, 0.972), (7, 0.927), (8, 0.843), (9, 0.722)],
)
def test_repetition_survives_more(lost, probability):
    code = fractional_repetition(16, 3)
    survived = 0
    for each in combinations(range(16), lost):
        missing = np.zeros(16, np.bool_)
        missing[list(each)] = True
        survived += code.allows(missing)
    assert survived / comb(16, lost) == pytest.approx(probability, abs=0.01)


def test_allowed_is_decodable():
    approximate = ErasureHead(7, 1, 4), ignore_stragglers(7, 2)
    for code in (fractional_repetition(7, 2), cyclic_repetition(7, 2), best_code(7, 1), *approximate):
        for lost in chain.from_iterable(combinations(range(7), count) for count in range(8)):
            missing = np.isin(np.arange(7), lost)
            assert code.allows(missing) == code.decodable(rest(code, lost)), (code, lost)


# Results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("workers", "stragglers"), [(8, 1), (9, 2), (7, 2), (11, 3), (5, 4)])
def test_repetition_to_the_last_bit(workers, stragglers, dtype):
    """The sum of the sums of groups, whoever is missing."""
    code = fractional_repetition(workers, stragglers)
    gradients = np.random.default_rng(0).standard_normal((workers, SIZE)).astype(dtype)
    groups = [np.flatnonzero(code.group_of == group) for group in range(code.groups)]
    sums = [sum(gradients[group], np.zeros(SIZE, dtype)) for group in groups]
    expected, found = np.empty((2, SIZE), dtype)
    weighted_sum(sums, [1.0] * len(sums), expected)
    messages = encoded(code, gradients)
    for count in range(stragglers + 1):
        for lost in combinations(range(workers), count):
            decoding = decoding_of(code, rest(code, lost))
            weighted_sum([messages[worker] for worker in decoding.workers], decoding.coefficients[0], found)
            assert_array_equal(found, expected)


def test_fewest_coefficients_of_fewer_stragglers():
    """They become smaller, for the messages that are there beyond what is needed."""
    code = cyclic_repetition(12, 5)
    sizes = [np.linalg.norm(decoding_of(code, range(12 - lost)).coefficients) for lost in range(6)]
    assert sizes == sorted(sizes)


def test_encoding_takes_the_gradients_of_the_partitions():
    code = cyclic_repetition(4, 1)
    with pytest.raises(ValueError, match="3 gradients: worker 0 has 2 partitions"):
        code.encode(0, [np.ones(3)] * 3)
    idle = heterogeneity_aware([1e-9, 1.0, 1.0], 1)
    with pytest.raises(ValueError, match="0 gradients: worker 0 has 0 partitions"):
        idle.encode(0, [])


# Who computes what


@pytest.mark.parametrize("workers", [1, 2, 5, 8, 12])
def test_placement(workers):
    for stragglers in range(workers):
        for code in exact_codes(workers, stragglers):
            copies = np.zeros(code.partitions, int)
            for held in code.placement:
                assert list(held) == sorted(set(held))
                copies[list(held)] += 1
            assert copies.min() >= stragglers + code.pieces
            assert code.loads == tuple(Fraction(len(held), code.partitions) for held in code.placement)
            held = np.zeros((workers, code.partitions), np.bool_)
            for worker, partitions in enumerate(code.placement):
                held[worker, list(partitions)] = True
            assert not code.matrix[~held].any()


def test_load():
    for workers in (6, 12, 15):
        for stragglers in range(workers):
            fair = Fraction(stragglers + 1, workers)
            if workers % (stragglers + 1) == 0:
                assert set(fractional_repetition(workers, stragglers).loads) == {fair}
            assert set(cyclic_repetition(workers, stragglers).loads) == {fair}
            if (workers - stragglers) % 2:
                assert set(cyclic_mds(workers, stragglers).loads) == {fair}
            assert best_code(workers, stragglers).load == fair
    assert communication_efficient(10, 2, 3).load == Fraction(5, 10)
    assert uncoded(7).load == Fraction(1, 7)
    assert fractional_repetition(7, 2).loads == (Fraction(4, 7),) * 4 + (Fraction(3, 7),) * 3


def test_loads_follow_throughputs():
    for workers, stragglers in [(4, 0), (6, 1), (9, 2), (20, 3)]:
        given = np.array(speeds(workers))
        code = heterogeneity_aware(given.tolist(), stragglers, partitions=5 * workers)
        wanted = (stragglers + 1) * given / given.sum()
        assert wanted.max() < 1
        assert sum(code.loads) == stragglers + 1
        assert_allclose([float(load) for load in code.loads], wanted, atol=1 / code.partitions)


def test_best_code_has_the_least_load():
    for workers in (13, 24, 100):
        for stragglers in range(0, min(workers, 30), 2):
            code = best_code(workers, stragglers)
            assert set(code.loads) == {Fraction(stragglers + 1, workers)}


def test_groups_need_one_message_each():
    code = best_code(100, 8)
    assert code.name == "grouped-repetition"
    decoding = decoding_of(code, range(4, 100))
    assert decoding.workers[:10] == tuple(4 if each == 0 else 9 * each for each in range(10))
    assert_array_equal(decoding.coefficients[0, :10], 1.0)
    assert not code.adds(1, [0])
    assert code.adds(9, [0])
    assert code.adds(99, [0, 98])
    assert not code.adds(99, [0, 99])


def test_nobody_has_more_than_everything():
    code = heterogeneity_aware([1.0, 1.0, 1.0, 100.0], 1, partitions=30)
    assert code.loads == (*[Fraction(1, 3)] * 3, Fraction(1))
    assert set(heterogeneity_aware(speeds(5), 4).loads) == {Fraction(1)}


# Approximations


def test_covered_groups_make_up_for_others():
    """Over all sets of stragglers, each group has a weight of 1 on average."""
    code = ErasureHead(8, 1, 3)
    weights = np.zeros(4)
    sets = list(combinations(range(8), 3))
    for returned in sets:
        decoding = decoding_of(code, returned)
        weights[code.group_of[list(decoding.workers)]] += decoding.coefficients[0]
    assert_allclose(weights / len(sets), 1.0)


def test_erasure_head_ends_early():
    code = ErasureHead(6, 1, 3)
    assert code.decode([0, 1]) is None
    assert decoding_of(code, [0, 1, 2]).error == 1.0
    whole = decoding_of(code, [0, 2, 5])
    assert (whole.error, whole.coefficients.tolist()) == (0.0, [[1.0, 1.0, 1.0]])
    progress = GradientCoding(code).start(1)
    assert progress.combine(0) is None
    for worker in (0, 1, 2):
        assert progress.receive(worker, 0, 0)
    combination = progress.combine(0)
    assert combination is not None
    assert [term.worker for term in combination.terms] == [0, 2]


def test_stragglers_ignored():
    decoding = decoding_of(ignore_stragglers(10, 4), [0, 1, 3, 5, 8, 9])
    assert decoding.workers == (0, 1, 3, 5, 8, 9)
    assert_allclose(decoding.coefficients, 10 / 6)
    assert decoding.error == 1.0
    assert ignore_stragglers(10, 4).load == Fraction(1, 10)


def test_error_falls_with_stragglers():
    code = OptimalDecoding(24, 12, copies=3)
    assert code.load == Fraction(1, 8)
    assert not code.decodable(range(11))

    def error(lost):
        found = [decoding_of(code, rest(code, each)) for each in drawn_sets(24, lost, 30)]
        weights = [each.coefficients @ code.matrix[list(each.workers), :, 0] for each in found]
        return np.mean([np.linalg.norm(each - 1) for each in weights])

    errors = [error(lost) for lost in (0, 3, 6, 9, 12)]
    assert errors[0] < 1e-9
    assert errors == sorted(errors)
    assert errors[-1] < np.sqrt(24 * 12 / 24)


@pytest.mark.parametrize(
    "code", [fractional_repetition(9, 2), cyclic_repetition(9, 3), communication_efficient(9, 2, 2)]
)
def test_nearest_to_the_sum(code):
    """The sum where it can be recovered; else no weights are nearer to it; nothing where nothing came."""
    whole = code.approximate(rest(code, range(2)))
    assert whole.error < 1e-9
    for lost in drawn_sets(9, 7, 10):
        found = code.approximate(rest(code, lost))
        assert found.workers == tuple(rest(code, lost))
        rows = code.matrix[list(found.workers)].reshape(len(found.workers), -1)
        wanted = np.tile(np.eye(code.pieces), code.partitions)
        left = wanted - found.coefficients @ rows
        assert_allclose(left @ rows.T, 0.0, atol=1e-9)
        assert found.error == pytest.approx(np.abs(left).max())
    assert code.approximate([]).error == 1.0


# Rounding


def test_rounding_gain():
    assert rounding_gain(fractional_repetition(12, 3)) == 1.0
    assert rounding_gain(uncoded(5)) == 1.0
    for code in (cyclic_mds(16, 3), cyclic_mds(32, 5), cyclic_repetition(32, 5), cyclic_repetition(256, 27)):
        assert 1.0 <= rounding_gain(code) < 50


def test_gain_is_what_rounding_does():
    """Noise of the size of float16's rounding in each message, for the worst stragglers."""
    code, rng = cyclic_repetition(16, 3), np.random.default_rng(0)
    gradients = rng.standard_normal((16, 20_000))
    messages, whole = encoded(code, gradients), gradients.sum(axis=0)
    rms = np.sqrt((messages**2).mean(axis=1, keepdims=True))
    noisy = messages + 1e-3 * rms * rng.standard_normal(messages.shape)
    errors = []
    for lost in straggler_sets(16, 3):
        decoding = decoding_of(code, rest(code, lost))
        errors.append(np.std(decoding.coefficients @ noisy[list(decoding.workers)] - whole))
    assert max(errors) / np.std(whole) == pytest.approx(1e-3 * rounding_gain(code), rel=0.05)


@pytest.mark.parametrize("wire", [np.float16, ml_dtypes.bfloat16])
def test_short_floats(wire):
    wire = np.dtype(wire)
    check_wire(GradientCoding(fractional_repetition(32, 3)), wire)
    with pytest.raises(ValueError, match=f"{wire} on the wire: cyclic-repetition would amplify"):
        check_wire(GradientCoding(cyclic_repetition(32, 4)), wire)


@pytest.mark.parametrize("wire", [np.float32, np.float64])
def test_long_floats(wire):
    check_wire(GradientCoding(cyclic_repetition(64, 8)), np.dtype(wire))


# Errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fractional_repetition(0, 0), "0 workers: expected at least 1"),
        (lambda: fractional_repetition(4, 4), "4 stragglers of 4 workers: expected 0 to 3"),
        (lambda: fractional_repetition(4, -1), "-1 stragglers of 4 workers: expected 0 to 3"),
        (lambda: uncoded(0), "0 workers: expected at least 1"),
        (lambda: cyclic_repetition(0, 0), "0 workers: expected at least 1"),
        (lambda: cyclic_repetition(5, 5), "5 stragglers of 5 workers: expected 0 to 4"),
        (lambda: cyclic_repetition(5, -2), "-2 stragglers of 5 workers: expected 0 to 4"),
        (lambda: cyclic_mds(5, 6), "6 stragglers of 5 workers: expected 0 to 4"),
        (lambda: cyclic_mds(8, 2), "8 workers, 2 stragglers: a real cyclic MDS code needs an odd difference"),
        (lambda: cyclic_mds(65, 2), "65 workers: a cyclic MDS code keeps its digits up to 64"),
        (lambda: communication_efficient(5, 3, 3), "5 workers, 3 stragglers, 3 pieces: expected"),
        (lambda: communication_efficient(5, 3, 0), "5 workers, 3 stragglers, 0 pieces: expected"),
        (lambda: communication_efficient(5, -1, 2), "5 workers, -1 stragglers, 2 pieces: expected"),
        (lambda: communication_efficient(0, 0, 1), "0 workers, 0 stragglers, 1 pieces: expected"),
        (lambda: heterogeneity_aware([1.0, np.nan], 1), r"throughputs \[1.0, nan\]: expected positive"),
        (lambda: heterogeneity_aware([1.0, np.inf], 1), r"throughputs \[1.0, inf\]: expected positive"),
        (lambda: heterogeneity_aware([1.0, 0.0], 1), r"throughputs \[1.0, 0.0\]: expected positive"),
        (lambda: heterogeneity_aware([1.0, -2.0], 1), r"throughputs \[1.0, -2.0\]: expected positive"),
        (lambda: heterogeneity_aware([], 0), r"throughputs \[\]: expected positive"),
        (lambda: heterogeneity_aware([1.0, 2.0], 2), "2 stragglers of 2 workers: expected 0 to 1"),
        (lambda: heterogeneity_aware([1.0, 2.0], 1, partitions=0), "0 partitions: expected at least 1"),
        (lambda: Placed("", 3, 1, 1, [[0, 1], [1, 1]]), r"partition 1 is on workers \[1, 1\]: expected 2"),
        (lambda: ErasureHead(6, 1, 0), "0 collected of 6 workers: expected 1 to 6"),
        (lambda: ErasureHead(6, 1, 7), "7 collected of 6 workers: expected 1 to 6"),
        (lambda: ErasureHead(6, 6, 3), "6 stragglers of 6 workers: expected 0 to 5"),
        (lambda: ignore_stragglers(6, 6), "6 stragglers of 6 workers: expected 0 to 5"),
        (lambda: OptimalDecoding(6, 6, 2), "6 stragglers of 6 workers: expected 0 to 5"),
        (lambda: OptimalDecoding(6, 2, 0), "0 copies on 6 workers: expected 1 to 6"),
        (lambda: OptimalDecoding(6, 2, 7), "7 copies on 6 workers: expected 1 to 6"),
        (lambda: best_code(6, 6), "6 stragglers of 6 workers: expected 0 to 5"),
        (lambda: best_code(6, -1), "-1 stragglers of 6 workers: expected 0 to 5"),
        (lambda: best_code(0, 0), "0 workers: expected at least 1"),
    ],
)
def test_what_is_wrong_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# The weighted sum


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 7, 4097, 10_001])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_weighted_sum(dtype, length, count):
    rng = np.random.default_rng([length, count])
    vectors = list(rng.standard_normal((count, length)).astype(dtype))
    weights = rng.standard_normal(count)
    out = np.full(length, np.nan, dtype)
    weighted_sum(vectors, weights.tolist(), out)
    expected = sum(
        weight * vector.astype(np.float64) for weight, vector in zip(weights, vectors, strict=True)
    )
    step = 2.0 ** {2: -8 if dtype is ml_dtypes.bfloat16 else -11, 4: -24, 8: -48}[out.itemsize]
    assert_allclose(
        out.astype(np.float64), expected, rtol=1.01 * step, atol=1e-7 if out.itemsize == 2 else 1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [3, 4, 9])
def test_sum_in_several_blocks(dtype, count):
    length = 2 * _BLOCK + 7
    vectors = [np.arange(start, start + length, dtype=dtype) for start in range(count)]
    weights = [float(1 << each) for each in range(count)]
    out = np.empty(length, dtype)
    weighted_sum(vectors, weights, out)
    assert_array_equal(out, (np.array(weights) @ np.array(vectors, np.float64)).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_in_wider_numbers(dtype):
    vectors = list(np.random.default_rng(0).standard_normal((3, 5000)).astype(dtype))
    out = np.empty(5000, np.float64)
    weighted_sum(vectors, [1.0, -0.5, 2.0], out)
    assert_allclose(out, np.array([1.0, -0.5, 2.0]) @ np.array(vectors, np.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_nothing(dtype):
    out = np.ones(5, dtype)
    weighted_sum([], [], out)
    assert_array_equal(out, np.zeros(5, dtype))


def test_sum_of_pieces_that_start_anywhere():
    """Vectors and result where a vector of the processor does not begin."""
    memory = np.arange(5000, dtype=np.float32)
    out = np.zeros(3000, np.float32)
    weighted_sum([memory[1:2002], memory[3:2004]], [2.0, 0.25], out[5:2006])
    assert_array_equal(out[5:2006], 2.0 * memory[1:2002] + 0.25 * memory[3:2004])
    assert not out[:5].any()
    assert not out[2006:].any()
