"""The model of the links between ranks: LogGP, with other figures for each pair where they differ.

A message of b bytes occupies its sender's processor for the overhead, then its sender's port and, a latency
later, its receiver's port for `max(gap, overhead, b * per_byte)` each, and its receiver's processor for the
overhead (Alexandrov et al., "LogGP", SPAA 1995). A port serves one message at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Figures = float | NDArray[np.float64]


@dataclass(frozen=True)
class Links:
    """Figures of the links, in seconds, seconds per byte, and ranks.

    Attributes
    ----------
    latency : float or (ranks, ranks) array
        From the first byte sent to the first byte received; row: sender, column: receiver.
    per_byte : float or (ranks, ranks) array
        Inverse of the bandwidth of a link.
    overhead : float
        Of the processor, for each message sent and for each received.
    gap : float
        Least time between two messages of one port.
    reduce_per_byte : float or (ranks,) array
        Of reducing, for each byte of the result.
    ports : (ranks,) int array, optional
        Which port each rank sends and receives through, from 0; by default each has its own. Messages
        between ranks with the same port do not go through it, but directly, each rank's one after another.
    shared : bool
        Whether all messages between different ports share one medium, such as a radio channel.

    Examples
    --------
    >>> Links(latency=1e-3, per_byte=8 / 300e6).message(1024)
    0.0010273...
    """

    latency: Figures
    per_byte: Figures
    overhead: float = 0.0
    gap: float = 0.0
    reduce_per_byte: Figures = 0.0
    ports: NDArray[np.int64] | None = field(default=None)
    shared: bool = False

    def message(self, nbytes: int, source: int = 0, destination: int = 1) -> float:
        """Seconds from the start of a send to the end of the receive, if nothing else is under way."""
        latency, per_byte = (of_pair(each, source, destination) for each in (self.latency, self.per_byte))
        return float(latency + 2 * self.overhead + nbytes * per_byte)

    def check(self, ranks: int) -> None:
        """Raise `ValueError` unless the arrays are of that number of ranks."""
        square = (ranks, ranks)
        for name, shape in (("latency", square), ("per_byte", square), ("reduce_per_byte", square[:1])):
            found = np.shape(getattr(self, name))
            if found not in ((), shape):
                raise ValueError(f"{name} of shape {found}: expected a number or an array of shape {shape}")
        if self.ports is not None and self.ports.shape != (ranks,):
            raise ValueError(f"ports of shape {self.ports.shape}: expected ({ranks},)")


def of_pair(figures: Any, source: Any, destination: Any) -> Any:
    """The figures of one or many pairs, of a matrix or of the one figure that all have."""
    return figures[source, destination] if np.ndim(figures) else figures
