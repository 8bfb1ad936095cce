"""Jobs that go on without ranks that die: revoke, shrink, agree, and tell the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...datatypes.plain import MPI
from ..communicators import promote
from .derived import revoke_all, track
from .ending import end_without
from .errors import RecoveryUnavailable, RemoteFailure
from .ulfm import check_whole, why_unavailable

# A shrink that fails is repeated: every time without one more rank, or after an error that passes.
_ATTEMPTS = 1000


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


OnLoss = Callable[[Loss], int | None]


class Resilient:
    """What `roundelay.resilient` returns.

    Attributes
    ----------
    comm : MPI.Intracomm
        The communicator to use, a duplicate of the program's; another one after each recovery.
    survivors, lost : tuple of int
        Ranks in `COMM_WORLD` of those that are left, and of those that are not.
    step : int
        How many steps this rank has completed. `run` counts them; a program with a loop of its own sets it.
    can_recover : bool
        Whether the job survives the loss of a rank.
    """

    def __init__(self, comm: MPI.Intracomm, on_loss: OnLoss | None, can_recover: bool) -> None:
        track()
        self.comm: Any = promote(MPI.Intracomm(comm).Dup())
        self.survivors = world_ranks(self.comm)
        self.lost: tuple[int, ...] = ()
        self.step = 0
        self.can_recover = can_recover
        self._on_loss = on_loss
        # The step at which an error lost no rank: the same error again is the program's own.
        self._retried = -1
        if can_recover:
            end_without(lambda: self.comm)

    def run(self, advance: Callable[[MPI.Intracomm, int], Any], steps: int, start: int = 0) -> None:
        """Call ``advance(comm, step)`` for each step, also after ranks are lost, until all ranks have done all.

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
        steps = MPI.Intracomm(self.comm).allgather(step)
        if len(set(steps)) > 1:
            raise ValueError(f"on_loss: expected the same step from all ranks, got {steps}")
        self.step = step

    def finish(self) -> bool:
        """Tell whether all ranks have come here without an error; else call `recover`. Collective.

        A rank that leaves without asking would be missed by those that recover. `run` asks by itself.
        """
        return not self.can_recover or bool(_agree(self.comm, 1))

    def recover(self, error: BaseException | None = None) -> Loss:
        """Go on without the ranks that are lost; all that are left must come here, and those that wait are woken.

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
        if not self.can_recover:
            raise RecoveryUnavailable(why_unavailable() or "this job was not started with recovery")
        kind = _kind(error)
        revoke_all(self.comm)
        # Whoever has finished waits here for all others.
        _agree(self.comm, 0)
        comm, everyone = self._shrink((self.step, kind, _description(error)))
        survivors = world_ranks(comm)
        newly_lost = tuple(sorted(set(self.survivors) - set(survivors)))
        self.comm, self.survivors = comm, survivors
        self.lost = tuple(sorted((*self.lost, *newly_lost)))
        step = min(step for step, _, _ in everyone)
        # What a step computed from the results of a broken collective may have led to any error: it is done
        # again, and raises again if the loss was not the reason.
        final = [each for each in everyone if each[1] > bool(newly_lost)]
        if final:
            self._raise(error if kind > bool(newly_lost) else None, final)
        if not newly_lost:
            if self._retried == step:
                self._raise(error, everyone)
            self._retried = step
        return Loss(comm, survivors, self.lost, newly_lost, step)

    def _shrink(self, told: Any) -> tuple[Any, list[Any]]:
        """The communicator of those that are left, on which all of them have told all others."""
        old: Any = MPI.Intracomm(self.comm)
        for _ in range(_ATTEMPTS):
            new: Any = old.Shrink()
            everyone: list[Any] = []
            try:
                everyone = new.allgather(told)
            except Exception:
                # Of any kind: what a collective gives on the way to an error may be nonsense.
                new.Revoke()
            # A rank that has heard all others cannot know whether they have.
            if _agree(new, int(bool(everyone))):
                return promote(new), everyone
            old = new
        raise RuntimeError(f"no communicator of the survivors after {_ATTEMPTS} attempts")

    def _raise(self, error: BaseException | None, everyone: list[tuple[int, int, str]]) -> None:
        """Stop, on all ranks; those that were only woken say whose error it was."""
        if error is not None and _description(error):
            raise error
        for step, _, failure in everyone:
            if failure:
                raise RemoteFailure(f"{failure} in step {step}")
        raise RemoteFailure("an error of MPI, though no rank is lost")


def resilient(comm: MPI.Intracomm, on_loss: OnLoss | None = None, required: bool = True) -> Resilient:
    """Make a job go on when ranks of it die, with MPI libraries that have ULFM; collective.

    Open MPI 5 has it where a job is started by ``mpirun --with-ft ulfm``.

    Parameters
    ----------
    comm : MPI.Intracomm
        Whose processes work together, all of them of `COMM_WORLD`. It is duplicated, and itself not used.
    on_loss : callable, optional
        Called on all survivors after each loss, with a `Loss`. It restores their arrays, such as with
        `Protected.recover`, and returns the step at which they go on: the same on all, by default the last
        agreed step. It is called again when a rank is lost meanwhile.
    required : bool
        Whether to raise where the job cannot survive a loss. Otherwise `run` calls the steps, and leaves errors
        alone.

    Returns
    -------
    Resilient
        Its `run` calls the steps.

    Raises
    ------
    RecoveryUnavailable
        The MPI library has no ULFM, or the job was not started with it; the message says which.

    Examples
    --------
    >>> import roundelay
    >>> from roundelay import MPI
    >>> job = roundelay.resilient(MPI.COMM_WORLD, required=False)
    >>> job.survivors == tuple(range(MPI.COMM_WORLD.size)), job.lost
    (True, ())
    """
    reason = why_unavailable()
    if required and reason:
        raise RecoveryUnavailable(reason)
    return Resilient(comm, on_loss, can_recover=not reason)


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


def _agree(comm: MPI.Intracomm, flag: int) -> int:
    """Whether all ranks pass 1 and none is lost; the same on all ranks."""
    try:
        return int(MPI.Intracomm(comm).Agree(flag))
    except MPI.Exception:
        return 0


def _description(error: BaseException | None) -> str:
    """An exception for other ranks; empty where it only tells that another rank recovers."""
    if error is None or (isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_REVOKED):
        return ""
    return f"rank {MPI.COMM_WORLD.rank}: {type(error).__name__}: {error}"


def _kind(error: BaseException | None) -> int:
    """0 for an exception that MPI raised or led to, 1 for any other error, 2 for an order to end."""
    if error is not None and not isinstance(error, Exception):
        return 2
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, MPI.Exception):
            return 0
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return int(error is not None)
