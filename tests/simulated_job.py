"""Jobs that never run: ranks as generators that yield MPI calls, in simulated time, and snapshots of them.

What is recorded, and when, is what `comm/interposer/record.c` records.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from roundelay.comm.monitor.memory import ANY_RANK, COMM, NO_RANK, TIMED_CALL, TIMED_MESSAGE, TIMED_REQUEST
from roundelay.comm.monitor.snapshot import RankView, Snapshot
from tests.simulated_ranks import (
    ANY,
    EAGER,
    FUNCTIONS,
    NUMBER,
    SYNCHRONISING,
    WORLD,
    Message,
    Program,
    Rank,
    Request,
    class_of,
    row_of,
    rows,
)


class Job:
    """A job of some ranks.

    Parameters
    ----------
    programs : list of generators
        One for each rank. They yield ``("compute", seconds)``, ``("sleep", seconds)``, ``("stop",)`` and
        MPI calls, and are sent what these return.
    comms : dict of int to sequence of int
        Members of communicators beside the world, by id.
    delay : function
        Gives the seconds that a message takes, or a rank that is served late.
    """

    def __init__(
        self,
        programs: list[Program],
        comms: dict[int, tuple[int, ...]] | None = None,
        delay: Callable[[], float] = lambda: 1e-4,
    ) -> None:
        self.size, self.now = len(programs), 0.0
        self.comms = {WORLD: tuple(range(self.size)), **(comms or {})}
        self.ranks = [Rank(number, self.size, program) for number, program in enumerate(programs)]
        self.delay = delay
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._unexpected: dict[tuple[int, int], list[Message]] = {}
        self._posted: dict[tuple[int, int], list[Request]] = {}
        self._arrivals: dict[tuple[int, int], float] = {}
        self._entered: dict[tuple[int, int], dict[int, Request]] = {}
        self._last = 0.0
        # The state of all ranks while the whole job is paused.
        self.frozen, self._frozen_since = "", 0.0
        for rank in self.ranks:
            for comm, members in self.comms.items():
                if rank.number in members:
                    rank.begun[comm] = 0
            self.later(0.0, lambda rank=rank: self._go_on(rank, None))  # type: ignore[misc]

    # Time.

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something then."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def run(self, until: float) -> None:
        """Let the time pass."""
        while not self.frozen and self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until

    def freeze(self, state: str) -> None:
        """Stop the whole job, or let it go on with an empty state."""
        if self.frozen:
            # What was due meanwhile comes later.
            self._events = [
                (time + self.now - self._frozen_since, number, action)
                for time, number, action in self._events
            ]
        self.frozen, self._frozen_since = state, self.now

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return all(rank.state in ("ended", "dead") for rank in self.ranks)

    # What ranks do.

    def _go_on(self, rank: Rank, value: Any) -> None:
        if rank.state in ("dead", "stopped"):
            return
        self._set(rank, "running")
        try:
            name, *arguments = rank.program.send(value)
        except StopIteration:
            self._begin(rank, "Finalize")
            rank.finalizing = 1
            rank.waiting = lambda: all(each.finalizing or each.state == "dead" for each in self.ranks)
            for each in self.ranks:
                self._wake(each)
            return
        getattr(self, f"_do_{name}")(rank, *arguments)

    def _set(self, rank: Rank, state: str) -> None:
        if rank.state != state:
            rank.state, rank.since = state, self.now

    def _do_compute(self, rank: Rank, seconds: float) -> None:
        self.later(seconds, lambda: self._go_on(rank, None))

    def _do_sleep(self, rank: Rank, seconds: float, state: str = "idle") -> None:
        self._set(rank, state)
        self.later(seconds, lambda: self._go_on(rank, None))

    def _do_stop(self, rank: Rank, state: str = "idle") -> None:
        self._set(rank, state)

    def _do_die(self, rank: Rank) -> None:
        self._set(rank, "dead")

    def _do_exit(self, rank: Rank) -> None:
        """End without a word: as if the process had left Finalize, which an MPI library may allow."""
        rank.finalizing = 2
        self._set(rank, "ended")

    def stop(self, number: int, state: str = "stopped") -> None:
        """Stop a rank, or let it die."""
        rank = self.ranks[number]
        rank.waiting = None if state == "dead" else rank.waiting
        self._set(rank, state)

    # Calls.

    def _begin(self, rank: Rank, function: str, **facts: Any) -> dict[str, Any]:
        rank.call = {
            "number": next(self._numbers), "function": NUMBER[function], "entered": self.now, "bytes": -1,
            "dest": NO_RANK, "source": NO_RANK, "inside": rank.inside, **facts,
        }  # fmt: skip
        if function not in ("Test", "Iprobe"):
            rank.advanced += 1
        return rank.call

    def _end(self, rank: Rank, value: Any = None, looks: bool = False) -> None:
        assert rank.call is not None
        rank.call["left"] = self.now
        rank.calls.append(rank.call)
        rank.inside += self.now - rank.call["entered"]
        rank.call = None
        if not looks:
            rank.advanced += 1
        self._go_on(rank, value)

    def _wait(self, rank: Rank, until: Callable[[], bool], then: Callable[[], Any]) -> None:
        """Stay in the call until something is so, and then a little longer."""
        state = {"noticed": False}

        def end() -> None:
            if rank.state in ("stopped", "dead"):
                return
            rank.waiting = None
            self._end(rank, then())

        def notice() -> bool:
            if not state["noticed"] and until():
                state["noticed"] = True
                self.later(self.delay(), end)
            return False

        rank.waiting = notice
        notice()

    def _wake(self, rank: Rank) -> None:
        if rank.waiting is not None and rank.waiting() and rank.finalizing == 1:
            rank.finalizing, rank.waiting = 2, None
            self._set(rank, "ended")
            rank.call = None

    def _count_sent(self, rank: Rank, dest: int, comm: int, tag: int, size: int) -> int:
        counts = rank.peers["sent"][dest]
        counts[class_of(comm, tag)] += 1
        rank.peers["bytes_sent"][dest] += size
        return int(counts[class_of(comm, tag)]) - 1

    def _add_end(self, rank: Rank, request: Request, mixed: bool = False, **facts: Any) -> None:
        assert rank.call is not None
        own = {
            "ordinal": request.ordinal, "started": request.started, "entered": rank.call["entered"],
            "left": self.now, "bytes": request.size, "comm": request.comm, "tag": request.tag,
            "peer": request.dest, "function": NUMBER[request.function],
            "class": class_of(request.comm, request.tag), "sent": 1, "mixed": int(mixed), **facts,
        }  # fmt: skip
        rank.messages.append(own)

    def _count_received(self, rank: Rank, request: Request, waited: float, mixed: bool = False) -> None:
        assert request.message is not None
        message, kind = request.message, class_of(request.message.comm, request.message.tag)
        ordinal = int(rank.peers["received"][message.source, kind])
        rank.peers["received"][message.source, kind] += 1
        facts = {"peer": message.source, "ordinal": ordinal, "tag": message.tag, "class": kind, "sent": 0}
        self._add_end(rank, request, mixed, **facts)
        rank.peers["waited"][message.source] += waited
        rank.peers["waits"][message.source] += 1

    def _transmit(self, rank: Rank, request: Request) -> None:
        """Send a message; the request is done when the receiver has it, or at once."""
        rendezvous = request.size > EAGER or request.function in ("Ssend", "Issend")

        def done() -> None:
            request.done = True
            self._wake(rank)

        message = Message(rank.number, request.dest, request.comm, request.tag, done if rendezvous else None)
        pair = rank.number, request.dest
        arrival = max(self.now + self.delay(), self._arrivals.get(pair, 0.0))
        self._arrivals[pair] = arrival
        self.later(arrival - self.now, lambda: self._arrive(message))
        request.done = not rendezvous

    def _matches(self, request: Request, message: Message) -> bool:
        return request.source in (ANY_RANK, message.source) and request.tag in (ANY, message.tag)

    def _arrive(self, message: Message) -> None:
        key = message.comm, message.dest
        posted = self._posted.setdefault(key, [])
        for request in posted:
            if self._matches(request, message):
                request.message, request.done = message, True
                if not request.probes:
                    posted.remove(request)
                    if message.done is not None:
                        message.done()
                    self._wake(self.ranks[message.dest])
                    return
        self._unexpected.setdefault(key, []).append(message)
        self._wake(self.ranks[message.dest])

    def _post(self, rank: Rank, request: Request) -> None:
        key = request.comm, rank.number
        for message in self._unexpected.get(key, []):
            if self._matches(request, message):
                request.message, request.done = message, True
                if not request.probes:
                    self._unexpected[key].remove(message)
                    if message.done is not None:
                        message.done()
                return
        self._posted.setdefault(key, []).append(request)

    def _do_send(
        self, rank: Rank, dest: int, tag: int = 0, size: int = 8, comm: int = WORLD, how: str = "Send"
    ) -> None:
        ordinal = self._count_sent(rank, dest, comm, tag, size)
        self._begin(rank, how, comm=comm, dest=dest, tag=tag, bytes=size, sent_class=class_of(comm, tag))
        request = Request(how, comm, dest, tag=tag, size=size, started=self.now, ordinal=ordinal)
        self._transmit(rank, request)
        self._wait(rank, lambda: request.done, lambda: self._add_end(rank, request))

    def _do_recv(self, rank: Rank, source: int, tag: int = 0, comm: int = WORLD, how: str = "Recv") -> None:
        self._begin(
            rank, how, comm=comm, source=source, tag=tag, bytes=1 << 16, received_class=class_of(comm, tag)
        )
        request = Request(how, comm, source=source, tag=tag, probes=how == "Probe", started=self.now)
        begin = self.now
        self._post(rank, request)

        def end() -> int:
            assert request.message is not None
            if not request.probes:
                self._count_received(rank, request, self.now - begin)
            else:
                posted = self._posted.get((comm, rank.number), [])
                if request in posted:
                    posted.remove(request)
            return request.message.source

        self._wait(rank, lambda: request.done, end)

    def _do_sendrecv(
        self, rank: Rank, dest: int, source: int, tag: int = 0, size: int = 8, comm: int = WORLD
    ) -> None:
        ordinal = self._count_sent(rank, dest, comm, tag, size)
        kind = class_of(comm, tag)
        self._begin(
            rank, "Sendrecv", comm=comm, dest=dest, source=source, tag=tag, bytes=size, sent_class=kind,
            received_class=kind,
        )  # fmt: skip
        sent = Request("Isend", comm, dest, tag=tag, size=size, started=self.now, ordinal=ordinal)
        received = Request("Irecv", comm, source=source, tag=tag, started=self.now)
        begin = self.now
        self._post(rank, received)
        self._transmit(rank, sent)

        def end() -> None:
            self._add_end(rank, sent)
            self._count_received(rank, received, self.now - begin)

        self._wait(rank, lambda: sent.done and received.done, end)

    def _do_isend(
        self, rank: Rank, dest: int, tag: int = 0, size: int = 8, comm: int = WORLD, how: str = "Isend"
    ) -> None:
        ordinal = self._count_sent(rank, dest, comm, tag, size)
        self._begin(rank, how, comm=comm, dest=dest, tag=tag, bytes=size, sent_class=class_of(comm, tag))
        request = Request(how, comm, dest, tag=tag, size=size, started=self.now, ordinal=ordinal)
        self._transmit(rank, request)
        rank.requests.append(request)
        self._end(rank, request)

    def _do_irecv(self, rank: Rank, source: int, tag: int = 0, comm: int = WORLD) -> None:
        self._begin(rank, "Irecv", comm=comm, source=source, tag=tag, received_class=class_of(comm, tag))
        request = Request("Irecv", comm, source=source, tag=tag, size=1 << 16, started=self.now)
        self._post(rank, request)
        rank.requests.append(request)
        self._end(rank, request)

    def _complete(self, rank: Rank, request: Request, waited: float, mixed: bool = False) -> None:
        if request.message is not None:
            self._count_received(rank, request, waited, mixed)
        elif request.sequence == 0:
            self._add_end(rank, request, mixed)
        rank.requests.remove(request)

    def _do_waitall(self, rank: Rank, requests: list[Request]) -> None:
        self._begin(rank, "Waitall" if len(requests) > 1 else "Wait", waits_for_all=1)
        begin = self.now
        for each in requests:
            each.awaited = True

        def end() -> None:
            mixed = any(each.sequence for each in requests)
            for each in requests:
                self._complete(rank, each, self.now - begin, mixed)

        self._wait(rank, lambda: all(each.done for each in requests), end)

    def _do_waitany(self, rank: Rank, requests: list[Request]) -> None:
        self._begin(rank, "Waitany", waits_for_any=1)
        begin = self.now
        for each in requests:
            each.awaited = True

        def end() -> Request:
            for each in requests:
                each.awaited = False
            found = next(each for each in requests if each.done)
            self._complete(rank, found, self.now - begin)
            return found

        self._wait(rank, lambda: any(each.done for each in requests), end)

    def _do_poll(self, rank: Rank, source: int, tag: int = 0, comm: int = WORLD) -> None:
        """Look for a message again and again."""
        self._begin(rank, "Iprobe", comm=comm, source=source, tag=tag, received_class=class_of(comm, tag))

        def look() -> None:
            if rank.call is None or rank.state in ("stopped", "dead"):
                return
            wanted = Request("Iprobe", comm, source=source, tag=tag)
            if any(self._matches(wanted, each) for each in self._unexpected.get((comm, rank.number), [])):
                self._end(rank, None, looks=True)
                return
            rank.call["left"] = self.now
            rank.calls = [*rank.calls[-20:], rank.call]
            rank.call = {**rank.call, "number": next(self._numbers), "entered": self.now, "left": 0.0}
            self.later(0.01, look)

        self.later(0.001, look)

    def _do_collective(
        self, rank: Rank, function: str, comm: int = WORLD, size: int = -1, root: int = NO_RANK, op: int = 0
    ) -> None:
        rank.begun[comm] += 1
        sequence = rank.begun[comm]
        signature = hash((function, root, size, op)) & 0xFFFFFFFF
        self._begin(rank, function, comm=comm, sequence=sequence, bytes=size, dest=root, signature=signature)
        request = Request(function, comm, dest=root, size=size, sequence=sequence, started=self.now)
        entered = self._entered.setdefault((comm, sequence), {})
        entered[rank.number] = request
        members = self.comms[comm]
        # A collective whose ranks disagree hangs.
        agree = len({each.function for each in entered.values()}) == 1
        for member, each in entered.items():
            if function in SYNCHRONISING or not agree:
                each.done |= agree and len(entered) == len(members)
            elif function == "Bcast":
                each.done |= root in entered
            else:
                each.done |= member != root or len(entered) == len(members)
        if function[0] == "I":
            rank.requests.append(request)
            self._end(rank, request)
        else:
            self._wait(rank, lambda: request.done, lambda: None)
        for member in members:
            if member != rank.number:
                self._wake(self.ranks[member])

    # What the watcher sees.

    def view(self, number: int) -> RankView:
        """One rank, now; its calls are forgotten."""
        rank = self.ranks[number]
        calls, rank.calls = rank.calls, []
        messages, rank.messages = rank.messages, []
        comms = np.array(
            [(comm, len(self.comms[comm]), begun, 0) for comm, begun in rank.begun.items()], dtype=COMM
        )
        state = self.frozen if self.frozen and rank.state not in ("dead", "ended") else rank.state
        since = max(rank.since, self._frozen_since)
        idle = self.now - since if state in ("idle", "stopped", "dead") else 0.0
        return RankView(
            rank=number, process=1000 + number, host="node0", state=state, idle=idle, time=self.now,
            finalizing=rank.finalizing, advanced=rank.advanced,
            under_way=rows([rank.call] if rank.call is not None else [], TIMED_CALL),
            calls=rows(calls, TIMED_CALL), comms=comms,
            members={comm: np.array(self.comms[comm]) for comm in rank.begun},
            requests=rows([row_of(each) for each in rank.requests], TIMED_REQUEST),
            peers=rank.peers.copy(), lost=0, messages=rows(messages, TIMED_MESSAGE),
        )  # fmt: skip

    def snapshot(self, spread: Iterator[float] | None = None) -> Snapshot:
        """All ranks, one after the other, with some time in between."""
        time = self.now
        views = {}
        for number in range(self.size):
            if spread is not None:
                self.run(self.now + next(spread))
            views[number] = self.view(number)
        gap, self._last = time - self._last, time
        return Snapshot(time, gap, self.size, views, FUNCTIONS)
