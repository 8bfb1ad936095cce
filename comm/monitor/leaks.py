"""What is left at the end: requests that were never completed, messages that were never received."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fields import requests_of
from .matching import Messages
from .snapshot import Snapshot
from .verdict import Verdict
from .wording import Functions, listed

_MOST = 5


def find_leaks(snapshot: Snapshot, functions: Functions) -> list[Verdict] | None:
    """Look for leaks, once all ranks have come to the end; None before that."""
    views = snapshot.ranks
    if len(views) < snapshot.size or not all(view.finalizing for view in views.values()):
        return None
    requests: list[tuple[int, str]] = []
    for rank, view in views.items():
        for each in requests_of(view.requests[view.requests["active"] == 1]):
            requests.append((rank, functions.names[each.function]))
    messages = _messages(snapshot, functions)
    if not requests and not messages:
        return []
    parts = []
    if requests:
        ranks = sorted({rank for rank, _ in requests})
        kinds = sorted({name for _, name in requests})
        what = (
            f"1 request of {kinds[0]}"
            if len(requests) == 1
            else f"{len(requests)} requests of {listed(kinds)}"
        )
        parts.append(f"{what} on rank{'s' if len(ranks) > 1 else ''} {listed(ranks)} never completed")
    pairs = [
        f"{each['count']} message{'s' if each['count'] > 1 else ''} "
        f"of rank {each['source']} to rank {each['dest']}"
        for each in messages
    ]
    if pairs:
        more = f" and {len(pairs) - _MOST} more pairs" if len(pairs) > _MOST else ""
        parts.append(f"{listed(pairs[:_MOST])}{more} never received")
    culprits = {rank for rank, _ in requests} | {int(each["source"]) for each in messages}
    culprits |= {int(each["dest"]) for each in messages}
    evidence: dict[str, Any] = {
        "requests": [{"rank": rank, "function": name} for rank, name in requests[:100]],
        "messages": messages[:100],
    }
    return [Verdict("leak", tuple(sorted(culprits)), f"leak: {'; '.join(parts)}", 0.0, evidence)]


def _messages(snapshot: Snapshot, functions: Functions) -> list[dict[str, Any]]:
    """Messages that were sent and not received, by pair and class."""
    if any(view.lost for view in snapshot.ranks.values()):
        return []
    under_way = Messages(snapshot, functions).under_way
    found = []
    for source, dest in np.argwhere(under_way.sum(axis=2) > 0).tolist():
        # Which of those that are missing were received without a name is not known.
        unnamed = snapshot.ranks[dest].unnamed
        if unnamed and int(under_way[:, dest].sum()) <= unnamed:
            continue
        classes = {str(each): int(count) for each, count in enumerate(under_way[source, dest]) if count > 0}
        count = int(under_way[source, dest].sum())
        found.append({"source": source, "dest": dest, "count": count, "classes": classes})
    return found
