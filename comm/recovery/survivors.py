"""The processes that work together until the next loss, and the one place where they agree.

Whoever recovers must meet those who finish, commit, or also recover. So all of these agree in the same way on
the same communicator, and no rank does so again after an agreement has failed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...datatypes.plain import MPI
from ..communicators import promote
from ..interposer import interposer
from .derived import remember
from .presence import Presence
from .telling import tell_all
from .ulfm import is_whole

# Bit of an agreement that is lost if a rank recovers; others are free for the caller.
WELL = 1
# A shrink that fails is repeated: every time without one more rank, or after an error that passes.
_ATTEMPTS = 1000


@cache
def _keyval() -> int:
    return MPI.Comm.Create_keyval()


class Survivors:
    """Communicators of the same processes, found again by an attribute of the first.

    Attributes
    ----------
    comm : MPI.Intracomm
        For the program.
    messages : Intracomm
        For messages of roundelay's own.
    presence : Presence
    """

    def __init__(self, comm: MPI.Intracomm, messages: MPI.Intracomm, presence: Presence) -> None:
        self.comm: Any = promote(comm)
        self.messages, self.presence = messages, presence
        self._is_over = False
        self._tags = 0
        comm.Set_attr(_keyval(), self)
        remember(comm, messages)

    def agree(self, flag: int) -> int:
        """The bits that all ranks have in common; 0 for ever after a loss, or if one rank recovers."""
        if self._is_over:
            return 0
        try:
            with self.presence.waiting(lambda: not flag or self._is_broken()):
                found = int(self.messages.Agree(flag))
        except MPI.Exception:
            found = 0
        self._is_over = not found & WELL
        return found

    def _is_broken(self) -> bool:
        # Asked in another thread.
        return MPI.Query_thread() == MPI.THREAD_MULTIPLE and not is_whole(self.messages)

    def next_tag(self) -> int:
        """A tag for one more use of `messages`, which all ranks take in the same order."""
        self._tags += 1
        return self._tags


def _record(comm: MPI.Intracomm) -> None:
    """Let the fault monitor know it: how it is made is not intercepted."""
    module = interposer()
    if module is not None:
        module.name_comm(comm.handle)


def survivors_of(comm: MPI.Comm) -> Survivors | None:
    """Those whose communicator this is."""
    found: Any = comm.Get_attr(_keyval())
    return found  # type: ignore[no-any-return]


def gather_survivors(old: MPI.Comm, told: Any, presence: Presence) -> tuple[Survivors, list[Any]]:
    """Those of a communicator that are left, and what each of them has told all others.

    Communicators are made by shrinking only: Open MPI's other ways of making one may end in nonsense, or in a
    crash, when a process dies meanwhile.
    """
    before: Any = MPI.Intracomm(old)
    for _ in range(_ATTEMPTS):
        try:
            with presence.waiting(lambda: True):
                new = before.Shrink()
                messages = new.Shrink()
        except MPI.Exception:
            # On all ranks alike: a rank has died while they agreed on the number of the communicator.
            continue
        everyone: list[Any] = []
        try:
            if messages.size == new.size:
                everyone = tell_all(new, told)
        except Exception:
            # Of any kind: what a collective gives on the way to an error may be nonsense.
            new.Revoke()
        try:
            # A rank that has heard all others cannot know whether they have.
            with presence.waiting(lambda: True):
                has_heard = messages.Agree(int(bool(everyone)))
            if has_heard:
                _record(new)
                return Survivors(new, messages, presence), everyone
        except MPI.Exception:
            pass
        # Of those, all that are left have come here.
        before = messages
    raise RuntimeError(f"no communicator of the survivors after {_ATTEMPTS} attempts")
