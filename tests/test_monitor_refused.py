"""A monitored job that gets no report, no watcher or no record goes on, and says so once."""

import subprocess
import sys
from contextlib import suppress

import pytest

from tests import launch
from tests.test_examples import LIMIT_S, run
from tests.test_monitor import WATCHED

pytestmark = pytest.mark.timeout_s(2 * LIMIT_S + 20)


def test_a_report_that_cannot_be_written(tmp_path):
    """The folder vanishes while the job runs."""
    folder = tmp_path / "folder"
    folder.mkdir()
    text = f"""
import pathlib
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 0:
    pathlib.Path({str(folder)!r}).rmdir()
"""
    status, output, errors = run(*WATCHED, "--report", folder / "report.json", "-c", text, ranks=2)
    assert status == 0, output + errors
    assert errors.count("roundelay: the report cannot be written") == 1


def has_mount_namespaces():
    """Whether this user may mount a file system that only his processes see."""
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.mark.skipif(not has_mount_namespaces(), reason="needs unshare, and file systems of a user's own")
def test_a_disk_that_is_full(tmp_path):
    file = tmp_path / "report.json"
    text = f"""
from mpi4py import MPI
for _ in range(2000):
    MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 0:
    with open({str(tmp_path / "rest")!r}, "wb", buffering=0) as rest:
        try:
            while rest.write(bytes(4096)): pass
        except OSError: pass
MPI.COMM_WORLD.Barrier()
print("done")
"""
    job = launch.mpiexec(2, [sys.executable, *WATCHED, "--report", str(file), "-c", text])
    mounting = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "/bin/sh", "-c", mounting, str(tmp_path), *job],
        env=launch.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("done") == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("roundelay:")]
    what = f"the report cannot be written: [Errno 28] No space left on device: {str(file)!r}"
    assert lines == [f"roundelay: {what}"]


@pytest.mark.parametrize(
    ("module", "name", "error", "reason"),
    [
        (
            "subprocess",
            "run",
            "BlockingIOError('Resource temporarily unavailable')",
            "the watcher cannot be started",
        ),
        ("os", "memfd_create", "OSError('Function not implemented')", "Function not implemented"),
    ],
    ids=["watcher", "record"],
)
def test_what_the_system_refuses(module, name, error, reason):
    text = f"""
import {module}
def fails(*_, **__): raise {error}
{module}.{name} = fails
from roundelay import MPI
MPI.COMM_WORLD.Barrier()
print("done")
"""
    status, output, errors = run("-c", text, ranks=2, ROUNDELAY_MONITOR="1")
    assert status == 0, output + errors
    assert output.count("done") == 2
    assert errors.count(f"not monitored: {reason}") == 1
