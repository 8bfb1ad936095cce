"""Where a watcher listens for those of other nodes: nobody enters without a key of the job.

Each watcher makes its own keys, and only their public halves travel, over MPI. CURVE encrypts and
authenticates both sides, with fresh keys for each connection, so that recorded bytes open nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from .wire import MOST_BYTES

# A connection that has not shown its key by then is closed.
_MOST_HANDSHAKE = 3000
# Messages of one node that wait to be read. What does not fit waits at the sender.
_MOST_WAITING = 16
# Of each kind, handled at a time: a flood must not keep the watcher from its ranks.
_AT_ONCE = 2048
_DOMAIN = b"roundelay"


class ChannelUnavailable(RuntimeError):
    """There can be no channel between watchers; the message says why."""


@dataclass(frozen=True)
class Invitation:
    """What all nodes have to know of one, which may be known to all: how to reach it, and its public keys.

    Parameters
    ----------
    ranks : tuple of int
        Those on the node, in ascending order.
    host : str
    endpoint : str
        Of ZeroMQ, such as ``tcp://10.0.0.3:40123``.
    server_key, client_key : str
        Public keys, with which it listens and calls.
    """

    ranks: tuple[int, ...]
    host: str
    endpoint: str
    server_key: str
    client_key: str

    def to_json(self) -> str:
        """Give it as text, to be gathered over MPI."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Invitation:
        """Read what `to_json` gave.

        Raises
        ------
        ValueError
        """
        fields = json.loads(text)
        names = set(Invitation.__dataclass_fields__)
        if not isinstance(fields, dict) or set(fields) != names:
            raise ValueError(f"not an invitation: expected an object of {sorted(names)}")
        ranks = fields.pop("ranks")
        if not isinstance(ranks, list) or not all(type(rank) is int and rank >= 0 for rank in ranks):
            raise ValueError(f"ranks {ranks!r} of an invitation: expected a list of ranks")
        if not ranks or ranks != sorted(set(ranks)):
            raise ValueError(f"ranks {ranks} of an invitation: expected ascending ones")
        if not all(isinstance(each, str) for each in fields.values()):
            raise ValueError(f"an invitation of {fields}: expected text")
        for name in ("server_key", "client_key"):
            if len(z85.decode(fields[name].encode("ascii"))) != 32:
                raise ValueError(f"{name} {fields[name]!r} of an invitation: expected 40 characters of Z85")
        return Invitation(tuple(ranks), **fields)


@dataclass
class Gate:
    """A socket that listens, and the keys of this node. Made by `listen`.

    Parameters
    ----------
    invitation : Invitation
        What the other nodes need.
    dropped : Counter
        How many connections and messages were dropped, by the reason.
    """

    invitation: Invitation
    context: zmq.Context[Any]
    client_secret: bytes = field(repr=False)
    dropped: Counter[str]
    _socket: zmq.Socket[bytes]
    _doorman: zmq.Socket[bytes]
    _events: zmq.Socket[bytes]
    _nodes: dict[bytes, int] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)

    def admit(self, invitations: Sequence[Invitation]) -> None:
        """Let the other nodes of the job in, each by its key."""
        self._nodes = {
            each.client_key.encode(): place
            for place, each in enumerate(invitations)
            if each.client_key != self.invitation.client_key
        }

    def received(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield what has come from other nodes: the node, its address here, the message. Does not wait."""
        self._answer_door()
        for _ in range(_AT_ONCE):
            try:
                address, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            node = self._node_of(frames[-1]) if len(frames) == 1 else None
            if node is None:
                self.dropped["malformed"] += 1
                continue
            yield node, address.bytes, frames[0].bytes
        self._count_events()

    def send(self, address: bytes, data: bytes) -> bool:
        """Send to a node by its address here; tell whether that was possible. Does not wait."""
        try:
            self._socket.send_multipart([address, data], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def call(self, other: Invitation) -> zmq.Socket[bytes]:
        """Connect to another node, which proves that it has the secret half of its server key."""
        caller: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        caller.curve_publickey = self.invitation.client_key.encode()
        caller.curve_secretkey = self.client_secret
        caller.curve_serverkey = other.server_key.encode()
        caller.linger = 0
        # What cannot be sent now is old when it can.
        caller.immediate = True
        caller.sndhwm = caller.rcvhwm = _MOST_WAITING
        caller.reconnect_ivl, caller.reconnect_ivl_max = 100, 1000
        _keep_alive(caller)
        caller.connect(other.endpoint)
        return caller

    def close(self, seconds: float = 0.0) -> None:
        """Let go of the port and of all connections, once what was sent is on its way."""
        self._socket.disable_monitor()
        self.context.destroy(linger=int(seconds * 1e3))

    def _node_of(self, frame: zmq.Frame) -> int | None:
        try:
            self._known.add(int(frame.get(zmq.SRCFD)))
            return int(str(frame.get("User-Id")))
        except (zmq.ZMQError, ValueError):
            return None

    def _answer_door(self) -> None:
        """Decide on connections whose key is known by now (RFC 27)."""
        for _ in range(_AT_ONCE):
            try:
                address, empty, version, number, *rest = self._doorman.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            domain, mechanism, key = rest[0], rest[3], rest[-1]
            node = None
            if domain == _DOMAIN and mechanism == b"CURVE" and len(key) == 32:
                node = self._nodes.get(z85.encode(key))
            if node is None:
                answer = [b"400", b"no key of this job", b"", b""]
            else:
                answer = [b"200", b"", str(node).encode(), b""]
            self._doorman.send_multipart([address, empty, version, number, *answer])

    def _count_events(self) -> None:
        """Count connections that ended before they had sent a message, for whatever reason."""
        for _ in range(_AT_ONCE):
            try:
                event = parse_monitor_message(self._events.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._known.discard(event["value"])
            elif event["value"] in self._known:
                self._known.discard(event["value"])
                self.dropped["disconnected"] += 1
            else:
                self.dropped["unauthenticated"] += 1


def listen(address: str, ranks: Sequence[int], host: str, ports: Sequence[int] = ()) -> Gate:
    """Make keys, and listen on a free port of `address`. Nobody is let in before `Gate.admit`.

    Parameters
    ----------
    address : str
        Of the interface by which the other nodes reach this one; see `addresses.address_for`.
    ranks : sequence of int
        Those on this node.
    host : str
    ports : sequence of int, optional
        Those that a firewall lets through. By default any that is free.

    Raises
    ------
    ChannelUnavailable
        If no port is free, the address is none of this host, or the ZeroMQ library has no CURVE.
    """
    if not zmq.has("curve"):
        raise ChannelUnavailable("this ZeroMQ library was built without CURVE; python -m pip install pyzmq")
    if ip_address(address).is_unspecified:
        raise ChannelUnavailable(f"address {address}: expected that of one interface")
    (server_public, server_secret), (client_public, client_secret) = zmq.curve_keypair(), zmq.curve_keypair()
    context: zmq.Context[Any] = zmq.Context()
    try:
        # Each must be there before the first connection.
        doorman = context.socket(zmq.ROUTER)
        doorman.bind("inproc://zeromq.zap.01")
        socket = context.socket(zmq.ROUTER)
        socket.curve_server = True
        socket.curve_secretkey = server_secret
        socket.zap_domain = _DOMAIN
        socket.handshake_ivl = _MOST_HANDSHAKE
        socket.maxmsgsize = MOST_BYTES
        socket.rcvhwm = socket.sndhwm = _MOST_WAITING
        socket.router_mandatory = True
        socket.linger = 0
        _keep_alive(socket)
        socket.monitor("inproc://events", zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        events = context.socket(zmq.PAIR)
        # The thread that serves all connections would wait for room.
        events.rcvhwm = 0
        events.connect("inproc://events")
        endpoint = _bind(socket, address, ports)
    except BaseException:
        context.destroy(linger=0)
        raise
    invitation = Invitation(
        tuple(sorted(ranks)), host, endpoint, server_public.decode(), client_public.decode()
    )
    return Gate(invitation, context, client_secret, Counter(), socket, doorman, events)


def _bind(socket: zmq.Socket[bytes], address: str, ports: Sequence[int]) -> str:
    tried = []
    for port in [*map(str, ports)] or ["*"]:
        try:
            socket.bind(f"tcp://{address}:{port}")
        except zmq.ZMQError as error:
            tried.append(f"{port}: {error}")
            continue
        endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return endpoint.rstrip(b"\0").decode()
    raise ChannelUnavailable(f"no port on {address} to listen on ({'; '.join(tried)})")


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Notice a connection whose other end is gone without a word, and make a new one."""
    socket.heartbeat_ivl, socket.heartbeat_timeout = 1000, 4000
