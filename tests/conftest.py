"""Fixtures, and the same rules for ``pytest`` alone as for ``python -m tests``."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from mpi4py import MPI

from tests.agreement import FAILED, Agreement
from tests.limit import Alarm, Limit
from tests.selection import Selection

# The user's measurements must not decide what is tested; nothing is ever written there.
os.environ["ROUNDELAY_CACHE_DIR"] = str(Path(tempfile.gettempdir(), "roundelay-tests-measure-nothing"))

# Every rank must draw the same examples, in the same order.
hypothesis.settings.register_profile("ranks", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ranks")


def pytest_configure(config: pytest.Config) -> None:
    """Bring in limit, agreement and selection where `tests.rank` has not."""
    if any(isinstance(plugin, Agreement) for plugin in config.pluginmanager.get_plugins()):
        return
    alarm = Alarm(f"rank {MPI.COMM_WORLD.rank}", None)
    for plugin in (Selection(MPI.COMM_WORLD.size), Limit(alarm), Agreement(MPI.COMM_WORLD, alarm)):
        config.pluginmanager.register(plugin)


def pytest_collection_finish() -> None:
    """Let the collector pass over thousands of tests whenever one asks for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def comm(request: pytest.FixtureRequest) -> Iterator[MPI.Intracomm]:
    """A communicator of roundelay, of all ranks, for this test alone, which may leave no message on it."""
    from roundelay import MPI as ours

    fresh = ours.COMM_WORLD.Dup()
    yield fresh
    if request.node.stash.get(FAILED, False):
        # The ranks may have parted anywhere: another collective on it could match what was left undone.
        return
    fresh.Barrier()
    stray = list(drain(fresh))
    fresh.Free()
    assert not stray, f"messages never received: {', '.join(stray)}"


@pytest.fixture(params=["as chosen", "always ours"])
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test by the fixed rule, which leaves small messages to MPI, and with our kernels for all."""
    from roundelay.comm.choice import limits
    from roundelay.comm.interposer import interposer

    if request.param == "always ours":
        interposer().set_limits(-1, -1, -1, -1)
    yield
    interposer().set_limits(*limits())


@pytest.fixture(params=["stand-in", "staged", "cupy"])
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Copy an array of the host to the device: by CuPy where there is a GPU, by a stand-in everywhere."""
    from tests import device, device_functions

    module, on_device = device_functions.module(), device_functions.on_device
    yield from device.place(request.param, monkeypatch, module, on_device)


def drain(comm: MPI.Intracomm) -> Iterator[str]:
    """Receive what is left on `comm`: MPI may give its context, messages included, to the next one."""
    status = MPI.Status()
    while comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
        size = status.Get_count(MPI.BYTE)
        comm.Recv([bytearray(size), MPI.BYTE], status.source, status.tag)
        yield f"{size} bytes from rank {status.source}, tag {status.tag}"
