"""What each rank waits for, by the call that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .clocks import Clocks
from .fields import CallFields, RequestFields, calls_of, requests_of
from .matching import Messages, Post
from .memory import ANY_CLASS, ANY_RANK, NO_RANK
from .snapshot import RankView, Snapshot
from .wording import Functions, peer, tagged

# Longer messages are sent when the receiver is ready; shorter ones may be on their way without it.
SURELY_EAGERLY_SENT = 65536
# A call that is still there after this waits for one of its short messages if for nothing else.
_AFTER = 1.0


class Clause(NamedTuple):
    """One thing that a call waits for.

    `ranks` are those, as bits, of which one must act. It is `met` if they have done their part, and what is
    missing is on its way, as far as that can be known.
    """

    ranks: int
    met: bool
    text: str
    source: int
    tag: int | None = None
    collective: tuple[int, int] | None = None
    bytes: int = 0
    # A short message, which hardly waits for its receiver.
    is_short: bool = False


@dataclass(frozen=True)
class Wait:
    """What a rank waits for: all clauses of any of its options."""

    call: CallFields
    options: list[list[Clause]]

    def clauses(self, everything: bool) -> list[list[Clause]]:
        """The options without what is met; with `everything`, with it where nothing else is missing."""
        return [
            [each for each in option if not each.met] or (option if everything else [])
            for option in self.options
        ]


class Conditions:
    """Says of the ranks of a snapshot what they wait for.

    Parameters
    ----------
    known : mapping of int to set of int
        Ids of communicators that each rank has ever used.
    """

    def __init__(
        self, snapshot: Snapshot, clocks: Clocks, functions: Functions, known: Mapping[int, set[int]]
    ) -> None:
        self.views, self.functions = snapshot.ranks, functions
        self._clocks, self._known = clocks, known
        self._messages = Messages(snapshot, functions)
        self._begun = {rank: _begun_by(view) for rank, view in self.views.items()}
        self._open: dict[int, set[tuple[int, int]]] = {}

    def wait_of(self, view: RankView) -> Wait | None:
        """What a rank waits for; None if it is outside MPI, or that cannot be known."""
        calls = calls_of(view.under_way)
        if not calls or len(calls) < view.threads:
            return None
        options: list[list[Clause]] = []
        for call in calls:
            found = self._options(view, call)
            if found is None:
                return None
            options += found
        return Wait(calls[0], options)

    def look_of(self, view: RankView) -> Wait | None:
        """What a rank waits for that looks again and again for something to come; None if it does not."""
        names = self.functions.names
        looks = [call for call in calls_of(view.calls) if call.function in self.functions.looks]
        found = [
            self._receive(view, Post(*post, call.entered), call.bytes, names[call.function])
            for post, call in {
                (each.source, each.comm, each.tag, each.received_class): each for each in looks
            }.items()
            if call.source != NO_RANK
        ]
        options = [[clause] for clause in found if clause is not None]
        receives = view.requests[(view.requests["active"] == 1) & (view.requests["receives"] == 1)]
        for request in requests_of(receives) if looks else ():
            options += [clauses for clauses in [self._request(view, request, "Test")] if clauses]
        return Wait(looks[-1], options) if options else None

    def _options(self, view: RankView, call: CallFields) -> list[list[Clause]] | None:
        """What a call waits for; None if that cannot be known."""
        functions = self.functions
        name = functions.names[call.function]
        if call.waits_for_all or call.waits_for_any:
            return self._requests(view, call, name)
        if call.sequence and call.function not in functions.starts:
            size = 0 if call.function in functions.barriers else call.bytes
            clauses = self._collective(view.rank, call.comm, call.sequence, size, name)
            return None if clauses is None else [clauses]
        found: list[Clause | None] = []
        if call.function in functions.sends and call.dest != NO_RANK:
            post = Post(call.dest, call.comm, call.tag, call.sent_class, call.entered)
            sent = self._send(view.rank, post, call.bytes, name)
            # A call that only sends, and is still there, waits for that.
            found.append(_shortened(sent, call.bytes) if call.function in functions.exchanges else sent)
        if call.function in functions.receives and call.source != NO_RANK:
            tag = call.tag if call.function not in functions.exchanges else -1
            post = Post(call.source, call.comm, tag, call.received_class, call.entered)
            found.append(self._receive(view, post, call.bytes, name))
        clauses = _all_known(found)
        return None if clauses is None else [self._hardened(view.rank, clauses)]

    def _requests(self, view: RankView, call: CallFields, name: str) -> list[list[Clause]] | None:
        rows = view.requests[(view.requests["active"] == 1) & (view.requests["awaited"] == call.lane + 1)]
        options: list[list[Clause]] = []
        for request in requests_of(rows):
            clauses = self._request(view, request, name)
            if clauses is not None:
                options.append(clauses)
            elif call.waits_for_any:
                return None
        if not options or (call.waits_for_any and view.lost):
            return None
        if call.waits_for_all:
            options = [self._hardened(view.rank, [clause for option in options for clause in option])]
        return options

    def _hardened(self, rank: int, clauses: list[Clause]) -> list[Clause]:
        """The same with short messages that are waited for, if nothing else is left and the call goes on."""
        if self._clocks.quiet(rank) <= _AFTER or not all(each.met for each in clauses):
            return clauses
        return [each._replace(met=not each.is_short) for each in clauses]

    def _request(self, view: RankView, request: RequestFields, call: str) -> list[Clause] | None:
        functions = self.functions
        name = f"{call} of {functions.names[request.function]}"
        if request.collective:
            if request.persistent or not request.sequence:
                return None
            size = 0 if request.function in functions.barriers else request.bytes
            return self._collective(view.rank, request.comm, request.sequence, size, name)
        found: list[Clause | None] = []
        if request.sent_class != ANY_CLASS and request.dest != NO_RANK:
            post = Post(request.dest, request.comm, request.tag, request.sent_class, request.started)
            sent = self._send(view.rank, post, request.bytes, name)
            if request.function in functions.buffered:
                sent = _shortened(sent, 0)
            elif request.function not in functions.synchronous:
                sent = _shortened(sent, request.bytes)
            found.append(sent)
        if request.receives and request.source != NO_RANK:
            tag = request.tag if request.function not in functions.exchanges else -1
            post = Post(request.source, request.comm, tag, request.received_class, request.started)
            found.append(self._receive(view, post, request.bytes, name))
        return _all_known(found)

    def _send(self, rank: int, post: Post, size: int, name: str) -> Clause | None:
        dest = post.source
        if dest not in self.views:
            return None
        met = self._messages.is_taken(rank, dest, post.tag_class) or self._messages.is_awaited(
            rank, dest, post
        )
        text = f"{name} to {dest} ({tagged(post.tag)})"
        return Clause(1 << dest, met, text, dest, post.tag, bytes=size)

    def _receive(self, view: RankView, post: Post, size: int, name: str) -> Clause | None:
        if post.source == ANY_RANK:
            members = view.members.get(post.comm)
            if members is None:
                return None
            sources = [int(each) for each in members]
        else:
            sources = [post.source]
        if any(each not in self.views for each in sources):
            return None
        met = any(self._messages.may_have(view.rank, each, post) for each in sources)
        mask = sum(1 << each for each in sources)
        if post.source == ANY_RANK:
            mask &= ~(1 << view.rank)
        tag = f" ({tagged(post.tag)})" if post.tag >= 0 or post.tag_class == ANY_CLASS else ""
        text = f"{name} from {peer(post.source)}{tag}"
        return Clause(mask, met, text, post.source, post.tag, bytes=size) if mask else None

    def _collective(self, rank: int, comm: int, sequence: int, size: int, name: str) -> list[Clause] | None:
        """Clauses of the members that have not begun it, or else of those that have not completed it."""
        members = self.views[rank].members.get(comm)
        if members is None:
            return None
        text, missing, unfinished = f"{name} #{sequence}", [], []
        for member in members.tolist():
            if member == rank:
                continue
            has_begun = self._has_begun(member, comm, sequence)
            if has_begun is None:
                continue
            if not has_begun:
                missing.append(member)
            elif (comm, sequence) in self.opened_by(member):
                unfinished.append(member)
        met = not missing
        return [
            Clause(1 << each, met, text, each, None, (comm, sequence), size) for each in missing or unfinished
        ] or None

    def _has_begun(self, member: int, comm: int, sequence: int) -> bool | None:
        begun = self._begun.get(member)
        if begun is None:
            return None
        if comm in begun:
            return begun[comm] >= sequence
        # It has freed the communicator, or its record had no place for it; or it has not made it yet.
        return None if comm in self._known.get(member, ()) or self.views[member].lost else False

    def opened_by(self, rank: int) -> set[tuple[int, int]]:
        """Communicators and numbers of collectives that a rank is in, or has not completed."""
        found = self._open.get(rank)
        if found is None:
            view = self.views[rank]
            requests = view.requests[(view.requests["active"] == 1) & (view.requests["collective"] == 1)]
            rows = [view.under_way[["comm", "sequence"]].tolist(), requests[["comm", "sequence"]].tolist()]
            found = self._open[rank] = {pair for each in rows for pair in each}
        return found


def _all_known(clauses: list[Clause | None]) -> list[Clause] | None:
    """The same, if there are any and each is known."""
    known = [each for each in clauses if each is not None]
    return known if known and len(known) == len(clauses) else None


def _shortened(sent: Clause | None, size: int) -> Clause | None:
    """What a send waits for, which is met where the message is short."""
    if sent is None or not 0 <= size <= SURELY_EAGERLY_SENT:
        return sent
    return sent._replace(is_short=not sent.met, met=True)


def _begun_by(view: RankView) -> dict[int, int]:
    return dict(zip(view.comms["id"].tolist(), view.comms["begun"].tolist(), strict=True))
