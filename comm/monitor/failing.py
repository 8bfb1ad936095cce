"""A rank that is about to end the job: what it tells the watcher before."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from traceback import walk_tb

from . import handover

# Of the text of an exception.
_MOST_TEXT = 300
# The watcher needs a second for a mismatch and the stacks, may have to begin first, and may wait for a core.
# If it is gone, that is known at once.
_SECONDS_TO_LOOK = 10.0
# The file system has to take all commits of this node.
_SECONDS_TO_SAVE = 600.0


def tell_failure(connection: socket.socket, failure: BaseException) -> None:
    """Tell the watcher that this rank is about to end the job, and give it a moment to look at the others.

    Soon they are killed, and cannot be asked any more where they were.
    """
    what, text = type(failure).__name__, str(failure)
    if isinstance(failure, SystemExit) and isinstance(failure.code, int):
        what = f"exit status {failure.code}"
    elif text:
        what += f": {text.splitlines()[0][:_MOST_TEXT]}"
    frames = [
        f'  File "{frame.f_code.co_filename}", line {line} in {frame.f_code.co_name}'
        for frame, line in walk_tb(failure.__traceback__)
    ]
    message = {
        "kind": "failing",
        "what": what,
        "stack": "\n".join(["Current thread 0x0 (most recent call first):", *reversed(frames)]),
        "is_wanted": isinstance(failure, KeyboardInterrupt),
    }
    with suppress(OSError, ValueError):
        handover.send(connection, message)
        seconds = _SECONDS_TO_LOOK
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.settimeout(seconds)
            answer, _ = handover.receive(connection)
            if answer is None or answer.get("kind") == "seen":
                return
            if answer.get("kind") == "saving":
                seconds = _SECONDS_TO_SAVE
                end = time.monotonic() + seconds
