"""The address at which the other nodes of a job reach this host, so that it need listen on no other."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Interface, ip_address, ip_network

_GET_ADDRESS, _GET_NETMASK = 0x8915, 0x891B
_LOOPBACK = "127.0.0.1"


class Unreachable(OSError):
    """No address is good for the channel between watchers."""


def addresses() -> list[str]:
    """Give the IPv4 addresses of this host, as ``10.0.0.3/24``, those of the loopback interface last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                address, mask = (
                    socket.inet_ntoa(fcntl.ioctl(probe, request, struct.pack("256s", name.encode()))[20:24])
                    for request in (_GET_ADDRESS, _GET_NETMASK)
                )
            except OSError:  # It has none.
                continue
            found.append(str(IPv4Interface(f"{address}/{mask}")))
    return sorted(found, key=lambda each: IPv4Interface(each).is_loopback)


def address_for(mine: Sequence[str], others: Sequence[Sequence[str]], wanted: str | None = None) -> str:
    """Choose the address to listen on.

    Parameters
    ----------
    mine : sequence of str
        The `addresses` of this host.
    others : sequence of sequence of str
        Those of each other node.
    wanted : str, optional
        A network such as ``10.0.0.0/8``, or an address, which it has to be of, or to be.

    Raises
    ------
    Unreachable
        If none is `wanted`, or no other node has an address.

    Returns
    -------
    str
        The first one in whose network each other node has an address. Where there is none, that from which
        this host would send to the first other node.
    """
    own = [IPv4Interface(each) for each in mine]
    if wanted is not None:
        network = ip_network(wanted, strict=False)
        own = [each for each in own if each.ip in network]
        if not own:
            raise Unreachable(f"no address of {list(mine)} is in {wanted}")
    if all(set(each) == set(mine) for each in others):
        # All of them are on this machine, or there is no other.
        return str(own[0].ip) if wanted is not None else _LOOPBACK
    theirs = [
        [IPv4Interface(each).ip for each in node if not IPv4Interface(each).is_loopback] for node in others
    ]
    for each in own:
        if not each.is_loopback and all(any(ip in each.network for ip in node) for node in theirs):
            return str(each.ip)
    if wanted is not None:
        return str(own[0].ip)
    return _towards(next((str(ip) for node in theirs for ip in node), None))


def _towards(address: str | None) -> str:
    if address is None:
        raise Unreachable("no other node has an address but that of the loopback interface")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only looks up the route.
            probe.connect((str(ip_address(address)), 9))
        except OSError as error:
            raise Unreachable(f"no route to {address}: {error}") from error
        return str(probe.getsockname()[0])
