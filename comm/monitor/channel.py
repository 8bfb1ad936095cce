"""The channel between the watchers of a job that runs on several nodes.

At the start, while MPI works, each node listens at an address that the others reach, and all gather what
`Gate.invitation` says over MPI::

    networks = comm.allgather(addresses())                      # in a rank of each node
    gate = listen(address_for(networks[own], others), ranks, host)  # in its watcher
    texts = comm.allgather(gate.invitation.to_json())           # in the rank again
    nodes = [Invitation.from_json(text) for text in texts]      # in the watcher again
    channel = open_channel(gate, nodes, size=comm.size, functions=400)

From then on the channel needs neither MPI nor the ranks, and no thread of its own: the watcher calls
`Channel.exchange` several times a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil

from .gate import ChannelUnavailable, Gate, Invitation, listen
from .master import Master
from .node import Node
from .silence import Silence
from .snapshot import RankView
from .wire import NOBODY, Kind

__all__ = ["Channel", "ChannelUnavailable", "Invitation", "listen", "open_channel"]

_BETWEEN_BEATS = 0.5
_SECONDS_TO_LEAVE = 0.5


class Channel:
    """Both sides of the channel, as every watcher has them: any may have to be the master.

    Parameters
    ----------
    gate : Gate
    node : Node
    master : Master
    silences : sequence of Silence
        Those that `node` and `master` use.
    """

    def __init__(self, gate: Gate, node: Node, master: Master, own: int, silences: Sequence[Silence]) -> None:
        self.node, self.master, self.own = node, master, own
        self._gate, self._silences = gate, silences
        self._next_beat = 0.0

    @property
    def is_master(self) -> bool:
        """Whether the verdicts are this watcher's: no other that is heard has a better right to them.

        A node that took over and hears nobody, of three or more, is more likely to be cut off itself.
        """
        return self.node.follows == self.own and self.master.obeyed() and self.master.is_not_alone()

    @property
    def dropped(self) -> Counter[str]:
        """How many connections and messages were dropped, by the reason; see `Master.dropped`."""
        return self._gate.dropped

    def exchange(self, views: Sequence[RankView]) -> None:
        """Tell the master what the ranks of this node do, or be the master, and take in what has come."""
        for silence in self._silences:
            silence.look()
        self.master.receive()
        self.node.send(views)
        now = self._silences[0].now
        if now >= self._next_beat:
            self._next_beat = now + _BETWEEN_BEATS
            self.node.greet()
            self.master.beat(Kind.BEAT if self.node.follows == self.own else Kind.HELLO)

    def next_look(self, period: float) -> float:
        """When to look at the ranks again: all nodes do so at about the same time, `period` after `period`.

        Counters of ranks that were read at different times cannot be compared.
        """
        ahead = self.node.ahead()
        # Not at once again, where a look ended just before its time.
        earliest = time.monotonic() - ahead + period / 2
        return ceil(earliest / period) * period + ahead

    def leave(self) -> None:
        """Say that all ranks of this node are gone, and let go of the port and of all connections."""
        self.node.greet(Kind.BYE)
        if self.node.follows == self.own and self.master.are_others_there():
            self.master.beat(Kind.BYE)
            # A node that has not read it when the connection ends never does.
            time.sleep(_SECONDS_TO_LEAVE)
        self._gate.close(_SECONDS_TO_LEAVE)

    def close(self) -> None:
        """Let go of the port and of all connections, without a word."""
        self._gate.close()


def open_channel(
    gate: Gate,
    invitations: Sequence[Invitation],
    *,
    size: int,
    functions: int,
    lost_after: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
) -> Channel:
    """Begin to talk to the watchers of the other nodes.

    Parameters
    ----------
    gate : Gate
        What `listen` gave.
    invitations : sequence of Invitation
        Of all nodes that are watched, in any order.
    size : int
        Ranks of the job.
    functions : int
        How many functions of MPI have a number in the records.
    lost_after : float
        Seconds of silence after which a node is lost, and after which another takes over from the master.
    clock : callable
        Gives seconds.

    Raises
    ------
    ValueError
        If two nodes have the same rank, a rank is none of the job, or the own node is not among them.
    """
    nodes = sorted(invitations, key=lambda each: each.ranks[0])
    ranks = sorted(rank for each in nodes for rank in each.ranks)
    if len(set(ranks)) != len(ranks) or ranks[-1] >= size:
        raise ValueError(f"invitations for ranks {ranks}: expected each of {size} at most once")
    if gate.invitation not in nodes:
        raise ValueError(f"no invitation of this node, {gate.invitation.host}, among {len(nodes)}")
    if len(nodes) >= NOBODY:
        raise ValueError(f"{len(nodes)} nodes: expected fewer than {NOBODY}")
    keys = {each.client_key for each in nodes} | {each.server_key for each in nodes}
    if len(keys) != 2 * len(nodes):
        raise ValueError("two nodes have the same key")
    own = nodes.index(gate.invitation)
    gate.admit(nodes)
    masters, absence, others = Silence(clock), Silence(clock), Silence(clock)
    node = Node(gate, nodes, own, size, masters, absence, lost_after=lost_after)
    master = Master(gate, nodes, own, size, functions, others, lost_after=lost_after)
    return Channel(gate, node, master, own, (masters, absence, others))
