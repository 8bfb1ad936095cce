"""Commits of arrays whose form and partners stay the same: two versions, and the messages that copy them.

A partner on the same node maps what a rank writes, and nothing is sent to it.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ...datatypes.plain import MPI
from .derived import revoke_all
from .partners import partners
from .registered import Arrays, Form, form_of, write
from .resilient import world_ranks
from .segment import VERSIONS, Address, MappedSegment, Segment
from .survivors import WELL, survivors_of
from .telling import tell_all
from .ulfm import check_whole, is_whole

Array = NDArray[Any]

# Every MPI library counts that many bytes in one message.
_MESSAGE_BYTES = 1 << 30
# A digest and its complement fit the flag of an agreement, beside one other bit.
_DIGEST = (1 << 15) - 1


class Member(NamedTuple):
    """What a rank tells all others about its copies."""

    world_rank: int
    place: tuple[str, str]
    form: Form
    address: Address | None
    job: str
    failure: str


class Guard(NamedTuple):
    """A copy of another rank's arrays, in memory of that rank or in memory that it sends to."""

    segment: Segment
    form: Form


class Generation:
    """Made by all ranks of a communicator together.

    Parameters
    ----------
    comm : Intracomm
    arrays : dict or list of arrays
    copies : int
    share : bool
        Whether ranks of a node map each other's copies.
    job : str
        Name of the job's commits on disk; that of rank 0 counts.

    Attributes
    ----------
    owners : tuple of int
        Ranks in `COMM_WORLD` of those who commit.
    partners : tuple of tuples of int
        For each of them those who hold a copy, by their ranks in `COMM_WORLD`.
    own : Segment
    guards : dict
        By rank in `COMM_WORLD`, what this rank holds of others.
    """

    def __init__(self, comm: MPI.Intracomm, arrays: Arrays, copies: int, share: bool, job: str) -> None:
        self._together = survivors_of(comm)
        if self._together is None:
            self.comm, self._tag = MPI.Intracomm(comm).Dup(), 0
        else:
            self.comm, self._tag = self._together.messages, self._together.next_tag()
        self.arrays, self.form = arrays, form_of(arrays)
        self._requests: list[MPI.Request] = []
        self._receiving: list[tuple[Segment, int, int, int]] = []
        failure = ""
        try:
            self.own = Segment(self.form.offsets[-1])
        except MemoryError as error:
            failure = str(error)
        address = self.own.address if share and not failure else None
        mine = Member(world_ranks(comm)[comm.rank], _place(), self.form, address, job, failure)
        members: list[Member] = tell_all(self.comm, mine)
        for member in members:
            if member.failure:
                raise MemoryError(f"rank {member.world_rank}: {member.failure}")
        self.job = members[0].job
        self.owners = tuple(member.world_rank for member in members)
        self._connect(members, partners([member.place for member in members], copies))

    def _connect(self, members: list[Member], holders: tuple[tuple[int, ...], ...]) -> None:
        """Map what partners on the node write, and let the others send."""
        rank = self.comm.rank
        self.partners = tuple(tuple(self.owners[each] for each in found) for found in holders)
        self.guards: dict[int, Guard] = {}
        self._sources: list[tuple[int, Segment]] = []
        failure = ""
        for source, member in enumerate(members):
            if rank in holders[source]:
                mapped = _map(member)
                try:
                    segment = mapped or Segment(member.form.offsets[-1], shared=False)
                except MemoryError as error:
                    failure = str(error)
                    continue
                self.guards[member.world_rank] = Guard(segment, member.form)
                if mapped is None:
                    self._sources.append((source, segment))
        told = tell_all(self.comm, ([source for source, _ in self._sources], failure))
        if failures := [failure for _, failure in told if failure]:
            raise MemoryError(failures[0])
        self._targets = [target for target, (sources, _) in enumerate(told) if rank in sources]

    def commit(self, serial: int, step: int) -> None:
        """Copy the arrays, and begin to send the copy."""
        if self._together is not None:
            check_whole(self.comm)
        slot = serial % VERSIONS
        for _, segment in self._sources:
            segment.begin(slot)
        self.own.begin(slot)
        for source, segment in self._sources:
            self._requests += [
                self.comm.Irecv(part, source, self._tag) for part in _parts(segment.slot(slot))
            ]
            self._receiving.append((segment, slot, serial, step))
        write(self.arrays, self.form, self.own.slot(slot))
        self.own.finish(slot, serial, step)
        parts = _parts(self.own.slot(slot))
        self._requests += [
            self.comm.Isend(part, target, self._tag) for target in self._targets for part in parts
        ]

    def progress(self) -> bool:
        """Let messages go on; tell whether this rank has all that it is sent, and has sent all."""
        if self._requests and MPI.Request.Testall(self._requests):
            self._arrived()
        return not self._requests

    def complete(self, serial: int, step: int) -> None:
        """Wait until all ranks have the whole of a commit; collective.

        Raises `ValueError` on all of them where they committed different steps.
        """
        MPI.Request.Waitall(self._requests)
        self._arrived()
        if self._together is None:
            steps = tell_all(self.comm, step)
            are_same = len(set(steps)) == 1
        else:
            # Nothing but an agreement is sure to end alike on all ranks.
            word = _word(step)
            found = self._together.agree(word)
            if not found:
                raise MPI.Exception(MPI.ERR_PROC_FAILED)
            are_same = found == word
        if not are_same:
            raise ValueError(f"commit: expected the same step on all ranks, got {step} and others")

    def _arrived(self) -> None:
        self._requests.clear()
        for segment, slot, serial, step in self._receiving:
            segment.finish(slot, serial, step)
        self._receiving.clear()

    def abandon(self) -> None:
        """End what is under way: nothing is written to any copy from now on."""
        if is_whole(self.comm):
            # A program may go back without a loss, too.
            MPI.Request.Waitall(self._requests)
            self._arrived()
            return
        revoke_all(self.comm)
        for request in self._requests:
            with suppress(MPI.Exception):
                request.Wait()
        self._requests.clear()
        self._receiving.clear()

    def free(self) -> None:
        """Free what MPI has of it."""
        if self._together is None:
            self.comm.Free()


def _word(step: int) -> int:
    """Bits of which some are lost in an agreement if ranks have different steps."""
    digest = int.from_bytes(blake2b(str(step).encode(), digest_size=2).digest(), "little") & _DIGEST
    bits = _DIGEST.bit_length()
    return WELL | digest << 1 | (~digest & _DIGEST) << (1 + bits)


def _place() -> tuple[str, str]:
    """The node of this process: the name of its host, and which boot of which kernel it is."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        kernel = ""
    return MPI.Get_processor_name(), kernel


def _map(member: Member) -> Segment | None:
    """The copies of another rank, if they are in memory that this one can map."""
    if member.address is None or member.place != _place():
        return None
    try:
        return MappedSegment(member.address)
    except OSError:
        return None


def _parts(memory: Array) -> list[Array]:
    """A copy in pieces that fit a message; what is empty takes one, too."""
    begins = range(0, max(1, memory.size), _MESSAGE_BYTES)
    return [memory[begin : begin + _MESSAGE_BYTES] for begin in begins]
