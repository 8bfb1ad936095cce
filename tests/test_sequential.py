"""Sequential codes: every job is decoded in time, and rightly, whoever straggles as the model allows."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from roundelay.collectives.coding.catalogue import scheme
from roundelay.collectives.coding.cyclic import cyclic_repetition
from roundelay.collectives.coding.multiplexed import Multiplexed
from roundelay.collectives.coding.selective import SelectiveRepeat, repeated_stragglers
from roundelay.collectives.coding.stragglers import Arbitrary, Bursty, PerRound

PATTERNS = 10_000
ROUNDS = 5
# Workers, burst, window and most, of cyclic codes, of repetition, and of such as have digits after the point.
SELECTIVE = [(6, 1, 3, 6), (5, 2, 3, 4), (5, 3, 4, 2)]
MULTIPLEXED = [(4, 1, 2, 2), (5, 1, 2, 5), (4, 2, 3, 3)]
# Of more workers, with fewer patterns.
LARGE = [("sr-sgc", 12, 2, 5, 7), ("sr-sgc", 12, 1, 4, 8), ("m-sgc", 12, 2, 3, 5), ("m-sgc", 11, 1, 2, 11)]


def sequential(name, workers, burst, window, most):
    return scheme(name, workers, burst=burst, window=window, stragglers=most)


# Patterns, as the models are defined --------------------------------------------------------------


def is_bursty(patterns, burst, window, most):
    """Which of (patterns, rounds, workers) keep the model, from its definition."""
    fits = np.ones(len(patterns), bool)
    for first in range(max(1, patterns.shape[1] - window + 1)):
        fits &= patterns[:, first : first + window].any(axis=1).sum(axis=1) <= most
    for apart in range(burst, min(window, patterns.shape[1])):
        fits &= ~(patterns[:, apart:] & patterns[:, :-apart]).any(axis=(1, 2))
    return fits


def is_arbitrary(patterns, times, window, most):
    fits = np.ones(len(patterns), bool)
    for first in range(max(1, patterns.shape[1] - window + 1)):
        seen = patterns[:, first : first + window]
        fits &= (seen.any(axis=1).sum(axis=1) <= most) & (seen.sum(axis=1).max(axis=1) <= times)
    return fits


def is_either(patterns, burst, window, most):
    """Whether the rounds of each job of M-SGC keep one of its models."""
    slots = window - 1 + burst
    fits = np.ones(len(patterns), bool)
    for first in range(max(1, patterns.shape[1] - slots + 1)):
        seen = patterns[:, first : first + slots]
        fits &= is_bursty(seen, burst, window, most) | is_arbitrary(seen, burst, slots, most)
    return fits


def is_per_round(patterns, burst, window, most):
    return (patterns.sum(axis=2) <= repeated_stragglers(burst, window, most)).all(axis=1)


def conforming(rng, count, shape, fits):
    """Random patterns that fit: to half of them no straggler can be added."""
    patterns = np.zeros((count, *shape), bool)
    cells = rng.permuted(np.tile(np.arange(shape[0] * shape[1]), (count, 1)), axis=1)
    tried = np.where(rng.random(count) < 0.5, cells.shape[1], rng.integers(0, cells.shape[1], count))
    flat, every = patterns.reshape(count, -1), np.arange(count)
    for place, column in enumerate(cells.T):
        flat[every, column] = place < tried
        flat[every, column] &= fits(patterns)
    return patterns


# Rounds, as the runtime runs them -----------------------------------------------------------------


class Training:
    """Results that came, and the check that what is combined of them is the sum over all partitions."""

    def __init__(self, scheme_, jobs):
        self.scheme, self.jobs = scheme_, jobs
        self.progress = scheme_.start(jobs)
        # Weights of the partitions in the vector of a worker's slot.
        self.vectors = np.zeros((scheme_.workers, scheme_.slots, len(scheme_.partitions)))
        self.tasks = {}

    @property
    def rounds(self):
        """How many there are."""
        return self.jobs + self.scheme.delay

    def start(self, turn, worker):
        """Compute the tasks of a worker in a round."""
        tasks = self.progress.tasks(turn, worker)
        for task in tasks:
            # A vector is found by its worker and slot: what is computed again is the same.
            same = self.tasks.setdefault((worker, task.slot), task)
            assert same.partitions == task.partitions
            if same is task:
                self.vectors[worker, task.slot, list(task.partitions)] = task.weights[:, 0]
        return tasks

    def decode(self, job):
        """Whether a job can be decoded; if it can, it is decoded rightly."""
        combination = self.progress.combine(job)
        if combination is None:
            return False
        workers, slots, weights = zip(*combination.terms, strict=True)
        total = np.array(weights)[:, 0] @ self.vectors[workers, slots]
        assert abs(total - 1).max() < 1e-6
        self.progress.forget(job)
        return True


def decoded_in_time(scheme_, pattern, jobs=None):
    """Which jobs are decoded in their round, all results of workers that are not missing having come."""
    jobs = len(pattern) - scheme_.delay if jobs is None else jobs
    training = Training(scheme_, jobs)
    found = []
    for turn, missing in enumerate(pattern):
        started = [(worker, training.start(turn, worker)) for worker in range(scheme_.workers)]
        for worker, tasks in started:
            for task in tasks if not missing[worker] else ():
                assert training.progress.receive(worker, task.job, task.slot)
        if turn >= scheme_.delay:
            found.append(training.decode(turn - scheme_.delay))
    return found


def widest(pattern, rng, workers):
    """A round of as many workers as a pattern allows, taken in random order."""
    missing = np.zeros(workers, bool)
    for worker in rng.permutation(workers).tolist():
        missing[worker] = True
        missing[worker] = pattern.allows(missing)
    return missing


def allowed(scheme_, rng, rounds):
    """Rounds whose stragglers the scheme's own pattern allows."""
    pattern, rows = scheme_.pattern(), []
    for _ in range(rounds):
        missing = widest(pattern, rng, scheme_.workers) & (
            rng.random(scheme_.workers) < rng.choice([0.5, 1.0])
        )
        assert pattern.allows(missing)
        pattern.close(missing)
        rows.append(missing)
    return np.array(rows)


# Every job is decoded in time ---------------------------------------------------------------------


def check(scheme_, patterns):
    for pattern in patterns:
        assert all(decoded_in_time(scheme_, pattern)), pattern.astype(int)


@pytest.mark.parametrize("parameters", SELECTIVE)
def test_selective_repeat_decodes(parameters):
    """Bursts, some in each round, and both with rounds that do not count."""
    rng, scheme_ = np.random.default_rng(parameters), sequential("sr-sgc", *parameters)
    workers, *model = parameters
    for fits in (lambda p: is_bursty(p, *model), lambda p: is_per_round(p, *model)):
        check(scheme_, conforming(rng, PATTERNS // 5 * 2, (ROUNDS, workers), fits))
    check(scheme_, (allowed(scheme_, rng, ROUNDS) for _ in range(PATTERNS // 5)))


@pytest.mark.parametrize("parameters", MULTIPLEXED)
def test_multiplexed_decodes(parameters):
    """Bursts, rounds as they come, and jobs of one and the other."""
    rng, scheme_ = np.random.default_rng(parameters), sequential("m-sgc", *parameters)
    workers, burst, window, most = parameters
    arbitrary = burst, window + burst - 1, most
    for count, fits in (
        (PATTERNS // 5 * 2, lambda p: is_bursty(p, burst, window, most)),
        (PATTERNS // 5, lambda p: is_arbitrary(p, *arbitrary)),
        (PATTERNS // 5, lambda p: is_either(p, burst, window, most)),
    ):
        check(scheme_, conforming(rng, count, (ROUNDS, workers), fits))
    check(scheme_, (allowed(scheme_, rng, ROUNDS) for _ in range(PATTERNS // 5)))


@pytest.mark.parametrize("case", LARGE)
def test_more_workers(case):
    rng, scheme_ = np.random.default_rng(case[1:]), sequential(*case)
    _, workers, *model = case
    check(scheme_, conforming(rng, 100, (12, workers), lambda p: is_bursty(p, *model)))
    check(scheme_, (allowed(scheme_, rng, 12) for _ in range(100)))


@pytest.mark.parametrize("parameters", SELECTIVE)
def test_all_stragglers_are_in_the_end(parameters):
    """Rounds after the last job: only what is repeated is computed."""
    scheme_ = sequential("sr-sgc", *parameters)
    training = Training(scheme_, 3)
    for turn in range(3):
        for worker in range(scheme_.workers):
            assert [task.job for task in training.start(turn, worker)] == [turn]
            training.progress.receive(worker, turn, 0)
    for turn in range(3, training.rounds):
        assert not any(training.start(turn, worker) for worker in range(scheme_.workers))


# Just outside of the model ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("burst", "window", "stragglers"), [(1, 2, 1), (1, 3, 2), (2, 3, 1), (2, 5, 2), (3, 4, 3)]
)
def test_selective_repeat_stands_no_more(burst, window, stragglers):
    """One straggler more than there may be in a window, and one that straggles when it repeats."""
    times = (window - 1) // burst
    # Of a prime number of workers: no two partitions are on the same ones, and the code stands no more.
    most, workers = stragglers * (times + 1), 11
    scheme_ = SelectiveRepeat(cyclic_repetition(workers, stragglers), burst, window, most)
    rounds = (times + 2) * burst + 1
    too_many = np.zeros((rounds, workers), bool)
    too_many[0, : most + 1] = True
    assert not scheme_.model.conforms(too_many)
    assert all(decoded_in_time(scheme_, too_many))
    # One is still to repeat when those of the first round may straggle again.
    too_many[(times + 1) * burst, 0] = True
    assert not all(decoded_in_time(scheme_, too_many))
    too_many[0, most] = False
    assert scheme_.model.conforms(too_many)
    assert all(decoded_in_time(scheme_, too_many))

    too_long = np.zeros((rounds, workers), bool)
    too_long[0, : stragglers + 1] = too_long[burst, 0] = True
    assert not scheme_.model.conforms(too_long)
    assert not all(decoded_in_time(scheme_, too_long))
    pattern = scheme_.pattern()
    for missing in too_long[:burst]:
        assert pattern.allows(missing)
        pattern.close(missing)
    assert not pattern.allows(too_long[burst])


@pytest.mark.parametrize(("burst", "window", "most"), [(1, 2, 2), (2, 3, 1), (1, 4, 0), (3, 4, 3), (2, 4, 5)])
def test_multiplexed_stands_no_more(burst, window, most):
    """One straggler more in the round of a coded group, and one more round of a straggler, whichever."""
    workers = 7
    code = cyclic_repetition(workers, most)
    scheme_ = Multiplexed(workers, burst, window, most, code)
    for group in range(burst):
        pattern = np.zeros((scheme_.slots, workers), bool)
        pattern[window - 1 + group, : most + 1] = True
        assert not scheme_.pattern().allows(pattern[window - 1 + group])
        assert decoded_in_time(scheme_, pattern) == [False]
        pattern[window - 1 + group, 0] = False
        assert decoded_in_time(scheme_, pattern) == [True]
    rng = np.random.default_rng(0)
    for _ in range(20):
        pattern = np.zeros((scheme_.slots, workers), bool)
        late = rng.permutation(scheme_.slots)[: burst + 1]
        pattern[late, 3] = True
        assert decoded_in_time(scheme_, pattern) == [False]
        pattern[late[0], 3] = False
        assert decoded_in_time(scheme_, pattern) == [most > 0]


def test_all_but_one_may_straggle_if_nothing_is_coded():
    scheme_ = sequential("m-sgc", 4, 1, 2, 4)
    pattern = np.zeros((6, 4), bool)
    pattern[::2] = True
    assert all(decoded_in_time(scheme_, pattern))
    pattern[1, 2] = True
    assert not all(decoded_in_time(scheme_, pattern))


# Models and patterns ------------------------------------------------------------------------------


@pytest.mark.parametrize(("burst", "window", "most"), [(1, 2, 1), (1, 3, 2), (2, 3, 2), (2, 4, 3), (3, 4, 1)])
def test_models_are_as_defined(burst, window, most):
    """All patterns of three workers in four rounds."""
    every = (np.arange(1 << 12)[:, np.newaxis] >> np.arange(12) & 1).astype(bool).reshape(-1, 4, 3)
    for model, expected in (
        (Bursty(burst, window, most), is_bursty(every, burst, window, most)),
        (Arbitrary(burst, window, most), is_arbitrary(every, burst, window, most)),
        (PerRound(most), (every.sum(axis=2) <= most).all(axis=1)),
    ):
        assert [model.conforms(pattern) for pattern in every] == expected.tolist()

    scheme_ = sequential("m-sgc", 3, burst, window, most)
    expected = is_either(every, burst, window, most)
    for shown, fits in zip(every, expected, strict=True):
        pattern, found = scheme_.pattern(), True
        for missing in shown:
            found &= pattern.allows(missing)
            pattern.close(missing)
        assert found == fits


@pytest.mark.parametrize(
    "parameters", [("sr-sgc", *each) for each in SELECTIVE] + [("m-sgc", *each) for each in MULTIPLEXED]
)
def test_fewer_stragglers_are_allowed_too(parameters):
    """Before and after: neither the round nor those that follow are worse off with fewer of them."""
    scheme_ = sequential(*parameters)
    rng = np.random.default_rng(parameters[1:])
    for _ in range(100):
        more, fewer = scheme_.pattern(), scheme_.pattern()
        for _ in range(ROUNDS):
            missing = widest(more, rng, scheme_.workers)
            subset = missing & (rng.random(scheme_.workers) < 0.8)
            assert more.allows(subset)
            assert fewer.allows(subset)
            assert not more.allows(np.ones(scheme_.workers, bool)) or missing.all()
            more.close(missing)
            fewer.close(subset)


def test_some_in_each_round_never_count():
    """As many as the code stands in each round, whoever they are, and a burst after them."""
    scheme_ = sequential("sr-sgc", 9, 1, 2, 6)
    pattern = scheme_.pattern()
    for turn in range(5):
        missing = np.zeros(9, bool)
        missing[turn : turn + 3] = True
        assert pattern.allows(missing)
        pattern.close(missing)
    missing[:] = [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert pattern.allows(missing)


# Loads --------------------------------------------------------------------------------------------

PUBLISHED = [
    ("m-sgc", 256, 1, 2, 27, 0.007543, 1),
    ("m-sgc", 256, 1, 2, 24, 0.007512, 1),
    ("m-sgc", 256, 1, 2, 9, 0.007102, 1),
    ("sr-sgc", 256, 2, 3, 23, 0.050781, 2),
    ("sr-sgc", 256, 4, 9, 22, 0.035156, 4),
]


@pytest.mark.parametrize(("name", "workers", "burst", "window", "most", "load", "delay"), PUBLISHED)
def test_published_loads(name, workers, burst, window, most, load, delay):
    scheme_ = sequential(name, workers, burst, window, most)
    assert round(float(scheme_.load), 6) == load
    assert scheme_.delay == delay


@pytest.mark.parametrize(
    "case",
    [("sr-sgc", *each) for each in SELECTIVE] + [("m-sgc", *each) for each in MULTIPLEXED] + LARGE,
)
def test_loads_are_those_of_the_tasks(case):
    """The work of a full round is that of the published formula, to the last digit."""
    name, n, burst, window, most = case
    scheme_ = sequential(*case)
    formula = {
        "sr-sgc": Fraction(repeated_stragglers(burst, window, most) + 1, n),
        "m-sgc": Fraction((most + 1) * (window - 1 + burst), n * (burst + (window - 1) * (most + 1)))
        if most < n
        else Fraction(window - 1 + burst, n * (window - 1)),
    }[name]
    assert scheme_.loads == (formula,) * n
    assert scheme_.load == formula
    sizes = [each.stop - each.start for each in scheme_.partitions]
    # Without stragglers nobody has to repeat: where nothing is coded, the slots for that stay empty.
    pattern = np.zeros((2 * scheme_.delay + 3, n), bool)
    computed = loads_of_rounds(scheme_, pattern, sizes)
    repeats = burst if name == "m-sgc" and most == n else 0
    assert computed[scheme_.delay + 1] == [formula * (scheme_.slots - repeats) / scheme_.slots] * n


def loads_of_rounds(scheme_, pattern, sizes):
    training = Training(scheme_, len(pattern))
    found = []
    for turn in range(len(pattern)):
        loads = []
        for worker in range(scheme_.workers):
            tasks = training.start(turn, worker)
            assert {p for task in tasks for p in task.partitions} <= set(scheme_.placement[worker])
            loads.append(sum((sizes[p] for task in tasks for p in task.partitions), Fraction(0)))
            for task in tasks:
                training.progress.receive(worker, task.job, task.slot)
        found.append(loads)
    return found


@pytest.mark.parametrize(
    "case",
    [("sr-sgc", *each) for each in SELECTIVE] + [("m-sgc", *each) for each in MULTIPLEXED] + LARGE,
)
def test_load_is_never_exceeded(case):
    scheme_ = sequential(*case)
    rng = np.random.default_rng(case[1:])
    sizes = [each.stop - each.start for each in scheme_.partitions]
    for _ in range(20):
        training = Training(scheme_, ROUNDS)
        for turn, missing in enumerate(allowed(scheme_, rng, ROUNDS)):
            for worker in range(scheme_.workers):
                tasks = training.start(turn, worker)
                assert sum(sizes[p] for task in tasks for p in task.partitions) <= scheme_.loads[worker]
                for task in tasks if not missing[worker] else ():
                    training.progress.receive(worker, task.job, task.slot)


@pytest.mark.parametrize("case", LARGE + [("m-sgc", *each) for each in MULTIPLEXED])
def test_partitions_have_all_data_once(case):
    scheme_ = sequential(*case)
    partitions = scheme_.partitions
    assert (partitions[0].start, partitions[-1].stop) == (0, 1)
    assert [each.stop for each in partitions[:-1]] == [each.start for each in partitions[1:]]
    assert [each.number for each in partitions] == list(range(len(partitions)))
    for count in (0, 1, 10, 997):
        rows = [row for each in partitions for row in range(count)[each.rows(count)]]
        assert rows == list(range(count))
    assert {p for held in scheme_.placement for p in held} == set(range(len(partitions)))


# Results that come late, twice, or never ----------------------------------------------------------


@pytest.mark.parametrize("case", [("sr-sgc", 6, 1, 2, 4), ("m-sgc", 6, 1, 2, 3), ("m-sgc", 6, 1, 2, 6)])
def test_late_results_count_once(case):
    scheme_ = sequential(*case)
    training = Training(scheme_, 4)
    for worker in range(1, scheme_.workers):
        for task in training.start(0, worker):
            assert training.progress.receive(worker, task.job, task.slot)
    (own,) = training.start(0, 0)
    # It comes after its round: what was to be repeated is not any more.
    assert training.progress.receive(0, own.job, own.slot)
    assert not training.progress.receive(0, own.job, own.slot)
    assert [task.job for task in training.start(1, 0) if (task.job, task.slot) == (0, own.slot)] == []
    assert training.progress.combine(1) is None
    for turn in range(1, scheme_.delay + 1):
        for worker in range(scheme_.workers):
            for task in training.start(turn, worker):
                training.progress.receive(worker, task.job, task.slot)
    assert training.decode(0)
    assert not training.progress.receive(0, 0, own.slot)
    assert not training.progress.receive(0, 7, 0)


FUZZED = [
    *(("sr-sgc", *each) for each in ((4, 1, 2, 2), (5, 1, 2, 3), (6, 2, 3, 4), (5, 1, 3, 3))),
    *(("m-sgc", *each) for each in ((4, 1, 2, 1), (5, 1, 2, 5), (4, 2, 3, 2), (5, 1, 3, 2))),
]


@pytest.mark.parametrize("case", FUZZED)
def test_any_delivery(case):
    """Late, reordered, doubled and lost: in time if the stragglers are allowed, and never another sum."""
    scheme_ = sequential(*case)
    for seed in range(10_000 // len(FUZZED)):
        deliver(scheme_, np.random.default_rng(seed), is_allowed=seed % 2 == 0)


def deliver(scheme_, rng, is_allowed):
    """One training; late results come before or after workers start a round, and workers start one by one."""
    training, pattern = Training(scheme_, 4), scheme_.pattern()
    under_way: list[Any] = []
    received, open_jobs = set(), set(range(4))

    def receive(worker, task):
        key = worker, task.job, task.slot
        assert training.progress.receive(*key) == (task.job in open_jobs and key not in received)
        received.add(key)

    for turn in range(training.rounds):
        missing = widest(pattern, rng, scheme_.workers)
        if not is_allowed:
            missing = rng.random(scheme_.workers) < 0.4
        for worker in rng.permutation(scheme_.workers).tolist():
            for late in [each for each in under_way if rng.random() < 0.15]:
                receive(*late)
                # It may come once more.
                if rng.random() < 0.5:
                    under_way = [each for each in under_way if each is not late]
            for task in training.start(turn, worker):
                if missing[worker]:
                    under_way.append((worker, task))
                else:
                    receive(worker, task)
        pattern.close(missing)
        due = turn - scheme_.delay
        if due >= 0:
            is_decoded = training.decode(due)
            assert is_decoded or not is_allowed
            if is_decoded:
                open_jobs.discard(due)


# Parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sr-sgc", {"burst": 2, "window": 4, "stragglers": 3}, "burst 2, window 4: .* divides window - 1"),
        ("sr-sgc", {"burst": 3, "window": 3, "stragglers": 3}, "burst 3, window 3"),
        ("sr-sgc", {"burst": 0, "window": 3, "stragglers": 3}, "burst 0"),
        ("sr-sgc", {"burst": 1, "window": 2, "stragglers": -1}, "-1 stragglers"),
        ("sr-sgc", {"burst": 1, "window": 2, "stragglers": 9}, "9 stragglers: .* 8 workers"),
        ("m-sgc", {"burst": 2, "window": 2, "stragglers": 3}, "burst 2, window 2: .* burst < window"),
        ("m-sgc", {"burst": 0, "window": 2, "stragglers": 3}, "burst 0, window 2"),
        ("m-sgc", {"burst": 1, "window": 2, "stragglers": 9}, "9 stragglers: .* 8 workers"),
        ("m-sgc", {"burst": 1, "window": 2, "stragglers": -2}, "-2 stragglers"),
        ("gc", {"stragglers": 8}, "8 stragglers of 8 workers"),
        ("gc", {"stragglers": -1}, "-1 stragglers of 8 workers"),
        ("gc", {}, "gc: needs stragglers"),
        ("gc", {"stragglers": 1, "burst": 1}, "gc: needs stragglers"),
        ("uncoded", {"window": 2}, "uncoded: needs no parameters"),
        ("rs", {}, "scheme 'rs': expected one of uncoded, gc, sr-sgc, m-sgc"),
    ],
)
def test_wrong_parameters_are_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        scheme(name, 8, **parameters)


def test_codes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"stands 1 stragglers.* needs a code for 2"):
        SelectiveRepeat(cyclic_repetition(8, 1), 1, 2, 4)
    with pytest.raises(ValueError, match="needs a code for 3 stragglers"):
        Multiplexed(8, 1, 2, 3, None)
    with pytest.raises(ValueError, match="M-SGC needs one for 8 and 3"):
        Multiplexed(8, 1, 2, 3, cyclic_repetition(7, 3))
    with pytest.raises(ValueError, match="0 workers"):
        scheme("uncoded", 0)
