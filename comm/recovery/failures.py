"""Errors of recovery."""

from __future__ import annotations


class RecoveryUnavailable(RuntimeError):
    """The MPI library, or the way the job was started, lets no rank go on when another one dies."""


class RemoteFailure(RuntimeError):
    """Another rank raised an exception that is not MPI's, and all ranks stop with it."""


class DataLost(RuntimeError):
    """No complete commit is left: a rank and all that held copies of its arrays are lost."""


class DamagedCheckpoint(ValueError):
    """A saved commit is torn, corrupted or incomplete; the message names the file or the rank."""
