"""The simulator against the closed formulas of the LogGP model, and on links that are not all alike."""

from dataclasses import replace
from math import ceil, log, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from roundelay.collectives import simulate as simulator
from roundelay.collectives.algorithms import factors, ring, star, trees
from roundelay.collectives.links import Links
from roundelay.collectives.servers import Servers
from roundelay.collectives.simulate import chunk_sizes, simulate

KIB, MIB = 1 << 10, 1 << 20
# Latency, seconds per byte and overhead of networks from Wi-Fi to InfiniBand.
NETS = {
    "edge": Links(1e-3, 8 / 300e6, 5e-6, reduce_per_byte=1e-10),
    "wifi": Links(4e-3, 8 / 300e6, 5e-6, reduce_per_byte=1e-10),
    "cloud": Links(50e-6, 8 / 10e9, 1e-6, reduce_per_byte=5e-11),
    "infiniband": Links(1.5e-6, 8 / 100e9, 0.1e-6, reduce_per_byte=5e-11),
    "memory": Links(0.4e-6, 1 / 10e9, 0.0, reduce_per_byte=5e-11),
}
PARTS_OF_NODES = np.repeat(np.arange(4), 4)


def seconds(schedule, nbytes, links):
    return simulate(schedule, chunk_sizes(nbytes, schedule.chunks), links).seconds


def timeline(schedule, nbytes, links):
    return simulate(schedule, chunk_sizes(nbytes, schedule.chunks), links, timeline=True).timeline


def within_1_percent(value):
    return pytest.approx(value, rel=0.01)


class Formulas:
    """Times of the algorithms, for P ranks and n bytes: a of a message without bytes, m of one at a port."""

    def __init__(self, ranks, nbytes, links):
        self.P, self.n, self.links = ranks, nbytes, links
        self.a = links.latency + 2 * links.overhead
        self.G, self.reduce = links.per_byte, links.reduce_per_byte

    def m(self, nbytes):
        """Seconds of a port."""
        return max(self.links.gap, self.links.overhead, nbytes * self.G)

    def star(self):
        """To the hub and back."""
        return 2 * self.a + 2 * (self.P - 1) * self.m(self.n) + (self.P - 1) * self.n * self.reduce

    def multiplying(self, radix):
        """Groups of `radix` ranks; of all, the direct exchange."""
        steps = round(log(self.P, radix))
        return steps * (self.a + (radix - 1) * (self.m(self.n) + self.n * self.reduce))

    def doubling(self):
        """Recursive doubling."""
        one = self.a + self.n * self.G
        extra = 0 if log2(self.P).is_integer() else 2 * one + self.n * self.reduce
        return int(log2(self.P)) * (one + self.n * self.reduce) + extra

    def halving_doubling(self):
        """Rabenseifner's algorithm."""
        rounds = int(log2(self.P))
        f = 1 - 1 / 2**rounds  # of the ranks that are left when the others have sent to them
        extra = 0 if 2**rounds == self.P else 1
        wire = (2 * f + 2 * extra) * self.n * self.G
        return 2 * (rounds + extra) * self.a + wire + (f + extra) * self.n * self.reduce

    def by_factors(self, radices):
        """Reduce-scatter and allgather."""
        part, total = self.n, (1 - 1 / self.P) * self.n * self.reduce
        for radix in radices:
            part /= radix
            total += 2 * (self.a + (radix - 1) * self.m(part))
        return total

    def ring(self):
        """Reduce-scatter and allgather on a ring."""
        f = 1 - 1 / self.P
        return 2 * (self.P - 1) * self.a + f * self.n * (2 * self.G + self.reduce)

    def tree(self):
        """A binomial tree, up and down."""
        levels = ceil(log2(self.P))
        return 2 * levels * (self.a + self.n * self.G) + levels * self.n * self.reduce


def cases(sizes, in_parts=False):
    """Nets, ranks and sizes for algorithms of which a rank sends and receives many messages in one step.

    The formulas let a processor send and receive at a time, and count a whole `m` for the last message: they
    hold where each message, of all the data or one of as many parts as ranks, keeps the port busy for longer
    than the processor.
    """
    found = []
    for name, links in NETS.items():
        for ranks in (2, 3, 6, 8, 16, 24, 32):
            for size in sizes:
                nbytes = size // (8 * ranks) * 8 * ranks
                message = nbytes / ranks if in_parts else nbytes
                if message * links.per_byte >= 2 * links.overhead:
                    found.append(pytest.param(links, ranks, nbytes, id=f"{name}-{ranks}-{nbytes}"))
    return found


SMALL_TO_LARGE = [KIB, 32 * KIB, MIB]


@pytest.mark.parametrize(("links", "ranks", "nbytes"), cases(SMALL_TO_LARGE))
def test_star_and_direct_exchange(links, ranks, nbytes):
    formulas = Formulas(ranks, nbytes, links)
    assert seconds(star.star_allreduce(ranks), nbytes, links) == within_1_percent(formulas.star())
    direct = seconds(factors.recursive_multiplying(ranks, [ranks]), nbytes, links)
    assert direct == within_1_percent(formulas.multiplying(ranks))


@pytest.mark.parametrize(("links", "ranks", "nbytes"), cases([32 * KIB, MIB, 16 * MIB], in_parts=True))
def test_direct_exchange_of_parts(links, ranks, nbytes):
    found = seconds(factors.reduce_scatter_allgather(ranks, [ranks]), nbytes, links)
    assert found == within_1_percent(Formulas(ranks, nbytes, links).by_factors([ranks]))


DOUBLING = {
    factors.recursive_multiplying: Formulas.doubling,
    factors.reduce_scatter_allgather: Formulas.halving_doubling,
}


@pytest.mark.parametrize("links", NETS.values(), ids=NETS)
@pytest.mark.parametrize("size", [4 * KIB, 100 * KIB, 3 * MIB])
@pytest.mark.parametrize("ranks", [2, 3, 6, 7, 8, 15, 16, 24, 31, 32])
def test_one_message_a_step(links, ranks, size):
    nbytes = size // (32 * ranks) * 32 * ranks
    formulas, fewer = (Formulas(number, nbytes, links) for number in (ranks, 2 ** int(log2(ranks))))
    assert seconds(ring.ring_allreduce(ranks), nbytes, links) == within_1_percent(formulas.ring())
    for make, formula in DOUBLING.items():
        found = seconds(make(ranks, [2] * int(log2(ranks))), nbytes, links)
        if log2(ranks).is_integer() or ranks in (7, 15, 31):
            assert found == within_1_percent(formula(formulas))
        else:
            # The formula lets all ranks wait in every step for those that first hear from another rank. Here
            # some of these have neighbours whose messages are there already, and so gain a step.
            assert formula(fewer) < found <= formula(formulas) * (1 + 1e-9)


@pytest.mark.parametrize("links", NETS.values(), ids=NETS)
@pytest.mark.parametrize("nbytes", [KIB, 32 * KIB, MIB])
def test_binomial_tree(links, nbytes):
    for ranks in (2, 4, 8, 32, 64):
        found = seconds(trees.tree_allreduce(ranks), nbytes, links)
        assert found == within_1_percent(Formulas(ranks, nbytes, links).tree())
    for ranks in (3, 6, 7, 24, 31):
        # The formula is of a path that has a message in every level; these trees have none.
        fewer, more = (Formulas(number, nbytes, links).tree() for number in (2 ** int(log2(ranks)), ranks))
        assert fewer <= seconds(trees.tree_allreduce(ranks), nbytes, links) < more


@pytest.mark.parametrize("links", NETS.values(), ids=NETS)
@pytest.mark.parametrize(("ranks", "radix"), [(9, 3), (16, 4), (27, 3), (64, 8), (64, 4), (256, 16)])
def test_recursive_multiplying(links, ranks, radix):
    powers = [radix] * round(log(ranks, radix))
    for nbytes in (32 * KIB, MIB):
        found = seconds(factors.recursive_multiplying(ranks, powers), nbytes, links)
        assert found == within_1_percent(Formulas(ranks, nbytes, links).multiplying(radix))


@pytest.mark.parametrize("links", NETS.values(), ids=NETS)
@pytest.mark.parametrize("radices", [(2, 3), (3, 2), (4, 4), (2, 3, 5), (8, 2), (3, 3, 2)])
def test_reduce_scatter_and_allgather_by_factors(links, radices):
    ranks = int(np.prod(radices))
    nbytes = MIB // (8 * ranks) * 8 * ranks
    found = seconds(factors.reduce_scatter_allgather(ranks, radices), nbytes, links)
    assert found == within_1_percent(Formulas(ranks, nbytes, links).by_factors(radices))


@pytest.mark.parametrize("figures", [{"gap": 4e-6}, {"gap": 0.0, "overhead": 1e-6}], ids=["gap", "overhead"])
def test_many_short_messages_are_a_gap_apart(figures):
    # With this number of messages it makes no difference that the last one does not wait for a gap; and on
    # a link as long as this one nothing arrives before all is sent.
    links = Links(latency=2e-3, per_byte=1e-9, **figures)
    formulas = Formulas(512, 8, links)
    assert seconds(star.star_allreduce(512), 8, links) == within_1_percent(formulas.star())
    found = seconds(factors.recursive_multiplying(512, [512]), 8, links)
    assert found == within_1_percent(formulas.multiplying(512))


def test_processor_does_one_thing_at_a_time():
    links = Links(latency=0.0, per_byte=0.0, overhead=1e-6)
    found = seconds(factors.recursive_multiplying(64, [64]), 8, links)
    assert found == within_1_percent(2 * 63 * links.overhead)


def test_one_message():
    links = Links(latency=1e-3, per_byte=1e-8, overhead=1e-5, gap=1e-4)
    for nbytes in (8, MIB):
        assert seconds(star.star_bcast(2), nbytes, links) == pytest.approx(links.message(nbytes), rel=1e-12)


@pytest.mark.parametrize("segments", [1, 4, 16])
@pytest.mark.parametrize("latency", [1e-6, 1e-3])
def test_segments_follow_one_another_through_a_chain(segments, latency):
    links = Links(latency, 1e-9, overhead=1e-7, reduce_per_byte=5e-10)
    ranks, part = 8, MIB // segments
    down = seconds(trees.chain_bcast(ranks, 0, segments), MIB, links)
    up = seconds(trees.chain_reduce(ranks, 0, segments), MIB, links)
    wire, hops, behind = part * links.per_byte, ranks - 1, segments - 1
    assert down == within_1_percent(hops * links.message(part) + behind * wire)
    # While a segment is reduced, the next one is on the wire.
    reduction = part * links.reduce_per_byte
    assert up == within_1_percent(hops * (links.message(part) + reduction) + behind * wire)


def test_segments_hide_latency_and_reduction():
    links = replace(NETS["edge"], reduce_per_byte=NETS["edge"].per_byte)
    whole, cut = (seconds(ring.ring_allreduce(8, segments), 8 * MIB, links) for segments in (1, 16))
    least = 2 * 7 / 8 * 8 * MIB * links.per_byte
    assert least < cut < 1.1 * least
    assert whole > 1.4 * least


def test_both_directions_of_a_link():
    links = Links(latency=1e-6, per_byte=1e-8)
    # A port sends and receives at a time, but does not send more for having two neighbours.
    one, both = (
        seconds(make(8), MIB, links) for make in (ring.ring_allreduce, ring.bidirectional_ring_allreduce)
    )
    assert both == within_1_percent(one)


def test_shared_medium_carries_one_message_at_a_time():
    ranks, nbytes = 8, 64 * KIB
    links = Links(latency=1e-4, per_byte=8 / 300e6, shared=True)
    a, wire = links.latency, nbytes * links.per_byte
    expected = {
        star.star_allreduce(ranks): 2 * a + 2 * (ranks - 1) * wire,
        factors.recursive_multiplying(ranks, [ranks]): a + ranks * (ranks - 1) * wire,
        factors.reduce_scatter_allgather(ranks, [ranks]): 2 * a + 2 * (ranks - 1) * wire,
        factors.recursive_multiplying(ranks, [2, 2, 2]): 3 * (a + ranks * wire),
    }
    for schedule, time in expected.items():
        assert seconds(schedule, nbytes, links) == within_1_percent(time)


def by_node(inside, outside):
    same = PARTS_OF_NODES[:, np.newaxis] == PARTS_OF_NODES
    return np.where(same, inside, outside)


@pytest.mark.parametrize("shared", [False, True])
def test_ranks_of_a_node_share_its_port(shared):
    latency, per_byte = by_node(1e-6, 1e-3), by_node(1e-10, 1e-8)
    links = Links(latency, per_byte, ports=PARTS_OF_NODES, shared=shared)
    found = seconds(factors.recursive_multiplying(16, [16]), MIB, links)
    # Each of four ranks sends to twelve ranks of other nodes.
    through_one = 4 * 12 * MIB * 1e-8
    assert found == within_1_percent(1e-3 + through_one * (4 if shared else 1))


def test_messages_within_a_node_leave_its_port_alone():
    latency, per_byte = by_node(1e-6, 1e-3), by_node(1e-10, 1e-8)
    links = Links(latency, per_byte, ports=PARTS_OF_NODES, shared=True)
    inside = star.star_allreduce(4).on(range(4, 8), 16)
    alone = Links(1e-6, 1e-10)
    assert seconds(inside, MIB, links) == seconds(inside, MIB, alone)


def test_slow_link_is_paid_for_by_those_who_use_it():
    latency = np.full((8, 8), 1e-3)
    latency[2, 5] = 1e-2
    links, even = Links(latency, 1e-9), Links(1e-3, 1e-9)
    star_of_0 = star.star_allreduce(8, 0)
    assert seconds(star_of_0, KIB, links) == seconds(star_of_0, KIB, even)
    direct = factors.recursive_multiplying(8, [8])
    assert seconds(direct, KIB, links) == pytest.approx(1e-2, rel=0.01)
    messages = timeline(direct, KIB, links)
    late = messages.end > 5e-3
    assert list(zip(messages.source[late], messages.destination[late], strict=True)) == [(2, 5)]


@pytest.mark.parametrize("slow", [0, 1, 7])
def test_slow_host_is_no_good_hub(slow):
    per_byte = np.full((8, 8), 1e-9)
    per_byte[slow], per_byte[:, slow] = 1e-8, 1e-8
    links = Links(1e-5, per_byte)
    found = {hub: seconds(star.star_allreduce(8, hub), MIB, links) for hub in range(8)}
    # All messages of the slow hub are slow; of another one, one there and one back.
    assert found.pop(slow) == within_1_percent(2e-5 + 14 * MIB * 1e-8)
    assert list(found.values()) == [within_1_percent(2e-5 + 12 * MIB * 1e-9 + 2 * MIB * 1e-8)] * 7


def test_slow_processor():
    reduce_per_byte = np.full(8, 1e-10)
    reduce_per_byte[3] = 1e-8
    links = Links(1e-5, 1e-9, reduce_per_byte=reduce_per_byte)
    plain = replace(links, reduce_per_byte=1e-10)
    more = 7 * MIB * (1e-8 - 1e-10)
    for hub, extra in ((3, more), (4, 0.0)):
        schedule = star.star_allreduce(8, hub)
        assert seconds(schedule, MIB, links) == pytest.approx(seconds(schedule, MIB, plain) + extra, rel=1e-9)


def test_messages_are_served_as_they_arrive():
    latency = np.full((4, 4), 1e-3)
    latency[1, 0] = 1e-2
    messages = timeline(star.star_reduce(4), 1000, Links(latency, 1e-7))
    # That of rank 1 comes first in the order of the waves, and last to the hub.
    assert messages.source.tolist() == [1, 2, 3]
    assert messages.end == pytest.approx([1e-2 + 1e-4, 1e-3 + 1e-4, 1e-3 + 2e-4])


@pytest.mark.parametrize("schedule", [ring.ring_allreduce(6, 2), trees.double_tree_allreduce(6, 4)])
def test_timeline_has_all_messages(schedule):
    links = NETS["cloud"]
    sizes = chunk_sizes(6 * KIB, schedule.chunks)
    prediction = simulate(schedule, sizes, links, timeline=True)
    messages = prediction.timeline
    waves = [(step.lane, wave) for step in schedule for wave in step.waves]
    sent = sorted(
        (lane, *ends, sizes[chunk : chunk + length].sum())
        for lane, wave in waves
        for *ends, chunk, length, _ in zip(*map(np.ndarray.tolist, wave), strict=True)
    )
    columns = messages.lane, messages.source, messages.destination, messages.nbytes
    assert sorted(zip(*columns, strict=True)) == sent
    least = links.latency + 2 * links.overhead + messages.nbytes * links.per_byte
    assert np.all(messages.end - messages.start >= least * (1 - 1e-12))
    assert np.all(messages.start >= 0)
    assert messages.end.max() <= prediction.seconds
    for lane in range(schedule.lanes):
        in_lane = messages.lane == lane
        assert set(messages.step[in_lane]) == set(range(messages.step[in_lane].max() + 1))


def test_no_bytes_are_not_sent():
    links = NETS["cloud"]
    schedule = ring.ring_allreduce(8)
    assert simulate(schedule, np.zeros(8, int), links).seconds == 0.0
    assert len(timeline(schedule, 0, links).start) == 0
    one_item = simulate(schedule, chunk_sizes(8, 8, itemsize=8), links, timeline=True)
    assert len(one_item.timeline.start) == 2 * 7
    assert one_item.seconds == within_1_percent(14 * links.message(8) + 7 * 8 * links.reduce_per_byte)
    assert seconds(ring.ring_allreduce(1), MIB, links) == 0.0


def test_chunks_are_cut_at_items():
    assert chunk_sizes(80, 4, itemsize=8).tolist() == [16, 24, 16, 24]
    assert chunk_sizes(16, 4, itemsize=8).tolist() == [0, 8, 0, 8]
    assert chunk_sizes(1 << 40, 3, itemsize=1).sum() == 1 << 40


def test_the_same_every_time():
    rng = np.random.default_rng(1)
    links = Links(rng.random((12, 12)), rng.random((12, 12)), 0.01, 0.02, rng.random(12), np.arange(12) // 5)
    schedule = trees.double_tree_allreduce(12, 4)
    first, second = (simulate(schedule, range(schedule.chunks), links, timeline=True) for _ in range(2))
    assert first.seconds == second.seconds
    assert all(np.array_equal(one, other) for one, other in zip(first.timeline, second.timeline, strict=True))


def test_large_steps_are_computed_in_parts(monkeypatch):
    schedules = [
        factors.recursive_multiplying(24, [24]),
        star.star_allreduce(24),
        trees.tree_allreduce(24, 8),
    ]
    whole = [seconds(schedule, 24 * KIB, NETS["cloud"]) for schedule in schedules]
    monkeypatch.setattr(simulator, "_LARGEST_BLOCK", 50)
    parts = [seconds(schedule, 24 * KIB, NETS["cloud"]) for schedule in schedules]
    assert parts == pytest.approx(whole, rel=1e-12)


@given(
    some.lists(some.tuples(some.integers(0, 3), some.integers(0, 20), some.integers(0, 5)), min_size=1),
    some.lists(some.integers(0, 20), min_size=4, max_size=4),
)
def test_servers_serve_in_the_order_of_arrival(messages, free):
    servers = Servers(4)
    servers.free[:] = free
    who, arrival, busy = np.array(messages).T
    found = servers.serve(who, arrival.astype(float), busy.astype(float))
    expected = [0.0] * len(messages)
    for number in sorted(range(len(messages)), key=lambda number: arrival[number]):
        expected[number] = max(arrival[number], free[who[number]])
        free[who[number]] = expected[number] + busy[number]
    assert found.tolist() == expected
    assert servers.free.tolist() == free


@pytest.mark.parametrize(
    ("make", "nbytes", "formula"),
    [
        (ring.ring_allreduce, 32 * MIB, Formulas.ring),
        (lambda ranks: factors.recursive_multiplying(ranks, [2] * 12), MIB, Formulas.doubling),
        (
            lambda ranks: factors.recursive_multiplying(ranks, [ranks]),
            32 * KIB,
            lambda each: each.multiplying(4096),
        ),
        (trees.tree_allreduce, MIB, Formulas.tree),
        (star.star_allreduce, MIB, Formulas.star),
    ],
    ids=["ring", "recursive-doubling", "direct", "tree", "star"],
)
def test_4096_ranks(make, nbytes, formula):
    links = NETS["cloud"]
    assert seconds(make(4096), nbytes, links) == within_1_percent(formula(Formulas(4096, nbytes, links)))


@pytest.mark.parametrize(
    ("links", "sizes", "message"),
    [
        (Links(1.0, 1.0), [8] * 3, r"sizes of shape \(3,\): expected \(4,\)"),
        (Links(np.ones((3, 3)), 1.0), [8] * 4, r"latency of shape \(3, 3\): expected .*\(4, 4\)"),
        (Links(1.0, np.ones(4)), [8] * 4, r"per_byte of shape \(4,\)"),
        (Links(1.0, 1.0, reduce_per_byte=np.ones(5)), [8] * 4, "reduce_per_byte of shape"),
        (Links(1.0, 1.0, ports=np.zeros(5, int)), [8] * 4, "ports of shape"),
    ],
)
def test_links_and_sizes_of_something_else(links, sizes, message):
    with pytest.raises(ValueError, match=message):
        simulate(ring.ring_allreduce(4), sizes, links)
