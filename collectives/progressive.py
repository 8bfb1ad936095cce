"""An allreduce that runs while its data is still being produced."""

from __future__ import annotations

from os import sched_yield
from typing import Any

from numpy.typing import NDArray

from ..comm.device import stage_gpu
from ..datatypes.plain import MPI
from .array_views import mark_written, writable_array
from .consent import agree_on
from .engine import execution_in_place
from .execute import even_bounds
from .memory import memory_of
from .processes import AUTO
from .progress import Running, begin, is_possible
from .reduction import check_reducible, operation_name

Array = NDArray[Any]


class ProgressiveAllreduce:
    """Reduce an array in place, each segment as soon as all ranks have produced it.

    The software form of T3's tracking of what is produced (Pati et al. 2024, section 4).

    Parameters
    ----------
    comm : Intracomm
        Communicator; all its ranks make it together, with the same arguments.
    buffer : array
        Contiguous and flat, of NumPy, CuPy or PyTorch; what is reduced, and where the result goes.
    segments : int
        Parts of equal length, up to one element.
    op : MPI.Op
        Operation, element by element.
    algorithm : str
        As in `roundelay.allreduce`, but "auto" is an algorithm of roundelay's own: the library's cannot be
        begun in any order.

    Raises
    ------
    ValueError
        On all ranks: not a flat contiguous array that can be written, fewer than one segment, arguments that
        differ between ranks, or what `roundelay.allreduce` refuses.
    RuntimeError
        MPI was not initialized with `THREAD_MULTIPLE`.

    Examples
    --------
    >>> import numpy as np
    >>> from roundelay import MPI
    >>> gradient = np.zeros(6)
    >>> reduction = ProgressiveAllreduce(MPI.COMM_WORLD, gradient, segments=3)
    >>> for segment in (2, 0, 1):
    ...     gradient[reduction.part(segment)] = 1.0
    ...     reduction.ready(segment)
    >>> reduction.wait()
    >>> bool((gradient == MPI.COMM_WORLD.size).all())
    True
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        buffer: Any,
        segments: int,
        op: MPI.Op = MPI.SUM,
        algorithm: str = AUTO,
    ) -> None:
        if not is_possible():
            raise RuntimeError("MPI without THREAD_MULTIPLE: segments cannot be reduced in the background")

        def read() -> tuple[Array, dict[str, Any]]:
            array = _flat(buffer, op)
            if segments < 1:
                raise ValueError(f"segments {segments}: expected at least 1")
            kind = str(array.dtype), array.shape
            how = {"operation": operation_name(op), "algorithm": algorithm}
            return array, {"buffer": kind, "segments": segments, **how}

        array = agree_on(comm, "ProgressiveAllreduce", read)
        self._owner = buffer
        self._memory = memory_of(array)
        self._bounds = even_bounds(array.size, segments)
        parts = [array[self.part(segment)] for segment in range(segments)]
        self._stages = [stage_gpu(part, receiving=True) for part in parts]
        parts = [stage.dense if stage else part for stage, part in zip(self._stages, parts, strict=True)]
        self._executions = [execution_in_place(comm, part, op, algorithm) for part in parts]
        self._running: dict[int, Running] = {}

    def part(self, segment: int) -> slice:
        """The elements of a segment."""
        return slice(self._bounds[segment], self._bounds[segment + 1])

    def ready(self, segment: int) -> None:
        """Tell that a segment is produced; it must not be touched until `wait`.

        Segments may become ready in any order, and in another one on each rank. Raises `ValueError` when
        this one was ready before.
        """
        if segment in self._running:
            raise ValueError(f"segment {segment}: ready already")
        self._memory.settle()
        stage = self._stages[segment]
        if stage is not None:
            stage.load()
        self._running[segment] = begin(self._executions[segment])

    def wait(self) -> None:
        """Wait until all segments are reduced on this rank.

        Raises `ValueError` when some are not ready.
        """
        missing = sorted(set(range(len(self._executions))) - self._running.keys())
        if missing:
            raise ValueError(f"segments {missing}: not ready, and never reduced")
        waiting = list(self._running.values())
        while waiting:
            waiting = [running for running in waiting if not running.advance()]
            sched_yield()
        for running in self._running.values():
            running.check()
        for stage in self._stages:
            if stage is not None:
                stage.store()
        mark_written(self._owner)


def _flat(buffer: Any, op: MPI.Op) -> Array:
    array: Array = writable_array("buffer", buffer)
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(
            f"buffer of shape {array.shape} and strides {array.strides}: expected a flat contiguous array"
        )
    check_reducible("buffer", array.dtype, op, memory_of(array).library)
    return array
