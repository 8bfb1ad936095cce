"""Messages under way, and the receives that could take them, by what both sides have counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .fields import calls_of, requests_of
from .memory import ANY_CLASS, ANY_RANK, NO_RANK, TAG_CLASSES
from .snapshot import RankView, Snapshot
from .wording import Functions


class Post(NamedTuple):
    """A receive that is not complete, or a probe. A negative tag is any, or one that is not known."""

    source: int
    comm: int
    tag: int
    tag_class: int
    started: float


class Messages:
    """Messages and receives of all ranks at the moment of a snapshot.

    Messages of a pair are counted by class, a hash of communicator and tag. Two tags may have the same, so
    that a message may be thought to match which does not; one that matches is never missed.
    """

    def __init__(self, snapshot: Snapshot, functions: Functions) -> None:
        self._functions = functions
        self._views = snapshot.ranks
        shape = (snapshot.size, snapshot.size, TAG_CLASSES)
        sent, received = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
        for rank, view in snapshot.ranks.items():
            sent[rank, : len(view.peers)] = view.peers["sent"]
            received[: len(view.peers), rank] = view.peers["received"]
        # Counters pass 2^32 and begin anew; a difference is right all the same.
        self.under_way = (sent - received).view(np.int32)
        self._posts: dict[int, list[Post]] = {}

    def posts(self, rank: int) -> list[Post]:
        """The receives of a rank that are not complete."""
        found = self._posts.get(rank)
        if found is None:
            found = self._posts[rank] = self._find_posts(self._views[rank])
        return found

    def _find_posts(self, view: RankView) -> list[Post]:
        functions, found = self._functions, []
        requests = view.requests
        for each in requests_of(requests[(requests["active"] == 1) & (requests["receives"] == 1)]):
            tag = -1 if each.function in functions.exchanges else each.tag
            found.append(Post(each.source, each.comm, tag, each.received_class, each.started))
        for call in calls_of(view.under_way):
            if call.function in functions.receives and call.source != NO_RANK:
                tag = -1 if call.function in functions.exchanges else call.tag
                found.append(Post(call.source, call.comm, tag, call.received_class, call.entered))
        return found

    def may_have(self, rank: int, source: int, post: Post) -> bool:
        """Whether a message from `source` that a receive of `rank` could take may be there or under way."""
        counts = self.under_way[source, rank]
        if post.tag_class == ANY_CLASS or self._views[rank].unnamed:
            return int(counts.sum()) > 0
        # Receives that were posted before take theirs first, if it is sure that they take this one.
        earlier = 0
        # Communicators without members known here may have an id together with others.
        if post.tag >= 0 and post.comm in self._views[rank].members:
            earlier = sum(
                each[:3] == (source, post.comm, post.tag) and each.started < post.started
                for each in self.posts(rank)
            )
        return int(counts[post.tag_class]) > earlier

    def is_taken(self, rank: int, dest: int, tag_class: int) -> bool:
        """Whether `dest` has received all that `rank` has sent it in a class."""
        return int(self.under_way[rank, dest, tag_class % TAG_CLASSES]) <= 0

    def is_awaited(self, rank: int, dest: int, sent: Post) -> bool:
        """Whether a receive of `dest` could take what `rank` sends; its tag and class stand in `sent`."""
        return any(
            post.source in (rank, ANY_RANK)
            and post.comm == sent.comm
            and post.tag_class in (sent.tag_class, ANY_CLASS)
            and (post.tag < 0 or post.tag == sent.tag)
            for post in self.posts(dest)
        )
