"""Whatever makes a communicator gives one of ours, which is one of mpi4py's, too."""

import copy
import pickle

import numpy as np
import pytest
from mpi4py import MPI as PLAIN

from roundelay import MPI

pytestmark = pytest.mark.mpi

MAKERS = {
    "Dup": lambda comm: comm.Dup(),
    "Clone": lambda comm: comm.Clone(),
    "Split": lambda comm: comm.Split(comm.rank % 2, comm.rank),
    "Split_type": lambda comm: comm.Split_type(MPI.COMM_TYPE_SHARED),
    "Create": lambda comm: comm.Create(comm.Get_group()),
    "Create_group": lambda comm: comm.Create_group(comm.Get_group()),
    "Create_cart": lambda comm: comm.Create_cart([comm.size]),
    "Create_graph": lambda comm: comm.Create_graph(
        list(range(1, comm.size + 1)), [(rank + 1) % comm.size for rank in range(comm.size)]
    ),
    "Create_dist_graph": lambda comm: comm.Create_dist_graph([comm.rank], [1], [(comm.rank + 1) % comm.size]),
    "Create_dist_graph_adjacent": lambda comm: comm.Create_dist_graph_adjacent([comm.rank], [comm.rank]),
}
KINDS = {
    "Create_cart": "Cartcomm",
    "Create_graph": "Graphcomm",
    "Create_dist_graph": "Distgraphcomm",
    "Create_dist_graph_adjacent": "Distgraphcomm",
}


@pytest.mark.parametrize("name", MAKERS)
def test_makers(comm, name):
    made = MAKERS[name](comm)
    kind = KINDS.get(name, "Intracomm")
    assert type(made) is getattr(MPI, kind)
    assert isinstance(made, getattr(PLAIN, kind))
    column = np.arange(12.0).reshape(4, 3)
    made.Sendrecv(column[:, 0], made.rank, 0, column[:, 2], made.rank, 0)
    assert (column[:, 0] == column[:, 2]).all()
    made.Free()


def test_sub_of_a_grid(comm):
    grid = comm.Create_cart([comm.size, 1])
    line = grid.Sub([True, False])
    assert type(line) is MPI.Cartcomm
    line.Free()
    grid.Free()


def test_nonblocking_dup(comm):
    made, request = comm.Idup()
    request.Wait()
    assert type(made) is MPI.Intracomm
    made.Free()


@pytest.mark.mpi(min_size=2)
def test_intercommunicator_and_merge(comm):
    color = comm.rank % 2
    local = comm.Split(color, comm.rank)
    inter = local.Create_intercomm(0, comm, 1 - color)
    assert type(inter) is MPI.Intercomm
    peer = min(local.rank, inter.remote_size - 1)
    if local.rank < min(local.size, inter.remote_size):
        received = np.zeros((3, 2))
        inter.Sendrecv(np.arange(6.0)[::2] + comm.rank, peer, 0, received[:, 1], peer, 0)
        assert (received[:, 1] == np.arange(0, 6, 2) + comm.rank + (1 if color == 0 else -1)).all()
    merged = inter.Merge()
    assert type(merged) is MPI.Intracomm
    for made in (merged, inter, local):
        made.Free()


def test_mpi4pys_own_objects_are_instances_of_ours():
    assert isinstance(PLAIN.COMM_WORLD, MPI.Intracomm)
    assert isinstance(PLAIN.DOUBLE, MPI.Datatype)
    assert isinstance(PLAIN.REQUEST_NULL, MPI.Request)
    assert not isinstance(PLAIN.COMM_WORLD, MPI.Cartcomm)
    assert issubclass(MPI.Cartcomm, PLAIN.Cartcomm)


def test_a_subclass_of_ours_has_only_its_own_instances(comm):
    class Mine(MPI.Intracomm):
        pass

    mine = Mine(comm)
    assert isinstance(mine, Mine)
    assert not isinstance(comm, Mine)
    again = mine.Dup()
    assert type(again) is Mine
    again.Free()


def test_predefined_objects_are_not_freed():
    for constant in (MPI.COMM_WORLD, MPI.COMM_SELF, MPI.DOUBLE, MPI.REQUEST_NULL):
        handle = constant.handle
        constant.free()
        assert constant.handle == handle
    assert MPI.COMM_WORLD == PLAIN.COMM_WORLD
    assert MPI.DOUBLE.Get_size() == 8


def test_all_names_of_mpi4py_are_there():
    missing = {name for name in vars(PLAIN) if not hasattr(MPI, name)} - {"__test__"}
    assert not missing
    assert vars(MPI)["_typedict"]["d"] == MPI.DOUBLE
    assert vars(MPI)["_sizeof"](MPI.COMM_WORLD) == vars(PLAIN)["_sizeof"](PLAIN.COMM_WORLD)


@pytest.mark.parametrize("kind", ["Comm", "Intracomm", "Cartcomm", "Intercomm", "Message"])
def test_the_module_of_a_class_passes_for_that_of_mpi4py(kind):
    """petsc4py looks at nothing else before it accepts a communicator."""
    ours = getattr(MPI, kind)
    module = ours.__module__
    for name in ("mpi4py.MPI", MPI.__name__):
        assert (module == name, name == module, module != name, name != module) == (True, True, False, False)
    assert (module == "mpi4py", module != "mpi4py", module == 1) == (False, True, False)
    assert repr(ours) == f"<class '{MPI.__name__}.{kind}'>"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, vars(pickle)["_dumps"]], ids=["C", "Python"])
def test_pickle_finds_our_classes_and_constants(protocol, dumps):
    """By the module that has them, and not by mpi4py's, whose name theirs equals."""
    things = [MPI.Comm, MPI.Intracomm, MPI.Message, MPI.COMM_WORLD, MPI.COMM_SELF, MPI.MESSAGE_NULL]
    again = pickle.loads(dumps(things, protocol))
    assert [type(thing) for thing in again] == [type(thing) for thing in things]
    assert all(one is other for one, other in zip(again, things, strict=True))
    assert copy.deepcopy(MPI.COMM_WORLD) is MPI.COMM_WORLD


def test_pickle():
    assert pickle.loads(pickle.dumps(MPI.COMM_WORLD)) is MPI.COMM_WORLD
    assert pickle.loads(pickle.dumps(MPI.DOUBLE)) is MPI.DOUBLE
    vector = MPI.DOUBLE.Create_vector(3, 1, 2)
    again = pickle.loads(pickle.dumps(vector))
    assert again.decode()[1:] == vector.decode()[1:]
    vector.Free()
    again.Free()


def test_attributes_and_names(comm):
    keyval = MPI.Comm.Create_keyval()
    comm.Set_attr(keyval, {"some": "thing"})
    assert comm.Get_attr(keyval) == {"some": "thing"}
    comm.Delete_attr(keyval)
    MPI.Comm.Free_keyval(keyval)
    comm.Set_name("mine")
    assert comm.Get_name() == "mine"


def test_one_sided_passes_through(comm):
    memory = np.zeros(4)
    window = MPI.Win.Create(memory, 8, comm=comm)
    window.Fence()
    window.Put(np.full(1, comm.rank + 1.0), (comm.rank + 1) % comm.size, 2)
    window.Fence()
    assert memory[2] == (comm.rank - 1) % comm.size + 1
    window.Free()


def test_partitioned_passes_through(comm):
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    received = np.zeros(4)
    try:
        send = comm.Psend_init(np.arange(4.0), 2, right, 7)
    except NotImplementedError:
        pytest.skip("the MPI library has no partitioned operations")
    receive = comm.Precv_init(received, 2, left, 7)
    MPI.Prequest.Startall([receive, send])
    send.Pready_range(0, 1)
    MPI.Request.Waitall([receive, send])
    assert (received == np.arange(4.0)).all()
    send.Free()
    receive.Free()
