"""From the gradients of partitions to the vector that a worker sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..array_views import is_array
from ..memory import memory_of
from .arrays import Packing, Signature, listed, signature_of
from .channel import Spares, Vector
from .scheme import Partition, Task

_FLOATING = ("float16", "bfloat16", "float32", "float64")


class Encoder:
    """Computes tasks.

    Parameters
    ----------
    gradient, load : callable
        As in `CodedGradients`.
    streams : sequence of Packing
        The parameters of each model.
    wire : dtype, optional
        What vectors are sent as, if not as the gradient is.
    room : callable
        `room(nbytes)` returns memory for a vector.

    Attributes
    ----------
    signature : Signature
        Of the gradient, once there was one.
    spares : Spares
        Where vectors come from.
    """

    def __init__(
        self,
        gradient: Callable[[Any, Any], Any],
        load: Callable[[Partition], Any],
        streams: Sequence[Packing],
        wire: np.dtype[Any] | None,
        room: Callable[[int], Vector],
    ) -> None:
        self._gradient, self._load, self._streams, self._wire = gradient, load, streams, wire
        self._partitions: dict[int, Partition] = {}
        self._data: dict[int, Any] = {}
        self.signature: Signature | None = None
        self._is_single, self._comes_in_chunks = True, False
        self.spares = Spares(room)
        self._scratch: Vector | None = None
        # Adds one chunk of a gradient while the next is computed.
        self._thread = ThreadPoolExecutor(1)

    def begin_anew(self) -> None:
        """Drop all partitions and their data: others follow."""
        self._partitions.clear()
        self._data.clear()

    def know(self, partitions: Iterable[Partition]) -> None:
        """Take partitions that tasks may name."""
        self._partitions.update((each.number, each) for each in partitions)

    def encode(self, task: Task, look_up: Callable[[], None]) -> Vector:
        """The vector of a task: gradients times weights, added up as they come.

        `look_up` is called before each gradient and between chunks, and may raise.

        Raises
        ------
        TypeError
            If the gradient is no array or list of arrays of one floating dtype.
        ValueError
            If it is of other shapes or another dtype than before.
        """
        sums: Vector | None = None
        # Where nothing is multiplied, the gradient's own digits are enough.
        is_plain = bool((task.weights == 1).all())
        for partition, weights in zip(task.partitions, task.weights, strict=True):
            look_up()
            if partition not in self._data:
                self._data[partition] = self._load(self._partitions[partition])
            parameters = self._streams[task.job % len(self._streams)].given
            chunks = self._chunks(self._gradient(parameters, self._data[partition]), look_up)
            if self.signature is None:
                arrays = list(chunks)
                self.signature, chunks = self._sign(arrays), iter(arrays)
            is_first = sums is None
            if sums is None:
                sums = self._room(self.signature.length(len(weights)), self._precision(is_plain))
            if is_first and len(weights) > 1:
                # The last piece may be longer than what there is for it.
                sums[...] = 0
            self._add(chunks, weights, sums, is_first and len(weights) == 1)
        assert sums is not None
        assert self.signature is not None
        if sums is not self._scratch:
            return sums
        vector = self.spares.take(sums.size, self.signature.sent_as(self._wire))
        vector[...] = sums
        return vector

    def _room(self, length: int, precision: np.dtype[Any]) -> Vector:
        """Memory for sums: that of the vector itself, if it is sent as they are added up."""
        assert self.signature is not None
        if precision == self.signature.sent_as(self._wire):
            return self.spares.take(length, precision)
        if self._scratch is None or (self._scratch.size, self._scratch.dtype) != (length, precision):
            self._scratch = np.empty(length, precision)
        return self._scratch

    def _chunks(self, gradient: Any, look_up: Callable[[], None]) -> Iterator[Any]:
        """The arrays of a gradient, one after the other as they are there."""
        self._is_single = is_array(gradient)
        self._comes_in_chunks = hasattr(gradient, "__next__")
        for chunk in gradient if self._comes_in_chunks else [gradient]:
            look_up()
            yield from listed(chunk)

    def _sign(self, arrays: list[Any]) -> Signature:
        signature = signature_of(arrays, self._is_single)
        if len(set(signature.dtypes)) != 1 or signature.dtypes[0] not in _FLOATING:
            raise TypeError(f"gradient {signature}: expected arrays of one floating dtype")
        return signature

    def _add(self, chunks: Iterator[Any], weights: NDArray[np.float64], sums: Vector, anew: bool) -> None:
        """Add a gradient, or begin `anew` with it, each chunk while the next is computed."""
        arrays, pending, begun = [], [], 0
        for array in chunks:
            arrays.append(array)
            if self._comes_in_chunks:
                pending.append(self._thread.submit(_add_chunk, sums, array, begun, weights, anew))
            else:
                _add_chunk(sums, array, begun, weights, anew)
            begun += int(array.size)
        for each in pending:
            each.result()
        found = self._sign(arrays)
        if found != self.signature:
            raise ValueError(f"gradient {found}: it was {self.signature} before")

    def _precision(self, is_plain: bool) -> np.dtype[Any]:
        assert self.signature is not None
        own = np.dtype(self.signature.dtypes[0])
        return np.promote_types(own, np.float32) if is_plain else np.dtype(np.float64)


def _add_chunk(sums: Vector, array: Any, begun: int, weights: NDArray[np.float64], anew: bool) -> None:
    """Add a part of a flat gradient, from element `begun` on, to the sums of its pieces, or put it there."""
    if isinstance(array, np.ndarray):
        part = array.reshape(-1)
    else:
        part = np.empty(array.size, array.dtype)
        memory_of(array).publish(array, part.reshape(array.shape))
    length = sums.size
    for piece, weight in enumerate(weights):
        start, stop = max(begun, piece * length), min(begun + part.size, (piece + 1) * length)
        if start < stop:
            target = sums[start - piece * length : stop - piece * length]
            values = part[start - begun : stop - begun]
            if anew and weight == 1:
                target[...] = values
            elif anew:
                np.multiply(values, sums.dtype.type(weight), out=target, casting="unsafe")
            elif weight == 1:
                target += values
            else:
                target += sums.dtype.type(weight) * values.astype(sums.dtype, copy=False)
