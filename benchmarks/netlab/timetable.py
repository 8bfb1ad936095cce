"""Changes of a lab's network, written down, and made at their time while a program runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.netlab.units import parse_seconds

if TYPE_CHECKING:
    from benchmarks.netlab.lab import Lab
    from benchmarks.netlab.network import Network

FORMS = {
    "slow-host": (r"(\d+):([\d.]+)", "I:FACTOR"),
    "slow-link": (r"(\d+)-(\d+):([\d.]+)", "I-J:FACTOR"),
    "cut": (r"(\d+)(?:-(\d+))?", "I or I-J"),
    "restore": (r"(\d+)(?:-(\d+))?", "I or I-J"),
}


class Change(NamedTuple):
    """One of the changes that a lab can make, and its arguments."""

    kind: str
    arguments: tuple[float, ...]

    def apply(self, lab: Lab | Network) -> None:
        """Make the change; ValueError where `lab` has no such host."""
        *hosts, last = self.arguments
        slows = self.kind.startswith("slow")
        getattr(lab, self.kind.replace("-", "_"))(*map(int, hosts), last if slows else int(last))


def parse_change(text: str) -> Change:
    """Read a change.

    Raises
    ------
    ValueError
        When it is none.

    >>> parse_change("slow-host=2:10")
    Change(kind='slow-host', arguments=(2.0, 10.0))
    >>> parse_change("cut=0-1")
    Change(kind='cut', arguments=(0.0, 1.0))
    """
    kind, _, rest = text.partition("=")
    if kind not in FORMS:
        raise ValueError(f"{text!r}: expected one of {', '.join(f'{name}=' for name in FORMS)}")
    pattern, form = FORMS[kind]
    match = re.fullmatch(pattern, rest)
    if match is None:
        raise ValueError(f"{text!r}: expected {kind}={form}")
    return Change(kind, tuple(float(group) for group in match.groups() if group is not None))


def parse_timed(text: str) -> tuple[float, Change]:
    """Read a change with the time before it.

    >>> parse_timed("3s:cut=1")
    (3.0, Change(kind='cut', arguments=(1.0,)))
    """
    time, _, change = text.partition(":")
    return parse_seconds(time), parse_change(change)


@contextmanager
def run_timed(lab: Lab, changes: Sequence[tuple[float, Change]]) -> Iterator[None]:
    """Make changes at times after the entry, those whose time comes before the exit."""
    timers = [threading.Timer(seconds, change.apply, (lab,)) for seconds, change in changes]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
