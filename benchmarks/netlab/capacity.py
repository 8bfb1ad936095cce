"""How many bytes a second the switch can carry here: one TCP stream through it, without any delay."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from time import monotonic, process_time

from benchmarks.netlab import machine
from benchmarks.netlab.hosts import Host, address
from benchmarks.netlab.switch import Switch

TRIALS = 3
SECONDS = 0.1
SECONDS_TO_CONNECT = 1.0
# Above this, frames wait for the switch, and ranks for what it leaves of the processors.
SHARE = 0.5
PORT = 7000
BLOCK = 1 << 20


def measure_capacity(switch: Switch, hosts: list[Host]) -> float:
    """Let the first host send to the second (the head, where there is one host only), `TRIALS` times.

    Returns
    -------
    Bytes a second that take `SHARE` of a processor, by the best trial: what else runs here only adds to what
    the switch seems to use.
    """
    return SHARE * max(_carry(switch, hosts, PORT + trial) for trial in range(TRIALS))


def _carry(switch: Switch, hosts: list[Host], port: int) -> float:
    """Bytes that the switch carries in a second of processor time of its own."""
    done, report = os.pipe()
    children = [_fork(hosts[1], _receive, port, done), _fork(hosts[0], _send, port, done)]
    os.close(report)
    start, before = process_time(), switch.carried
    # The children hold the pipe's other end open until both have ended.
    switch.run(done, lambda: False)
    rate = (switch.carried - before) / (process_time() - start)
    os.close(done)
    for child in children:
        os.waitpid(child, 0)
    return rate


def _fork(host: Host, act: Callable[[int], None], port: int, done: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.close(done)
        machine.enter(host.namespaces)
        act(port)
    finally:
        os._exit(0)


def _receive(port: int) -> None:
    with socket.create_server((address(1), port)) as server:
        server.settimeout(SECONDS_TO_CONNECT)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(SECONDS_TO_CONNECT)
            while connection.recv(BLOCK):
                pass


def _send(port: int) -> None:
    block = bytes(BLOCK)
    with _connect(port) as connection:
        end = monotonic() + SECONDS
        while monotonic() < end:
            connection.sendall(block)


def _connect(port: int) -> socket.socket:
    end = monotonic() + SECONDS_TO_CONNECT
    while True:
        try:
            return socket.create_connection((address(1), port), SECONDS_TO_CONNECT)
        except ConnectionRefusedError:
            # The receiver has begun at the same time.
            if monotonic() > end:
                raise
