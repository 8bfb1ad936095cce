"""The record of a rank, as `comm/interposer/record.h` lays it out in memory that the watcher maps.

The rank writes it in C while this is read: a call is taken only if its number is still the same afterwards.
"""

from __future__ import annotations

import numpy as np

VERSION = 3
LANES = 8
CALLS = 1024
COMMS = 128
REQUESTS = 1024
MESSAGES = 1024
TAG_CLASSES = 8

# In place of a rank: none, any source, and one that the job does not number.
NO_RANK, ANY_RANK, UNKNOWN_RANK = -1, -2, -3
ANY_CLASS = 255

CALL = np.dtype(
    [
        ("number", "u4"),
        ("sequence", "u4"),
        ("entered", "u8"),
        ("left", "u8"),
        ("inside", "u8"),
        ("bytes", "i8"),
        ("comm", "u4"),
        ("signature", "u4"),
        ("dest", "i4"),
        ("source", "i4"),
        ("tag", "i4"),
        ("function", "u2"),
        ("error", "u2"),
        ("sent_class", "u1"),
        ("received_class", "u1"),
        ("waits_for_all", "u1"),
        ("waits_for_any", "u1"),
        ("lane", "u1"),
        ("has_sent", "u1"),
        ("has_received", "u1"),
        ("spare", "u1", 5),
        ("sent_ordinal", "u4"),
        ("received_ordinal", "u4"),
        ("received_tag", "i4"),
    ]
)
MESSAGE = np.dtype(
    [
        ("number", "u4"),
        ("ordinal", "u4"),
        ("started", "u8"),
        ("entered", "u8"),
        ("left", "u8"),
        ("bytes", "i8"),
        ("comm", "u4"),
        ("tag", "i4"),
        ("peer", "i4"),
        ("function", "u2"),
        ("class", "u1"),
        ("sent", "u1"),
        ("mixed", "u1"),
        ("spare", "u1", 7),
    ]
)
LANE = np.dtype(
    [
        ("begun", "u4"),
        ("ended", "u4"),
        ("thread", "u4"),
        ("advanced", "u4"),
        ("ends", "u4"),
        ("spare", "u4"),
        ("calls", CALL, CALLS),
        ("messages", MESSAGE, MESSAGES),
    ]
)
COMM = np.dtype([("id", "u4"), ("size", "u4"), ("begun", "u4"), ("spare", "u4")])
REQUEST = np.dtype(
    [
        ("handle", "u8"),
        ("started", "u8"),
        ("bytes", "i8"),
        ("comm", "u4"),
        ("sequence", "u4"),
        ("dest", "i4"),
        ("source", "i4"),
        ("tag", "i4"),
        ("ordinal", "u4"),
        ("function", "u2"),
        ("sent_class", "u1"),
        ("received_class", "u1"),
        ("active", "u1"),
        ("awaited", "u1"),
        ("receives", "u1"),
        ("collective", "u1"),
        ("persistent", "u1"),
        ("spare", "u1", 7),
    ]
)
PEER = np.dtype(
    [
        ("sent", "u4", TAG_CLASSES),
        ("received", "u4", TAG_CLASSES),
        ("bytes_sent", "u8"),
        ("bytes_received", "u8"),
        ("waited", "u8"),
        ("waits", "u8"),
    ]
)
HEAD = np.dtype(
    [
        ("version", "u4"),
        ("rank", "i4"),
        ("ranks", "i4"),
        ("process", "u4"),
        ("ticks", "u8"),
        ("nanoseconds", "u8"),
        ("lost_threads", "u4"),
        ("lost_comms", "u4"),
        ("lost_requests", "u4"),
        ("finalizing", "u4"),
        ("unnamed", "u4"),
        ("spare", "u4"),
    ]
)


def _with_seconds(dtype: np.dtype, *names: str) -> np.dtype:
    return np.dtype([(name, "f8" if name in names else dtype[name]) for name in dtype.names or ()])


# The same with times in seconds of the node's monotonic clock.
TIMED_CALL = _with_seconds(CALL, "entered", "left", "inside")
TIMED_REQUEST = _with_seconds(REQUEST, "started")
TIMED_MESSAGE = _with_seconds(MESSAGE, "started", "entered", "left")
TIMED_PEER = _with_seconds(PEER, "waited")


def size_of(ranks: int) -> int:
    """Bytes of the record of one of that many ranks."""
    fixed = HEAD.itemsize + LANES * LANE.itemsize + COMMS * COMM.itemsize + REQUESTS * REQUEST.itemsize
    return fixed + ranks * PEER.itemsize + COMMS * ((ranks + 7) // 8)
