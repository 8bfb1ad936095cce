"""The side of the channel that hears all other nodes, and asks them for what it wants to know."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .gate import Gate, Invitation
from .memory import CALLS, LANES
from .silence import Silence
from .snapshot import RankView
from .view_bytes import read_views
from .wire import (
    Answer,
    Asked,
    Head,
    Kind,
    Malformed,
    Request,
    clock_bytes,
    message,
    read_answer,
    read_message,
    request_bytes,
)

# Of one rank, that ended between two calls of `collect`.
_MOST_CALLS = CALLS * LANES
_MOST_ASKED = 1024


@dataclass(frozen=True)
class _Asked:
    node: int
    request: Request
    since: float


class Master:
    """What a watcher hears of all other nodes. None of its methods waits.

    Every watcher has one, and only that which the others follow has something to say.

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
    functions : int
        How many functions of MPI have a number in the records.
    silence : Silence
    lost_after : float
        Seconds of silence after which a node is lost.
    patience : float
        Seconds after which an answer is not waited for any more.
    """

    def __init__(
        self,
        gate: Gate,
        nodes: Sequence[Invitation],
        own: int,
        size: int,
        functions: int,
        silence: Silence,
        *,
        lost_after: float = 3.0,
        patience: float = 5.0,
    ) -> None:
        self._gate, self._nodes, self._own, self._functions = gate, nodes, own, functions
        self._silence, self._lost_after, self._patience = silence, lost_after, patience
        self._size = size
        self._node_of = {rank: place for place, each in enumerate(nodes) for rank in each.ranks}
        self._address: dict[int, bytes] = {}
        self._last: dict[int, int] = {}
        self._follows: dict[int, int] = {}
        self._left: set[int] = set()
        self._views: dict[int, RankView] = {}
        self._asked: dict[int, _Asked] = {}
        self._answers: list[Answer] = []
        self._sent = 0
        for place in range(len(nodes)):
            silence.hear(place)

    @property
    def dropped(self) -> Counter[str]:
        """How many connections and messages were dropped, by the reason.

        "unauthenticated": ended before a key of the job was shown; "malformed"; "replayed"; "disconnected":
        connections of nodes of the job that ended, as they do after a message that is too long.
        """
        return self._gate.dropped

    def receive(self) -> None:
        """Take in what has come."""
        for node, address, data in self._gate.received():
            try:
                head, body = read_message(data, len(self._nodes))
                if head.number <= self._last.get(node, -1):
                    self.dropped["replayed"] += 1
                    continue
                self._take(node, head, body)
            except Malformed:
                self.dropped["malformed"] += 1
                continue
            self._last[node], self._address[node], self._follows[node] = head.number, address, head.follows
            self._silence.hear(node)
        for each in [each for each in self._asked.values() if self._gone(each)]:
            text = f"{self._nodes[each.node].host} did not answer within {self._patience:g} s"
            self._settle(Answer(each.request.number, each.request.rank, False, text))

    def collect(self) -> list[RankView]:
        """Give what ranks on other nodes do, of those nodes that were heard lately.

        The `calls` and `messages` of each are all that ended since this was called before.
        """
        self.receive()
        found = [view for view in self._views.values() if not self.is_lost(self._node_of[view.rank])]
        for view in found:
            self._views[view.rank] = replace(view, calls=view.calls[:0], messages=view.messages[:0])
        return found

    def is_lost(self, node: int) -> bool:
        """Tell whether another node has been silent for too long."""
        is_expected = node != self._own and node not in self._left
        return is_expected and self._silence.of(node) >= self._lost_after

    def are_others_there(self) -> bool:
        """Tell whether another node has neither left nor is lost."""
        others = set(range(len(self._nodes))) - {self._own} - self._left
        return any(not self.is_lost(node) for node in others)

    def is_not_alone(self) -> bool:
        """Tell whether it is the first of those that are there by right, or another node is heard."""
        expected = set(range(len(self._nodes))) - self._left
        return self._own == min(expected) or len(self._nodes) == 2 or self.are_others_there()

    def unreachable(self) -> dict[int, str]:
        """Give the ranks on nodes that are lost, each with its host. They need not be dead."""
        return {
            rank: each.host
            for place, each in enumerate(self._nodes)
            if self.is_lost(place)
            for rank in each.ranks
        }

    def obeyed(self) -> bool:
        """Tell whether no other node that was heard lately follows one of lower rank."""
        return not any(
            follows < self._own and node not in self._left and not self.is_lost(node)
            for node, follows in self._follows.items()
        )

    def beat(self, kind: Kind = Kind.BEAT) -> None:
        """Tell all nodes that the master is here, or leaves; or, with HELLO, that this is another."""
        body = clock_bytes(time.monotonic()) if kind is Kind.BEAT else b""
        for node in range(len(self._nodes)):
            self._send(node, kind, body)

    def ask(self, rank: int, asked: Asked, text: str = "") -> int:
        """Ask the node of a rank for something; give the number that its answer will have.

        Raises
        ------
        ValueError
            If the rank is on this node, or none of the job.
        """
        node = self._node_of.get(rank, self._own)
        if node == self._own:
            raise ValueError(f"rank {rank}: expected one on another node")
        request = Request(self._sent & 0xFFFFFFFF, rank, asked, text)
        if (
            self.is_lost(node)
            or len(self._asked) >= _MOST_ASKED
            or not self._send(node, Kind.ASK, request_bytes(request))
        ):
            text = f"{self._nodes[node].host} cannot be reached"
            self._answers.append(Answer(request.number, rank, False, text))
        else:
            self._asked[request.number] = _Asked(node, request, self._silence.now)
        return request.number

    def tell(self, asked: Asked, text: str = "") -> None:
        """Ask the same of all other nodes, and wait for no answer."""
        for place, each in enumerate(self._nodes):
            if place != self._own:
                self._send(place, Kind.ASK, request_bytes(Request(0, each.ranks[0], asked, text)))

    def answers(self) -> list[Answer]:
        """Give what has come back since this was called before; one for each request, sooner or later."""
        self.receive()
        found, self._answers = self._answers, []
        return found

    def _send(self, node: int, kind: Kind, body: bytes = b"") -> bool:
        address = self._address.get(node)
        # A number that was not sent is never missed.
        self._sent += 1
        head = Head(kind, self._own, self._sent)
        return address is not None and self._gate.send(address, message(head, body))

    def _take(self, node: int, head: Head, body: memoryview) -> None:
        if head.kind is Kind.VIEWS:
            for view in read_views(body, self._nodes[node].ranks, self._size, self._functions):
                self._views[view.rank] = _joined(self._views.get(view.rank), view)
        elif head.kind is Kind.ANSWER:
            answer = read_answer(body, self._size)
            asked = self._asked.get(answer.number)
            if asked is None or (asked.node, asked.request.rank) != (node, answer.rank):
                raise Malformed(f"an answer {answer.number} that nobody waits for")
            self._settle(answer)
        elif head.kind is Kind.BYE and not body:
            self._left.add(node)
        elif head.kind is not Kind.HELLO or body:
            raise Malformed(f"a {head.kind.name} of {len(body)} bytes, for a master")

    def _settle(self, answer: Answer) -> None:
        del self._asked[answer.number]
        self._answers.append(answer)

    def _gone(self, asked: _Asked) -> bool:
        return self.is_lost(asked.node) or self._silence.now - asked.since >= self._patience


def _joined(before: RankView | None, view: RankView) -> RankView:
    if before is None or not len(before.calls) + len(before.messages):
        return view
    calls, messages = (
        np.concatenate([one, other])[-_MOST_CALLS:]
        for one, other in ((before.calls, view.calls), (before.messages, view.messages))
    )
    return replace(view, calls=calls, messages=messages)
