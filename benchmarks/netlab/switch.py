"""The switch: hands each Ethernet frame on when its link would have.

A frame of `b` bytes from host `i` to host `j` occupies three things for `b` / rate seconds each: the port
through which `i` sends, the link from `i` to `j`, and the port through which `j` receives. It flows through
them as through pipes, not from store to store: alone it takes `b` / (slowest rate) in all. Then comes the
delay of the link and, drawn evenly, a part of its jitter; frames of a link stay in order.

A sending port takes turns between the hosts that it has frames for, one frame each. So does a real host,
whose connections keep little in the device's queue; without it, who sends to all at once would send to one
after the other, and all hosts to the same one at a time. A receiving port serves frames as they arrive.
"""

from __future__ import annotations

import os
import random
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from time import monotonic
from typing import NamedTuple

from benchmarks.netlab.hosts import FRAME_BYTES

# Bytes that may wait for one receiving port; beyond them, frames are lost as in a switch of metal.
QUEUE_BYTES = 256 << 20
FRAMES_IN_A_ROW = 8


class Setting(NamedTuple):
    """A link's properties: `delay` and `jitter` in s, `rate` in bytes/s, and whether it carries nothing."""

    delay: float
    jitter: float
    rate: float
    cut: bool = False


class Port:
    """One direction of a host's connection to the switch; `turns` are the links whose frames wait for it."""

    __slots__ = ("byte_seconds", "free_at", "turns", "waiting")

    def __init__(self) -> None:
        self.byte_seconds = 0.0
        self.free_at = 0.0
        self.waiting = 0
        self.turns: deque[Link] = deque()


class Link:
    """The way from one host to another: its stages, what waits for the first, and where frames come out."""

    __slots__ = ("byte_seconds", "cut", "delay", "due", "frames", "free_at", "into", "jitter", "out", "tap")

    def __init__(self, out: Port, into: Port, tap: int) -> None:
        self.out, self.into, self.tap = out, into, tap
        self.frames: deque[bytes] = deque()
        self.free_at = self.due = 0.0
        self.set(Setting(0.0, 0.0, float("inf")))

    def set(self, setting: Setting) -> None:
        """Let frames that leave from now on meet these properties."""
        self.delay, self.jitter, self.cut = setting.delay, setting.jitter, setting.cut
        self.byte_seconds = 1.0 / setting.rate

    def pass_through(self, size: int, start: float) -> float:
        """Time at which a frame of `size` bytes that leaves from `start` on is at the other end."""
        out, into = self.out, self.into
        out.free_at = end = start + size * out.byte_seconds
        start = max(start, self.free_at)
        self.free_at = end = max(end, start + size * self.byte_seconds)
        start = max(start, into.free_at)
        into.free_at = end = max(end, start + size * into.byte_seconds)
        end += self.delay
        if self.jitter:
            end += random.uniform(0.0, self.jitter)
        self.due = end = max(end, self.due)
        return end


class Switch:
    """Carries frames between TAP devices.

    Parameters
    ----------
    taps
        Descriptors of the devices, not blocking; the last is the head's, whose frames go on at once.
    """

    def __init__(self, taps: list[int]) -> None:
        self.taps = taps
        self.outs = [Port() for _ in taps]
        self.ins = [Port() for _ in taps]
        self.links = [
            [Link(out, into, tap) for into, tap in zip(self.ins, taps, strict=True)] for out in self.outs
        ]
        # By time, then by age: frames to hand on, with their link, and ports (empty frame) that become free.
        self.events: list[tuple[float, int, Link | Port, bytes]] = []
        self.number = 0
        self.carried = 0
        self.lost = 0

    def run(self, control: int, obey: Callable[[], bool]) -> None:
        """Carry frames until `obey`, called when the descriptor `control` can be read, returns False."""
        sources = dict(zip(self.taps, self.links, strict=True))
        descriptors = [*self.taps, control]
        while True:
            self._catch_up()
            timeout = max(self.events[0][0] - monotonic(), 0.0) if self.events else None
            for descriptor in select.select(descriptors, (), (), timeout)[0]:
                if descriptor != control:
                    self._read(descriptor, sources[descriptor])
                elif not obey():
                    return

    def _read(self, tap: int, links: list[Link]) -> None:
        """Take frames that a host sends, a few at a time so that others get their turn."""
        now = monotonic()
        with suppress(BlockingIOError):
            for _ in range(FRAMES_IN_A_ROW):
                frame = os.read(tap, FRAME_BYTES)
                # An odd first byte is for more than one host; nobody listens to it.
                if frame[0] & 1:
                    continue
                link = links[frame[4] << 8 | frame[5]]
                if link.cut or link.into.waiting > QUEUE_BYTES:
                    self.lost += 1
                    continue
                link.into.waiting += len(frame)
                self._accept(link, frame, now)

    def _accept(self, link: Link, frame: bytes, now: float) -> None:
        """Let a frame leave its host now, or wait for its turn."""
        out = link.out
        self.number += 1
        if not out.turns and out.free_at <= now:
            heappush(self.events, (link.pass_through(len(frame), now), self.number, link, frame))
            return
        if not out.turns:
            heappush(self.events, (out.free_at, self.number, out, b""))
        if not link.frames:
            out.turns.append(link)
        link.frames.append(frame)

    def _catch_up(self) -> None:
        """Do what is due. Events that depend on it count from when it was due, not from when it is done."""
        events, now = self.events, monotonic()
        while events and events[0][0] <= now:
            due, number, what, frame = heappop(events)
            if isinstance(what, Link):
                self._deliver(what, frame)
                continue
            link = what.turns.popleft()
            frame = link.frames.popleft()
            if link.frames:
                what.turns.append(link)
            heappush(events, (link.pass_through(len(frame), due), number, link, frame))
            if what.turns:
                self.number += 1
                heappush(events, (what.free_at, self.number, what, b""))

    def _deliver(self, link: Link, frame: bytes) -> None:
        link.into.waiting -= len(frame)
        self.carried += len(frame)
        try:
            os.write(link.tap, frame)
        except OSError:
            self.lost += 1
