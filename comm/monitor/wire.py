"""Messages between the watchers of a job: a header, and a body of one kind. Nothing in them is ever executed.

A message comes from a watcher that has a key of the job, which is no reason to trust its length: all is
checked, and whatever is not as it should be raises `Malformed`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite
from zlib import crc32

from . import memory

VERSION = 1
MOST_BYTES = 4 << 20
# Of an answer: a Python stack of a few hundred frames.
MOST_TEXT = 64 << 10
# In place of a node.
NOBODY = 0xFFFF

_MAGIC = b"rdly"
_HEAD = struct.Struct("<4sHHHHIQ")
_ASK = struct.Struct("<IiHH")
_ANSWER = struct.Struct("<IiHH")
_CLOCK = struct.Struct("<d")
# Watchers on machines of another byte order, or with other records, do not understand each other.
_RECORDS = crc32(
    repr(
        [
            (each.descr, each.names)
            for each in (memory.TIMED_CALL, memory.COMM, memory.TIMED_REQUEST, memory.TIMED_PEER)
        ]
    ).encode()
)


class Malformed(ValueError):
    """A message that no watcher of this version sends."""


class Kind(IntEnum):
    """Kinds of messages."""

    HELLO = 1
    """A node is there, and says which master it follows."""
    BEAT = 2
    """A master is there; what its clock shows."""
    VIEWS = 3
    """What the ranks of a node do."""
    ASK = 4
    """A master asks something of a node."""
    BYE = 6
    """A node leaves: all its ranks are gone."""
    ANSWER = 5


class Asked(IntEnum):
    """What a master asks of a node."""

    STACKS = 1
    """The Python stack of a rank."""
    ABORT = 2
    """End the ranks of the node."""
    VERDICT = 3
    """Tell the ranks of the node of a verdict, as JSON has it."""
    RAISE = 4
    """The same, and let them raise."""


@dataclass(frozen=True)
class Head:
    """What stands before each body.

    Parameters
    ----------
    kind : Kind
    follows : int
        The node whom the sender takes for the master, by its place in the list of nodes; `NOBODY` for none.
    number : int
        Rises with each message from one watcher to another: what was there before is a replay.
    """

    kind: Kind
    follows: int
    number: int


@dataclass(frozen=True)
class Request:
    """What a master wants of a node: `asked` of `rank`. `number` comes back with the answer."""

    number: int
    rank: int
    asked: Asked
    text: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back: `text`, and whether the node could do what was `asked` of `rank`."""

    number: int
    rank: int
    given: bool
    text: str


def message(head: Head, body: bytes = b"") -> bytes:
    """Give the bytes of a message."""
    if len(body) > MOST_BYTES - _HEAD.size:
        raise ValueError(f"{len(body)} bytes for one message: expected at most {MOST_BYTES - _HEAD.size}")
    return _HEAD.pack(_MAGIC, VERSION, head.kind, head.follows, 0, _RECORDS, head.number) + body


def read_message(data: bytes, nodes: int) -> tuple[Head, memoryview]:
    """Take a message apart, into its header and its body.

    Parameters
    ----------
    data : bytes
    nodes : int
        How many nodes the job has.

    Raises
    ------
    Malformed
    """
    if not _HEAD.size <= len(data) <= MOST_BYTES:
        raise Malformed(f"{len(data)} bytes: expected {_HEAD.size} to {MOST_BYTES}")
    magic, version, kind, follows, spare, records, number = _HEAD.unpack_from(data)
    if magic != _MAGIC or spare:
        raise Malformed("no message of a watcher")
    if version != VERSION or records != _RECORDS:
        raise Malformed(f"version {version} with records {records:#x}: expected {VERSION}, {_RECORDS:#x}")
    if kind not in Kind._value2member_map_:
        raise Malformed(f"kind {kind}: expected one of {[*Kind._value2member_map_]}")
    if follows >= nodes and follows != NOBODY:
        raise Malformed(f"follows node {follows} of {nodes}")
    return Head(Kind(kind), follows, number), memoryview(data)[_HEAD.size :]


def request_bytes(request: Request) -> bytes:
    """Give the body of a message that asks."""
    return _ASK.pack(request.number, request.rank, request.asked, 0) + _text_bytes(request.text)


def read_request(body: memoryview, size: int) -> Request:
    """Read the body of a message that asks something of one of `size` ranks."""
    if not _ASK.size <= len(body) <= _ASK.size + MOST_TEXT:
        raise Malformed(f"a request of {len(body)} bytes: expected at most {_ASK.size + MOST_TEXT}")
    number, rank, asked, spare = _ASK.unpack_from(body)
    if spare or asked not in Asked._value2member_map_:
        raise Malformed(f"asked for {asked}: expected one of {[*Asked._value2member_map_]}")
    return Request(number, checked_rank(rank, size), Asked(asked), read_text(body[_ASK.size :]))


def answer_bytes(answer: Answer) -> bytes:
    """Give the body of an answer, whose text is cut where it is too long."""
    return _ANSWER.pack(answer.number, answer.rank, answer.given, 0) + _text_bytes(answer.text)


def read_answer(body: memoryview, size: int) -> Answer:
    """Read the body of an answer about one of `size` ranks."""
    if not _ANSWER.size <= len(body) <= _ANSWER.size + MOST_TEXT:
        raise Malformed(f"an answer of {len(body)} bytes: expected at most {_ANSWER.size + MOST_TEXT}")
    number, rank, given, spare = _ANSWER.unpack_from(body)
    if spare or given > 1:
        raise Malformed(f"an answer that is given {given}: expected 0 or 1")
    return Answer(number, checked_rank(rank, size), bool(given), read_text(body[_ANSWER.size :]))


def clock_bytes(seconds: float) -> bytes:
    """Give the body of a beat."""
    return _CLOCK.pack(seconds)


def read_clock(body: memoryview) -> float:
    """Read the body of a beat."""
    if len(body) != _CLOCK.size:
        raise Malformed(f"a beat of {len(body)} bytes: expected {_CLOCK.size}")
    seconds = float(_CLOCK.unpack(body)[0])
    if not isfinite(seconds):
        raise Malformed(f"a clock that shows {seconds}")
    return seconds


def _text_bytes(text: str) -> bytes:
    found = text.encode("utf-8", "backslashreplace")
    return found if len(found) <= MOST_TEXT else found[:MOST_TEXT].decode("utf-8", "ignore").encode()


def read_text(data: memoryview) -> str:
    """Read UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"text that is not UTF-8: {error}") from error


def checked_rank(rank: int, size: int) -> int:
    """Give a rank of a job of `size` ranks; raise `Malformed` for any other."""
    if not 0 <= rank < size:
        raise Malformed(f"rank {rank} of {size}")
    return rank
