"""The hosts: their namespaces, names and addresses, and how their TCP is set.

Host `i` is named ``h<i>``. One more, ``head``, is where ``mpiexec`` runs: the switch hands on its frames at
once, so that what starts and watches the ranks neither waits for the network under test nor loads it.

A host has no process of its own. The keeper, which makes the hosts, holds their namespaces open; when it
ends, in whatever way, the kernel takes them away with their devices, routes, mounts and shared memory.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

from benchmarks.netlab import machine

DEVICE = "net0"
# Few large frames spare the switch; one of this size still takes only 0.24 ms at 300 Mbit/s.
MTU = 9000
FRAME_BYTES = MTU + 14
HEAD = "head"
# In a file system of the host's own, which ends with it.
FOLDER = Path("/dev/shm/netlab")
HOSTS_FILE = FOLDER / "hosts"
ENTER = FOLDER / "enter"

MIN_WINDOW = 4 << 20


class Host(NamedTuple):
    """A host: open files of its namespaces by kind, and of its TAP device."""

    name: str
    namespaces: dict[str, int]
    tap: int


def host_names(hosts: int) -> list[str]:
    """Names of the hosts, the head last.

    >>> host_names(2)
    ['h0', 'h1', 'head']
    """
    return [*(f"h{number}" for number in range(hosts)), HEAD]


def address(number: int) -> str:
    """Address of the host of a number, the same in every lab: no packet leaves its namespaces."""
    return f"10.77.{(number + 1) >> 8}.{(number + 1) & 255}"


def hardware_address(number: int) -> str:
    """Ethernet address of a host, whose last two bytes are its number: the switch reads them."""
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def make_hosts(names: list[str], window: int) -> list[Host]:
    """Make the hosts of these names; this process stays where it is.

    Parameters
    ----------
    names
        From `host_names`.
    window
        Bytes that a TCP connection may have on the way.
    """
    own = machine.open_namespaces()
    made = []
    for number, name in enumerate(names):
        machine.unshare(machine.HOST_FLAGS)
        socket.sethostname(name)
        _mount_own(names)
        tap = machine.open_tap(DEVICE)
        _configure(number, len(names), window)
        made.append(Host(name, machine.open_namespaces(), tap))
        machine.enter(own)
    for host in made:
        _write_enter_scripts(host, made)
    machine.enter(own)
    for descriptor in own.values():
        os.close(descriptor)
    return made


def _mount_own(names: list[str]) -> None:
    # Libraries look for network devices in /sys, which shows those of the namespace that mounted it.
    machine.mount("sysfs", "/sys")
    machine.mount("tmpfs", "/dev/shm", options="mode=1777")
    FOLDER.mkdir()
    rows = ["127.0.0.1 localhost", *(f"{address(number)} {name}" for number, name in enumerate(names))]
    HOSTS_FILE.write_text("\n".join(rows) + "\n")
    machine.mount("bind", "/etc/hosts", str(HOSTS_FILE))


def _write_enter_scripts(host: Host, hosts: list[Host]) -> None:
    """Write the stand-in for ssh: ``enter [options] HOST command...``."""
    machine.enter(host.namespaces)
    cases = [f"{other.name}) in='{enter_options(1, other)}' ;;" for other in hosts]
    ENTER.write_text(
        "#!/bin/sh\n"
        'while case "$1" in -*) true ;; *) false ;; esac; do shift; done\n'
        "host=$1; shift\n"
        'case "$host" in\n' + "\n".join(cases) + '\n*) echo "netlab: no host $host" >&2; exit 1 ;;\nesac\n'
        "folder=$(pwd)\nexec nsenter $in -- sh -c \"cd '$folder' && $*\"\n"
    )
    ENTER.chmod(0o755)


def enter_options(keeper: int, host: Host) -> str:
    """Options of ``nsenter`` for a host whose keeper has the process number `keeper` where they are used."""
    files = host.namespaces.items()
    return " ".join(f"--{LONG_NAMES[kind]}=/proc/{keeper}/fd/{descriptor}" for kind, descriptor in files)


LONG_NAMES = {"net": "net", "uts": "uts", "ipc": "ipc", "mnt": "mount"}


def _configure(number: int, count: int, window: int) -> None:
    segments = window // MTU
    route = f"dev {DEVICE} src {address(number)}"
    lines = [
        "link set lo up",
        f"link set {DEVICE} address {hardware_address(number)} mtu {MTU} txqueuelen 20000",
    ]
    for name, value in _settings(window).items():
        Path("/proc/sys/net", name).write_text(value)
    lines += [f"address add {address(number)}/32 dev {DEVICE}", f"link set {DEVICE} up"]
    for other in range(count):
        if other != number:
            lines.append(
                f"route add {address(other)}/32 {route} initcwnd {segments} initrwnd {segments} rto_min 1000"
            )
            # Nobody asks who has an address, so that a first message costs what later ones do.
            lines.append(
                f"neighbor add {address(other)} lladdr {hardware_address(other)} dev {DEVICE} nud permanent"
            )
    machine.call(["ip", "-batch", "-"], "\n".join(lines) + "\n")


def _settings(window: int) -> dict[str, str]:
    """TCP without what makes its times depend on the past: no slow start, no probes, nothing remembered."""
    return {
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv4/tcp_slow_start_after_idle": "0",
        "ipv4/tcp_no_metrics_save": "1",
        "ipv4/tcp_early_retrans": "0",
        "ipv4/tcp_rmem": f"4096 {2 * window} {4 * window}",
        "ipv4/tcp_wmem": f"4096 {2 * window} {4 * window}",
    }
