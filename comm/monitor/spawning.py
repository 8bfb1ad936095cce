"""Starting the watcher of a node, as a process that no rank has to wait for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import handover

# Where launchers tell a rank which one of its node it is: the nearest launcher first.
_LOCAL_RANKS = (
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "PMIX_LOCAL_RANK",
    "SLURM_LOCALID",
)


class NotMonitored(RuntimeError):
    """There can be no watcher, or no record. The job goes on without."""


def local_rank() -> str:
    """Which rank of its node this one is, as the launcher says; nothing if it does not."""
    return next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "")


def start_watcher(options: Mapping[str, Any]) -> tuple[str, socket.socket]:
    """Start the watcher of this node; give its name, and the connection that keeps it waiting for ranks.

    Raises
    ------
    NotMonitored
        There can be none.
    """
    if not sys.executable:
        raise NotMonitored("there is no Python to run the watcher")
    name = handover.new_name()
    connection = None
    try:
        with handover.listen(name) as listener:
            # Ranks connect to it before the watcher can answer; this one keeps it waiting for them.
            connection = handover.connect(name)
            arguments = [str(listener.fileno()), name, json.dumps(dict(options))]
            command = [sys.executable, "-m", f"{__package__}.watcher", *arguments]
            # The shell leaves it alone: a program that waits for all its children must not wait for this.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                check=True,
                cwd="/",
                env=_environment(),
                pass_fds=[listener.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
    except (OSError, subprocess.SubprocessError) as error:
        if connection is not None:
            connection.close()
        raise NotMonitored(f"the watcher cannot be started: {error}") from error
    return name, connection


def _environment() -> dict[str, str]:
    """For the watcher: no modules out of the folder of the program, no threads for mathematics."""
    found = dict(os.environ, PYTHONSAFEPATH="1", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    if "PYTHONPATH" in found:
        folders = (str(Path(each).absolute()) for each in found["PYTHONPATH"].split(os.pathsep) if each)
        found["PYTHONPATH"] = os.pathsep.join(folders)
    found.pop("PYTHONWARNINGS", None)
    return found
