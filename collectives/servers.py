"""Servers that serve one message at a time, such as ports and processors: many of them, many messages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


class Servers:
    """Servers of one kind, each of which serves first what comes first.

    Parameters
    ----------
    number : int
        How many servers there are.

    Examples
    --------
    >>> desks = Servers(2)
    >>> desks.serve(np.array([0, 1, 0]), np.array([5.0, 3.0, 4.0]), np.array([2.0, 2.0, 2.0]))
    array([6., 3., 4.])
    >>> desks.free
    array([8., 5.])
    """

    def __init__(self, number: int) -> None:
        # When each has served what it was given so far.
        self.free = np.zeros(number)

    def serve(
        self, server: NDArray[np.int64], arrival: Seconds, busy: Seconds | float, distinct: bool = False
    ) -> Seconds:
        """When messages are begun, which come to their servers at `arrival` and keep them `busy` so long.

        `distinct` tells that no server has two of them, which is faster.
        """
        if distinct:
            start: Seconds = np.maximum(arrival, self.free[server])
            self.free[server] = start + busy
            return start
        order = np.lexsort((arrival, server))
        servers, counts = np.unique(server, return_counts=True)
        # A row for each server; a short one is filled up with messages that change nothing.
        shape = len(servers), int(counts.max())
        real = np.arange(shape[1]) < counts[:, np.newaxis]
        arrivals, lengths, elapsed = np.full(shape, -np.inf), np.zeros(shape), np.zeros(shape)
        arrivals[real] = arrival[order]
        lengths[real] = np.broadcast_to(busy, order.shape)[order]
        arrivals[:, 0] = np.maximum(arrivals[:, 0], self.free[servers])
        # A message is begun when it is there and the one before it is through. Beside a server that is never
        # idle, whose times are the sums of what keeps it busy, that is a running maximum.
        np.cumsum(lengths[:, :-1], axis=1, out=elapsed[:, 1:])
        starts = np.maximum.accumulate(arrivals - elapsed, axis=1) + elapsed
        self.free[servers] = starts[:, -1] + lengths[:, -1]
        result = np.empty(len(arrival))
        result[order] = starts[real]
        return result
