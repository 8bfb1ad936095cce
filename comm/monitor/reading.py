"""Reading the record of a rank, while the rank writes it."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace

import numpy as np

from . import memory
from .clock import Clock
from .snapshot import RankView

# Calls of these do not wait: that one is under way says nothing of how far a rank is.
LOOKS = ("Test", "Testall", "Testany", "Testsome", "Iprobe", "Improbe", "Request_get_status")

_NO_CALLS = np.empty(0, memory.TIMED_CALL)
_NO_MESSAGES = np.empty(0, memory.TIMED_MESSAGE)
_NO_REQUESTS = np.empty(0, memory.REQUEST)


class OtherVersion(ValueError):
    """A record that this version of roundelay cannot read."""


class Record:
    """The record of a rank, mapped for reading.

    Parameters
    ----------
    file : int
        A descriptor of its memory, which may be closed afterwards.
    functions : sequence of str
        Names of MPI's functions by their numbers.

    Raises
    ------
    OtherVersion
        It was written by another version, or is no record.
    """

    def __init__(self, file: int, functions: tuple[str, ...]) -> None:
        size = os.fstat(file).st_size
        if size < memory.HEAD.itemsize:
            raise OtherVersion(f"expected a record, found {size} bytes")
        self._map = mmap.mmap(file, size, prot=mmap.PROT_READ)
        head = np.frombuffer(self._map, memory.HEAD, 1)
        version, ranks = int(head["version"][0]), int(head["ranks"][0])
        if version != memory.VERSION or ranks < 1 or size != memory.size_of(ranks):
            raise OtherVersion(
                f"expected a record of version {memory.VERSION}, "
                f"found {size} bytes of version {version} for {ranks} ranks"
            )
        self.rank, self.ranks = int(head["rank"][0]), ranks
        self.process = int(head["process"][0])
        self.started = int(head["ticks"][0]), int(head["nanoseconds"][0])
        self._head = head
        at = memory.HEAD.itemsize
        self._lanes = np.frombuffer(self._map, memory.LANE, memory.LANES, at)
        at += self._lanes.nbytes
        self._comms = np.frombuffer(self._map, memory.COMM, memory.COMMS, at)
        at += self._comms.nbytes
        self._requests = np.frombuffer(self._map, memory.REQUEST, memory.REQUESTS, at)
        at += self._requests.nbytes
        self._peers = np.frombuffer(self._map, memory.PEER, ranks, at)
        at += self._peers.nbytes
        bits = np.frombuffer(self._map, np.uint8, memory.COMMS * ((ranks + 7) // 8), at)
        self._bits = bits.reshape(memory.COMMS, -1)
        # Fields of all lanes, looked up once: each look-up takes longer than reading them.
        names = ("begun", "ended", "advanced", "thread")
        self._begun, self._ended, self._advanced, self._threads = (self._lanes[name] for name in names)
        self._ends = self._lanes["ends"]
        self._calls, self._messages = self._lanes["calls"], self._lanes["messages"]
        self._ids, self._handles = self._comms["id"], self._requests["handle"]
        self._read = np.zeros(memory.LANES, np.uint32)
        self._ends_read = self._read
        self._members: dict[int, np.ndarray] = {}
        self._last: RankView | None = None
        self._last_counters = self._read, self._read
        self._looks = {number for number, name in enumerate(functions) if name in LOOKS}

    def calls_ended(self) -> int:
        """How many calls have ended since the start."""
        return int(self._ended.sum())

    def view(self, host: str, state: str, idle: float, cpu: float, clock: Clock) -> RankView:
        """Give what the rank is doing, and the calls that have ended since this was called before."""
        # One look at the counters of all lanes, by which nothing is read that has not changed.
        ended, begun = self._ended.copy(), self._begun.copy()
        if self._last is not None and self._is_as_it_was(begun, ended):
            self._last = replace(
                self._last,
                state=state,
                idle=idle,
                cpu=cpu,
                time=clock.now,
                finalizing=int(self._head["finalizing"][0]),
                calls=_NO_CALLS,
                messages=_NO_MESSAGES,
            )
            return self._last
        calls = self._new_calls(ended)
        messages = self._new_messages(calls)
        under_way = self._under_way(begun, ended)
        advanced = int(self._advanced.sum())
        advanced += sum(number not in self._looks for number in under_way["function"].tolist())
        head = self._head[0]
        self._last_counters = begun, ended
        self._last = RankView(
            rank=self.rank,
            process=self.process,
            host=host,
            state=state,
            idle=idle,
            time=clock.now,
            finalizing=int(head["finalizing"]),
            advanced=advanced,
            under_way=_timed_calls(under_way, clock, "entered"),
            calls=_timed_calls(calls, clock, "entered", "left"),
            messages=_timed(messages, memory.TIMED_MESSAGE, clock, "started", "entered", "left"),
            comms=self._used_comms(),
            members=self._members,
            requests=_timed(self._used_requests(), memory.TIMED_REQUEST, clock, "started"),
            peers=self._timed_peers(clock),
            lost=int(head["lost_threads"]) + int(head["lost_comms"]) + int(head["lost_requests"]),
            threads=int(np.count_nonzero(self._threads)),
            unnamed=int(head["unnamed"]),
            cpu=cpu,
        )
        return self._last

    def _is_as_it_was(self, begun: np.ndarray, ended: np.ndarray) -> bool:
        before = self._last_counters
        return np.array_equal(begun, before[0]) and np.array_equal(ended, before[1])

    def _under_way(self, begun: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """The calls that threads are in: those that were still the same after they were copied."""
        lanes = np.flatnonzero(begun != ended)
        found: np.ndarray = self._calls[lanes, begun[lanes] % memory.CALLS]
        same = (found["number"] == begun[lanes]) & (found["left"] == 0)
        same &= (self._begun[lanes] == begun[lanes]) & (self._ended[lanes] != begun[lanes])
        return found if same.all() else found[same]

    def _new_calls(self, ended: np.ndarray) -> np.ndarray:
        """Calls that have ended since the last look, the oldest first."""
        found = _new_entries(self._calls, self._read, ended, self._begun)
        self._read = ended
        return found

    def _new_messages(self, calls: np.ndarray) -> np.ndarray:
        """Ends of messages since the last look, the oldest first: those of calls, and those of requests."""
        ends = self._ends.copy()
        found = _new_entries(self._messages, self._ends_read, ends, self._ends)
        self._ends_read = ends
        sent, received = calls[calls["has_sent"] == 1], calls[calls["has_received"] == 1]
        if not len(sent) + len(received):
            return found
        found = np.concatenate(
            [
                _ends_of(sent, "dest", "sent_ordinal", "sent_class", "tag", 1),
                _ends_of(received, "source", "received_ordinal", "received_class", "received_tag", 0),
                found,
            ]
        )
        return found[np.argsort(found["left"], kind="stable")]

    def _used_comms(self) -> np.ndarray:
        """Communicators; their members are known afterwards."""
        comms: np.ndarray = self._comms[np.flatnonzero(self._ids)]
        ids = comms["id"].tolist()
        if ids != list(self._members):
            self._members = {each: self._members_of(each) for each in ids}
        return comms

    def _members_of(self, comm: int) -> np.ndarray:
        """Ranks of a communicator. Those of an id never change, and a place is filled before it has an id."""
        if comm in self._members:
            return self._members[comm]
        places = np.flatnonzero(self._ids == comm)
        bits = self._bits[places[0]] if len(places) else np.zeros(0, np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little")[: self.ranks])

    def _used_requests(self) -> np.ndarray:
        used = np.flatnonzero(self._handles)
        return self._requests[used] if len(used) else _NO_REQUESTS

    def _timed_peers(self, clock: Clock) -> np.ndarray:
        peers: np.ndarray = self._peers.view(memory.TIMED_PEER).copy()
        peers["waited"] = self._peers["waited"] * clock.seconds_per_tick
        return peers


def _new_entries(rings: np.ndarray, read: np.ndarray, written: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Give what the rings of all lanes have gained, by when it ended, as far as they still have it.

    Parameters
    ----------
    rings : ndarray, shape (lanes, entries of a ring)
    read, written : ndarray of uint32
        Numbers of the last entry that was read before, and of the last one to read now.
    newest : ndarray of uint32
        In the record: the last number that the rank has begun to write, at any time.
    """
    lanes = np.flatnonzero(written != read).tolist()
    found = [_new_in(rings[lane], int(read[lane]), int(written[lane]), newest[lane:]) for lane in lanes]
    if len(found) < 2:
        return found[0] if found else np.empty(0, rings.dtype)
    entries = np.concatenate(found)
    return entries[np.argsort(entries["left"], kind="stable")]


def _new_in(ring: np.ndarray, read: int, written: int, newest: np.ndarray) -> np.ndarray:
    # Counters pass 2^32 and begin anew; a difference is right all the same.
    count = min((written - read) % 2**32, len(ring))
    numbers = np.arange(written - count + 1, written + 1, dtype=np.int64) % 2**32
    found: np.ndarray = ring[numbers % len(ring)]
    # The rank may have written over the oldest meanwhile, and be at one more.
    behind = (int(newest[0]) - numbers) % 2**32
    whole = (found["number"] == numbers) & (behind < len(ring) - 1)
    return found if whole.all() else found[whole]


def _ends_of(calls: np.ndarray, peer: str, ordinal: str, kind: str, tag: str, sent: int) -> np.ndarray:
    """Ends of the messages that calls themselves have sent or received, in fields with these names."""
    ends = np.zeros(len(calls), memory.MESSAGE)
    ends["started"] = calls["entered"]
    for name in ("entered", "left", "bytes", "comm", "function"):
        ends[name] = calls[name]
    ends["peer"], ends["ordinal"], ends["class"], ends["tag"] = (
        calls[name] for name in (peer, ordinal, kind, tag)
    )
    ends["sent"] = sent
    return ends


def _timed_calls(raw: np.ndarray, clock: Clock, *names: str) -> np.ndarray:
    timed = _timed(raw, memory.TIMED_CALL, clock, *names)
    if len(raw):
        timed["inside"] = raw["inside"] * clock.seconds_per_tick
    return timed


def _timed(raw: np.ndarray, dtype: np.dtype, clock: Clock, *names: str) -> np.ndarray:
    """The same with times in seconds, which have the places of the ticks."""
    timed = raw.view(dtype)
    if len(raw):
        for name in names:
            timed[name] = clock.seconds(raw[name])
    return timed
