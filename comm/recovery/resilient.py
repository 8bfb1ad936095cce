"""Jobs that go on without ranks that die: revoke, shrink, agree, and tell the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...datatypes.plain import MPI
from ..communicators import promote
from .derived import revoke_all, track
from .ending import end_without
from .failures import RecoveryUnavailable, RemoteFailure
from .presence import Presence
from .survivors import WELL, Survivors, gather_survivors
from .telling import tell_all
from .ulfm import check_whole, is_whole, why_unavailable


class Loss(NamedTuple):
    """What a job has lost, the same on all ranks that are left, but for `comm`, which is theirs.

    Attributes
    ----------
    comm : MPI.Intracomm
        The communicator of the survivors, in the order of their old ranks.
    survivors : tuple of int
        Ranks in `COMM_WORLD` of those that are left, by their rank in `comm`.
    lost : tuple of int
        Ranks in `COMM_WORLD` of all that were lost since the job began, ascending.
    newly_lost : tuple of int
        Those of them that this recovery found; none if an error had another cause.
    step : int
        The last agreed step: how many steps all survivors have completed.
    """

    comm: MPI.Intracomm
    survivors: tuple[int, ...]
    lost: tuple[int, ...]
    newly_lost: tuple[int, ...]
    step: int


_OF_MPI, _ERROR, _ORDER = range(3)
OnLoss = Callable[[Loss], int | None]


class Resilient:
    """What `roundelay.resilient` returns.

    Attributes
    ----------
    comm : MPI.Intracomm
        The communicator to use in place of the program's; another one after each recovery.
    survivors, lost : tuple of int
        Ranks in `COMM_WORLD` of those that are left, and of those that are not.
    step : int
        How many steps this rank has completed. `run` counts them; a program with a loop of its own sets it.
    can_recover : bool
        Whether the job survives the loss of a rank.
    """

    def __init__(
        self, comm: MPI.Intracomm, on_loss: OnLoss | None, can_recover: bool, lost_after: float
    ) -> None:
        track()
        started = world_ranks(comm)
        self._together: Survivors | None = None
        if can_recover:
            presence = Presence(lost_after)
            self._together, addresses = gather_survivors(comm, presence.address, presence)
            self.comm: Any = self._together.comm
            presence.meet(dict(zip(world_ranks(self.comm), addresses, strict=True)))
        else:
            self.comm = promote(MPI.Intracomm(comm).Dup())
        self.survivors = world_ranks(self.comm)
        # A rank may be lost before the job has begun.
        self.lost = tuple(sorted(set(started) - set(self.survivors)))
        self.step = 0
        self.can_recover = can_recover
        self._on_loss = on_loss
        # The step at which an error lost no rank: the same error again is the program's own.
        self._retried = -1
        if can_recover:
            end_without(lambda: self.comm)

    def run(self, advance: Callable[[MPI.Intracomm, int], Any], steps: int, start: int = 0) -> None:
        """Call ``advance(comm, step)`` for each step, also after losses, until all ranks have done all.

        Collective over `comm`. When a call of MPI fails on a rank, all ranks recover; `on_loss` then says at
        which step they go on. A step may therefore run more than once.

        Parameters
        ----------
        advance : callable
            Takes the communicator, which changes after a loss, and the number of the step.
        steps : int
            One more than the last step.
        start : int
            The first step.

        Raises
        ------
        RemoteFailure
            `advance` or `on_loss` raised an exception that is not MPI's on another rank; on the rank itself,
            that exception.
        mpi4py.MPI.Exception
            An error of MPI that comes again at the same step though no rank is lost.

        Examples
        --------
        >>> import roundelay
        >>> from roundelay import MPI
        >>> totals = []
        >>> def advance(comm, step):
        ...     totals.append(comm.allreduce(step) // comm.size)
        >>> roundelay.resilient(MPI.COMM_WORLD, required=False).run(advance, 3)
        >>> totals
        [0, 1, 2]
        """
        self.step = start
        must_ask: Loss | None = None
        while True:
            try:
                if must_ask is not None:
                    self._go_on(must_ask)
                    must_ask = None
                while self.step < steps:
                    advance(self.comm, self.step)
                    if self.can_recover:
                        check_whole(self.comm)
                    self.step += 1
                if self.finish():
                    return
                error: BaseException | None = None
            except BaseException as raised:
                if not self.can_recover:
                    raise
                error = raised
            must_ask = self.recover(error)

    def _go_on(self, loss: Loss) -> None:
        """Ask the program at which step to go on, which must be the same on all ranks."""
        step = None if self._on_loss is None else self._on_loss(loss)
        step = loss.step if step is None else step
        steps = tell_all(MPI.Intracomm(self.comm), step)
        if len(set(steps)) > 1:
            raise ValueError(f"on_loss: expected the same step from all ranks, got {steps}")
        self.step = step

    def finish(self) -> bool:
        """Tell whether all ranks have come here without an error; else call `recover`. Collective.

        A rank that leaves without asking would be missed by those that recover. `run` asks by itself.
        """
        return self._together is None or bool(self._together.agree(WELL))

    def recover(self, error: BaseException | None = None) -> Loss:
        """Go on without the ranks that are lost; all that are left come here, and those that wait are woken.

        For programs that catch `MPI.Exception` themselves; `run` calls it by itself. Ranks that are lost
        meanwhile are left out, too.

        Parameters
        ----------
        error : exception, optional
            The reason. One that MPI has nothing to do with ends the job on all ranks.

        Returns
        -------
        Loss
            Also told by `comm`, `survivors` and `lost`.

        Raises
        ------
        RemoteFailure, mpi4py.MPI.Exception
            As `run` does.

        Notes
        -----
        Every error of MPI leads here, because their classes differ from rank to rank after the same failure;
        the group of the shrunk communicator is what all agree on. W. Bland, A. Bouteiller, T. Herault,
        G. Bosilca, J. Dongarra: Post-failure recovery of MPI communication capability, IJHPCA 27 (2013).
        """
        if self._together is None:
            raise RecoveryUnavailable(why_unavailable() or "this job was not started with recovery")
        kind = _kind(error)
        if kind == _ERROR and not is_whole(self.comm):
            # It may come of the results of a broken collective: the step is done again, and so is the error.
            kind = _OF_MPI
        revoke_all(self.comm)
        # Whoever has finished, or commits, waits here for all others.
        self._together.agree(0)
        told = self.step, kind, _description(error)
        self._together, everyone = gather_survivors(self._together.messages, told, self._together.presence)
        comm = self._together.comm
        survivors = world_ranks(comm)
        newly_lost = tuple(sorted(set(self.survivors) - set(survivors)))
        self.comm, self.survivors = comm, survivors
        self.lost = tuple(sorted((*self.lost, *newly_lost)))
        step = min(step for step, _, _ in everyone)
        final = [each for each in everyone if each[1] != _OF_MPI]
        if final:
            self._raise(error if kind != _OF_MPI else None, final)
        if not newly_lost:
            if self._retried == step:
                self._raise(error, everyone)
            self._retried = step
        return Loss(comm, survivors, self.lost, newly_lost, step)

    def _raise(self, error: BaseException | None, everyone: list[tuple[int, int, str]]) -> None:
        """Stop, on all ranks; those that were only woken say whose error it was."""
        if error is not None and _description(error):
            raise error
        for step, _, failure in everyone:
            if failure:
                raise RemoteFailure(f"{failure} in step {step}")
        raise RemoteFailure("an error of MPI, though no rank is lost")


def resilient(
    comm: MPI.Intracomm, on_loss: OnLoss | None = None, required: bool = True, lost_after: float = 300.0
) -> Resilient:
    """Make a job go on when ranks of it die, with MPI libraries that have ULFM; collective.

    Open MPI 5 has it where a job is started by ``mpirun --with-ft ulfm``.

    Parameters
    ----------
    comm : MPI.Intracomm
        Whose processes work together, all of them of `COMM_WORLD`. It is itself not used.
    on_loss : callable, optional
        Called on all survivors after each loss, with a `Loss`. It restores their arrays, such as with
        `Protected.recover`, and returns the step at which they go on: the same on all, by default the last
        agreed step. It is called again when a rank is lost meanwhile.
    required : bool
        Whether to raise where the job cannot survive a loss. Otherwise `run` calls the steps, and leaves
        errors alone.
    lost_after : float
        Seconds that survivors wait, once a rank is lost, for one that does not come to recover, such as one
        that is stopped or hangs. Then ranks of its node kill it, and it is lost, too. Choose more than your
        longest step takes.

    Returns
    -------
    Resilient
        Its `run` calls the steps.

    Raises
    ------
    RecoveryUnavailable
        The MPI library has no ULFM, or the job was not started with it; the message says which.
    ValueError
        `lost_after` is no time.

    Examples
    --------
    >>> import roundelay
    >>> from roundelay import MPI
    >>> job = roundelay.resilient(MPI.COMM_WORLD, required=False)
    >>> job.survivors == tuple(range(MPI.COMM_WORLD.size)), job.lost
    (True, ())
    """
    if lost_after <= 0:
        raise ValueError(f"lost_after {lost_after}: expected seconds above 0")
    reason = why_unavailable()
    if required and reason:
        raise RecoveryUnavailable(reason)
    return Resilient(comm, on_loss, not reason, lost_after)


def world_ranks(comm: MPI.Intracomm) -> tuple[int, ...]:
    """Ranks in `COMM_WORLD` of the processes of a communicator.

    Raises `ValueError` where some are of another world, such as after `Spawn`.
    """
    group, world = MPI.Intracomm(comm).Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        ranks = tuple(group.Translate_ranks(range(group.size), world))
    finally:
        group.Free()
        world.Free()
    if MPI.UNDEFINED in ranks:
        raise ValueError("expected a communicator of processes of COMM_WORLD only")
    return ranks


def _description(error: BaseException | None) -> str:
    """An exception for other ranks; empty where it only tells that another rank recovers."""
    if error is None or (isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_REVOKED):
        return ""
    return f"rank {MPI.COMM_WORLD.rank}: {type(error).__name__}: {error}"


def _kind(error: BaseException | None) -> int:
    """Whether MPI raised an exception or led to it, or the program did, or it is an order to end."""
    if error is not None and not isinstance(error, Exception):
        return _ORDER
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, MPI.Exception):
            return _OF_MPI
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return _OF_MPI if error is None else _ERROR
