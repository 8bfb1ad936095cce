"""The socket of a node's watcher: its name, who may speak at it, and messages with descriptors.

The name is in the abstract space of Unix sockets: no file is left behind, whoever is killed.
"""

from __future__ import annotations

import array
import json
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20
_CREDENTIALS = struct.Struct("3i")


class Stranger(PermissionError):
    """At the other end of a socket is another user."""


def new_name() -> str:
    """A name that nobody else has."""
    return f"roundelay-{os.getuid()}-{secrets.token_hex(8)}"


def names(user: int | None = None) -> list[str]:
    """The watchers on this node, of one user or of all."""
    prefix = "@roundelay-" if user is None else f"@roundelay-{user}-"
    with suppress(OSError):
        lines = Path("/proc/net/unix").read_text().splitlines()
        fields = [line.split() for line in lines[1:]]
        # A connection has the name of the socket that took it, too.
        found = {each[7] for each in fields if len(each) > 7 and each[7].startswith(prefix)}
        return sorted(name[1:] for name in found)
    return []


def listen(name: str) -> socket.socket:
    """Open a watcher's socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(b"\0" + name.encode())
    listener.listen(4096)
    return listener


def connect(name: str) -> socket.socket:
    """Connect to a watcher of the same user.

    Raises
    ------
    Stranger
        It is another user's.
    OSError
        There is none.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(b"\0" + name.encode())
        check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: socket.socket) -> int:
    """Give the process at the other end, as it is numbered here.

    Raises
    ------
    Stranger
        It is another user's, or in another space of process numbers.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.getuid():
        raise Stranger(f"expected a process of user {os.getuid()}, found one of user {user}")
    return int(process)


def send(connection: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message, and descriptors with it."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    connection.sendmsg([json.dumps(message).encode()], rights)


def receive(connection: socket.socket, most_files: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive a message and the descriptors that came with it; None at the end.

    Raises
    ------
    ValueError
        It is no message.
    """
    room = socket.CMSG_SPACE(most_files * array.array("i").itemsize) if most_files else 0
    data, rights, _, _ = connection.recvmsg(_MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    if not data:
        close(files)
        return None, []
    try:
        message = json.loads(data)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        close(files)
        raise ValueError(f"expected a JSON object, found {data[:40]!r}")
    return message, list(files)


def close(files: Sequence[int]) -> None:
    """Close descriptors."""
    for file in files:
        with suppress(OSError):
            os.close(file)
