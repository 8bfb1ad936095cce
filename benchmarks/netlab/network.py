"""The network that a lab emulates: the links' latency, rate and jitter, and what is slowed or cut now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
# One figure for all links, or a row for each sending host with a figure for each receiving one.
Figures = float | Sequence[Sequence[float]] | Matrix


class Settings(NamedTuple):
    """Settings of the switch, all as lists for JSON.

    Attributes
    ----------
    ports
        Bytes a second that each host sends, and receives, at most.
    links
        For each pair (sender, receiver, delay in s, jitter in s, bytes a second, whether it is cut).
    """

    ports: list[float]
    links: list[tuple[int, int, float, float, float, bool]]


class Network:
    """Links between all pairs of hosts, in both directions.

    Parameters
    ----------
    hosts
        How many.
    delay, jitter
        Seconds from the last byte's leaving to its arrival, and what is added at random, evenly from 0.
    rate
        Bytes a second. A host's own port has the rate of the fastest of its links.

    Raises
    ------
    ValueError
        For figures of another shape than (hosts, hosts), negative ones, and a rate of 0.
    """

    def __init__(self, hosts: int, delay: Figures, rate: Figures, jitter: Figures = 0.0) -> None:
        if hosts < 1:
            raise ValueError(f"hosts: {hosts}, expected 1 or more")
        self.hosts = hosts
        self.delay = _matrix("delay", delay, hosts)
        self.jitter = _matrix("jitter", jitter, hosts)
        self.rate = _matrix("rate", rate, hosts)
        if not (self.rate > 0).all():
            raise ValueError("rate: expected more than 0 bytes a second on every link")
        self.host_factors = np.ones(hosts)
        self.link_factors = np.ones((hosts, hosts))
        self.cuts = np.zeros((hosts, hosts), bool)

    def slow_host(self, host: int, factor: float) -> None:
        """Multiply the delays of a host's links, and divide its rate, by `factor`; 1 is as it was."""
        self.host_factors[self._host(host)] = _factor(factor)

    def slow_link(self, one: int, other: int, factor: float) -> None:
        """Multiply the delay between two hosts, and divide the rate, by `factor`, in both directions."""
        one, other = self._pair(one, other)
        self.link_factors[one, other] = self.link_factors[other, one] = _factor(factor)

    def cut(self, one: int, other: int | None = None) -> None:
        """Lose all frames between two hosts, or between `one` and all others."""
        self._set_cut(one, other, True)

    def restore(self, one: int, other: int | None = None) -> None:
        """Carry frames again between two hosts, or between `one` and all others."""
        self._set_cut(one, other, False)

    def total_rate(self) -> float:
        """Bytes a second that all hosts together may send."""
        return sum(self._port_rates())

    def settings(self) -> Settings:
        """Tell what holds now; where a slow host meets another or a slow link, the largest factor counts."""
        ends = np.maximum.outer(self.host_factors, self.host_factors)
        factors = np.maximum(self.link_factors, ends)
        delay, jitter, rate = self.delay * factors, self.jitter * factors, self.rate / factors
        links = [
            (i, j, float(delay[i, j]), float(jitter[i, j]), float(rate[i, j]), bool(self.cuts[i, j]))
            for i in range(self.hosts)
            for j in range(self.hosts)
            if i != j
        ]
        return Settings(self._port_rates(), links)

    def _port_rates(self) -> list[float]:
        # The way from a host to itself has no link.
        between = np.where(np.eye(self.hosts, dtype=bool), 0.0, self.rate)
        fastest = np.maximum(between.max(axis=0), between.max(axis=1))
        rates: list[float] = (np.where(fastest > 0, fastest, self.rate.max()) / self.host_factors).tolist()
        return rates

    def _set_cut(self, one: int, other: int | None, value: bool) -> None:
        if other is None:
            one = self._host(one)
            self.cuts[one, :] = self.cuts[:, one] = value
        else:
            one, other = self._pair(one, other)
            self.cuts[one, other] = self.cuts[other, one] = value

    def _host(self, host: int) -> int:
        if not 0 <= host < self.hosts:
            raise ValueError(f"host {host}: expected 0 to {self.hosts - 1}")
        return host

    def _pair(self, one: int, other: int) -> tuple[int, int]:
        if one == other:
            raise ValueError(f"link {one}-{other}: expected two different hosts")
        return self._host(one), self._host(other)


def _matrix(name: str, figures: Figures, hosts: int) -> Matrix:
    array = np.asarray(figures, dtype=np.float64)
    if array.shape not in ((), (hosts, hosts)):
        raise ValueError(f"{name}: shape {array.shape}, expected one figure or ({hosts}, {hosts})")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name}: expected finite figures of 0 or more")
    full: Matrix = np.broadcast_to(array, (hosts, hosts)).copy()
    return full


def _factor(factor: float) -> float:
    if not (np.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor {factor}: expected 1 or more")
    return factor
