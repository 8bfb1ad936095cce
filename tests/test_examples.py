"""The examples and the command line, each in processes of its own, as a user starts them."""

import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests import launch

EXAMPLES = launch.ROOT / "examples"
LIMIT_S = 60
RANKS = [1, 2, 4]
BOTH_WAYS = [["-m", "roundelay", "run"], []]

pytestmark = pytest.mark.timeout_s(2 * LIMIT_S + 20)


def run(*command, ranks=None, cwd=launch.ROOT, text="", **environment):
    """Run Python with some arguments, alone or on some ranks; give its exit status, output and errors."""
    line = [sys.executable, *map(str, command)]
    with subprocess.Popen(
        line if ranks is None else launch.mpiexec(ranks, line),
        cwd=cwd,
        env={**launch.environment(), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            streams = process.communicate(text.encode(), LIMIT_S)
        finally:
            # Nothing is left of it, also when it ran past the limit or when a rank outlives mpiexec.
            launch.stop_group(process)
    output, errors = (stream.decode() for stream in streams)
    return process.returncode, output, errors


def run_well(*command, **options):
    """Run Python, which must end well, and give its output."""
    status, output, errors = run(*command, **options)
    assert status == 0, output + errors
    return output


# The examples


@pytest.mark.parametrize("way", BOTH_WAYS, ids=["run", "python"])
@pytest.mark.parametrize("ranks", RANKS)
def test_halo_exchange(tmp_path, ranks, way):
    """Thirteen points are divided evenly by no number of ranks."""
    picture = tmp_path / "slice.png"
    command = [EXAMPLES / "halo_exchange.py", "--points", 13, "--steps", 8, "--output", picture]
    output = run_well(*way, *command, ranks=ranks)
    assert "the result is that of the one-rank run, bit for bit" in output
    assert f"13^3 points, 8 steps, {ranks} ranks" in output
    times = re.findall(r"^  (\S.*?) +([0-9.]+) us", output, re.MULTILINE)
    assert [name for name, _ in times] == [
        "slices, through roundelay",
        "hand-made copies, mpi4py alone",
        "subarray types, mpi4py alone",
    ]
    assert all(float(microseconds) > 0 for _, microseconds in times)
    pixels = imread(picture)
    assert pixels.shape[0] > 100
    assert pixels.shape[1] > 100
    assert len(np.unique(pixels[..., 0])) > 10


def test_halo_exchange_with_a_point_for_each_rank():
    command = [EXAMPLES / "halo_exchange.py", "--points", 3, "--steps", 4, "--output", "/dev/null"]
    assert "bit for bit" in run_well(*command, ranks=3)


def test_halo_exchange_says_that_there_are_too_few_points(tmp_path):
    status, output, errors = run(EXAMPLES / "halo_exchange.py", "--points", 1, ranks=2, cwd=tmp_path)
    assert status != 0
    assert (output + errors).count("--points: 1 are too few for ranks in a grid of [2, 1, 1]") == 1
    assert not list(tmp_path.iterdir())


def test_halo_exchange_without_the_layer():
    """mpi4py alone refuses a slice; the example says so once, not with a traceback of each rank."""
    status, output, errors = run(EXAMPLES / "halo_exchange.py", ranks=2, ROUNDELAY_DISABLE="1")
    assert status != 0
    assert (output + errors).count("ROUNDELAY_DISABLE") == 1
    assert "Traceback" not in output + errors


def test_halo_exchange_without_matplotlib(tmp_path):
    (tmp_path / "hide.py").write_text(
        "import runpy, sys\n"
        "import importlib.util as util\n"
        "find_spec = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'matplotlib' else find_spec(name, *rest)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    example = EXAMPLES / "halo_exchange.py"
    output = run_well("hide.py", example, "--points", 8, "--steps", 2, cwd=tmp_path)
    assert "no picture: matplotlib is not installed" in output
    assert not (tmp_path / "halo_exchange.png").exists()


@pytest.mark.parametrize("ranks", RANKS)
def test_unmodified_program_prints_the_same_both_ways(ranks):
    outputs = [run_well(*way, EXAMPLES / "unmodified_mpi4py.py", ranks=ranks) for way in BOTH_WAYS]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 5
    assert f"demonstration {ranks - 1}; total {3 * ranks * (ranks - 1)}" in outputs[0]
    assert "total kept: True" in outputs[0]


@pytest.mark.parametrize("ranks", RANKS)
def test_train_digits(tmp_path, ranks):
    """1500 digits in batches of 64: neither the last batch nor a share of it is like the others."""
    pytest.importorskip("sklearn")
    picture = tmp_path / "loss.png"
    command = [EXAMPLES / "train_digits.py", "--epochs", 4, "--batch", 64, "--output", picture]
    output = run_well(*command, ranks=ranks)
    assert "the losses are those of one rank" in output
    rightly = re.search(r"not trained on: ([0-9.]+) %", output)
    assert rightly is not None
    assert float(rightly[1]) > 85
    assert imread(picture).shape[0] > 100


def test_train_stragglers(tmp_path):
    """Few gradients with three workers: all schemes have their turn."""
    pytest.importorskip("sklearn")
    picture = tmp_path / "loss.png"
    output = run_well(EXAMPLES / "train_stragglers.py", "--jobs", 12, "--output", picture, ranks=4)
    assert len(re.findall(r"weights differ by", output)) == 5
    assert "the weights are those of the direct computation" in output
    assert "SR-SGC and M-SGC save redundant work, which gains little here" in output
    assert "\x1b" not in output
    assert imread(picture).shape[0] > 100


@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch: pip install 'roundelay[pytorch]'")
@pytest.mark.parametrize("ranks", [1, 3])
def test_train_text(tmp_path, ranks):
    """Of three ranks one, two and all train; no share of 100 characters is like another's."""
    picture = tmp_path / "loss.png"
    command = [EXAMPLES / "train_text.py", "--steps", 3, "--length", 100, "--output", picture]
    output = run_well(*command, ranks=ranks)
    assert re.findall(r"on ([0-9]+)", output) == [str(count) for count in (1, 2, 3) if count <= ranks]
    assert "the losses are those of one rank" in output
    assert imread(picture).shape[0] > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc and limits Linux's memory")
def test_long_context():
    """Two ranks take some 59 MiB each."""
    output = run_well(EXAMPLES / "long_context.py", "--tokens", 16384, "--limit", 66, ranks=2)
    assert output.splitlines()[:2] == [
        "16384 tokens, 8 heads of 64, causal; each rank may take 66 MiB",
        "one rank alone tries ...",
    ]
    assert "\x1b" not in output
    assert "one rank alone   needs   72.0 MiB and is refused: Unable to allocate" in output
    took = [float(each) for each in re.findall(r"took +([0-9.]+) MiB", output)]
    assert len(took) == 2
    # The MPI library's own memory is shared, and not limited.
    assert all(0 < each < 80 for each in took)
    assert "rows are what float64 gives for them" in output


def test_long_context_says_how_to_make_it_too_much():
    status, output, _ = run(EXAMPLES / "long_context.py", "--tokens", 2048, "--limit", 100, ranks=2)
    assert status != 0
    assert "one rank can do it alone with 100 MiB" in output


# Programs that `roundelay run` runs

PROGRAM = """
import sys
import numpy as np
from mpi4py import MPI
comm, matrix = MPI.COMM_WORLD, np.zeros((3, 4))
comm.Sendrecv(np.arange(6.0)[::2], comm.rank, 0, matrix[:, 1], comm.rank)
if comm.rank == comm.size - 1:
    print(__name__, matrix[:, 1], sys.argv[1:], type(comm).__module__)
"""
PRINTED = "__main__ [0. 2. 4.] ['--flag', 'value', '-m'] mpi4py.MPI\n"
ARGUMENTS = ["--flag", "value", "-m"]


@pytest.mark.parametrize("ranks", [None, 2])
def test_run_takes_a_file_a_module_and_a_string(tmp_path, ranks):
    (tmp_path / "program.py").write_text(PROGRAM)
    for program in (["program.py"], ["-m", "program"], ["-c", PROGRAM]):
        output = run_well("-m", "roundelay", "run", *program, *ARGUMENTS, ranks=ranks, cwd=tmp_path)
        assert output == PRINTED


def test_run_takes_standard_input():
    assert run_well("-m", "roundelay", "run", "-", *ARGUMENTS, text=PROGRAM) == PRINTED


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("roundelay")
    assert run_well(command, "run", "-c", PROGRAM, *ARGUMENTS, ranks=2) == PRINTED
    assert "MPI library" in run_well(command, "info")


def test_run_without_a_program_is_a_mistake():
    status, _, errors = run("-m", "roundelay", "run")
    assert status == 2
    assert "PROGRAM" in errors


FAILS = """
from mpi4py import MPI
comm = MPI.COMM_WORLD
if comm.rank == comm.size - 1:
    raise {}
comm.Recv(bytearray(1), comm.size - 1)
"""


@pytest.mark.parametrize("kind", ["file", "module", "string"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_run_aborts_all_ranks_when_one_raises(tmp_path, kind, ranks):
    """The other ranks wait for a message that never comes: without the abort it would take the limit."""
    source = FAILS.format("ArithmeticError('only here')")
    (tmp_path / "failing.py").write_text(source)
    program = {"file": ["failing.py"], "module": ["-m", "failing"], "string": ["-c", source]}[kind]
    status, output, errors = run("-m", "roundelay", "run", *program, ranks=ranks, cwd=tmp_path)
    assert status != 0
    assert (output + errors).count("ArithmeticError: only here") == 1
    assert (output + errors).count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize(
    ("exception", "name"),
    [
        ("EOFError('only here')", "EOFError"),
        ("__import__('click').UsageError('only here')", "UsageError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_run_aborts_on_an_exception_that_click_knows(exception, name):
    """The command line is made with click, which must not take a program's exception for its own."""
    status, output, errors = run("-m", "roundelay", "run", "-c", FAILS.format(exception), ranks=2)
    assert status != 0
    assert "Traceback" in output + errors
    assert name in (output + errors).rpartition("Traceback")[2]


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize(
    ("ending", "expected"),
    [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit('message')", 1), ("pass", 0)],
)
def test_run_hands_on_the_exit_status(ranks, ending, expected):
    program = f"import sys\nfrom mpi4py import MPI\n{ending}"
    status, output, errors = run("-m", "roundelay", "run", "-c", program, ranks=ranks)
    assert status == expected, output + errors
    assert ("message" in output + errors) == ("message" in ending)


def test_exit_of_one_rank_with_an_error_ends_all():
    status, _, _ = run("-m", "roundelay", "run", "-c", FAILS.format("SystemExit(3)"), ranks=2)
    assert status == 3


# When the layer is in place


def run_code(source, *way, **options):
    """Run a piece of Python, which must end well, and give the lines it prints."""
    return run_well(*way, "-c", textwrap.dedent(source), **options).splitlines()


def test_run_replaces_mpi4py_everywhere():
    lines = run_code(
        """
        import sys
        import mpi4py
        from mpi4py import MPI
        import mpi4py.MPI as again
        import roundelay
        from roundelay.datatypes.plain import MPI as plain
        from mpi4py.util import pkl5
        print(MPI is again is mpi4py.MPI is sys.modules["mpi4py.MPI"] is roundelay.MPI, MPI is plain)
        print(MPI.__name__, MPI.Comm.__module__, type(MPI.COMM_WORLD) is MPI.Intracomm)
        print(issubclass(pkl5.Intracomm, MPI.Intracomm), type(MPI.COMM_WORLD) is plain.Intracomm)
        """,
        *BOTH_WAYS[0],
    )
    assert lines == ["True False", "mpi4py.MPI mpi4py.MPI True", "True False"]


@pytest.mark.parametrize("way", BOTH_WAYS, ids=["run", "python"])
def test_disable_passes_all_through(way):
    """Then every class and constant is mpi4py's own, and a strided slice is refused as it refuses it."""
    lines = run_code(
        """
        import numpy as np
        from roundelay import MPI
        from roundelay.datatypes.plain import MPI as plain
        print(type(MPI.COMM_WORLD) is plain.Intracomm, MPI.COMM_WORLD is plain.COMM_WORLD)
        names = [name for name in dir(plain) if not name.startswith("__")]
        print(len(names) > 300, all(getattr(MPI, name) is getattr(plain, name) for name in names))
        print(type(MPI.COMM_WORLD.Dup()) is plain.Intracomm)
        try:
            MPI.COMM_SELF.Isend(np.zeros(4)[::2], 0)
        except BufferError:
            print("refused")
        """,
        *way,
        ROUNDELAY_DISABLE="1",
    )
    assert lines == ["True True", "True True", "True", "refused"]


def test_disable_under_run_leaves_mpi4py_s_module():
    lines = run_code(
        """
        import sys
        from mpi4py import MPI
        print(sys.modules["mpi4py.MPI"] is MPI, "roundelay.comm.communicators" in sys.modules)
        print(type(MPI.COMM_WORLD) is MPI.Intracomm, MPI.__spec__.loader.__class__.__name__)
        """,
        *BOTH_WAYS[0],
        ROUNDELAY_DISABLE="1",
    )
    assert lines[0] == "True False"
    assert lines[1] == "True ExtensionFileLoader"


def test_import_is_light():
    lines = run_code(
        """
        import sys
        import roundelay
        heavy = {"numba", "numpy", "mpi4py.MPI", "llvmlite", "cupy", "matplotlib", "torch"}
        print(sorted(heavy & set(sys.modules)))
        from roundelay import MPI
        print(sorted((heavy - {"numpy", "mpi4py.MPI"}) & set(sys.modules)))
        MPI.COMM_SELF.Sendrecv(bytearray(8), 0, 0, bytearray(8), 0)
        print(sorted((heavy - {"numpy", "mpi4py.MPI"}) & set(sys.modules)))
        """
    )
    assert lines == ["[]", "[]", "[]"]


def test_run_does_not_import_mpi_before_the_program():
    program = "import sys\nprint(*sorted({'mpi4py.MPI', 'numba', 'rich'} & set(sys.modules)))"
    assert run_code(program, *BOTH_WAYS[0]) == [""]


@pytest.mark.parametrize("way", BOTH_WAYS, ids=["run", "python"])
def test_settings_of_mpi4py_are_honoured(way):
    lines = run_code(
        """
        import mpi4py
        mpi4py.rc.thread_level = "single"
        mpi4py.rc.finalize = False
        mpi4py.rc(recv_mprobe=False)
        from mpi4py import MPI
        print(MPI.Query_thread() == MPI.THREAD_SINGLE)
        MPI.Finalize()
        print(MPI.Is_finalized())
        """,
        *way,
    )
    assert lines == ["True", "True"]


def test_a_program_that_initializes_mpi_itself():
    lines = run_code(
        """
        import mpi4py
        mpi4py.rc.initialize = False
        from mpi4py import MPI
        seen = [MPI.Is_initialized()]
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        seen += [MPI.Is_initialized(), MPI.COMM_WORLD.size]
        rank = MPI.COMM_WORLD.rank
        MPI.Finalize()
        if rank == 0:
            print(*seen, MPI.Is_finalized())
        """,
        *BOTH_WAYS[0],
        ranks=2,
    )
    assert lines == ["False True 2 True"]


def test_info():
    """Name MPI library, mpi4py, kernels, cache folder and switches."""
    output = run_well("-m", "roundelay", "info", ROUNDELAY_CHECK="1")
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in output.splitlines())
    assert set(shown) >= {
        "version", "mpi4py", "MPI library", "kernels", "kernel cache", "ROUNDELAY_DISABLE", "ROUNDELAY_CHECK",
    }  # fmt: skip
    assert re.search("MPICH|Open MPI|Intel", shown["MPI library"])
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\S*", shown["mpi4py"].strip())
    assert "numba" in shown["kernels"]
    assert Path(shown["kernel cache"].strip()).is_absolute()
    assert shown["ROUNDELAY_CHECK"].strip() == "1"
    assert shown["ROUNDELAY_DISABLE"].strip() == "not set"


def test_help_and_version():
    assert re.search(r"[0-9]+\.[0-9]+", run_well("-m", "roundelay", "--version"))
    for command in ([], ["run"], ["info"]):
        assert "Usage" in run_well("-m", "roundelay", *command, "--help")
