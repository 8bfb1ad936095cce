"""The side of the channel that tells the master what the ranks of a node do, and chooses whom to follow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from .gate import Gate, Invitation
from .silence import Silence
from .snapshot import RankView
from .view_bytes import views_bytes
from .wire import (
    NOBODY,
    Answer,
    Head,
    Kind,
    Malformed,
    Request,
    answer_bytes,
    message,
    read_clock,
    read_message,
    read_request,
)

# Messages of one master that are read at a time.
_AT_ONCE = 256


class Node:
    """What a watcher tells the master. None of its methods waits.

    The master is the node of the lowest rank of all that are heard. Where one is silent, that of the next
    lowest rank takes over, and the others follow it as soon as they do not hear the old one, either. All are
    connected to two: the master and the one that would take over. A node that cannot hear the master, but
    another one of lower rank, waits for that: the link is cut, and the master need not be lost.

    Parameters
    ----------
    gate : Gate
        Of this node.
    nodes : sequence of Invitation
        All nodes of the job, by their lowest rank.
    own : int
        The place of this node among them.
    size : int
        Ranks of the job.
    silence : Silence
        Of masters.
    absence : Silence
        Of nodes of lower rank, whether they are masters or not.
    lost_after : float
        Seconds of silence after which a master is lost.
    """

    def __init__(
        self,
        gate: Gate,
        nodes: Sequence[Invitation],
        own: int,
        size: int,
        silence: Silence,
        absence: Silence,
        *,
        lost_after: float = 3.0,
    ) -> None:
        self._gate, self._nodes, self._own = gate, nodes, own
        self._silence, self._absence, self._lost_after = silence, absence, lost_after
        self._size = size
        self._masters: dict[int, zmq.Socket[Any]] = {}
        self._last: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._asked: list[tuple[int, Request]] = []
        self._left: set[int] = set()
        self._ahead: dict[int, float] = {}
        # The first is expected to be there; the others when they say so.
        silence.hear(0)

    @property
    def follows(self) -> int:
        """Whom this node takes for the master, by its place: itself, too; `NOBODY` while none is heard."""
        for node in range(self._own):
            if node not in self._left and self._silence.of(node) < self._lost_after:
                return node
        if any(
            node not in self._left and self._absence.of(node) < self._lost_after for node in range(self._own)
        ):
            return NOBODY
        return self._own if self._quiet >= self._lost_after + self._turns(self._own) else NOBODY

    def receive(self) -> None:
        """Take in what masters said, and connect to those that may take over next."""
        for node in range(self._own):
            if node not in self._masters and self._may_take_over(node):
                self._masters[node] = self._gate.call(self._nodes[node])
        for node, master in self._masters.items():
            for _ in range(_AT_ONCE):
                try:
                    frames = master.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._take(node, frames)

    def send(self, views: Sequence[RankView]) -> bool:
        """Tell the master what the ranks of this node do; tell whether that was possible."""
        self.receive()
        master = self.follows
        if master not in self._masters:
            return False
        sent = [self._send(master, Kind.VIEWS, body) for body in views_bytes(views)]
        return all(sent)

    def greet(self, kind: Kind = Kind.HELLO) -> None:
        """Let those who may become master know that this node is there, and whom it follows, or leaves."""
        for node in self._masters:
            self._send(node, kind)

    def requests(self) -> list[tuple[int, Request]]:
        """Give what the master wants since this was called before, each with the node that asked."""
        self.receive()
        found, self._asked = self._asked, []
        return found

    def answer(self, master: int, request: Request, text: str, *, given: bool = True) -> bool:
        """Answer a request of `master`: with what it wanted, or why it was not `given`."""
        return self._send(
            master, Kind.ANSWER, answer_bytes(Answer(request.number, request.rank, given, text))
        )

    def ahead(self) -> float:
        """Seconds that this node's clock is ahead of the master's, and a message's least time on its way."""
        return self._ahead.get(self.follows, 0.0)

    @property
    def _heard_last(self) -> int:
        return min(range(max(self._own, 1)), key=lambda node: (self._silence.of(node), node))

    @property
    def _quiet(self) -> float:
        """Seconds since any node of lower rank was heard as a master."""
        if self._heard_last in self._left:
            return float("inf")
        return self._silence.of(self._heard_last) if self._own else float("inf")

    def _may_take_over(self, node: int) -> bool:
        """Tell whether `node` is the master, the next one, or will be one soon if all remain silent."""
        soon = self._quiet >= self._lost_after / 2 + self._turns(node)
        return node <= self._heard_last + 1 or soon

    def _turns(self, node: int) -> float:
        """Seconds that `node` gives those of lower rank to take over before it does."""
        return max(node - self._heard_last - 1, 0) * self._lost_after / 3 if self._own else 0.0

    def _send(self, node: int, kind: Kind, body: bytes = b"") -> bool:
        number = self._sent.get(node, 0) + 1
        try:
            self._masters[node].send(message(Head(kind, self.follows, number), body), zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        self._sent[node] = number
        return True

    def _take(self, node: int, frames: list[bytes]) -> None:
        try:
            if len(frames) != 1:
                raise Malformed(f"{len(frames)} frames")
            head, body = read_message(frames[0], len(self._nodes))
            if head.number <= self._last.get(node, -1):
                self._gate.dropped["replayed"] += 1
                return
            if head.kind is Kind.ASK:
                request = read_request(body, self._size)
                if request.rank not in self._nodes[self._own].ranks:
                    raise Malformed(f"rank {request.rank}, which is on another node")
                # Only whom this node follows may ask.
                if node == self.follows:
                    self._asked.append((node, request))
            elif head.kind is Kind.BYE and not body:
                self._left.add(node)
            elif head.kind is Kind.BEAT:
                # The beat that was under way for the shortest time is the nearest.
                ahead = time.monotonic() - read_clock(body)
                self._ahead[node] = min(ahead, self._ahead.get(node, ahead))
            elif head.kind is not Kind.HELLO or body:
                raise Malformed(f"a {head.kind.name} of {len(body)} bytes, of a master")
        except Malformed:
            self._gate.dropped["malformed"] += 1
            return
        self._last[node] = head.number
        self._absence.hear(node)
        if head.kind is not Kind.HELLO:
            self._silence.hear(node)
