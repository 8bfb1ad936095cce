"""Arrays that outlive the rank that has them: copies in the memory of other ranks, and on disk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from ...datatypes.plain import MPI
from ..monitor.start import hand_over_commits
from .election import Elected, elect
from .failures import DataLost
from .generation import Generation
from .generations import Generations
from .kept import Whereabouts
from .recovered import Recovered
from .registered import Array, Arrays, form_of
from .resilient import world_ranks
from .saved import load, save
from .telling import tell_all


class Protected:
    """Arrays of each rank, with copies on other ranks, on other nodes if there are any; collective.

    `commit` copies them, and goes on. A commit counts when all ranks have all of it; until then the one
    before counts. MPI moves the copies between nodes while the program is in any call of MPI. On a node,
    partners map the memory that `commit` copies to, and nothing else is copied.

    Parameters
    ----------
    comm : MPI.Intracomm
        Such as `Resilient.comm`. All its processes belong to `COMM_WORLD`.
    arrays : dict or list of arrays
        NumPy arrays of any shapes, strides and data types without Python objects, which may differ from rank
        to rank. They are referred to, not copied.
    copies : int
        How many other ranks hold a copy, and so how many ranks may be lost at once. Each rank needs memory
        for ``2 * copies + 2`` times its arrays, and for ``2`` times on a single node.
    share : bool
        Whether ranks of a node map each other's copies. Otherwise they send them.
    folder : path, optional
        Where the monitor saves the last commits of all ranks if the job dies, or is ended
        because it hangs, for `load`. Another object with the same folder takes the place of this one.

    Raises
    ------
    TypeError
        Something registered is no array of NumPy, or has Python objects.
    ValueError
        There are no more than `copies` ranks, or `comm` has processes of another world.

    Examples
    --------
    >>> import numpy as np
    >>> import roundelay
    >>> from roundelay import MPI
    >>> field = np.arange(6.0).reshape(2, 3)
    >>> protected = roundelay.Protected(MPI.COMM_SELF, {"field": field}, copies=0)
    >>> protected.commit(step=10)
    >>> field[:] = 0
    >>> recovered = protected.recover(MPI.COMM_SELF)
    >>> recovered.step, recovered.arrays["field"][1]
    (10, array([3., 4., 5.]))

    Notes
    -----
    In-memory checkpoints in pairs of ranks, with two versions: G. Zheng, L. Shi, L. V. Kale: FTC-Charm++,
    Cluster 2004. J. Dongarra, T. Herault, Y. Robert: Revisiting the double checkpointing algorithm, IPDPSW
    2013.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        arrays: Mapping[str, Array] | Iterable[Array],
        copies: int = 1,
        share: bool = True,
        folder: str | PathLike[str] | None = None,
    ) -> None:
        if not 0 <= copies < comm.size:
            most = comm.size - 1
            expected = f"{most + 1} ranks: expected 0 to {most}" if most else "1 rank: expected 0"
            raise ValueError(f"copies={copies} on {expected}, one rank for each copy")
        self.comm = comm
        self.copies, self._share, self._folder = copies, share, folder
        self._job = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._rank = MPI.COMM_WORLD.rank
        self._generations = Generations(self._rank)
        self._serial = -1
        self._under_way: int | None = None
        self.step: int | None = None
        world_ranks(comm)
        self.register(arrays)

    def register(self, arrays: Mapping[str, Array] | Iterable[Array]) -> None:
        """Commit other arrays from now on; collective in the sense that all ranks must call it, or none.

        Needed where their shapes change, such as after a loss, when survivors share the lost rank's part.

        Parameters
        ----------
        arrays : dict or list of arrays
            As for `Protected`.

        Raises
        ------
        TypeError
            As for `Protected`.
        """
        kept: Arrays = dict(arrays) if isinstance(arrays, Mapping) else list(arrays)
        form_of(kept)
        self._arrays = kept
        self._is_new = True

    def commit(self, step: int) -> None:
        """Copy the arrays as they are now, for going back to this step; collective.

        Waits until the commit before is complete, so all ranks meet here, and returns as soon as this rank
        has copied its own arrays.

        Parameters
        ----------
        step : int
            Any number; the same on all ranks.

        Raises
        ------
        ValueError
            Ranks gave different steps to the commit before; on all ranks.
        MemoryError
            There is no room for the copies on some rank; on all ranks.
        mpi4py.MPI.Exception
            A rank is lost.
        """
        self.wait()
        serial = self._serial + 1
        if self._is_new:
            copies = min(self.copies, self.comm.size - 1)
            made = Generation(self.comm, self._arrays, copies, self._share, self._job)
            self._job = made.job
            self._generations.add(made)
            self._is_new = False
            self._hand_over()
        self._serial, self._under_way = serial, step
        self._generations.newest.commit(serial, step)

    def _hand_over(self) -> None:
        """Let the watcher map what this rank has."""
        if self._folder is not None:
            hand_over_commits(self._folder, self.whereabouts())

    def progress(self) -> bool:
        """Let the copies move, in a program that calls MPI rarely; tell whether this rank's have arrived."""
        return not self._generations or self._generations.newest.progress()

    def wait(self) -> int | None:
        """Wait until the last commit is complete on all ranks; collective.

        Returns
        -------
        int or None
            The step of the last complete commit; None if there is none.

        Raises
        ------
        ValueError, mpi4py.MPI.Exception
            As `commit` does.
        """
        if self._under_way is not None:
            step, self._under_way = self._under_way, None
            self._generations.newest.complete(self._serial, step)
            self.step = step
            if self._generations.keep_newest():
                self._hand_over()
        return self.step

    def recover(self, comm: MPI.Intracomm) -> Recovered:
        """Go back to the last commit that is complete, without the ranks that are lost; collective.

        It may be called again if another rank is lost meanwhile. Commits made from now on are those of
        `comm`; this commit is kept until the first of them is complete, so commit soon. If the survivors
        share the lost arrays, `register` the new ones before.

        Parameters
        ----------
        comm : MPI.Intracomm
            Of all survivors, such as `Loss.comm`.

        Returns
        -------
        Recovered
            The step, and new arrays: this rank's own, and those of each lost rank whose first remaining
            partner it is.

        Raises
        ------
        DataLost
            A rank is lost with all its partners, or nothing was committed; on all ranks.
        mpi4py.MPI.Exception
            Another rank is lost.
        """
        self._generations.abandon()
        plain = MPI.Intracomm(comm)
        # Refuses processes of another world before anything is sent.
        world_ranks(plain)
        told = tell_all(plain, (self._serial, self._generations.holding()))
        self._serial = max(serial for serial, _ in told)
        self._under_way, self._is_new = None, True
        self.comm, self.step = comm, None
        try:
            elected = elect([holding for _, holding in told])
        except DataLost:
            # Commits from now on are the first.
            self._generations.clear()
            raise
        self.step = elected.commit.step
        return self._recovered(elected, [holding.world_rank for _, holding in told])

    def _recovered(self, elected: Elected, survivors: list[int]) -> Recovered:
        pieces: dict[int, Any] = {
            owner: self._generations.piece(owner, elected.commit.serial)
            for owner, holder in elected.holders.items()
            if holder == self._rank
        }
        holders = {owner: survivors.index(holder) for owner, holder in elected.holders.items()}
        return Recovered(elected.commit.step, pieces, holders, pieces.get(self._rank))

    def save(self, folder: str | PathLike[str], lost: Iterable[int] = ()) -> None:
        """Write this rank's last commits to disk, for `load` in a job that is started again.

        Sends nothing, so that it can be called after a rank has died, when no call of MPI may return: by a
        callback of a monitor, or between two steps. Files are written under other names, and the list of what
        is there comes last; what was saved before remains until then. The last two commits are written, since
        another rank may not have the last one.

        Parameters
        ----------
        folder : path
            Made if needed; seen by all ranks of the job that loads it.
        lost : iterable of int
            Ranks in `COMM_WORLD` that are dead. What this rank has of their arrays is written, too.

        Raises
        ------
        OSError
            The disk is full, or the folder cannot be written; nothing that was saved before is lost.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import roundelay
        >>> from roundelay import MPI
        >>> protected = roundelay.Protected(MPI.COMM_SELF, [np.arange(3)], copies=0)
        >>> protected.commit(step=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     protected.save(folder)
        ...     restored = roundelay.Protected.load(folder, MPI.COMM_SELF)
        >>> restored.step, list(restored.pieces.values())
        (7, [[array([0, 1, 2])]])
        """
        save(folder, self._rank, self._generations.parts(set(lost)))

    def whereabouts(self) -> list[Whereabouts]:
        """Where another process of this node finds this rank's commits, to save them when the rank is dead.

        Other ones after a commit that follows `register` or `recover`. Sends nothing.

        Returns
        -------
        list of Whereabouts
            For `roundelay.comm.recovery.kept.Kept` in the other process, which needs no MPI; empty if the
            system has no memory to share, or nothing was committed.
        """
        return self._generations.whereabouts()

    @staticmethod
    def load(folder: str | PathLike[str], comm: MPI.Intracomm, step: int | None = None) -> Recovered:
        """Read the last commit that `save` has written all of; collective.

        The number of ranks may differ from the old job's. Its ranks are dealt out in ascending order, and as
        evenly as possible: of 4 old ranks and 2 new ones, rank 0 gets the arrays of 0 and 1. If there are
        more new ranks than old ones, some get none.

        Parameters
        ----------
        folder : path
        comm : MPI.Intracomm
        step : int, optional
            The step of the commit to read, in place of the last one.

        Returns
        -------
        Recovered
            Its `pieces` are the arrays of old ranks that this rank gets.

        Raises
        ------
        DamagedCheckpoint
            A file is torn or corrupted, or a rank's is missing; names it, on all ranks.
        FileNotFoundError
            There is nothing in the folder; on all ranks.
        """
        found_step, pieces, holders = load(folder, comm, step)
        return Recovered(found_step, pieces, holders)
