"""Starting ranks: the ``mpiexec`` of the installed MPI library, its environment, and a limit on its time."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent

# Either library ignores the other's variables. Values that the user has set stay.
MPI_DEFAULTS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # More ranks than cores, and not each job on the same first cores: Open MPI 5, then 4.
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # A rank that waits leaves its core to the one that it waits for.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # As it looks for a fabric each job sleeps for a second.
    "OMPI_MCA_btl": "^ofi",
}
# A rank hands these down, and a nested mpiexec would take itself for a part of that rank's job.
JOB_PREFIXES = ("PMI_", "PMIX_", "PMI2_", "OMPI_COMM_", "PRTE_JOB", "HYDI_", "MPI_LOCAL")
SECONDS_TO_STOP = 5.0
SECONDS_BETWEEN_LOOKS = 0.5


def find_mpiexec() -> str:
    """Return the ``mpiexec`` of the wheel installed beside this interpreter, else the one on the PATH.

    Raises
    ------
    FileNotFoundError
        When there is neither.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if found is None:
        message = f"mpiexec: neither {beside} nor on the PATH; install one: pip install '.[mpich,test]'"
        raise FileNotFoundError(message)
    return found


def environment() -> dict[str, str]:
    """Return this process's environment ready for ``mpiexec``: any user, more ranks than cores, no job."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(JOB_PREFIXES)}
    if not {"HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP"} & inherited.keys():
        # Where no launcher was chosen MPICH would want ssh even for this machine.
        inherited["HYDRA_LAUNCHER"] = "fork"
    # Ranks share the cores: threads of their matrix products would only wait for one another.
    return {**MPI_DEFAULTS, "OPENBLAS_NUM_THREADS": "1", **inherited}


def mpiexec(ranks: int, command: Sequence[str]) -> list[str]:
    """Return the command line that starts `command` on `ranks` ranks."""
    return [find_mpiexec(), "-n", str(ranks), *command]


def run(
    command: Sequence[str],
    limit: float,
    cwd: Path = ROOT,
    line: Callable[[str], object] = print,
    look: Callable[[], object] = lambda: None,
) -> int | None:
    """Run `command` and its children and return its exit status, or None when `limit` seconds passed.

    Parameters
    ----------
    command, limit, cwd
        What is run, for how many seconds at most, and where.
    line
        Gets each line that it prints.
    look
        Is called now and then while it runs.
    """
    end = time.monotonic() + limit
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_hand_on, args=(process.stdout, line), daemon=True)
    reader.start()
    try:
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(left, SECONDS_BETWEEN_LOOKS))
            look()
        return None
    finally:
        stop_group(process)
        # A process that outlives the group may hold the pipe.
        reader.join(SECONDS_TO_STOP)


def _hand_on(stream: IO[str], line: Callable[[str], object]) -> None:
    with stream:
        for each in stream:
            line(each.rstrip("\n"))


def exit_when_terminated() -> None:
    """Let SIGTERM end this process as an exception does, so that `run` ends what it has started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def stop_group(process: subprocess.Popen[Any]) -> None:
    """End `process` and its group: asked first, so that ``mpiexec`` can end ranks outside the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
