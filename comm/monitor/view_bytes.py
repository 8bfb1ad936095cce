"""A `RankView` as bytes and back: a header and its arrays, each of a dtype that both sides know."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from .memory import (
    ANY_CLASS,
    CALLS,
    COMM,
    COMMS,
    LANES,
    REQUESTS,
    TAG_CLASSES,
    TIMED_CALL,
    TIMED_MESSAGE,
    TIMED_PEER,
    TIMED_REQUEST,
    UNKNOWN_RANK,
)
from .snapshot import RankView
from .wire import MOST_BYTES, Malformed, read_text

STATES = ("running", "idle", "stopped", "traced", "dead", "ended")
# Of each rank, those that ended since the message before. More are not needed to compare ranks, and a node of
# 64 ranks that call MPI without a pause sends 2 MB at a time.
MOST_CALLS = CALLS // 2
_LONGEST_HOST = 255

# The lengths of the host's name, of what is under way, calls, messages, comms, requests, peers, members and
# their runs.
_VIEW = struct.Struct("<iIBBHdddQQII" + "8I")
_RANK = struct.Struct("<i")
_PEER_ROW = np.dtype([("rank", "i4"), ("spare", "u4"), ("peer", TIMED_PEER)])
_MEMBERS = np.dtype([("id", "u4"), ("runs", "u4")])
# Ranks first, first + step, ...
_RUN = np.dtype([("first", "i4"), ("step", "i4"), ("count", "i4")])


def views_bytes(views: Sequence[RankView], most: int = MOST_BYTES - 64) -> Iterator[bytes]:
    """Give views as bodies of messages, of at most `most` bytes each unless one view alone is longer."""
    body = b""
    for view in views:
        encoded = _encode(view)
        if body and len(body) + len(encoded) > most:
            yield body
            body = b""
        body += encoded
    if body:
        yield body


def read_views(body: memoryview, ranks: Collection[int], size: int, functions: int) -> list[RankView]:
    """Read the body of a message of views.

    Parameters
    ----------
    body : memoryview
    ranks : collection of int
        Those of the node that sent it.
    size : int
        Ranks of the job.
    functions : int
        How many functions of MPI have a number.

    Raises
    ------
    Malformed
        If anything in it is not as a watcher writes it, or of a rank of another node.
    """
    reader = _Reader(body)
    views: dict[int, RankView] = {}
    while reader.left:
        rank = _RANK.unpack(reader.peek(_RANK.size))[0]
        # Before anything of it is read: a view of few bytes can become an array for all ranks of the job.
        if rank not in ranks or rank in views:
            raise Malformed(f"rank {rank}: expected each of {sorted(ranks)} at most once")
        views[rank] = _decode(reader, size, functions)
    return list(views.values())


class _Reader:
    """Takes bytes from the front of a body."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    @property
    def left(self) -> int:
        return len(self._body)

    def peek(self, count: int) -> memoryview:
        if count > len(self._body):
            raise Malformed(f"ends after {len(self._body)} of {count} bytes")
        return self._body[:count]

    def take(self, count: int) -> memoryview:
        taken = self.peek(count)
        self._body = self._body[count:]
        return taken

    def array(self, dtype: np.dtype, count: int, most: int) -> np.ndarray:
        if count > most:
            raise Malformed(f"{count} records: expected at most {most}")
        # A copy is aligned, and does not keep the message.
        found: np.ndarray = np.frombuffer(self.take(count * dtype.itemsize), dtype).copy()
        return found


def _encode(view: RankView) -> bytes:
    host = view.host.encode("utf-8", "backslashreplace")[:_LONGEST_HOST]
    host = host.decode("utf-8", "ignore").encode()
    calls, messages = view.calls[-MOST_CALLS:], view.messages[-MOST_CALLS:]
    used = np.flatnonzero(view.peers.view("u1").reshape(len(view.peers), -1).any(axis=1))
    peers = np.zeros(len(used), _PEER_ROW)
    peers["rank"], peers["peer"] = used, view.peers[used]
    runs = {number: _runs(ranks) for number, ranks in view.members.items()}
    members = np.array([(number, len(each)) for number, each in runs.items()], _MEMBERS)
    flat = np.concatenate([np.zeros(0, _RUN), *runs.values()])
    arrays = (view.under_way, calls, messages, view.comms, view.requests, peers, members, flat)
    head = _VIEW.pack(
        view.rank,
        view.process,
        STATES.index(view.state),
        view.finalizing,
        len(host),
        view.idle,
        view.time,
        view.cpu,
        view.advanced,
        view.lost,
        view.threads,
        view.unnamed,
        *map(len, arrays),
    )
    return b"".join((head, host, *(array.tobytes() for array in arrays)))


def _decode(reader: _Reader, size: int, functions: int) -> RankView:
    rank, process, state, finalizing, host, *rest = _VIEW.unpack(reader.take(_VIEW.size))
    idle, time, cpu, advanced, lost, threads, unnamed, *counts = rest
    if state >= len(STATES) or finalizing > 2 or host > _LONGEST_HOST:
        raise Malformed(f"state {state}, finalizing {finalizing}, a host's name of {host} bytes")
    if not (np.isfinite((idle, time, cpu)).all() and idle >= 0):
        raise Malformed(f"idle for {idle} s at {time} s")
    name = read_text(reader.take(host))
    under_way = reader.array(TIMED_CALL, counts[0], LANES)
    calls = reader.array(TIMED_CALL, counts[1], MOST_CALLS)
    messages = reader.array(TIMED_MESSAGE, counts[2], MOST_CALLS)
    comms = reader.array(COMM, counts[3], COMMS)
    requests = reader.array(TIMED_REQUEST, counts[4], REQUESTS)
    rows = reader.array(_PEER_ROW, counts[5], size)
    members = reader.array(_MEMBERS, counts[6], COMMS)
    runs = reader.array(_RUN, counts[7], MOST_BYTES)
    for array in (under_way, calls, requests):
        _check_calls(array, size, functions)
    _check_messages(messages, size, functions)
    return RankView(
        rank=rank,
        process=process,
        host=name,
        state=STATES[state],
        idle=idle,
        time=time,
        finalizing=finalizing,
        advanced=advanced,
        under_way=under_way,
        calls=calls,
        comms=comms,
        members=_read_members(members, runs, size),
        requests=requests,
        peers=_read_peers(rows, size),
        lost=lost,
        threads=threads,
        unnamed=unnamed,
        cpu=cpu,
        messages=messages,
    )


def _check_calls(array: np.ndarray, size: int, functions: int) -> None:
    """Whatever a verdict uses as an index, or calculates with, is in its range."""
    for name in ("dest", "source"):
        if ((array[name] < UNKNOWN_RANK) | (array[name] >= size)).any():
            raise Malformed(f"{name} {array[name].tolist()} of {size} ranks")
    for name in ("sent_class", "received_class"):
        if ((array[name] >= TAG_CLASSES) & (array[name] != ANY_CLASS)).any():
            raise Malformed(f"{name} {array[name].tolist()}: expected less than {TAG_CLASSES}")
    if (array["function"] >= functions).any():
        raise Malformed(f"function {array['function'].max()} of {functions}")
    _check_finite(array)


def _check_messages(array: np.ndarray, size: int, functions: int) -> None:
    if ((array["peer"] < 0) | (array["peer"] >= size)).any():
        raise Malformed(f"peer {array['peer'].tolist()} of {size} ranks")
    if (array["class"] >= TAG_CLASSES).any() or (array["sent"] > 1).any():
        raise Malformed(f"class {array['class'].tolist()}: expected less than {TAG_CLASSES}")
    if (array["function"] >= functions).any():
        raise Malformed(f"function {array['function'].max()} of {functions}")
    _check_finite(array)


def _check_finite(array: np.ndarray) -> None:
    for name in array.dtype.names or ():
        if array.dtype[name].kind == "f" and not np.isfinite(array[name]).all():
            raise Malformed(f"{name} is not finite")


def _read_peers(rows: np.ndarray, size: int) -> np.ndarray:
    ranks = rows["rank"]
    if (np.diff(ranks) <= 0).any() or (ranks < 0).any() or (ranks >= size).any() or rows["spare"].any():
        raise Malformed(f"peers {ranks.tolist()}: expected ascending ranks of {size}")
    peers = np.zeros(size, TIMED_PEER)
    peers[ranks] = rows["peer"]
    _check_finite(peers)
    return peers


def _runs(ranks: np.ndarray) -> np.ndarray:
    """Describe ascending ranks by as few arithmetic progressions as one finds from left to right."""
    ranks = np.asarray(ranks, "i4")
    steps = np.diff(ranks)
    ends = [*(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(ranks) - 1]
    found: list[tuple[int, int, int]] = []
    first = 0
    for end in ends:
        # One that began at the end of the last progression is a part of none that ends there, too.
        if end < first or (end == first and end < len(ranks) - 1):
            continue
        found.append((int(ranks[first]), int(steps[first]) if end > first else 1, end - first + 1))
        first = end + 1
    return np.array(found, _RUN)


def _read_members(members: np.ndarray, runs: np.ndarray, size: int) -> Mapping[int, np.ndarray]:
    if int(members["runs"].sum(dtype=np.int64)) != len(runs):
        raise Malformed(f"{len(runs)} runs of ranks: expected {members['runs'].tolist()}")
    first, step, count = (runs[name].astype(np.int64) for name in ("first", "step", "count"))
    if (
        (first < 0).any()
        or (step < 1).any()
        or (count < 1).any()
        or (first + step * (count - 1) >= size).any()
    ):
        raise Malformed(f"runs of ranks {runs.tolist()} of {size}")
    found, begin = {}, 0
    for number, many in members.tolist():
        part = runs[begin : begin + many].tolist()
        begin += many
        if sum(count for _, _, count in part) > size:
            raise Malformed(f"communicator {number} of more than {size} ranks")
        parts = [np.arange(first, first + step * count, step, dtype="i4") for first, step, count in part]
        ranks = np.concatenate([np.zeros(0, "i4"), *parts])
        if (np.diff(ranks) <= 0).any() or number in found:
            raise Malformed(f"communicator {number}, ranks {ranks.tolist()}: expected ascending ones, once")
        found[number] = ranks
    return found
