"""How each MPI library is started on the hosts of a lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache

from benchmarks.netlab.hosts import DEVICE, ENTER, FOLDER, host_names
from tests.launch import environment, find_mpiexec

__all__ = ["LIBRARIES", "command_line", "environment", "find_library", "place"]

ASK = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
NAMES = {"mpich": "MPICH", "openmpi": "Open MPI"}
LIBRARIES = ("auto", *NAMES)

# A rank that waits sleeps between two looks at its connections, for the 50 us that the kernel rounds any
# sleep up to: real hosts have processors of their own, and these ranks share few.
MPICH_VARIABLES = {
    "UCX_TLS": "tcp",
    "UCX_NET_DEVICES": DEVICE,
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": DEVICE,
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
}
OPENMPI_VARIABLES = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_btl_tcp_if_include": DEVICE,
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
    "PRTE_MCA_plm_ssh_agent": str(ENTER),
    "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
    "PRTE_MCA_prte_if_include": DEVICE,
    "PRTE_MCA_prte_tmpdir_base": str(FOLDER),
}


@cache
def find_library(name: str) -> str:
    """Tell which library mpi4py has, if `name` is ``auto``, or check that it is the one of that name.

    Raises
    ------
    ValueError
        When mpi4py has another one, or there is no mpi4py.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    found = next((key for key, start in NAMES.items() if done.stdout.startswith(start)), None)
    if found is None or name not in ("auto", found):
        wanted = " or ".join(NAMES.values()) if name == "auto" else NAMES[name]
        has = (done.stdout or done.stderr).strip().splitlines() or ["nothing to say"]
        raise ValueError(
            f"mpi4py of {sys.executable} has {has[0] if done.stdout else has[-1]!r}, expected {wanted}"
        )
    return found


def place(hosts: int, ranks: int) -> list[tuple[str, int]]:
    """Divide ranks over the hosts: names with how many each has, as blocks of ranks that follow one another.

    >>> place(2, 4)
    [('h0', 2), ('h1', 2)]
    >>> place(3, 2)
    [('h0', 1), ('h1', 1)]
    """
    if ranks < 1 or (ranks > hosts and ranks % hosts):
        raise ValueError(f"ranks: {ranks}, expected 1 to {hosts}, or a multiple of {hosts}")
    return [(name, max(1, ranks // hosts)) for name in host_names(hosts)[: min(hosts, ranks)]]


def command_line(
    library: str, placed: Sequence[tuple[str, int]], command: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Command that starts a program on the hosts where it is run on the head, and variables that it needs."""
    ranks = sum(count for _, count in placed)
    where = ",".join(f"{name}:{count}" for name, count in placed)
    if library == "mpich":
        line = [find_mpiexec(), "-launcher", "ssh", "-launcher-exec", str(ENTER), "-hosts", where]
        return [*line, "-n", str(ranks), *command], MPICH_VARIABLES
    line = [
        find_mpiexec(),
        "--host",
        where,
        "--map-by",
        f"ppr:{placed[0][1]}:node:OVERSUBSCRIBE",
        "--bind-to",
        "none",
    ]
    return [*line, "-n", str(ranks), *command], OPENMPI_VARIABLES
