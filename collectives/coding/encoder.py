"""From the gradients of partitions to the vector that a worker sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    ) -> None:
        self._gradient, self._load, self._streams, self._wire = gradient, load, streams, wire
        self._data: dict[Partition, Any] = {}
        self.signature: Signature | None = None
        self._is_single = True
        self.spares = Spares()
        # Adds one chunk of a gradient while the next is computed.
        self._thread = ThreadPoolExecutor(1)

    def forget_data(self) -> None:
        """Drop the data of all partitions: others follow."""
        self._data.clear()

    def encode(self, task: Task, partitions: Mapping[int, Partition], look_up: Callable[[], None]) -> Vector:
        """The vector of a task: gradients times weights, added up as they come.

        `look_up` is called between chunks, and may raise.

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
            where = partitions[partition]
            if where not in self._data:
                self._data[where] = self._load(where)
            parameters = self._streams[task.job % len(self._streams)].given
            chunks = self._chunks(self._gradient(parameters, self._data[where]), look_up)
            if self.signature is None:
                arrays = list(chunks)
                self.signature, chunks = self._sign(arrays), iter(arrays)
            is_first = sums is None
            if sums is None:
                sums = self.spares.take(self.signature.length(len(weights)), self._precision(is_plain))
            if is_first and len(weights) > 1:
                # The last piece may be longer than what there is for it.
                sums[...] = 0
            self._add(chunks, weights, sums, is_first and len(weights) == 1)
        assert sums is not None
        assert self.signature is not None
        wire = np.dtype(self.signature.dtypes[0]) if self._wire is None else self._wire
        return sums.astype(wire, copy=False)

    def _chunks(self, gradient: Any, look_up: Callable[[], None]) -> Iterator[Any]:
        """The arrays of a gradient, one after the other as they are there."""
        self._is_single = hasattr(gradient, "shape")
        for chunk in gradient if hasattr(gradient, "__next__") else [gradient]:
            look_up()
            yield from listed(chunk)

    def _sign(self, arrays: list[Any]) -> Signature:
        signature = signature_of(arrays)._replace(single=self._is_single)
        if len(set(signature.dtypes)) != 1 or signature.dtypes[0] not in _FLOATING:
            raise TypeError(f"gradient {signature}: expected arrays of one floating dtype")
        return signature

    def _add(self, chunks: Iterator[Any], weights: NDArray[np.float64], sums: Vector, anew: bool) -> None:
        """Add a gradient, or begin `anew` with it, each chunk while the next is computed."""
        arrays, pending, begun = [], [], 0
        for array in chunks:
            arrays.append(array)
            pending.append(self._thread.submit(_add_chunk, sums, array, begun, weights, anew))
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
            if anew:
                np.multiply(values, sums.dtype.type(weight), out=target, casting="unsafe")
            elif weight == 1:
                target += values
            else:
                target += sums.dtype.type(weight) * values.astype(sums.dtype, copy=False)
