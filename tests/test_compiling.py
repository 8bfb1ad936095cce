"""The compiled kernels on disk: loaded by the next process, but only where nobody else can write them."""

import os
import shutil
import stat
import subprocess
import sys
from typing import Any

import numba
import pytest
from click.testing import CliRunner
from numba.core import event

from roundelay.__main__ import main
from roundelay.datatypes import compiling
from roundelay.datatypes.movers import mover
from tests import launch

pytestmark = pytest.mark.timeout_s(500)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
SOMEBODY_ELSE = 54321


def compilations():
    """Call a new kernel, whose code may lie in the folder; return how often Numba had to compile it."""

    @compiling.kernel()
    def increment(number):
        return number + 1

    with event.install_recorder("numba:compile") as recorder:
        assert increment(41) == 42
    return sum(each.is_start for _, each in recorder.buffer)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of this test's own, which does not exist yet."""
    path = tmp_path / "above" / "kernels"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(path))
    compiling._warn_once.cache_clear()
    return path


@pytest.fixture
def file(folder):
    """The file that keeps the kernel."""
    assert compilations() == 1
    (path,) = folder.iterdir()
    return path


def test_a_kernel_is_compiled_once_and_kept_for_its_user_alone(folder):
    assert compilations() == 1
    assert [compilations(), compilations()] == [0, 0]
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilations() == 1
    assert compiling.describe_cache() == str(tmp_path / "roundelay" / "kernels")
    assert compilations() == 0


def copy_of_another_version(path):
    """Put what another version of Numba wrote under the name."""
    content, version = path.read_bytes(), numba.__version__
    path.unlink()
    numba.__version__ = "0.1"
    try:
        assert compilations() == 1
    finally:
        numba.__version__ = version
    (other,) = path.parent.iterdir()
    assert other.read_bytes() != content
    other.rename(path)


def change_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def replace_by(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "its head": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "no kernel": lambda path: path.write_bytes(b"\x80garbage" * 1000),
    "one bit": change_last_byte,
    "another version's": copy_of_another_version,
    "a folder": replace_by(os.mkdir),
    "a pipe": replace_by(os.mkfifo),
    "a broken link": replace_by(lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_ignored_and_replaced(file, kind):
    DAMAGE[kind](file)
    assert compilations() == 1
    assert compilations() == (1 if kind == "a folder" else 0)
    assert len(list(file.parent.iterdir())) == 1


def refused(path):
    """Call the kernel, which must not be loaded, with one warning that names a path."""
    with pytest.warns(UserWarning, match="compiled in each process") as caught:
        assert [compilations(), compilations()] == [1, 1]
    (warning,) = caught
    assert str(warning.message).startswith(f"{path}: not used as kernel cache: ")
    return str(warning.message)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(file, mode):
    file.parent.chmod(mode)
    assert f"others can write it (mode {mode:04o})" in refused(file.parent)
    assert compiling.describe_cache().startswith("none, compiled in each process")


@AS_ROOT
def test_the_folder_of_another_user_is_refused(file, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: SOMEBODY_ELSE)
    os.chown(file.parent, 1234, 1234)
    assert "it belongs to user 1234" in refused(file.parent)


@AS_ROOT
def test_a_folder_that_root_filled_is_used(file, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: SOMEBODY_ELSE)
    assert compilations() == 0


@pytest.mark.parametrize("others", [0o666, pytest.param(None, marks=AS_ROOT)], ids=["writable", "owned"])
def test_a_file_of_others_is_named_and_replaced(file, others):
    if others is None:
        os.chown(file, SOMEBODY_ELSE, SOMEBODY_ELSE)
    else:
        file.chmod(others)
    with pytest.warns(UserWarning, match=f"{file}: not used as kernel cache"):
        assert compilations() == 1
    assert compilations() == 0
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (os.geteuid(), 0o600)


def test_two_sources_do_not_share_a_kernel(tmp_path, folder):
    source = tmp_path / "made.py"
    (tmp_path / "part.txt").write_text("1")
    for text in ("number + 1", "number + 2"):
        source.write_text(f"def made(number):\n    return {text}\n")
        names: dict[str, Any] = {}
        exec(compile(source.read_text(), str(source), "exec"), names)
        assert compiling.kernel()(names["made"])(0) == int(text[-1])
    for text in ("1", "2"):
        (tmp_path / "part.txt").write_text(text)
        compiling.kernel(uses=["part.txt"])(names["made"])(0)
    assert len(list(folder.iterdir())) == 4


MESSAGE = """
import numpy as np
import roundelay
from roundelay import MPI
source, target = np.arange(1e5).reshape(-1, 10), np.zeros((20000, 10))
column = MPI.DOUBLE.Create_vector(10000, 1, 10).Commit()
MPI.COMM_SELF.Sendrecv([source, 1, column], 0, 0, target[::2, 3], 0, 0)
assert (target[::2, 3] == source[:, 0]).all()
"""
ALL_KERNELS = f"""{MESSAGE}
q, k, v = np.random.default_rng(0).normal(size=(3, 1, 2, 64, 8)).astype(np.float32)
out, lse = roundelay.attention(q, k, v, MPI.COMM_SELF)
assert np.isfinite(out).all()
from roundelay.collectives.coding.weighted import weighted_sum
total = np.empty(3)
weighted_sum([np.ones(3)], [2.0], total)
assert (total == 2).all()
print("done")
"""
NO_HOME = {"HOME": "/dev/null/nobody", "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        env=launch.environment() | environment,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


def test_without_a_home_all_kernels_are_compiled_in_the_process():
    done = run("-W", "error", "-c", ALL_KERNELS, **NO_HOME)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_information_tells_where_kernels_are_kept(tmp_path, monkeypatch):
    mover()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert f"kernel cache              {tmp_path}\n" in CliRunner().invoke(main, ["info"]).output
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null/nobody")
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0, result.output
    assert "  none, compiled in each process (/dev/null/nobody: Not a directory)\n" in result.output


def test_messages_pass_with_a_damaged_cache(tmp_path):
    """The kernel of messages is among those that are protected."""
    home = tmp_path / "cache"
    kept = compiling.folder()
    assert run("-m", "roundelay", "info").returncode == 0
    shutil.copytree(kept, home / "roundelay" / "kernels")
    for file in (home / "roundelay" / "kernels").iterdir():
        DAMAGE["half"](file)
    done = run("-c", MESSAGE, XDG_CACHE_HOME=str(home), NUMBA_CACHE_DIR="")
    assert done.returncode == 0, done.stderr
