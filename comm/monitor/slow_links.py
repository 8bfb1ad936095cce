"""Slow links: pairs of ranks whose messages take longer than those of the others.

How long a rank waits for a message says little: lateness travels from rank to rank, and the first receive of
a step has all of it. So only the time counts in which the message had been sent and was waited for.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from .snapshot import Snapshot
from .transfers import Transfers, Waits
from .verdict import Verdict
from .wording import Functions

SECONDS = 2.5
# Late messages of a link in a window, at least.
MESSAGES = 6
# A link is slow where most of its messages that are waited for, and no few of all, take this many times as
# long as those of others, in a number of windows in a row.
FACTOR = 1.5
MOST, MANY = 0.5, 0.25
IN_A_ROW = 2
# By less, a message is late on a node whose ranks share cores.
LEAST_DELAY = 1e-3
# Part of the usual time, and seconds, that a call lasts at least if it had to wait.
LEAST_WAIT = 0.25
SHORTEST_WAIT = 1e-4
SECONDS_APART = 600.0
# Part of calls that two links explain alike.
ALIKE = 0.85
# Of such links, the one whose times have at most this part of the spread of any other's.
STEADY = 0.5
# Sizes that are compared: within a factor of four.
CLASSES = 32

Link = tuple[int, int]


class Window(NamedTuple):
    """The messages of a window, with what is usual among other links.

    Attributes
    ----------
    waits : Waits
    usual : ndarray
        Of each row, the seconds that a message of that size takes on other links; infinite if not known.
    had_to_wait : ndarray of bool
        Whether its call was there before the message, or that which came last.
    is_late : ndarray of bool
        Whether, besides, what it waited for was under way far longer than usual.
    """

    waits: Waits
    usual: np.ndarray
    had_to_wait: np.ndarray
    is_late: np.ndarray


def medians(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the groups that there are, and the lower median of each."""
    order = np.lexsort((values, group))
    groups, begins, counts = np.unique(group[order], return_index=True, return_counts=True)
    return groups, values[order][begins + (counts - 1) // 2]


def median_of_others(values: np.ndarray) -> np.ndarray:
    """Give the lower median without each of the values; infinite if there are fewer than two others."""
    others = len(values) - 1
    if others < 2:
        return np.full(len(values), np.inf)
    order = np.sort(values)
    place = np.argsort(np.argsort(values, kind="stable"))
    at = (others - 1) // 2
    return np.asarray(np.where(place > at, order[at], order[at + 1]))


def compare(waits: Waits, hosts: np.ndarray) -> Window:
    """Compare messages with those of other links, on one node or between nodes as they are."""
    size = len(hosts)
    low, high = np.minimum(waits.source, waits.dest), np.maximum(waits.source, waits.dest)
    link = low * size + high
    width = np.minimum(np.ceil(np.log2(np.maximum(waits.bytes, 1)) / 2), CLASSES - 1).astype(np.int64)
    apart = hosts[waits.source] != hosts[waits.dest]
    received = np.flatnonzero(waits.tells)
    # By direction at first: one of both may have receivers that are always late.
    directed = ((waits.source * size + waits.dest) * CLASSES + width)[received]
    groups, took = medians(directed, waits.took[received])
    source, dest = groups // CLASSES // size, groups // CLASSES % size
    each = (np.minimum(source, dest) * size + np.maximum(source, dest)) * CLASSES + groups % CLASSES
    links, inverse = np.unique(each, return_inverse=True)
    quickest = np.full(len(links), np.inf)
    np.minimum.at(quickest, inverse, took)
    shortest = np.zeros(size * size)
    shortest[waits.source * size + waits.dest] = waits.shortest
    np.maximum.at(quickest, inverse, shortest[source * size + dest])
    is_apart = hosts[links // CLASSES // size] != hosts[links // CLASSES % size]
    usual = np.full(len(link), np.inf)
    # A longer message takes no less.
    for at in range(CLASSES - 1, -1, -1):
        for between in (False, True):
            there = (links % CLASSES == at) & (is_apart == between)
            rows = np.flatnonzero((width <= at) & (apart == between))
            if np.count_nonzero(there) < 2 or not len(rows):
                continue
            values, names = quickest[there], links[there] // CLASSES
            found = np.full(len(rows), float(np.median(values)))
            place = np.minimum(np.searchsorted(names, link[rows]), len(names) - 1)
            own = names[place] == link[rows]
            found[own] = median_of_others(values)[place[own]]
            usual[rows] = np.where(np.isfinite(found), found, usual[rows])
    most = np.zeros(int(waits.call.max(initial=-1)) + 1)
    np.maximum.at(most, waits.call, usual)
    longest = most[waits.call]
    had_to_wait = waits.waited > np.maximum(LEAST_WAIT * longest, SHORTEST_WAIT)
    is_late = had_to_wait & (waits.together > np.maximum(FACTOR * longest, longest + LEAST_DELAY))
    # Of two clocks, it may be certain only by how much a message takes longer than the shortest.
    surely = np.full(len(most), np.inf)
    np.minimum.at(surely, waits.call, waits.surely)
    is_late &= surely[waits.call] > np.maximum((FACTOR - 1) * longest, LEAST_DELAY)
    return Window(waits, usual, had_to_wait, is_late)


def slow_links(window: Window, size: int) -> tuple[dict[Link, list[Link]], set[Link]]:
    """Give the slow links, lower rank first, with those of their directions that are slow, and possible ones.

    A call may have waited for several messages. So a link is slow if it explains the most of the calls that
    waited long, and no other one as many of them, or with times as steady.
    """
    waits = window.waits
    directed = waits.source * size + waits.dest
    directions, inverse, counts = np.unique(directed, return_inverse=True, return_counts=True)
    waited, late = (
        np.bincount(inverse, weights=each, minlength=len(directions))
        for each in (window.had_to_wait, window.is_late)
    )
    suspicious = (late >= MESSAGES) & (late >= MOST * waited) & (late >= MANY * counts)
    ways: dict[Link, list[Link]] = {}
    calls: dict[Link, set[int]] = {}
    for place in np.flatnonzero(suspicious).tolist():
        source, dest = divmod(int(directions[place]), size)
        link = min(source, dest), max(source, dest)
        ways.setdefault(link, []).append((source, dest))
        found = waits.call[(inverse == place) & window.is_late]
        calls.setdefault(link, set()).update(found.tolist())
    quick, slow, possible = _quick_ways(window, directed, size), dict[Link, list[Link]](), set[Link]()
    while calls:
        explained = max(calls.values(), key=len)
        # Links that explain the same calls.
        rivals = {link for link, own in calls.items() if len(own & explained) >= ALIKE * len(explained)}
        # Where there are several, it is one that is not known to be quick in the other direction.
        left = {link for link in rivals if not any(way[::-1] in quick for way in ways[link])}
        candidates = rivals if len(rivals) == 1 else _steadiest(window, directed, left or rivals, ways, size)
        if len(candidates) == 1 and len(explained) >= MESSAGES:
            slow |= {link: ways[link] for link in candidates}
        possible |= candidates or rivals
        calls = {
            link: own
            for link, own in calls.items()
            if link not in rivals and len(own - explained) > len(own) / 2
        }
    return slow, possible


def _quick_ways(window: Window, directed: np.ndarray, size: int) -> set[Link]:
    """Give the directions in which messages take no longer than usual."""
    tells = window.waits.tells
    groups, took = medians(directed[tells], window.waits.took[tells])
    _, usual = medians(directed[tells], window.usual[tells])
    counts = np.unique(directed[tells], return_counts=True)[1]
    is_quick = (2 * counts >= MESSAGES) & (took < FACTOR * usual) & np.isfinite(usual)
    return {divmod(group, size) for group in groups[is_quick].tolist()}


def _steadiest(
    window: Window, directed: np.ndarray, links: set[Link], ways: dict[Link, list[Link]], size: int
) -> set[Link]:
    """Give the link whose late messages took the steadiest time; all of them where none stands out.

    A call lasts until the message has come that it waits for. If that is not the link's own, the time of the
    link's seems to vary as the ranks do when they send.
    """
    spread = {}
    for link in links:
        directions = [source * size + dest for source, dest in ways[link]]
        took = [window.waits.took[window.is_late & (directed == each)] for each in directions]
        spread[link] = min(float(np.subtract(*np.quantile(each, (0.9, 0.1)))) for each in took)
    steady = {link for link in links if all(spread[link] <= STEADY * spread[each] for each in links - {link})}
    return steady or links


def _named(links: dict[Link, list[Link]], waits: Waits) -> dict[tuple[int, ...], list[Link]]:
    """Give links that are slow for themselves, and ranks most of whose links are, with the directions."""
    used = {(min(pair), max(pair)) for pair in zip(waits.source.tolist(), waits.dest.tolist(), strict=True)}
    slow, total = (Counter(rank for link in each for rank in link) for each in (links, used))
    named: dict[tuple[int, ...], list[Link]] = {
        link: ways for link, ways in links.items() if slow[link[0]] == slow[link[1]] == 1
    }
    for rank, count in slow.items():
        # By two of them, one cannot say whether it is rather a rank that is served late.
        if count >= 3 and 3 * count > 2 * total[rank]:
            named[rank,] = [way for link, ways in links.items() if rank in link for way in ways]
    return named


class SlowLinks:
    """Collects windows, and names links that stay slow over some of them.

    Attributes
    ----------
    slow : set of tuple of int
        Those that are slow now: two ranks each, or one where most links of a rank are.
    """

    def __init__(self, size: int, functions: Functions) -> None:
        self._size = size
        self._transfers = Transfers(size, functions)
        self._begun = 0.0
        self._windows: Counter[tuple[int, ...]] = Counter()
        self._said: dict[tuple[int, ...], float] = {}
        self.slow: set[tuple[int, ...]] = set()

    def look(self, snapshot: Snapshot) -> list[Verdict]:
        """Take the messages of a snapshot, and judge a window that is full."""
        if not 3 <= self._size <= 256:
            return []
        self._transfers.add(snapshot)
        now, seconds = snapshot.time, snapshot.time - self._begun
        if seconds < SECONDS:
            return []
        self._begun = now
        window = compare(self._transfers.take(seconds), self._transfers.hosts)
        links, possible = slow_links(window, self._size)
        named = _named(links, window.waits)
        # A window in which another link may be it neither counts nor ends what was before.
        self._windows = Counter(
            {ranks: self._windows[ranks] + (ranks in named) for ranks in possible | {*named}}
        )
        self.slow = {ranks for ranks, count in self._windows.items() if count >= IN_A_ROW}
        fresh = sorted(
            ranks for ranks in self.slow & {*named} if now - self._said.get(ranks, -np.inf) >= SECONDS_APART
        )
        self._said.update(dict.fromkeys(fresh, now))
        return [self._verdict(ranks, named[ranks], window) for ranks in fresh]

    def _verdict(self, ranks: tuple[int, ...], ways: list[Link], window: Window) -> Verdict:
        waits, hosts = window.waits, self._transfers.hosts
        directed = waits.source * self._size + waits.dest
        late = window.is_late & np.isin(directed, [source * self._size + dest for source, dest in ways])
        took, usual = float(np.median(waits.together[late])), float(np.median(window.usual[late]))
        if len(ranks) == 1:
            what = f"most links of rank {ranks[0]} are"
        elif len(ways) == 1 and hosts[ranks[0]] == hosts[ranks[1]]:
            ranks = ways[0]
            what = f"the link from rank {ranks[0]} to rank {ranks[1]} is"
        else:
            # By two clocks, one cannot say which direction it is.
            what = f"the link between ranks {ranks[0]} and {ranks[1]} is"
        ratio = took / max(usual, 1e-6)
        how_long = f"{took * 1e3:.3g} ms, {ratio:.1f} times as long as between other ranks"
        sentence = f"{what} slow: a message takes {how_long}"
        evidence = {
            "microseconds": self._medians(waits),
            "usual": round(usual * 1e6, 1),
            "ratio": round(ratio, 3),
        }
        return Verdict("slow-link", ranks, sentence, IN_A_ROW * SECONDS, evidence, ways[0][1])

    def _medians(self, waits: Waits) -> list[list[float]]:
        """Microseconds that messages of each pair took at most; -1 where there were none."""
        found = np.full((self._size, self._size), -1.0)
        directed = (waits.source * self._size + waits.dest)[waits.tells]
        groups, took = medians(directed, waits.took[waits.tells])
        found[groups // self._size, groups % self._size] = took * 1e6
        values: list[list[float]] = found.round(1).tolist()
        return values
