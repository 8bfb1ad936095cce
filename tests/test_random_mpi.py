"""Random datatypes between ranks, with the layer on both sides or on one of them only."""

from itertools import count as count_up
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from mpi4py import MPI as PLAIN

from roundelay import MPI
from tests.trees import arena, bounds, build, draw_pair, release, walk_pack, walk_unpack

pytestmark = pytest.mark.usefixtures("engine")

ROUNDS = 2
SIDES = ["both", "sender", "receiver"]


def share(comm, layered):
    """Give the module and the communicator for a rank with the layer, or for one without it."""
    return (MPI, comm) if layered else (PLAIN, PLAIN.Intracomm(comm))


class Message:
    """Memory on this rank for instances of a datatype."""

    def __init__(self, tree, count, module, seed):
        self.tree, self.count = tree, count
        self.datatype = build(tree, module)
        self.memory, self.origin = arena(self.datatype, count, seed)
        self.specification = [self.memory[self.origin :], count, self.datatype]

    def fill(self, seed):
        """Put new data in."""
        self.memory[:] = arena(self.datatype, self.count, seed)[0]

    def pack(self):
        """Give what is to be sent of it."""
        return walk_pack(self.tree, self.count, self.memory, self.origin)

    def expect(self, packed):
        """Give the memory as it shall be after this was received."""
        expected = self.memory.copy()
        walk_unpack(self.tree, self.count, packed, expected, self.origin)
        return expected

    def differ(self, expected):
        """Name this in a list if its memory, gaps included, is not as expected."""
        return [] if np.array_equal(self.memory, expected) else [f"{self.count} of {self.tree!r}"]

    def free(self):
        """Free the datatype."""
        release(self.datatype)


def pack_elsewhere(tree, count, seed):
    """Give what another rank packs from its arena: every rank can draw it."""
    message = Message(tree, count, PLAIN, seed)
    packed = message.pack()
    message.free()
    return packed


def operate(comm, kind, arguments, before, after):
    """Run one operation of the given kind ROUNDS times, with ``before`` and ``after`` each."""
    start = getattr(comm, kind)
    prepared = start(*arguments) if kind.endswith("_init") else None
    for number in range(ROUNDS):
        before(number)
        if prepared is not None:
            prepared.Start()
        request = start(*arguments) if prepared is None else prepared
        if request is not None:
            request.Wait()
        after(number)
    if prepared is not None:
        prepared.Free()


def exchange(comm, module, seed, send, recv):
    """Send a random tree from rank 0, receive it in another on rank 1, and name what arrived wrong."""
    wrong = []
    sent, received = draw_pair(seed, overlap=seed % 2 == 0)
    count = Random(seed).randint(0, 3)
    if comm.rank == 0:
        message = Message(sent, count, module, seed)
        operate(comm, send, (message.specification, 1, 5), lambda n: message.fill(seed + n), lambda _: None)
        message.free()
    else:
        message = Message(received, count, module, seed)
        expected = []

        def prepare(number):
            message.fill(~seed & 0xFFFF)
            expected.append(message.expect(pack_elsewhere(sent, count, seed + number)))

        def compare(number):
            wrong.extend(message.differ(expected[number]))

        operate(comm, recv, (message.specification, 0, 5), prepare, compare)
        message.free()
    return wrong


@pytest.mark.mpi(min_size=2, max_size=2)
@pytest.mark.parametrize("layer", SIDES)
@pytest.mark.parametrize("recv", ["Recv", "Irecv", "Recv_init"])
@pytest.mark.parametrize("send", ["Send", "Isend", "Send_init", "Ssend"])
def test_point_to_point(comm, send, recv, layer):
    module, mine = share(comm, layer == "both" or layer == ("sender", "receiver")[comm.rank % 2])
    wrong = [exchange(mine, module, seed, send, recv) for seed in range(40)]
    assert not any(wrong), wrong


@pytest.mark.mpi(min_size=2, max_size=2)
@pytest.mark.parametrize("layer", SIDES)
def test_sendrecv(comm, layer):
    """Each rank of a pair sends one tree and receives another, in both directions at once."""
    module, mine = share(comm, layer == "both" or layer == ("sender", "receiver")[comm.rank % 2])
    peer, wrong = 1 - comm.rank, []
    for seed in range(60):
        outgoing = Message(draw_pair(2 * seed + comm.rank)[0], 2, module, seed)
        incoming = Message(draw_pair(2 * seed + peer)[1], 2, module, seed + 1)
        expected = incoming.expect(pack_elsewhere(draw_pair(2 * seed + peer)[0], 2, seed))
        status = module.Status()
        mine.Sendrecv(outgoing.specification, peer, 3, incoming.specification, peer, 3, status)
        wrong += incoming.differ(expected)
        if (status.source, status.tag, status.Get_count(incoming.datatype)) != (peer, 3, 2):
            wrong.append(f"seed {seed}: the status is not that of the message")
        outgoing.free()
        incoming.free()
    assert not wrong


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("layer", SIDES)
@pytest.mark.parametrize("kind", ["Bcast", "Ibcast"])
def test_bcast(comm, kind, layer):
    """The root sends from one tree, every other rank receives in its own."""
    wrong = []
    for seed in range(30):
        root = seed % comm.size
        module, mine = share(comm, layer == "both" or (layer == "sender") == (comm.rank == root))
        sent, received = draw_pair(seed)
        message = Message(sent if comm.rank == root else received, 2, module, seed)
        expected = message.memory.copy()
        if comm.rank != root:
            expected = message.expect(pack_elsewhere(sent, 2, seed))
        request = getattr(mine, kind)(message.specification, root)
        if request is not None:
            request.Wait()
        wrong += message.differ(expected)
        message.free()
    assert not wrong


class Messages:
    """Memory on this rank for a datatype from or to each rank, one after another."""

    def __init__(self, trees, count, module, seed):
        self.parts = [Message(tree, count, module, seed + peer) for peer, tree in enumerate(trees)]
        self.ends = np.cumsum([0, *(len(part.memory) for part in self.parts)]).tolist()
        self.memory = np.concatenate([part.memory for part in self.parts])
        origins = [end + part.origin for end, part in zip(self.ends, self.parts, strict=False)]
        counts = [count] * len(trees)
        self.specification = [self.memory, counts, origins, [part.datatype for part in self.parts]]

    def expect(self, packed):
        """Give the memory as it shall be after this was received."""
        return [part.expect(data) for part, data in zip(self.parts, packed, strict=True)]

    def differ(self, expected):
        """Name those whose memory, gaps included, is not as expected."""
        for part, (start, end) in zip(self.parts, pairwise(self.ends), strict=True):
            part.memory[:] = self.memory[start:end]
        return [name for part, data in zip(self.parts, expected, strict=True) for name in part.differ(data)]

    def free(self):
        """Free the datatypes."""
        for part in self.parts:
            part.free()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("layer", ["all", "even ranks", "odd ranks"])
@pytest.mark.parametrize("kind", ["Alltoallw", "Ialltoallw"])
def test_alltoallw(comm, kind, layer):
    """Each pair of ranks has trees of its own."""
    module, mine = share(comm, layer == "all" or layer == ("even ranks", "odd ranks")[comm.rank % 2])
    rank, size = comm.rank, comm.size

    def pair(seed, source, target):
        # Open MPI 5.0.11 takes several instances with a negative extent for nothing to send or receive.
        drawn = (draw_pair(1000 * seed + 10 * source + target + 1_000_000 * retry) for retry in count_up())
        return next(trees for trees in drawn if min(bounds(tree)[1] for tree in trees) > 0)

    wrong = []
    for seed in range(50 // size):
        count = seed % 3
        sending = Messages([pair(seed, rank, peer)[0] for peer in range(size)], count, module, 50 * rank)
        receiving = Messages([pair(seed, peer, rank)[1] for peer in range(size)], count, module, 7)
        packed = [pack_elsewhere(pair(seed, peer, rank)[0], count, 50 * peer + rank) for peer in range(size)]
        expected = receiving.expect(packed)
        request = getattr(mine, kind)(sending.specification, receiving.specification)
        if request is not None:
            request.Wait()
        wrong += receiving.differ(expected)
        sending.free()
        receiving.free()
    assert not wrong
