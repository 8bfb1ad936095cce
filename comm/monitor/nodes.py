"""The other nodes of a job, as the watcher of one uses them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import report
from .members import Member, stacks_of
from .snapshot import RankView
from .wire import Asked

if TYPE_CHECKING:
    from .channel import Channel
    from .gate import Gate

# For the stacks of ranks on other nodes, whose watchers look at their mail several times a second.
_SECONDS_TO_ANSWER = 2.0
# Over which the share of waiting is averaged.
_POLLS = 50


class Nodes:
    """All nodes but this one.

    Parameters
    ----------
    members : mapping of int to Member
        The ranks of this node, by rank.
    complain : callable
        Gets what is to be said once.
    """

    def __init__(self, members: Mapping[int, Member], complain: Callable[[str], object]) -> None:
        self._members, self._complain = members, complain
        self._gate: Gate | None = None
        self._channel: Channel | None = None
        self._later: dict[str, float] = {}
        self._lost: set[str] = set()
        self._before: Mapping[int, RankView] = {}
        self._waiting: dict[int, float] = {}
        self.views: dict[int, RankView] = {}

    @property
    def is_master(self) -> bool:
        """Whether this watcher is the one that judges."""
        return self._channel is None or self._channel.is_master

    def listen(self, member: Member, message: Mapping[str, Any]) -> dict[str, str]:
        """Begin to listen as the first rank of this node says, and give what the other nodes have to know.

        Raises
        ------
        KeyError, TypeError
            It does not say where.
        """
        ranks, address = [int(rank) for rank in message["ranks"]], str(message["address"])
        try:
            # Only a job on several nodes needs ZeroMQ.
            from .channel import listen
        except ImportError as error:
            return {"error": f"{error}; python -m pip install pyzmq"}
        try:
            self._gate = listen(address, ranks, member.host)
        except (RuntimeError, OSError) as error:
            return {"error": str(error)}
        return {"invitation": self._gate.invitation.to_json()}

    def open(self, texts: Sequence[str], size: int, functions: int) -> None:
        """Begin to talk to the nodes that have sent these invitations; to none if there are none.

        Raises
        ------
        ValueError
            They are no invitations to this job.
        """
        if self._gate is None:
            return
        from .channel import Invitation, open_channel

        if not texts:
            self._gate.close()
            return
        invitations = [Invitation.from_json(text) for text in texts]
        self._channel = open_channel(self._gate, invitations, size=size, functions=functions)

    def exchange(self, views: Mapping[int, RankView]) -> Mapping[int, RankView]:
        """Tell the master of this node's ranks, or learn of all others; say which nodes cannot be reached.

        Returns
        -------
        mapping of int to RankView
            All ranks at about the same moment. What other nodes have sent is of the look before, and so are
            the views of this node's ranks.
        """
        if self._channel is None:
            return views
        self._channel.exchange([*views.values()])
        before, self._before = self._before, views
        if not self.is_master:
            self.views = {}
            return views
        for view in self._channel.master.collect():
            # The last clock that a message brings is the nearest: it was under way for the shortest time.
            later = time.monotonic() - view.time
            self._later[view.host] = min(later, self._later.get(view.host, later))
            self.views[view.rank] = view
            waiting, inside = self._waiting.get(view.rank, 0.0), len(view.under_way) > 0
            self._waiting[view.rank] = waiting + (inside - waiting) / _POLLS
        lost = self._channel.master.unreachable()
        for rank in lost:
            self.views.pop(rank, None)
        self._say_lost(lost)
        return dict(sorted({**self.views, **(before or views)}.items()))

    def next_look(self, period: float) -> float | None:
        """When all nodes look at their ranks again; None where there is only this one."""
        return None if self._channel is None else self._channel.next_look(period)

    def _say_lost(self, lost: Mapping[int, str]) -> None:
        for host in {*lost.values()} - self._lost:
            ranks = sorted(rank for rank, each in lost.items() if each == host)
            listed = ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
            self._complain(
                f"{host} cannot be reached, nor {_ranks(ranks)} {listed} on it, which need not be dead"
            )
        self._lost = {*lost.values()}

    def on_this_clock(self, view: RankView) -> RankView:
        """The same, with the times of calls as this node's clock has them, as well as that is known."""
        later = self._later.get(view.host, 0.0)
        calls, under_way = view.calls.copy(), view.under_way.copy()
        for array in (calls, under_way):
            array["entered"] += later
            array["left"] += np.where(array["left"] > 0, later, 0.0)
        return replace(view, calls=calls, under_way=under_way, time=view.time + later)

    def unreachable(self) -> dict[int, str]:
        """Ranks on nodes that are lost, and those nodes."""
        return self._channel.master.unreachable() if self._channel is not None and self.is_master else {}

    def stacks_of(self, ranks: Iterable[int]) -> dict[int, str]:
        """Ask other nodes for the Python stacks of ranks, and wait for them; or why there is none."""
        if self._channel is None:
            return {}
        master, found = self._channel.master, {}
        asked = {master.ask(rank, Asked.STACKS): rank for rank in ranks if rank in self.views}
        end = time.monotonic() + _SECONDS_TO_ANSWER
        while asked and time.monotonic() < end:
            for answer in master.answers():
                if asked.pop(answer.number, None) is not None:
                    found[answer.rank] = answer.text if answer.given else f"no stack: {answer.text}"
            time.sleep(0.005)
        return found | dict.fromkeys(asked.values(), "no stack: its node did not answer in time")

    def tell(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Let the watchers of all other nodes tell their ranks of a verdict."""
        if self._channel is not None and self.is_master:
            # Without what may be too long.
            text = json.dumps({**entry, "stacks": {}, "evidence": {}}, default=str)
            self._channel.master.tell(Asked.RAISE if kind == "raise" else Asked.VERDICT, text)

    def terminate(self) -> None:
        """Let the watchers of all other nodes end their ranks."""
        if self._channel is not None and self.is_master:
            self._channel.master.tell(Asked.ABORT)

    def serve(self, terminate: Callable[[], object], tell: Callable[[str, dict[str, Any]], object]) -> None:
        """Do what the master asks of this node."""
        if self._channel is None:
            return
        for master, request in self._channel.node.requests():
            if request.asked is Asked.ABORT:
                terminate()
            elif request.asked is Asked.STACKS:
                member = self._members.get(request.rank)
                stacks = stacks_of([member]) if member else {}
                text = stacks.get(request.rank, "it is not known to its watcher")
                self._channel.node.answer(master, request, text, given=request.rank in stacks)
            else:
                tell("raise" if request.asked is Asked.RAISE else "verdict", json.loads(request.text))

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many connections and messages of outsiders were dropped on this node, by the reason."""
        return {} if self._channel is None else self._channel.dropped

    def summaries(self, functions: tuple[str, ...]) -> list[dict[str, Any]]:
        """What the report says of the ranks on other nodes."""
        found = [
            report.rank_of_view(view, functions, self._waiting.get(view.rank, 0.0))
            for view in self.views.values()
        ]
        lost = [report.rank_unreachable(rank, host) for rank, host in self.unreachable().items()]
        return sorted(found + lost, key=lambda each: int(each["rank"]))

    def are_there(self) -> bool:
        """Whether this watcher is the master of others that are still there."""
        channel = self._channel
        return channel is not None and channel.is_master and channel.master.are_others_there()

    def leave(self) -> None:
        """Tell the others that the ranks of this node are gone."""
        if self._channel is not None:
            self._channel.leave()


def _ranks(ranks: Sequence[int]) -> str:
    return "rank" if len(ranks) == 1 else "ranks"
