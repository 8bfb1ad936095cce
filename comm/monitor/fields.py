"""Calls and requests of a snapshot as tuples with names, which are read faster than rows of an array."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class CallFields(NamedTuple):
    """The fields of `memory.TIMED_CALL`, in its order."""

    number: int
    sequence: int
    entered: float
    left: float
    inside: float
    bytes: int
    comm: int
    signature: int
    dest: int
    source: int
    tag: int
    function: int
    error: int
    sent_class: int
    received_class: int
    waits_for_all: int
    waits_for_any: int
    lane: int
    has_sent: int
    has_received: int
    spare: object
    sent_ordinal: int
    received_ordinal: int
    received_tag: int


class RequestFields(NamedTuple):
    """The fields of `memory.TIMED_REQUEST`, in its order."""

    handle: int
    started: float
    bytes: int
    comm: int
    sequence: int
    dest: int
    source: int
    tag: int
    ordinal: int
    function: int
    sent_class: int
    received_class: int
    active: int
    awaited: int
    receives: int
    collective: int
    persistent: int
    spare: object


def calls_of(rows: np.ndarray) -> list[CallFields]:
    """Give rows of `memory.TIMED_CALL` as tuples."""
    return [CallFields._make(row) for row in rows.tolist()]


def requests_of(rows: np.ndarray) -> list[RequestFields]:
    """Give rows of `memory.TIMED_REQUEST` as tuples."""
    return [RequestFields._make(row) for row in rows.tolist()]
