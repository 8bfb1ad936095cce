"""Jobs that lose ranks, in processes of their own, and the parts of recovery one by one."""

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import roundelay
from roundelay import MPI
from roundelay.comm.recovery import saved
from roundelay.comm.recovery.election import Commit, Holding, elect
from roundelay.comm.recovery.kept import Kept
from roundelay.comm.recovery.partners import partners
from roundelay.comm.recovery.registered import form_of
from roundelay.comm.recovery.segment import MappedSegment, Segment
from roundelay.comm.recovery.ulfm import why_unavailable
from tests import launch

LIMIT_S = 60

pytestmark = pytest.mark.timeout_s(LIMIT_S + 30)
only_open_mpi = pytest.mark.skipif(MPI.get_vendor()[0] != "Open MPI", reason="needs Open MPI, for ULFM")
only_mpich = pytest.mark.skipif(MPI.get_vendor()[0] != "MPICH", reason="shows how MPICH ends")
KINDS = [("anytime",), ("commit",), ("anytime", "recovery"), ("commit", "recovery")]


def run(ranks, *arguments, options=()):
    """Run Python on some ranks; give the exit status, None at the limit, and the lines that it printed."""
    lines: list[str] = []
    command = [launch.find_mpiexec(), *options, "-n", str(ranks), sys.executable, *map(str, arguments)]
    status = launch.run(command, LIMIT_S, line=lines.append)
    return status, lines


def run_with_ulfm(ranks, *arguments):
    return run(ranks, *arguments, options=("--with-ft", "ulfm"))


# Jobs that lose ranks


@only_open_mpi
@pytest.mark.parametrize(
    ("ranks", "kinds", "send"),
    [*((4, kinds, False) for kinds in KINDS), (3, KINDS[0], True)],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_job_goes_on_without_those_that_die(tmp_path, ranks, kinds, send):
    seed = ranks * 100 + len(kinds[0]) + send
    arguments = ["-m", "tests.recovery_job", "--folder", tmp_path, "--seed", seed]
    arguments += [word for kind in kinds for word in ("--kill", kind)]
    arguments += ["--send", "--ballast", 1 << 20] if send else []
    status, lines = run_with_ulfm(ranks, *arguments)
    assert status == 0, lines
    (result,) = (json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT "))
    assert result["right"]
    assert result["lost_commits"] == 0
    assert 1 <= len(result["lost"]) <= len(kinds)


def program(folder, text):
    path = folder / "program.py"
    path.write_text(text)
    return path


PROLOGUE = """
import os, signal, sys
import numpy as np
import roundelay
from roundelay import MPI

world = MPI.COMM_WORLD

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@only_open_mpi
def test_going_back_without_a_loss(tmp_path):
    text = """
def advance(comm, step):
    protected.commit(step)
    if step == 2 and not calls:
        calls.append(protected.recover(comm).step)
        protected.commit(2)
    assert comm.allreduce(1) == comm.size

calls = []
job = roundelay.resilient(world)
protected = roundelay.Protected(job.comm, [np.arange(100_000)], share=False)
job.run(advance, 5)
print("went back to", calls, protected.wait(), job.lost, flush=True)
"""
    status, lines = run_with_ulfm(3, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert lines.count("went back to [2] 4 ()") == 3


@only_open_mpi
def test_a_rank_and_all_its_partners(tmp_path):
    """Ranks 1 and 2 die at once; 2 has the only copy of what 1 had."""
    text = """
def on_loss(loss):
    try:
        protected.recover(loss.comm)
    except roundelay.DataLost as error:
        if loss.lost == (1, 2):
            print(error, flush=True)
        return 5
    return loss.step

def advance(comm, step):
    if step == 2:
        protected.commit(step)
        protected.wait()
        if comm.rank in (1, 2):
            die()
    comm.Barrier()

job = roundelay.resilient(world, on_loss)
protected = roundelay.Protected(job.comm, [np.arange(3)])
job.run(advance, 5)
"""
    status, lines = run_with_ulfm(4, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert {line for line in lines if line.startswith("lost")} <= {"lost: rank 1 and its partner 2"}


@only_open_mpi
def test_those_that_wait_elsewhere_are_woken(tmp_path):
    """Rank 0 waits for rank 1, which is alive, on a communicator that the program made."""
    text = """
def advance(comm, step):
    if comm.size < 3:
        return
    pair = comm.Split(int(comm.rank == 2), comm.rank)
    comm.Barrier()
    if comm.rank == 2:
        die()
    if comm.rank == 0:
        pair.recv(source=1)
    comm.Barrier()

job = roundelay.resilient(world)
job.run(advance, 3)
print("survived", job.lost, type(job.comm) is MPI.Intracomm, flush=True)
"""
    status, lines = run_with_ulfm(3, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert lines.count("survived (2,) True") == 2


@only_open_mpi
@pytest.mark.parametrize("where", ["outside", "commit"])
def test_a_rank_that_does_not_come_to_recover_is_lost(tmp_path, where):
    """Rank 1 is killed, and rank 2 stopped, or hangs in C as in a broken queue of Open MPI's."""
    text = f"""
def advance(comm, step):
    if world.rank == 2 and step == 3 and comm.size == 4:
        if {where == "outside"}:
            os.kill(os.getpid(), signal.SIGSTOP)
        import ctypes
        ctypes.PyDLL(None).sleep(1000)
    if world.rank == 1 and step == 3:
        die()
    if {where == "commit"}:
        protected.commit(step)
    comm.Barrier()

job = roundelay.resilient(world, lambda loss: protected.recover(loss.comm).step, lost_after=1)
protected = roundelay.Protected(job.comm, [np.arange(3)], copies=2)
protected.commit(0)
protected.wait()
job.run(advance, 5)
print("survived", job.lost, flush=True)
"""
    status, lines = run_with_ulfm(4, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert lines.count("survived (1, 2)") == 2, lines
    assert any("ranks [2] have not come to recover within 1 s" in line for line in lines), lines


@only_open_mpi
def test_a_training_within_a_step_is_begun_again(tmp_path):
    """The master goes on without the worker that dies, and those that wait for it are woken as ever."""
    text = """
def load(partition):
    return data[partition.rows(len(data))]

def gradient(weights, rows):
    if world.rank == 1 and calls.append(0) is None and len(calls) == 30:
        die()
    return rows.sum() * weights

def advance(comm, step):
    weights = np.ones(3)
    scheme = roundelay.coding.scheme("gc", comm.size - 1, stragglers=1)
    coded = roundelay.CodedGradients(comm, scheme, gradient, load, weights)
    for total, info in coded.rounds(20):
        assert np.allclose(total, data.sum() * weights)

calls, data = [], np.arange(24.0).reshape(12, 2)
job = roundelay.resilient(world)
job.run(advance, 4)
print("survived", job.lost, flush=True)
"""
    status, lines = run_with_ulfm(4, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert lines.count("survived (1,)") == 3, lines


@only_open_mpi
def test_an_error_of_the_program_ends_all_ranks(tmp_path):
    text = """
def advance(comm, step):
    if world.rank == 1 and step == 2:
        raise KeyError("no such key")
    comm.Barrier()

try:
    roundelay.resilient(world).run(advance, 3)
except (KeyError, roundelay.RemoteFailure) as error:
    print(type(error).__name__, error, flush=True)
"""
    status, lines = run_with_ulfm(3, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    assert sorted(line for line in lines if line) == [
        "KeyError 'no such key'",
        *["RemoteFailure rank 1: KeyError: 'no such key' in step 2"] * 2,
    ]


@only_open_mpi
def test_an_error_of_mpi_without_a_loss_is_not_retried_for_ever(tmp_path):
    text = """
def advance(comm, step):
    calls.append(step)
    if world.rank == 1:
        comm.Send(np.zeros(1), dest=77)
    comm.Barrier()

calls = []
try:
    roundelay.resilient(world).run(advance, 3)
except (MPI.Exception, roundelay.RemoteFailure) as error:
    print("ended", len(calls), flush=True)
"""
    status, lines = run_with_ulfm(3, program(tmp_path, PROLOGUE + text))
    assert status == 0, lines
    # Whoever is woken in the second attempt may not have come to the step.
    assert sorted(line for line in lines if line.startswith("ended"))[1:] == ["ended 2"] * 2


@only_open_mpi
@pytest.mark.parametrize("way", [["mpi4py"], ["roundelay", "run"]], ids=lambda way: way[0])
def test_a_rank_that_fails_elsewhere_is_not_waited_for(tmp_path, way):
    """Neither by those that wait for it, nor does it wait for them before it aborts the job."""
    text = """
job = roundelay.resilient(world)
if world.rank == 1:
    raise ArithmeticError("only here")
job.comm.Barrier()
"""
    status, lines = run_with_ulfm(3, "-m", *way, program(tmp_path, PROLOGUE + text))
    assert status not in (0, None), lines
    assert any("only here" in line for line in lines)


@only_open_mpi
def test_survivors_are_still_watched(tmp_path):
    """How their communicator is made is not intercepted."""
    text = """
import time

job = roundelay.resilient(world)
try:
    for step in range(40):
        job.comm.Allreduce(np.ones(1), np.empty(1))
        time.sleep(0.01)
        if step == 10 and world.rank == 2:
            die()
except MPI.Exception:
    job.recover()
if world.rank == 1:
    time.sleep(60)
job.comm.Allreduce(np.ones(1), np.empty(1))
"""
    job = ["-m", "roundelay", "run", "--monitor", "--on-hang", "abort", program(tmp_path, PROLOGUE + text)]
    _, lines = run_with_ulfm(4, *job)
    assert any(
        re.search(r"2 of 3 ranks wait in Allreduce .* rank 1 is at program\.py", line) for line in lines
    )


@only_open_mpi
def test_a_job_without_ulfm_says_so(tmp_path):
    text = """
try:
    roundelay.resilient(world)
except roundelay.RecoveryUnavailable as error:
    print(error, flush=True)
"""
    status, lines = run(2, program(tmp_path, PROLOGUE + text))
    assert status == 0
    assert len(lines) == 2
    assert all("start it with `mpirun --with-ft ulfm`" in line for line in lines)


@only_open_mpi
@pytest.mark.parametrize(("rank", "step"), [(0, 0), (1, 15)])
def test_the_wave_survives(rank, step):
    example = launch.ROOT / "examples" / "wave_survives.py"
    arguments = ["--points", 40, "--steps", 40, "--kill-rank", rank, "--kill-step", step]
    status, lines = run_with_ulfm(4, example, *arguments)
    assert status == 0, lines
    assert any(
        "3 of 4 ranks at the end: the result is that of the one-rank run, bit for bit" in x for x in lines
    )


# Jobs that begin again


def test_the_wave_goes_on_from_disk(tmp_path):
    example = [launch.ROOT / "examples" / "wave_survives.py", "--points", 40, "--steps", 40]
    saving = [*example, "--folder", tmp_path / "saved"]
    status, _ = run(4, *saving, "--kill-rank", 1, "--kill-step", 25)
    assert status != 0
    for ranks in (4, 2, 5):
        status, lines = run(ranks, *saving)
        assert status == 0, lines
        assert "bit for bit" in lines[-1]


@only_mpich
def test_mpich_ends_all_ranks_with_the_first_that_is_killed(tmp_path):
    """No survivor has time to save anything: commits must be on disk before."""
    text = """
import time
world.Barrier()
if world.rank == 1:
    die()
end = time.time() + 5
while time.time() < end:
    time.sleep(0.01)
print("survived", flush=True)
"""
    status, lines = run(3, program(tmp_path, PROLOGUE + text))
    assert status != 0
    assert "survived" not in lines


# Jobs that die, and whose watcher saves what they have committed

WATCHED_JOB = """
import random, subprocess

folder, seed, how = sys.argv[1:]
chance = random.Random(int(seed))
victim, seconds = chance.randrange(world.size), chance.random()
field = np.zeros((50_000 + 1000 * world.rank, 2))[:, 0]
protected = roundelay.Protected(world, {"field": field}, copies=min(1, world.size - 1), folder=folder)
noted = open(f"{folder}-steps-{world.rank}", "w", buffering=1)
world.Barrier()
if world.rank == victim and how != "raise":
    number = {"kill": 9, "stop": "STOP"}[how]
    subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds}; kill -{number} {os.getpid()}"])
for step in range(1_000_000):
    field[:] = 1000 * step + world.rank
    protected.commit(step)
    if protected.step is not None:
        print(protected.step, file=noted)
    if how == "raise" and world.rank == victim and step == 100:
        raise ArithmeticError("only here")
    if step == 50:
        # Another generation of commits.
        field = np.zeros(60_000)
        protected.register({"field": field})
    world.allreduce(step)
"""


RESTARTED = """
restored = roundelay.Protected.load(sys.argv[1], world)
protected = roundelay.Protected(world, {str(rank): piece["field"] for rank, piece in restored.pieces.items()})
protected.commit(restored.step)
total = world.allreduce(sum(int(piece["field"][-1]) for piece in restored.pieces.values()))
if world.rank == 0:
    print(total, flush=True)
"""


def last_steps(folder):
    """The newest commit that each rank knew to be complete."""
    found = [path.read_text().split() for path in folder.parent.glob(f"{folder.name}-steps-*")]
    return [int(steps[-1]) for steps in found if steps]


@pytest.mark.parametrize(
    ("how", "seeds"), [("kill", range(4)), ("stop", [4]), ("raise", [5])], ids=["kill", "stop", "raise"]
)
def test_a_watcher_saves_what_a_job_that_dies_has_committed(tmp_path, how, seeds):
    """Whoever lives is killed by mpiexec, or waits in C; the commits are complete, and lose nothing."""
    job = [
        "-m",
        "roundelay",
        "run",
        "--monitor",
        "--on-hang",
        "abort",
        program(tmp_path, PROLOGUE + WATCHED_JOB),
    ]
    for seed in seeds:
        folder = tmp_path / f"saved{seed}"
        status, lines = run(4, *job, folder, seed, how)
        assert status != 0, lines
        assert sum("the last commits of 4 ranks are saved in" in line for line in lines) >= 1, lines
        restored = load(folder)
        assert restored.step >= max(last_steps(folder))
        assert sorted(restored.pieces) == [0, 1, 2, 3]
        for rank, piece in restored.pieces.items():
            assert (piece["field"] == 1000 * restored.step + rank).all()
    for ranks in (4, 3):
        status, lines = run(ranks, program(tmp_path, PROLOGUE + RESTARTED), folder)
        assert status == 0, lines
        assert f"{4 * 1000 * restored.step + 6}" in lines


BUSY_WATCHER = """
import subprocess, time
from pathlib import Path
from roundelay.comm.monitor import start

folder, how = sys.argv[1:]
name = start._state.connection.getpeername()[1:]
found = ((each.parent.name, each.read_bytes()) for each in Path("/proc").glob("[0-9]*/cmdline"))
watcher = next(int(number) for number, line in found if name in line and b"monitor.watcher" in line)
protected = roundelay.Protected(world, [np.full(200_000, world.rank)], folder=folder)
# It has heard all of them, and nothing else is to be heard.
time.sleep(0.5)
world.Barrier()
if world.rank == 1:
    os.kill(watcher, signal.SIGSTOP)
    # It hears this rank first when it goes on.
    roundelay.monitor()
world.Barrier()
for step in range(3):
    protected.commit(step)
protected.wait()
if world.rank == 1:
    subprocess.Popen(["/bin/sh", "-c", f"sleep 0.1; kill -CONT {watcher}"], start_new_session=True)
    if how == "abort":
        world.Abort(3)
    raise ArithmeticError("only here")
world.Barrier()
"""


@pytest.mark.parametrize("how", ["raise", pytest.param("abort", marks=only_mpich)])
def test_all_commits_are_on_disk_when_mpiexec_returns(tmp_path, how):
    """Also those that the watcher has not heard of yet when it hears that a rank ends the job."""
    folder, output = tmp_path / "saved", tmp_path / "output"
    lines: list[str] = []
    job = [sys.executable, "-m", "roundelay", "run", "--monitor"]
    job += [str(program(tmp_path, PROLOGUE + BUSY_WATCHER)), str(folder), how]
    shell = 'output=$1 folder=$2; shift 2; "$@" > "$output" 2>&1; ls "$folder"'
    command = ["/bin/sh", "-c", shell, "sh", str(output), str(folder), *launch.mpiexec(3, job)]
    assert launch.run(command, LIMIT_S, line=lines.append) == 0
    assert sum(line.endswith(".npz") for line in lines) == 6, lines
    assert sum(line.endswith(".json") for line in lines) == 3, lines
    said = [line for line in output.read_text().splitlines() if "the last commits of" in line]
    assert said == [f"roundelay: the last commits of 3 ranks are saved in {folder}, of step 2"]


def test_a_job_that_ends_well_saves_nothing(tmp_path):
    text = """
protected = roundelay.Protected(world, [np.zeros(3)], folder=sys.argv[1])
protected.commit(0)
"""
    status, lines = run(
        2, "-m", "roundelay", "run", "--monitor", program(tmp_path, PROLOGUE + text), tmp_path / "saved"
    )
    assert status == 0, lines
    assert not (tmp_path / "saved").exists()


def committed(arrays, step=3, comm=MPI.COMM_SELF):
    protected = roundelay.Protected(comm, arrays, copies=0)
    protected.commit(step)
    return protected


def load(folder):
    return roundelay.Protected.load(folder, MPI.COMM_SELF)


def test_arrays_of_every_kind_come_back(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {
        "strided": np.arange(40.0).reshape(5, 8)[::2, ::-3],
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "records": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
        "halves": np.arange(3).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3)),
        "times": np.array(["2020-01-01"], "M8[D]"),
        "texts": np.array(["ab", "c"]),
    }
    protected = committed(arrays)
    protected.save(tmp_path)
    for pieces in (protected.recover(MPI.COMM_SELF).arrays, next(iter(load(tmp_path).pieces.values()))):
        assert list(pieces) == list(arrays)
        for name, array in arrays.items():
            assert pieces[name].dtype == array.dtype
            assert pieces[name].shape == array.shape
            assert pieces[name].tobytes() == array.tobytes()


def files(folder, ending):
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
@pytest.mark.parametrize("ending", [".npz", ".json"])
def test_what_is_damaged_is_refused_by_name(tmp_path, harm, ending):
    committed([np.arange(1000)]).save(tmp_path)
    (path,) = files(tmp_path, ending)
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flip" else content[:-5])
    if (ending, harm) == (".json", "remove"):
        with pytest.raises(FileNotFoundError, match="no commits were saved here"):
            load(tmp_path)
    else:
        with pytest.raises(roundelay.DamagedCheckpoint, match=path.name):
            load(tmp_path)


def test_a_folder_without_commits_is_told_from_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder has no list of commits"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load(tmp_path / "none")


def test_the_rank_that_is_missing_is_named(tmp_path):
    committed([np.arange(3)]).save(tmp_path)
    (listed,) = files(tmp_path, ".json")
    content = {"format": saved._FORMAT, "entries": json.loads(listed.read_text())["entries"]}
    content["entries"][0]["owners"].append(5)
    listed.write_text(json.dumps({**content, "checksum": saved._digest(content)}))
    with pytest.raises(roundelay.DamagedCheckpoint, match="of step 3, nothing is there of rank 5"):
        load(tmp_path)


def test_the_last_two_commits_are_kept_on_disk(tmp_path):
    arrays = [np.zeros(2)]
    protected = roundelay.Protected(MPI.COMM_SELF, arrays, copies=0)
    for step in range(4):
        arrays[0][:] = step
        protected.commit(step)
        protected.save(tmp_path)
    assert len(files(tmp_path, ".npz")) == 2
    assert not files(tmp_path, ".part")
    assert load(tmp_path).step == 3
    newest = max(files(tmp_path, ".npz"))
    newest.write_bytes(b"torn")
    with pytest.raises(roundelay.DamagedCheckpoint, match="can be loaded by step=2"):
        load(tmp_path)
    older = roundelay.Protected.load(tmp_path, MPI.COMM_SELF, step=2)
    assert [piece[0].tolist() for piece in older.pieces.values()] == [[2, 2]]
    with pytest.raises(roundelay.DamagedCheckpoint, match="no commit of step 0"):
        roundelay.Protected.load(tmp_path, MPI.COMM_SELF, step=0)


def test_a_process_that_outlives_a_rank_saves_its_commits(tmp_path):
    """Nothing that it needs imports MPI, which would count it as a rank."""
    text = """
import pickle, sys
protected = roundelay.Protected(MPI.COMM_SELF, {"a": np.arange(5)}, copies=0)
protected.commit(12)
sys.stdout.buffer.write(pickle.dumps(protected.whereabouts()))
sys.stdout.flush()
sys.stdin.read(1)
"""
    keeper = f"""
import pickle, signal, subprocess, sys
command = [sys.executable, {str(program(tmp_path, PROLOGUE + text))!r}]
rank = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
whereabouts = pickle.load(rank.stdout)
from roundelay.comm.recovery.kept import Kept
kept = Kept(whereabouts)
rank.kill()
rank.communicate()
kept.save({str(tmp_path / "saved")!r})
assert "mpi4py.MPI" not in sys.modules
"""
    path = tmp_path / "keeper.py"
    path.write_text(keeper)
    status = launch.run([sys.executable, str(path)], LIMIT_S)
    assert status == 0
    restored = load(tmp_path / "saved")
    assert restored.step == 12
    assert restored.pieces[0]["a"].tolist() == [0, 1, 2, 3, 4]


def test_a_commit_that_is_overwritten_while_it_is_saved_is_left_out(tmp_path, monkeypatch):
    """By a rank that goes on while another process saves what it has."""
    protected = committed([np.zeros(3)], step=0)
    protected.commit(1)
    usual = saved._write_part

    def write(folder, name, part):
        entry = usual(folder, name, part)
        if part.version.step == 0:
            protected.commit(2)
        return entry

    monkeypatch.setattr(saved, "_write_part", write)
    Kept(protected.whereabouts()).save(tmp_path)
    assert len(files(tmp_path, ".npz")) == 1
    assert load(tmp_path).step == 1


def test_what_was_saved_of_a_lost_rank_is_kept(tmp_path):
    """A watcher that writes what rank 0 has does not know that rank 0 has written what rank 3 had."""
    form = form_of([np.zeros(1)])
    segment = Segment(form.offsets[-1])
    segment.finish(0, serial=5, step=30)
    own, other = (saved.Part("job", (0, 3), rank, form, segment, segment.versions()[0]) for rank in (0, 3))
    saved.save(tmp_path, 0, [own, other])
    saved.save(tmp_path, 0, [own])
    assert sorted(load(tmp_path).pieces) == [0, 3]


def test_commits_of_old_and_new_arrays_are_saved_together(tmp_path):
    protected = committed([np.zeros(3)])
    protected.register([np.ones(5)])
    protected.commit(4)
    assert Kept(protected.whereabouts()).save(tmp_path) == [3, 4]
    assert [roundelay.Protected.load(tmp_path, MPI.COMM_SELF, step).pieces[MPI.COMM_WORLD.rank][0].size
            for step in (3, 4)] == [3, 5]  # fmt: skip


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    protected = committed([np.arange(3)])
    protected.save(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    protected.commit(4)

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        protected.save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.mpi
@pytest.mark.parametrize("share", [True, False], ids=["shared", "sent"])
def test_commits_of_all_ranks(comm, tmp_path_factory, share):
    folder = comm.bcast(str(tmp_path_factory.mktemp("saved")))
    copies = min(1, comm.size - 1)
    arrays = {"own": np.arange(5.0 + comm.rank)}
    protected = roundelay.Protected(comm, arrays, copies, share)
    for step in range(3):
        arrays["own"][:] = 10 * comm.rank + step
        protected.commit(step)
    protected.progress()
    arrays["own"][:] = -1
    assert protected.wait() == 2
    recovered = protected.recover(comm)
    assert recovered.step == 2
    assert recovered.arrays["own"].tolist() == [10 * comm.rank + 2] * (5 + comm.rank)
    assert recovered.lost == {}
    # What a partner has of another rank, as if that were dead.
    protected.save(folder, lost=range(comm.size))
    comm.Barrier()
    restored = roundelay.Protected.load(folder, comm)
    found = {rank: piece["own"][0] for rank, piece in restored.pieces.items()}
    everyone = {rank: value for each in comm.allgather(found) for rank, value in each.items()}
    assert sorted(everyone.values()) == [10 * rank + 2 for rank in range(comm.size)]
    # The arrays may change their form.
    protected.register([np.full(3, comm.rank)])
    protected.commit(7)
    assert protected.wait() == 7
    assert protected.recover(comm).arrays[0].tolist() == [comm.rank] * 3


@pytest.mark.mpi(min_size=2)
def test_ranks_that_commit_different_steps(comm):
    protected = roundelay.Protected(comm, [np.zeros(1)])
    protected.commit(comm.rank)
    with pytest.raises(ValueError, match="expected the same step on all ranks"):
        protected.wait()


# The parts


def test_what_cannot_be_protected():
    with pytest.raises(TypeError, match="array 'text': expected a NumPy array, got str"):
        roundelay.Protected(MPI.COMM_SELF, {"text": "abc"}, copies=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="array 0: expected elements without Python objects"):
        roundelay.Protected(MPI.COMM_SELF, [np.array([None])], copies=0)
    with pytest.raises(ValueError, match="copies=1 on 1 rank: expected 0, one rank for each copy"):
        roundelay.Protected(MPI.COMM_SELF, [np.zeros(1)])
    protected = roundelay.Protected(MPI.COMM_SELF, [np.zeros(1)], copies=0)
    with pytest.raises(roundelay.DataLost, match="nothing was committed"):
        protected.recover(MPI.COMM_SELF)


def test_without_ulfm_an_error_is_left_alone():
    if not why_unavailable():
        pytest.skip("this job has ULFM")

    def advance(comm, step):
        raise KeyError(step)

    with pytest.raises(KeyError):
        roundelay.resilient(MPI.COMM_SELF, required=False).run(advance, 1)
    with pytest.raises(roundelay.RecoveryUnavailable):
        roundelay.resilient(MPI.COMM_SELF)
    with pytest.raises(ValueError, match="lost_after 0: expected seconds above 0"):
        roundelay.resilient(MPI.COMM_SELF, lost_after=0)


@pytest.mark.parametrize("places", ["aaaa", "aabb", "abab", "aaab", "abcd", "aaaabbbb", "ab"])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_partners(places, copies):
    found = partners(places, copies)
    for rank, holders in enumerate(found):
        assert rank not in holders
        assert len(set(holders)) == len(holders) == min(copies, len(places) - 1)
        elsewhere = sum(place != places[rank] for place in places)
        assert sum(places[each] != places[rank] for each in holders) == min(copies, elsewhere)


def test_a_commit_that_one_survivor_lacks():
    """The newest commit counts only where all have it, and the partner of whoever is lost."""
    first = Commit(4, 10, (0, 1, 2), ((1,), (2,), (0,)))
    second = first._replace(serial=5, step=20)
    whole = [Holding(0, (first, second), {2: (4, 5)}), Holding(1, (first, second), {0: (4, 5)})]
    assert elect(whole).commit.step == 20
    assert elect(whole).holders == {0: 0, 1: 1, 2: 0}
    assert elect([whole[0], Holding(1, (first,), {0: (4,)})]).commit.step == 10
    assert elect([Holding(0, (first, second), {2: (4,)}), whole[1]]).commit.step == 10
    with pytest.raises(roundelay.DataLost, match="lost: rank 1 and its partner 2"):
        elect(whole[:1])


def test_a_segment_is_found_by_another_process_only_where_it_is():
    segment = Segment(100, shared=True)
    if segment.address is None:
        pytest.skip("needs memory without a name: Linux")
    segment.slot(1)[:] = 7
    segment.finish(1, serial=3, step=30)
    mapped = MappedSegment(segment.address)
    assert [version[:2] for version in mapped.versions()] == [(3, 30)]
    assert (mapped.slot(1) == 7).all()
    with pytest.raises(OSError, match="another process"):
        MappedSegment(segment.address._replace(token=bytes(16)))
    with pytest.raises(OSError, match="another size"):
        MappedSegment(segment.address._replace(nbytes=10_000))
    file = segment.file
    del segment
    with suppress(OSError):
        assert "roundelay-commit" not in str(Path(f"/proc/self/fd/{file}").readlink())
    assert (mapped.slot(1) == 7).all()
