"""The machine below the hosts: namespaces, mounts and TAP devices, by the C library and ``ip``."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

TUN = Path("/dev/net/tun")
TOOLS = ("ip", "unshare", "nsenter", "mount")

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
HOST_FLAGS = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
CAP_SYS_ADMIN, CAP_NET_ADMIN = 21, 12
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
# Without resolution of timers a sleep of microseconds takes 50 more.
PR_SET_TIMERSLACK = 29

_libc = ctypes.CDLL(None, use_errno=True)


def unavailable() -> str | None:
    """Say why this machine cannot have a lab, or None where it can.

    >>> reason = unavailable()
    >>> reason is None or isinstance(reason, str)
    True
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"netlab needs {', '.join(missing)} on the PATH"
    if not _capable(CAP_SYS_ADMIN) or not _capable(CAP_NET_ADMIN):
        return "netlab needs root: it makes network namespaces"
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"netlab needs {TUN}: {error.strerror}"
    tried = subprocess.run(["unshare", "-fpnmui", "true"], capture_output=True, text=True, check=False)
    return f"netlab needs namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next((line for line in status.splitlines() if line.startswith("CapEff")), "CapEff: 0")
    return bool(int(effective.split()[1], 16) >> capability & 1)


def unshare(flags: int) -> None:
    """Move this process into new namespaces of the kinds in `flags`."""
    _check(_libc.unshare(flags), "unshare")


def enter(descriptors: dict[str, int]) -> None:
    """Move this process into the namespaces of open files, of kind `mnt` last, since paths change there."""
    for kind in sorted(descriptors, key="mnt".__eq__):
        _check(_libc.setns(descriptors[kind], 0), f"setns {kind}")


def open_namespaces(kinds: tuple[str, ...] = ("net", "uts", "ipc", "mnt")) -> dict[str, int]:
    """Open this process's namespaces; each lives as long as its file is open."""
    return {kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in kinds}


def mount(kind: str, target: str, source: str = "none", options: str = "") -> None:
    """Mount a file system of a `kind`, or bind the file `source`, at `target`."""
    how = ["--bind"] if kind == "bind" else ["-t", kind]
    extra = ["-o", options] if options else []
    call(["mount", "-n", *how, *extra, source, target])


def open_tap(name: str) -> int:
    """Make the TAP device `name` in the network namespace of this process; it lives as long as its file."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def set_timer_slack(nanoseconds: int) -> None:
    """Let sleeps of this process and its children end so much late at most."""
    _check(_libc.prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0), "prctl")


def call(command: list[str], text: str | None = None) -> None:
    """Run a tool of the system.

    Raises
    ------
    OSError
        When it fails, with what it said.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
