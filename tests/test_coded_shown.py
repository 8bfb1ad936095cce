"""Memory that ranks of a node show each other, and trainings that use it, and that do without."""

import contextlib
import gc
import os
import resource

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from roundelay import coding
from roundelay.collectives.coding.shown import NodeMemory, NotShown

pytestmark = pytest.mark.mpi(min_size=2)

needs_files = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no files in memory without a name")


@needs_files
def test_arrays_are_seen_by_all_and_change(comm):
    memory = NodeMemory(comm)
    assert memory.seers == frozenset(range(comm.size)) - {comm.rank}
    mine = memory.room(80).view(np.int64)
    mine[...] = np.arange(10) + comm.rank
    places = comm.allgather(memory.shown(mine, (comm.rank + 1) % comm.size))
    for rank in memory.seers:
        seen = memory.look(places[rank]).view(np.int64)
        assert_array_equal(seen, np.arange(10) + rank)
        with pytest.raises(ValueError, match="read-only"):
            seen[0] = 1
    comm.Barrier()
    mine[...] = -comm.rank
    comm.Barrier()
    assert all((memory.look(places[rank]).view(np.int64) == -rank).all() for rank in memory.seers)


@needs_files
def test_what_is_not_there_any_more_is_not_taken_for_something_else(comm):
    memory = NodeMemory(comm)
    mine = memory.room(8)
    places = comm.allgather(memory.shown(mine, (comm.rank + 1) % comm.size))
    comm.Barrier()
    del mine
    gc.collect()
    # It gets the same number, as a rule.
    another = memory.room(8)
    comm.Barrier()
    with pytest.raises(NotShown, match=r"not there any more|another file"):
        memory.look(places[(comm.rank + 1) % comm.size])
    assert memory.shown(another, (comm.rank + 1) % comm.size) is not None


@needs_files
def test_a_file_of_another_length_is_not_taken_for_an_array(comm):
    """A process that has ended may have left its number, and its file's, to others."""
    memory = NodeMemory(comm)
    mine, peer = memory.room(8), (comm.rank + 1) % comm.size
    place = comm.allgather(memory.shown(mine, peer))[peer]
    comm.Barrier()
    for other in (place._replace(nbytes=1 << 20), place._replace(process=1), place._replace(file=0)):
        with pytest.raises(NotShown):
            memory.look(other)
    comm.Barrier()


@needs_files
def test_no_more_files_can_be_opened(comm):
    """Arrays seen before make room; where none can, arrays are not shown, and a look is an error."""
    memory = NodeMemory(comm)
    peer = (comm.rank + 1) % comm.size
    arrays = [memory.room(8) for _ in range(3)]
    places = [comm.allgather(memory.shown(each, peer))[peer] for each in arrays]
    assert all(memory.look(place).nbytes == 8 for place in places[1:])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                files.append(os.dup(0))
        assert memory.look(places[0]).nbytes == 8
        with contextlib.suppress(OSError):
            while True:
                files.append(os.dup(0))
        assert memory.shown(memory.room(8), peer) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in files:
            os.close(file)
    assert memory.look(places[1]).nbytes == 8
    comm.Barrier()


@needs_files
def test_files_do_not_run_out(comm, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    memory = NodeMemory(comm)
    arrays = [memory.room(8) for _ in range(20)]
    peer = (comm.rank + 1) % comm.size
    places = [memory.shown(each, peer) for each in arrays]
    assert [place is None for place in places] == [False] * 4 + [True] * 16
    for theirs in comm.allgather(places)[peer][:4] * 3:
        memory.look(theirs)
    comm.Barrier()
    del arrays
    assert memory.shown(memory.room(8), peer) is not None


def test_nobody_sees_an_array_of_the_program(comm):
    memory = NodeMemory(comm)
    assert memory.shown(np.zeros(3), (comm.rank + 1) % comm.size) is None
    assert memory.shown(memory.room(8), comm.rank) is None


@pytest.mark.parametrize("master", [0, None])
@pytest.mark.parametrize("shows", [True, False])
def test_the_same_training_with_and_without(comm, monkeypatch, master, shows):
    """Also where some ranks alone show nothing, as on another node."""
    if not shows and comm.rank != 1:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    rows = np.random.default_rng(0).standard_normal((24, 5))

    def gradient(parameters, part):
        return 2 * part.T @ (part @ parameters - 1)

    workers = comm.size - (master is not None)
    scheme = coding.scheme("gc", workers, stragglers=workers - 1)
    parameters = np.full(5, 0.1)
    coded = coding.CodedGradients(
        comm, scheme, gradient, lambda partition: rows[partition.rows(24)], parameters, master=master
    )
    for total, _ in coded.rounds(30):
        np.testing.assert_allclose(total, gradient(parameters, rows))
        parameters -= 1e-3 * total
