"""Views of ranks as bytes and back: what all ranks of a message have of one kind is one array.

So it takes hardly longer to read what 64 ranks do than what one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
from .rank_runs import MEMBERS, RUN, members_bytes, read_members
from .snapshot import RankView
from .wire import MOST_BYTES, Malformed, read_text

STATES = ("running", "idle", "stopped", "traced", "dead", "ended")
# Of each rank, those that ended since the message before. More are not needed to compare ranks, and a node of
# 64 ranks that call MPI without a pause sends 2 MB at a time.
MOST_CALLS = CALLS // 2
_LONGEST_TEXT = 255

_PEER_ROW = np.dtype([("rank", "i4"), ("spare", "u4"), ("peer", TIMED_PEER)])
# What there may be any number of in a view, in the order of the message.
_KINDS = (TIMED_CALL, TIMED_CALL, TIMED_MESSAGE, COMM, TIMED_REQUEST, _PEER_ROW, MEMBERS, RUN)
_COUNT = np.dtype("u4")
_HEAD = np.dtype(
    [
        ("rank", "i4"),
        ("process", "u4"),
        ("advanced", "u8"),
        ("lost", "u8"),
        ("threads", "u4"),
        ("unnamed", "u4"),
        ("idle", "f8"),
        ("time", "f8"),
        ("cpu", "f8"),
        ("counts", _COUNT, len(_KINDS)),
        ("state", "u1"),
        ("finalizing", "u1"),
        ("host", "u1"),
        ("ended_by", "u1"),
    ]
)
_TAKEN_OVER = ("rank", "process", "advanced", "lost", "threads", "unnamed", "idle", "time", "cpu")


class _Encoded(NamedTuple):
    """One view."""

    head: np.ndarray
    texts: bytes
    arrays: tuple[np.ndarray, ...]

    @property
    def size(self) -> int:
        return _HEAD.itemsize + len(self.texts) + sum(each.nbytes for each in self.arrays)


def views_bytes(views: Sequence[RankView], most: int = MOST_BYTES - 64) -> Iterator[bytes]:
    """Give views as bodies of messages, of at most `most` bytes each unless one view alone is longer."""
    group: list[_Encoded] = []
    left = 0
    for encoded in map(_encode, views):
        if not group or encoded.size > left:
            if group:
                yield _joined(group)
            group, left = [], most - _COUNT.itemsize
        group.append(encoded)
        left -= encoded.size
    if group:
        yield _joined(group)


def _joined(group: Sequence[_Encoded]) -> bytes:
    heads, texts, arrays = zip(*group, strict=True)
    columns = [array.tobytes() for column in zip(*arrays, strict=True) for array in column]
    count = np.array(len(group), _COUNT)
    return b"".join([count.tobytes(), *(head.tobytes() for head in heads), *texts, *columns])


def _encode(view: RankView) -> _Encoded:
    host, ended_by = _text_bytes(view.host), _text_bytes(view.ended_by)
    used = np.flatnonzero(view.peers.view("u1").reshape(len(view.peers), -1).any(axis=1))
    peers = np.zeros(len(used), _PEER_ROW)
    peers["rank"], peers["peer"] = used, view.peers[used]
    calls, messages = view.calls[-MOST_CALLS:], view.messages[-MOST_CALLS:]
    rows = (view.under_way, calls, messages, view.comms, view.requests, peers)
    arrays = (*rows, *members_bytes(view.members))
    own = [getattr(view, name) for name in _TAKEN_OVER]
    state = STATES.index(view.state), view.finalizing
    head = np.array((*own, [*map(len, arrays)], *state, len(host), len(ended_by)), _HEAD)
    return _Encoded(head, host + ended_by, arrays)


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_LONGEST_TEXT].decode("utf-8", "ignore").encode()


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
    heads = _read_heads(reader, ranks, size)
    lengths = np.stack([heads["host"], heads["ended_by"]], axis=1).tolist()
    texts = [[read_text(reader.take(length)) for length in pair] for pair in lengths]
    counts = heads["counts"].astype(np.int64)
    arrays = [reader.array(kind, total) for kind, total in zip(_KINDS, counts.sum(0).tolist(), strict=True)]
    if reader.left:
        raise Malformed(f"{reader.left} bytes too many")
    under_way, calls, messages, _, requests, rows, _, _ = arrays
    for array in (under_way, calls, requests):
        _check_calls(array, size, functions)
    _check_messages(messages, size, functions)
    peers = _read_peers(rows, counts[:, _KINDS.index(_PEER_ROW)], size)
    fields = {name: heads[name].tolist() for name in (*_TAKEN_OVER, "finalizing")}
    fields["state"] = [STATES[number] for number in heads["state"].tolist()]
    fields["host"], fields["ended_by"] = ([pair[k] for pair in texts] for k in (0, 1))
    ends = np.concatenate([np.zeros((1, len(_KINDS)), np.int64), counts.cumsum(0)]).tolist()
    return [
        _view(
            {name: column[i] for name, column in fields.items()},
            [arrays[k][ends[i][k] : ends[i + 1][k]] for k in range(len(_KINDS))],
            peers[i],
        )
        for i in range(len(heads))
    ]


def _view(fields: Mapping[str, Any], arrays: Sequence[np.ndarray], peers: np.ndarray) -> RankView:
    under_way, calls, messages, comms, requests, _, members, runs = arrays
    return RankView(
        **fields,
        under_way=under_way,
        calls=calls,
        messages=messages,
        comms=comms,
        members=read_members(members.tobytes(), runs.tobytes(), len(peers)),
        requests=requests,
        peers=peers,
    )


class _Reader:
    """Takes bytes from the front of a body."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    @property
    def left(self) -> int:
        return len(self._body)

    def take(self, count: int) -> memoryview:
        if count > len(self._body):
            raise Malformed(f"ends after {len(self._body)} of {count} bytes")
        taken, self._body = self._body[:count], self._body[count:]
        return taken

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        # A copy is aligned, and does not keep the message.
        found: np.ndarray = np.frombuffer(self.take(count * dtype.itemsize), dtype).copy()
        return found


def _read_heads(reader: _Reader, ranks: Collection[int], size: int) -> np.ndarray:
    (count,) = reader.array(_COUNT, 1).tolist()
    # Before anything of them is read: views of few bytes can become arrays for all ranks of the job.
    if count > len(ranks):
        raise Malformed(f"{count} ranks: expected each of {sorted(ranks)} at most once")
    heads = reader.array(_HEAD, count)
    own = heads["rank"].tolist()
    if len({*own}) != len(own) or not {*own} <= {*ranks}:
        raise Malformed(f"ranks {own}: expected each of {sorted(ranks)} at most once")
    if (heads["state"] >= len(STATES)).any() or (heads["finalizing"] > 2).any():
        raise Malformed(f"states {heads['state'].tolist()}, finalizing {heads['finalizing'].tolist()}")
    _check_finite(heads)
    if (heads["idle"] < 0).any():
        raise Malformed(f"idle for {heads['idle'].tolist()} s")
    most = (LANES, MOST_CALLS, MOST_CALLS, COMMS, REQUESTS, size, COMMS, MOST_BYTES)
    if (heads["counts"] > most).any():
        raise Malformed(f"too many records: {heads['counts'].max(0).tolist()} of one rank")
    return heads


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


def _read_peers(rows: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Give what each rank has exchanged with each rank of the job, by both."""
    owners, ranks = np.repeat(np.arange(len(counts)), counts), rows["rank"].astype(np.int64)
    is_out = (ranks < 0) | (ranks >= size) | (rows["spare"] != 0)
    if is_out.any() or (np.diff(owners * size + ranks) <= 0).any():
        raise Malformed(f"peers {ranks.tolist()}: expected ascending ranks of {size}")
    peers = np.zeros((len(counts), size), TIMED_PEER)
    peers[owners, ranks] = rows["peer"]
    _check_finite(rows["peer"])
    return peers
