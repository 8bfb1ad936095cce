"""What is said to the user, on standard error."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import sys
import termios
import time
from contextlib import suppress

# Whoever reads standard error may be slow, or stopped.
_SECONDS_TO_CARRY = 1.0


def say(sentence: str) -> None:
    """Tell the user, who may have closed standard error."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"roundelay: {sentence}", file=sys.stderr, flush=True)


def wait_until_carried() -> None:
    """Wait until mpiexec has taken what was said out of the pipe that is standard error, if it is one.

    What is still in there when a rank aborts the job, MPICH's throws away.
    """
    with suppress(OSError, ValueError, AttributeError):
        file, left = sys.stderr.fileno(), array.array("i", [0])
        end = time.monotonic() + _SECONDS_TO_CARRY
        while stat.S_ISFIFO(os.fstat(file).st_mode) and time.monotonic() < end:
            fcntl.ioctl(file, termios.FIONREAD, left)
            if not left[0]:
                return
            time.sleep(0.001)
