"""Errors of recovery."""

from __future__ import annotations


class RecoveryUnavailable(RuntimeError):
    """The MPI library, or the way the job was started, lets no rank go on when another one dies."""

    # Its public home, which tracebacks name.
    __module__ = "roundelay"


class RemoteFailure(RuntimeError):
    """Another rank raised an exception that is not MPI's, and all ranks stop with it."""

    # Its public home, which tracebacks name.
    __module__ = "roundelay"


class DataLost(RuntimeError):
    """No complete commit is left: a rank and all that held copies of its arrays are lost."""

    # Its public home, which tracebacks name.
    __module__ = "roundelay"


class DamagedCheckpoint(ValueError):
    """A saved commit is torn, corrupted or incomplete; the message names the file or the rank."""

    # Its public home, which tracebacks name.
    __module__ = "roundelay"
