"""Whether ranks can go on when another one dies: MPI's user-level failure mitigation (ULFM)."""

from __future__ import annotations

import os
from functools import cache

from ...datatypes.plain import MPI

# Set by Open MPI's `mpirun --with-ft ulfm`. The functions work without it, but `mpirun` ends the job with the
# first process that dies.
_STARTED_WITH_ULFM = "OMPI_MCA_mpi_ft_enable"


@cache
def why_unavailable() -> str:
    """Why ranks cannot go on when another one dies; empty where they can. Sends nothing.

    That mpi4py has the methods says nothing: MPICH's answers are harmless, and know no failures. The probe
    therefore revokes a communicator of this process alone, and looks how the job was started.

    Examples
    --------
    >>> isinstance(why_unavailable(), str)
    True
    """
    library = MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\0 ")
    if not _revokes():
        return (
            f"{library} cannot revoke communicators: use an MPI library with ULFM, such as Open MPI 5, or "
            "save commits with roundelay.Protected and restart"
        )
    if "Open MPI" in library and os.environ.get(_STARTED_WITH_ULFM, "").lower() not in ("1", "true", "yes"):
        return f"{library} ends the job when a process dies: start it with `mpirun --with-ft ulfm`"
    return ""


def check_whole(comm: MPI.Comm) -> None:
    """Raise `mpi4py.MPI.Exception` if a process of a communicator is known to be dead; sends nothing.

    Open MPI's collectives sometimes return without an error, and with wrong results, when a process dies in
    the midst of them, or when the communicator is revoked; this process then knows of it.
    """
    failed = comm.Get_failed()
    try:
        if failed.size:
            raise MPI.Exception(MPI.ERR_PROC_FAILED)
    finally:
        failed.Free()
    if comm.Is_revoked():
        raise MPI.Exception(MPI.ERR_REVOKED)


def is_whole(comm: MPI.Comm) -> bool:
    """Whether nothing is known to be wrong with a communicator; sends nothing."""
    try:
        check_whole(comm)
    except MPI.Exception:
        return False
    return True


def _revokes() -> bool:
    comm = MPI.COMM_SELF.Dup()
    try:
        comm.Revoke()
        return bool(comm.Is_revoked())
    except (NotImplementedError, AttributeError, MPI.Exception):
        return False
    finally:
        comm.Free()
