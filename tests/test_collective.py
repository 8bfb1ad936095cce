"""Every collective, with arrays that have gaps and with datatypes, beside mpi4py alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import MPI
from roundelay.comm.interposer import library_alone
from tests.memory_order import as_received, as_sent

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("engine")]

FORMS = ["blocking", "nonblocking", "persistent"]
ROUNDS = 3


@dataclass
class Call:
    """A collective on this rank.

    Parameters
    ----------
    send, receive
        Contiguous arrays, None where this rank has none.
    arguments
        Gives the arguments for these arrays, or for others of the same shapes.
    named
        The arguments that are given by name.
    """

    send: Any
    receive: Any
    arguments: Callable[[Any, Any], tuple[Any, ...]]
    named: dict[str, Any] = field(default_factory=dict)

    def prepare(self, comm, name, form, send, receive):
        """Give what runs the collective once, with these arrays, and what ends it."""
        arguments = self.arguments(send, receive)
        if form == "blocking":
            return lambda: getattr(comm, name)(*arguments, **self.named), lambda: None
        if form == "nonblocking":
            return lambda: getattr(comm, f"I{name.lower()}")(*arguments, **self.named).Wait(), lambda: None
        request = getattr(comm, f"{name}_init")(*arguments, **self.named)

        def start():
            request.Start()
            request.Wait()

        return start, request.Free


def block(*shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


def only(condition, array):
    return array if condition else None


def uneven(ranks):
    """Counts for blocks that lie four elements apart, and their places; one in three is empty."""
    return [(i + 1) % 3 for i in range(ranks)], [4 * i for i in range(ranks)]


def bcast(comm, root):
    here = comm.rank == root
    return Call(
        only(here, block(4, 3)), only(not here, block(4, 3)), lambda s, r: (s if here else r,), {"root": root}
    )


def gather(comm, root):
    return Call(block(3), only(comm.rank == root, block(comm.size, 3)), lambda s, r: (s, r, root))


def scatter(comm, root):
    send = only(comm.rank == root, block(comm.size, 3))
    return Call(send, block(3), lambda s, r: (s, r), {"root": root})


def allgather(comm, root):
    return Call(block(3), block(comm.size, 3), lambda s, r: (s, r))


def alltoall(comm, root):
    return Call(block(comm.size, 2), block(comm.size, 2), lambda s, r: (s, r))


def gatherv(comm, root):
    counts, places = uneven(comm.size)
    here = comm.rank == root
    return Call(
        block(counts[comm.rank]),
        only(here, block(comm.size, 4)),
        lambda s, r: (s, [r, (counts, places), MPI.DOUBLE] if here else None),
        {"root": root},
    )


def scatterv(comm, root):
    counts, places = uneven(comm.size)
    here = comm.rank == root
    return Call(
        only(here, block(comm.size, 4)),
        block(counts[comm.rank]),
        lambda s, r: ([s, counts, places, MPI.DOUBLE] if here else None, r, root),
    )


def allgatherv(comm, root):
    counts, places = uneven(comm.size)
    return Call(block(counts[comm.rank]), block(comm.size, 4), lambda s, r: (s, (r, (counts, places), "d")))


def pair_counts(comm):
    return [(comm.rank + j) % 4 for j in range(comm.size)], [4 * j for j in range(comm.size)]


def alltoallv(comm, root):
    counts, places = pair_counts(comm)
    return Call(
        block(comm.size, 4),
        block(comm.size, 4),
        lambda s, r: ([s, counts, places, MPI.DOUBLE], [r, (counts, places), MPI.DOUBLE]),
    )


def alltoallw(comm, root):
    counts, places = pair_counts(comm)
    places = [8 * place for place in places]
    types = [MPI.DOUBLE] * comm.size
    return Call(
        block(comm.size, 4),
        block(comm.size, 4),
        lambda s, r: ([s, counts, places, types], (r, (counts, places), types)),
    )


def reduce(comm, root):
    receive = only(comm.rank == root, block(4, 3))
    return Call(block(4, 3), receive, lambda s, r: (s, r, MPI.SUM, root))


def allreduce(comm, root):
    return Call(block(4, 3), block(4, 3), lambda s, r: (s, r), {"op": MPI.MAX})


def reduce_scatter_block(comm, root):
    return Call(block(comm.size, 3), block(3), lambda s, r: (s, r, MPI.SUM))


def reduce_scatter(comm, root):
    counts = [1 + i % 3 for i in range(comm.size)]
    return Call(block(sum(counts)), block(counts[comm.rank]), lambda s, r: (s, r, counts, MPI.SUM))


def scan(comm, root):
    return Call(block(4, 3), block(4, 3), lambda s, r: (s, r))


COLLECTIVES = {
    "Bcast": bcast,
    "Gather": gather,
    "Gatherv": gatherv,
    "Scatter": scatter,
    "Scatterv": scatterv,
    "Allgather": allgather,
    "Allgatherv": allgatherv,
    "Alltoall": alltoall,
    "Alltoallv": alltoallv,
    "Alltoallw": alltoallw,
    "Reduce": reduce,
    "Allreduce": allreduce,
    "Reduce_scatter_block": reduce_scatter_block,
    "Reduce_scatter": reduce_scatter,
    "Scan": scan,
    "Exscan": scan,
}


def neighbor_allgather(comm, root):
    return Call(block(3), block(comm.indegree, 3), lambda s, r: (s, r))


def neighbor_allgatherv(comm, root):
    counts, places = [2] * comm.indegree, [3 * i for i in range(comm.indegree)]
    return Call(block(2), block(comm.indegree, 3), lambda s, r: (s, [r, (counts, places), MPI.DOUBLE]))


def neighbor_alltoall(comm, root):
    return Call(block(comm.outdegree, 3), block(comm.indegree, 3), lambda s, r: (s, r))


def neighbor_alltoallv(comm, root):
    into, out = range(comm.indegree), range(comm.outdegree)
    return Call(
        block(comm.outdegree, 3),
        block(comm.indegree, 4),
        lambda s, r: (
            [s, ([2] * len(out), [3 * i for i in out]), MPI.DOUBLE],
            [r, [2] * len(into), [4 * i + 1 for i in into], MPI.DOUBLE],
        ),
    )


def neighbor_alltoallw(comm, root):
    into, out = range(comm.indegree), range(comm.outdegree)
    return Call(
        block(comm.outdegree, 3),
        block(comm.indegree, 4),
        lambda s, r: (
            [s, ([2] * len(out), [24 * i for i in out]), [MPI.DOUBLE] * len(out)],
            [r, [2] * len(into), [32 * i + 8 for i in into], [MPI.DOUBLE] * len(into)],
        ),
    )


NEIGHBOR_COLLECTIVES = {
    "Neighbor_allgather": neighbor_allgather,
    "Neighbor_allgatherv": neighbor_allgatherv,
    "Neighbor_alltoall": neighbor_alltoall,
    "Neighbor_alltoallv": neighbor_alltoallv,
    "Neighbor_alltoallw": neighbor_alltoallw,
}


# Arrays with gaps

# Each gives memory with gaps, from the shape of what is to be seen of it, and the view.
LAYOUTS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "contiguous": lambda shape: (memory := np.full(shape, -1.0), memory),
    "every other": lambda shape: (memory := np.full((*shape, 2), -1.0), memory[..., 1]),
    "backwards": lambda shape: (memory := np.full((*shape[:-1], shape[-1] + 2), -1.0), memory[..., -2:0:-1]),
    "columns first": lambda shape: (
        memory := np.full((*shape[1:], shape[0] + 1), -1.0),
        np.moveaxis(memory, -1, 0)[1:],
    ),
}


def place(layout, array):
    """Give memory in which an array is laid out with gaps, and the view; of None, None."""
    if array is None:
        return None, None
    memory, view = LAYOUTS[layout](array.shape)
    view[...] = array
    return memory, view


def compare(comm, name, form, make, layouts):
    """Run a collective on arrays with gaps, and with mpi4py alone on contiguous ones, from every root."""
    plain = type(comm).plain(comm)
    for root in {0, comm.size - 1}:
        call = make(comm, root)
        memory, view = place(layouts[0], call.send)
        received, into = place(layouts[1], call.receive)
        send: Any = None if call.send is None else call.send.copy()
        receive: Any = None if call.receive is None else call.receive.copy()
        run, end = call.prepare(comm, name, form, view, into)
        with library_alone():
            run_plain, end_plain = call.prepare(plain, name, form, send, receive)
        for round_ in range(ROUNDS if form == "persistent" else 1):
            if call.send is not None:
                view[...] = call.send + 100 * comm.rank + 1000 * round_
                send[...] = as_sent(view).reshape(send.shape)
            if call.receive is not None:
                into[...] = call.receive - 100 * comm.rank - 500 - round_
                receive[...] = as_sent(into).reshape(receive.shape)
            before = None if memory is None else memory.copy()
            with library_alone():
                run_plain()
            run()
            if call.receive is not None:
                expected, _ = place(layouts[1], as_received(into, receive))
                assert_array_equal(received, expected, f"{layouts}, root {root}, round {round_}")
            if call.send is not None:
                assert_array_equal(memory, before)
        end()
        end_plain()


GAPS = [
    ("every other", "contiguous"),
    ("contiguous", "every other"),
    ("every other", "backwards"),
    ("columns first", "columns first"),
    ("backwards", "every other"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", COLLECTIVES)
def test_arrays_with_gaps(comm, name, form):
    for layouts in GAPS:
        compare(comm, name, form, COLLECTIVES[name], layouts)


TOPOLOGIES = ["line", "ring", "grid", "graph", "distributed", "adjacent"]


@pytest.fixture(params=TOPOLOGIES)
def topology(comm, request):
    """A communicator in which ranks have neighbours; some have none, or are their own."""
    size, rank = comm.size, comm.rank
    if request.param in ("line", "ring"):
        made = comm.Create_cart([size], periods=[request.param == "ring"])
    elif request.param == "grid":
        dims = MPI.Compute_dims(size, 2)
        made = comm.Create_cart(dims, periods=[False, True])
    elif request.param == "graph":
        # A star: everyone beside the first one.
        edges = [*range(1, size), *[0] * (size - 1)]
        made = comm.Create_graph([0, *(size - 1 + i for i in range(size))], edges)
    elif request.param == "distributed":
        # To oneself and to everyone who comes later.
        later = list(range(rank, size))
        made = comm.Create_dist_graph([rank], [len(later)], later)
    else:
        # To oneself, and to the next one twice.
        following, previous = (rank + 1) % size, (rank - 1) % size
        made = comm.Create_dist_graph_adjacent([previous, rank, previous], [following, rank, following])
    yield made
    made.Free()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NEIGHBOR_COLLECTIVES)
def test_neighbours_and_arrays_with_gaps(topology, name, form):
    """Where there is no neighbour, at the end of a line, the buffer keeps what it holds."""
    for layouts in GAPS:
        compare(topology, name, form, NEIGHBOR_COLLECTIVES[name], layouts)


@pytest.mark.parametrize("form", FORMS)
def test_collectives_of_a_topology(topology, form):
    for name, make in COLLECTIVES.items():
        compare(topology, name, form, make, ("every other", "every other"))


# In place


# The arguments after the send buffer, for a receive buffer with three elements for each of some ranks.
IN_PLACE: dict[str, Callable[[int, Any], list[Any]]] = {
    "Allgather": lambda size, r: [r],
    "Allgatherv": lambda size, r: [[r, ([2] * size, [3 * i for i in range(size)]), "d"]],
    "Alltoall": lambda size, r: [r],
    "Alltoallv": lambda size, r: [[r, [2] * size, [3 * i for i in range(size)], "d"]],
    "Alltoallw": lambda size, r: [[r, ([2] * size, [24 * i for i in range(size)]), [MPI.DOUBLE] * size]],
    "Allreduce": lambda size, r: [r],
    "Reduce_scatter_block": lambda size, r: [r],
    "Reduce_scatter": lambda size, r: [r, [3] * size],
    "Scan": lambda size, r: [r],
    "Exscan": lambda size, r: [r],
}


@pytest.mark.parametrize("buffer", [MPI.IN_PLACE, None], ids=["IN_PLACE", "None"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(comm, name, form, buffer):
    def make(comm, root):
        return Call(None, block(comm.size, 3), lambda s, r: (buffer, *IN_PLACE[name](comm.size, r)))

    for layout in ("every other", "backwards", "columns first"):
        compare(comm, name, form, make, ("contiguous", layout))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Gather", "Gatherv", "Reduce"])
def test_in_place_at_the_root_that_receives(comm, name, form):
    def make(comm, root):
        here = comm.rank == root
        vector = ([2] * comm.size, [3 * i for i in range(comm.size)])
        send = block(comm.size, 3) if name == "Reduce" else block(3)[: 2 if name == "Gatherv" else 3]
        into = (lambda r: [r, vector, MPI.DOUBLE]) if name == "Gatherv" else (lambda r: r)
        if here:
            return Call(None, block(comm.size, 3), lambda s, r: (MPI.IN_PLACE, into(r)), {"root": root})
        return Call(send, None, lambda s, r: (s, None), {"root": root})

    for layout in ("every other", "columns first"):
        compare(comm, name, form, make, (layout, layout))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Scatter", "Scatterv"])
def test_in_place_at_the_root_that_sends(comm, name, form):
    def make(comm, root):
        vector = ([2] * comm.size, [3 * i for i in range(comm.size)])
        out = (lambda s: [s, vector, MPI.DOUBLE]) if name == "Scatterv" else (lambda s: s)
        if comm.rank == root:
            return Call(block(comm.size, 3), None, lambda s, r: (out(s), MPI.IN_PLACE), {"root": root})
        return Call(None, block(3)[: 2 if name == "Scatterv" else 3], lambda s, r: (None, r), {"root": root})

    for layout in ("every other", "backwards"):
        compare(comm, name, form, make, (layout, layout))


# Datatypes


@pytest.fixture
def types():
    """Two datatypes of three doubles, laid out differently in a space of six."""
    vector, indexed = MPI.DOUBLE.Create_vector(3, 1, 2), MPI.DOUBLE.Create_indexed([1, 2], [4, 1])
    both = [datatype.Create_resized(0, 48).Commit() for datatype in (vector, indexed)]
    vector.Free()
    indexed.Free()
    yield both
    for datatype in both:
        datatype.Free()


def doubles(instances):
    """Give memory for instances of these datatypes."""
    return block(instances, 6)


def typed_gather(comm, root, s, r):
    here = comm.rank == root
    receive = only(here, doubles(2 * comm.size))
    return Call(doubles(2), receive, lambda a, b: ([a, 2, s], [b, 2, r] if here else None, root))


def typed_scatter(comm, root, s, r):
    here = comm.rank == root
    return Call(
        only(here, doubles(2 * comm.size)), doubles(2), lambda a, b: ([a, s] if here else None, [b, r], root)
    )


def typed_bcast(comm, root, s, r):
    here = comm.rank == root
    return Call(
        only(here, doubles(3)),
        only(not here, doubles(3)),
        lambda a, b: ([a, 3, s] if here else (b, 3, r),),
        {"root": root},
    )


def typed_gatherv(comm, root, s, r):
    here, (counts, _) = comm.rank == root, uneven(comm.size)
    places = [3 * i for i in range(comm.size)]
    return Call(
        doubles(2),
        only(here, doubles(3 * comm.size)),
        lambda a, b: ([a, counts[comm.rank], s], [b, counts, places, r] if here else None),
        {"root": root},
    )


def typed_scatterv(comm, root, s, r):
    here, (counts, _) = comm.rank == root, uneven(comm.size)
    places = [3 * (comm.size - 1 - i) for i in range(comm.size)]
    return Call(
        only(here, doubles(3 * comm.size)),
        doubles(2),
        lambda a, b: ([a, (counts, places), s] if here else None, [b, counts[comm.rank], r], root),
    )


def typed_allgather(comm, root, s, r):
    return Call(doubles(2), doubles(2 * comm.size), lambda a, b: ([a, 2, s], [b, r]))


def typed_allgatherv(comm, root, s, r):
    counts, _ = uneven(comm.size)
    places = [3 * i + 1 for i in range(comm.size)]
    return Call(
        doubles(2), doubles(3 * comm.size), lambda a, b: ([a, counts[comm.rank], s], [b, (counts, places), r])
    )


def typed_alltoall(comm, root, s, r):
    return Call(doubles(comm.size), doubles(comm.size), lambda a, b: ([a, s], [b, 1, r]))


def typed_alltoallv(comm, root, s, r):
    counts = [(comm.rank + j) % 3 for j in range(comm.size)]
    places = [3 * j for j in range(comm.size)]
    return Call(
        doubles(3 * comm.size),
        doubles(3 * comm.size),
        lambda a, b: ([a, counts, places, s], [b, (counts, places), r]),
    )


def typed_alltoallw(comm, root, s, r):
    """A datatype may be received as its elements, and the other way round."""
    ranks = range(comm.size)
    # Between any two ranks, both sides agree on how many doubles are exchanged.
    instances = [(comm.rank + j) % 3 for j in ranks]
    out = [s if (comm.rank - j) % 2 else MPI.DOUBLE for j in ranks]
    into = [r if j % 2 else MPI.DOUBLE for j in ranks]
    sent, received = (
        [n * (3 if datatype is MPI.DOUBLE else 1) for n, datatype in zip(instances, side, strict=True)]
        for side in (out, into)
    )
    places = [144 * j for j in ranks]
    return Call(
        doubles(3 * comm.size),
        doubles(3 * comm.size),
        lambda a, b: ([a, sent, places, out], [b, (received, places), into]),
    )


TYPED = {
    "Bcast": typed_bcast,
    "Gather": typed_gather,
    "Gatherv": typed_gatherv,
    "Scatter": typed_scatter,
    "Scatterv": typed_scatterv,
    "Allgather": typed_allgather,
    "Allgatherv": typed_allgatherv,
    "Alltoall": typed_alltoall,
    "Alltoallv": typed_alltoallv,
    "Alltoallw": typed_alltoallw,
}


def neighbor_typed_allgather(comm, root, s, r):
    return Call(doubles(2), doubles(2 * comm.indegree), lambda a, b: ([a, 2, s], [b, 2, r]))


def neighbor_typed_allgatherv(comm, root, s, r):
    counts, places = [2] * comm.indegree, [3 * i for i in range(comm.indegree)]
    return Call(doubles(2), doubles(3 * comm.indegree), lambda a, b: ([a, 2, s], [b, (counts, places), r]))


def neighbor_typed_alltoall(comm, root, s, r):
    return Call(doubles(2 * comm.outdegree), doubles(2 * comm.indegree), lambda a, b: ([a, 2, s], [b, 2, r]))


def neighbor_typed_alltoallv(comm, root, s, r):
    out, into = comm.outdegree, comm.indegree
    return Call(
        doubles(3 * out),
        doubles(4 * into),
        lambda a, b: (
            [a, [2] * out, [3 * i for i in range(out)], s],
            [b, ([2] * into, [4 * i + 1 for i in range(into)]), r],
        ),
    )


def neighbor_typed_alltoallw(comm, root, s, r):
    out, into = comm.outdegree, comm.indegree
    return Call(
        doubles(3 * out),
        doubles(4 * into),
        lambda a, b: (
            [a, [2] * out, [144 * i for i in range(out)], [s] * out],
            [b, ([2] * into, [192 * i + 48 for i in range(into)]), [r] * into],
        ),
    )


NEIGHBOR_TYPED = {
    "Neighbor_allgather": neighbor_typed_allgather,
    "Neighbor_allgatherv": neighbor_typed_allgatherv,
    "Neighbor_alltoall": neighbor_typed_alltoall,
    "Neighbor_alltoallv": neighbor_typed_alltoallv,
    "Neighbor_alltoallw": neighbor_typed_alltoallw,
}


def compare_typed(comm, name, form, make, types):
    """Run a collective on datatypes, with the layer and with mpi4py alone, on the same memory."""

    def with_types(send, receive):
        def make_call(comm, root):
            return make(comm, root, send, receive)

        return make_call

    for send, receive in (types, types[::-1]):
        compare(comm, name, form, with_types(send, receive), ("contiguous", "contiguous"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TYPED)
def test_datatypes(comm, name, form, types):
    compare_typed(comm, name, form, TYPED[name], types)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TYPED)
def test_datatypes_on_one_side(comm, name, form, types):
    """The other one takes doubles that follow one another."""
    three = MPI.DOUBLE.Create_contiguous(3).Commit()
    padded = three.Create_resized(0, 48).Commit()
    for other in (padded, types[0]):
        for pair in ((types[1], other), (other, types[1])):
            compare_typed(comm, name, form, TYPED[name], pair)
    three.Free()
    padded.Free()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NEIGHBOR_TYPED)
def test_neighbours_and_datatypes(topology, name, form, types):
    compare_typed(topology, name, form, NEIGHBOR_TYPED[name], types)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Allgather", "Allgatherv", "Alltoall", "Alltoallv", "Alltoallw"])
def test_datatypes_in_place(comm, name, form, types):
    size = comm.size
    into: dict[str, Callable[[Any, Any], list[Any]]] = {
        "Allgather": lambda r, t: [r, 2, t],
        "Allgatherv": lambda r, t: [r, ([2] * size, [3 * i for i in range(size)]), t],
        "Alltoall": lambda r, t: [r, 2, t],
        "Alltoallv": lambda r, t: [r, [2] * size, [3 * i for i in range(size)], t],
        "Alltoallw": lambda r, t: [r, ([2] * size, [144 * i for i in range(size)]), [t] * size],
    }
    for datatype in types:

        def make(comm, root, datatype=datatype):
            receive = doubles(3 * size) + comm.rank
            return Call(None, receive, lambda s, r: (MPI.IN_PLACE, into[name](r, datatype)))

        compare(comm, name, form, make, ("contiguous", "contiguous"))


@pytest.mark.parametrize("form", FORMS)
def test_bottom_in_a_collective(comm, form):
    """Each rank exchanges with every other one data at absolute addresses."""
    size = comm.size
    sent, received = np.arange(size * 10.0).reshape(size, 10) + 100 * comm.rank, np.full((size, 10), -1.0)
    out = [
        MPI.DOUBLE.Create_hindexed([2, 3], [MPI.Get_address(row[:1]), MPI.Get_address(row[5:6])]).Commit()
        for row in sent
    ]
    into = [MPI.DOUBLE.Create_hindexed([5], [MPI.Get_address(row[4:5])]).Commit() for row in received]
    ones, zeros = [1] * size, [0] * size
    arguments = [MPI.BOTTOM, ones, zeros, out], [MPI.BOTTOM, (ones, zeros), into]
    call = Call(None, None, lambda s, r: arguments)
    run, end = call.prepare(comm, "Alltoallw", form, None, None)
    run()
    end()
    expected = np.full((size, 10), -1.0)
    expected[:, 4:9] = [np.array([0, 1, 5, 6, 7]) + 10 * comm.rank + 100 * rank for rank in range(size)]
    assert_array_equal(received, expected)
    for datatype in out + into:
        datatype.Free()


# Other forms of arguments


def test_arguments_by_name(comm):
    memory = np.full((comm.size, 4), -1.0)
    comm.Allgather(recvbuf=memory[:, 1], sendbuf=np.array([comm.rank + 0.5]))
    assert_array_equal(memory[:, 1], np.arange(comm.size) + 0.5)
    assert (memory[:, [0, 2, 3]] == -1).all()
    comm.Bcast(buf=memory[::-1, 3], root=comm.size - 1)
    comm.Reduce(sendbuf=memory[:, 1], recvbuf=memory[:, 0], root=0, op=MPI.MIN)
    if comm.rank == 0:
        assert_array_equal(memory[:, 0], np.arange(comm.size) + 0.5)


def test_lists_with_arrays_with_gaps(comm):
    """A count, a datatype or a code, in collectives that divide the array and in those that do not."""
    size = comm.size
    memory = np.full((size, 3, 2), -1.0)
    sent = np.arange(6.0) + comm.rank
    comm.Allgather([sent[::2], MPI.DOUBLE], [memory[..., 0], 3, MPI.DOUBLE])
    assert_array_equal(memory[..., 0], np.arange(0, 6, 2) + np.arange(size)[:, None])
    comm.Allreduce([sent[::2], 2, "d"], [memory[0, :, 1], 2, "d"], MPI.SUM)
    assert_array_equal(memory[0, :2, 1], np.array([0, 2]) * size + sum(range(size)))
    assert memory[0, 2, 1] == -1
    comm.Bcast([memory[0, :, 0], "d"], size - 1)


def test_reductions_of_every_kind(comm):
    """Pairs for MINLOC, logical and bitwise operations, one of the program's own."""
    size, rank = comm.size, comm.rank
    numbers = np.arange(12, dtype=np.int32) * (rank + 1)
    found = np.full((6, 3), -1, np.int32)
    comm.Allreduce(numbers[::2], found[:, 1], MPI.BXOR)
    expected = np.bitwise_xor.reduce([np.arange(0, 12, 2) * (i + 1) for i in range(size)])
    assert_array_equal(found[:, 1], expected)

    def add_scaled(one: Any, other: Any, datatype: MPI.Datatype) -> None:
        sums = np.frombuffer(other, np.int32)
        sums += 2 * np.frombuffer(one, np.int32)

    operation = MPI.Op.Create(add_scaled, commute=False)
    gathered = comm.allgather(numbers[::-3])
    comm.Allreduce(numbers[::-3], found[:4, 2], operation)
    total = gathered[-1].copy()
    for part in gathered[-2::-1]:
        total += 2 * part
    if size <= 2:
        assert_array_equal(found[:4, 2], total)
    operation.Free()
    pairs = np.zeros((4, 2), np.dtype([("value", "f8"), ("place", "i4")], align=True))
    pairs["value"], pairs["place"] = rank, rank
    least = np.zeros((4, 2), pairs.dtype)
    comm.Allreduce([pairs[:, 1], 4, MPI.DOUBLE_INT], [least[:, 0], 4, MPI.DOUBLE_INT], MPI.MAXLOC)
    assert_array_equal(least["place"][:, 0], [size - 1] * 4)
    assert not least["place"][:, 1].any()


def test_several_at_once(comm):
    """Nonblocking collectives with arrays with gaps, which are completed in the other order."""
    memory = np.full((5, comm.size, 3), -1.0)
    requests = [
        comm.Iallgather(np.array([10.0 * i + comm.rank]), memory[i, :, 1]) for i in range(memory.shape[0])
    ]
    for request in reversed(requests):
        request.Wait()
    expected = 10 * np.arange(5)[:, None] + np.arange(comm.size)
    assert_array_equal(memory[..., 1], expected)
    assert (memory[..., ::2] == -1).all()


def test_large_arrays(comm):
    memory = np.full((comm.size, 300, 400), -1.0)
    comm.Allgather(np.full((300, 800), float(comm.rank))[:, ::4], memory[:, :, 1::2])
    assert (memory[:, :, 1::2] == np.arange(comm.size)[:, None, None]).all()
    assert (memory[:, :, ::2] == -1).all()
