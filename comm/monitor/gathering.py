"""On the side of the ranks: the watchers of several nodes learn of each other over MPI, at the start.

One rank of each node, its leader, passes on what its watcher has to say. Keys that must stay secret stay in
the watchers.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import handover
from .addresses import address_for, addresses

if TYPE_CHECKING:
    from mpi4py import MPI

_SECONDS_TO_LISTEN = 20.0


def introduce(
    plain: MPI.Comm, node: MPI.Comm, connection: socket.socket | None, network: str | None = None
) -> str:
    """Let the watchers of all nodes talk to each other; collective.

    Parameters
    ----------
    plain, node : Comm
        Of all ranks that are watched, and of those on this node.
    connection : socket or None
        Of this rank to its watcher; None where it is not watched.
    network : str, optional
        The network to use, such as ``10.0.0.0/8``.

    Returns
    -------
    str
        On the first rank why each node is watched by itself; else, and where there is but one, nothing.
    """
    is_leader = node.rank == 0
    leaders = plain.Split(0 if is_leader else 1, plain.rank)
    try:
        ranks = node.gather(_world_rank())
        reason = ""
        if ranks is not None and leaders.size > 1:
            reason = _introduce(leaders, ranks, connection, network)
    finally:
        leaders.Free()
    return reason if plain.rank == 0 else ""


def _introduce(
    leaders: MPI.Comm, ranks: list[int], connection: socket.socket | None, network: str | None
) -> str:
    networks = leaders.allgather(addresses())
    mine = networks.pop(leaders.rank)
    answer: dict[str, Any] = {"error": "it is not monitored"}
    try:
        message = {"kind": "listen", "address": address_for(mine, networks, network), "ranks": ranks}
        if connection is not None:
            answer = _ask(connection, message)
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    answers = leaders.allgather((leaders.rank, answer))
    wrong = [f"{each['error']} (of node {place})" for place, each in answers if "error" in each]
    if connection is not None:
        texts = [each["invitation"] for _, each in answers if "invitation" in each]
        with suppress(OSError):
            handover.send(connection, {"kind": "nodes", "invitations": [] if wrong else texts})
    return wrong[0] if wrong else ""


def _ask(connection: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    before = connection.gettimeout()
    connection.settimeout(_SECONDS_TO_LISTEN)
    try:
        handover.send(connection, message)
        answer, _ = handover.receive(connection)
    finally:
        connection.settimeout(before)
    if answer is None or not isinstance(answer.get("invitation", answer.get("error")), str):
        raise OSError("the watcher does not answer")
    return answer


def _world_rank() -> int:
    from ...datatypes.plain import MPI

    return int(MPI.COMM_WORLD.rank)
