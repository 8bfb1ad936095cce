"""Which ranks share a node, and what kind of host they run on."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..datatypes.plain import MPI

Nodes = tuple[tuple[int, ...], ...]


class Place(NamedTuple):
    """Where a process runs: the name of its host, and which boot of which kernel it is."""

    host: str
    kernel: str


def place_of_process() -> Place:
    """Where this process runs; ranks of the same place share a node. Sends nothing."""
    return Place(MPI.Get_processor_name(), _kernel())


@cache
def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def nodes_of(comm: MPI.Intracomm) -> Nodes:
    """Ranks of each node, which have the same host name and kernel; collective over `comm`.

    `MPI_Comm_split_type` finds the same, but makes a communicator, of which a program may have none left.

    Parameters
    ----------
    comm : Intracomm
        Communicator whose ranks are meant.

    Returns
    -------
    tuple of tuples of int
        For each node its ranks, ascending; nodes in the order of their lowest rank. The same on all ranks.

    Examples
    --------
    >>> from roundelay import MPI
    >>> nodes_of(MPI.COMM_SELF)
    ((0,),)
    """
    return nodes_by_place(MPI.Intracomm(comm).allgather(place_of_process()))


def nodes_by_place(places: Sequence[Place]) -> Nodes:
    """Ranks of each node, from the place of each rank.

    Examples
    --------
    >>> nodes_by_place([Place("a", ""), Place("b", ""), Place("a", "")])
    ((0, 2), (1,))
    """
    ranks: dict[Place, list[int]] = {}
    for rank, place in enumerate(places):
        ranks.setdefault(place, []).append(rank)
    return tuple(map(tuple, ranks.values()))


def hosts_of(comm: MPI.Intracomm, nodes: Nodes) -> tuple[str, ...]:
    """Host name of each node; collective over `comm`."""
    return hosts_by_place(MPI.Intracomm(comm).allgather(place_of_process()), nodes)


def hosts_by_place(places: Sequence[Place], nodes: Nodes) -> tuple[str, ...]:
    """Host name of each node, from the place of each rank.

    Nodes with the same name, such as containers of one host, are told apart by their order.
    """
    seen: Counter[str] = Counter()
    distinct = []
    for ranks in nodes:
        name = places[ranks[0]].host
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(distinct)


def placement(nodes: Sequence[Sequence[int]]) -> str:
    """How many ranks lie on how many nodes, as a short text that names measured figures.

    Examples
    --------
    >>> placement([(0, 1, 2, 3)]), placement([(0, 1), (2, 3)]), placement([(0, 1), (2,), (3, 4)])
    ('4', '2x2', '2x2+1')
    """
    counts = sorted(Counter(map(len, nodes)).items(), reverse=True)
    return "+".join(str(ranks) if times == 1 else f"{times}x{ranks}" for ranks, times in counts)


def counts_of(text: str) -> list[int]:
    """Ranks of each node, from a text that `placement` made.

    Raises `ValueError` for any other text.

    Examples
    --------
    >>> counts_of("2x2+1")
    [2, 2, 1]
    """
    if not re.fullmatch(r"([1-9]\d{0,6}x)?[1-9]\d{0,6}(\+([1-9]\d{0,6}x)?[1-9]\d{0,6})*", text):
        raise ValueError(f"placement {text!r}: expected counts of ranks such as '4' or '8x2+1'")
    counts = []
    for term in text.split("+"):
        times, _, ranks = term.rpartition("x")
        counts += [int(ranks)] * (int(times) if times else 1)
    return counts


@cache
def host_class() -> str:
    """Processor model and number of cores: equal for equal hosts, whatever they are called and boot."""
    return f"{_processor()} {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    values = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    # Arm kernels name no model, only numbers of its maker and its part.
    parts = [values[name] for name in ("cpu implementer", "cpu part") if name in values]
    model = values.get("model name") or " ".join(parts) or platform.processor()
    return " ".join(f"{platform.machine()} {model}".split())
