"""Gradients of data that workers share, which do not wait for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from ...comm.recovery.ending import end_without
from ...comm.recovery.ulfm import why_unavailable
from ...datatypes.plain import MPI
from ..consent import agree_on
from ..service import service_of
from .arrays import Packing
from .channel import Channel
from .code import Code
from .crew import Crew
from .encoder import Encoder
from .errors import require
from .info import Limits, RoundInfo
from .injection import Injection
from .master import Master
from .rotating import Rotation
from .rounding import check_wire
from .scheme import GradientCoding, Partition, Scheme
from .simulation import usual_patience
from .weighted import prepare
from .worker import Worker

PURPOSE = "coded gradients"
_numbers = count()


class CodedGradients:
    """A master and workers that compute the gradient of a sum over data, by a scheme that stands stragglers.

    All ranks make it alike. The master has the parameters, decodes the gradients and lets the program change
    the parameters; the others compute. Or all ranks compute, and take turns at being the master: each has
    parameters of its own and changes them by the same gradients.

    Parameters
    ----------
    comm : Intracomm
    scheme : Scheme or Code
        For all ranks but the master; for all of them if they take turns.
    gradient : callable
        `gradient(parameters, data)` returns an array or a list of arrays, or is a generator of them: chunks,
        each encoded while the next is computed. It is the sum over the samples of `data`, not their mean, and
        of the same shapes and dtype each time. An array that it returns may be used again after the call.
    load : callable
        `load(partition)` returns the data of a `Partition`, of which `partition.rows(count)` are the rows. It
        is called when a worker needs it first.
    parameters : array, iterable of arrays, or tuple of those
        Of NumPy, CuPy or PyTorch, on all ranks of the same shapes and dtypes, such as `model.parameters()`;
        `gradient` gets them as a list. The master's values count: the workers' are overwritten
        before they compute. A tuple has one for each of several models, which are trained in turn; a scheme
        with a delay of T needs at least T + 1.
    master : int, optional
        A rank; None if all take turns, which needs a scheme without delay.
    patience : float, optional
        How long a round waits after its first worker, relative to that worker's time, before the others may
        be stragglers. If not given 0 for a scheme without delay, whose rounds need not spare stragglers for
        those to come, and 0.2 for the others; `recommend` finds what is best on a trace.
    deadline : float, optional
        Seconds that a round may take.
    on_deadline : {"raise", "approximate", "wait"}
        What happens then, or when all workers that are missing are lost: an error on all ranks, the best
        approximation by what is there, with its error reported, or nothing.
    lost_after : float
        Seconds after which a worker that does not answer is reported as lost; those in which the master does
        something else do not count. A worker that MPI has lost, or that the monitor has found dead or stuck,
        is lost at once. A job whose worker has not come back so long after its end is aborted.
    replan : callable, optional
        `replan(workers)` returns a scheme for fewer workers. With it the training goes on without those that
        are lost, and their part of the data goes to the others.
    wire : dtype, optional
        What is sent, for instance float16, if not the gradient's own dtype.
    injection : Injection, optional
        Makes this rank straggle, for tests.

    Raises
    ------
    ValueError
        On all ranks: if they differ in the scheme, the master or the parameters, if a parameter is no array
        or a worker cannot write to it, if the scheme is for another number of workers, if there are too few
        models for its delay, for limits that are none, and for a wire dtype whose rounding the code would
        amplify too much.

    References
    ----------
    Tandon et al. 2017, arXiv 1612.03301; Krishnan, Ebrahimi, Khisti 2022, arXiv 2211.13802.

    Examples
    --------
    Least squares, by the only worker there is, which is not the master:

    >>> from roundelay import MPI, coding
    >>> comm = MPI.COMM_WORLD
    >>> data, weights = np.arange(12.0).reshape(6, 2), np.zeros(2)
    >>> def gradient(weights, rows):
    ...     return 2 * rows.T @ (rows @ weights - 1)
    >>> def load(partition):
    ...     return data[partition.rows(len(data))]
    >>> if comm.size > 1:
    ...     scheme = coding.scheme("uncoded", comm.size - 1)
    ...     coded = CodedGradients(comm, scheme, gradient, load, weights)
    ...     for total, info in coded.rounds(10):
    ...         weights -= 1e-3 * total
    """

    def __init__(  # noqa: PLR0913
        self,
        comm: MPI.Intracomm,
        scheme: Scheme | Code,
        gradient: Callable[[Any, Any], Any],
        load: Callable[[Partition], Any],
        parameters: Any,
        *,
        master: int | None = 0,
        patience: float | None = None,
        deadline: float | None = None,
        on_deadline: str = "raise",
        lost_after: float = 60.0,
        replan: Callable[[int], Scheme] | None = None,
        wire: Any = None,
        injection: Injection | None = None,
    ) -> None:
        if isinstance(scheme, Code):
            scheme = GradientCoding(scheme)
        models = parameters if isinstance(parameters, tuple) else (parameters,)
        wire = None if wire is None else np.dtype(wire)
        waiting = usual_patience(scheme) if patience is None else patience

        def read() -> tuple[tuple[list[Packing], Limits], dict[str, Any]]:
            streams = [Packing(each) for each in models]
            for stream in streams if master not in (None, comm.rank) else ():
                stream.check_writable()
            require(
                master is None or 0 <= master < comm.size,
                f"master {master}: expected None or a rank of {comm.size}",
            )
            workers = comm.size - (master is not None)
            require(scheme.workers == workers, f"a scheme for {scheme.workers} workers: there are {workers}")
            require(
                master is not None or scheme.delay == 0,
                f"{scheme.name} with a delay of {scheme.delay}: expected none where ranks take turns",
            )
            require(
                master is not None or replan is None,
                "replan: expected a master that stays, not ranks that take turns",
            )
            require(
                len(streams) > scheme.delay,
                f"{len(streams)} models: {scheme.name} with a delay of {scheme.delay} "
                f"needs {scheme.delay + 1}",
            )
            if wire is not None:
                check_wire(scheme, wire)
            limits = Limits(waiting, deadline, on_deadline, lost_after)
            same = {"scheme": scheme.name, "loads": scheme.loads, "master": master}
            parameters = [str(each.signature) for each in streams]
            return (streams, limits), {**same, "parameters": parameters}

        streams, limits = agree_on(comm, "CodedGradients", read)
        if master is None or comm.rank == master:
            prepare(streams[0].signature.dtypes)
        # The others wait here: it must not look as if those who prepare for longer did not answer.
        number = comm.allreduce(next(_numbers), MPI.MAX)
        service = service_of(comm)
        is_first, private = not service.has_private(PURPOSE), service.private(PURPOSE)
        if is_first and comm.size == MPI.COMM_WORLD.size and not why_unavailable():
            end_without(lambda: private)
        channel = Channel(private, number, lost_after)
        service.is_over[PURPOSE] = channel.is_over
        encoder = Encoder(gradient, load, streams, wire, channel.memory.room)
        self._role: Master | Worker | Rotation
        if master is None:
            self._role = Rotation(channel, scheme, streams[0], encoder, limits, wire, injection)
        elif comm.rank == master:
            ranks = [rank for rank in range(comm.size) if rank != master]
            self._role = Master(Crew(channel, ranks, wire), scheme, ranks, streams, limits, replan)
        else:
            self._role = Worker(channel, master, streams, encoder, injection)

    def rounds(self, jobs: int) -> Iterator[tuple[Any, RoundInfo]]:
        """Yield gradients on the master, or on all ranks that take turns; on the others work for them.

        A gradient is like the parameters of its model, `parameters[info.stream]` if there are several, and is
        to be applied to those before the next one is asked for. Workers yield nothing.

        Raises
        ------
        WorkerError
            On all ranks that still answer: an exception in a worker, with its traceback, or gradients that
            differ in shape or dtype.
        TooFewWorkers
            What arrived within the deadline does not determine a gradient.
        """
        if isinstance(self._role, Worker):
            self._role.serve()
        else:
            yield from self._role.rounds(jobs)

    def switch(self, scheme: Scheme) -> None:
        """Go on with another scheme after this round; only the master decides it."""
        if isinstance(self._role, Master):
            self._role.switch(scheme)
