"""The process that keeps a lab: first of its process namespace, holder of the hosts, and their switch.

It reads requests from its standard input and answers on its standard output, a line of JSON for each. When
that input ends, because the lab was closed or its process died, it ends too, and with it, by the kernel,
all that runs in the lab and all that the lab is made of.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.netlab import machine
from benchmarks.netlab.capacity import measure_capacity
from benchmarks.netlab.hosts import Host, host_names, make_hosts
from benchmarks.netlab.switch import Setting, Switch

INPUT, OUTPUT = 0, 1


class Keeper:
    """Hosts and their switch, as requests want them."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        self.switch = Switch([host.tap for host in hosts])
        self.buffer = b""

    def obey(self) -> bool:
        """Do what has been asked; tell whether there may be more."""
        data = os.read(INPUT, 1 << 16)
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            request = json.loads(line)
            reply(getattr(self, f"do_{request.pop('do')}")(**request))
        return bool(data)

    def do_set(self, ports: list[float], links: list[tuple[int, int, float, float, float, bool]]) -> None:
        """Let the links be like this from now on."""
        for number, rate in enumerate(ports):
            self.switch.outs[number].byte_seconds = self.switch.ins[number].byte_seconds = 1.0 / rate
        for sender, receiver, delay, jitter, rate, cut in links:
            self.switch.links[sender][receiver].set(Setting(delay, jitter, rate, cut))

    def do_stop(self) -> None:
        """End all that runs in the lab."""
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)

    def do_count(self) -> dict[str, int]:
        """Bytes carried and frames lost so far."""
        return {"carried": self.switch.carried, "lost": self.switch.lost}


def reply(value: Any) -> None:
    """Answer a request."""
    os.write(OUTPUT, json.dumps(value).encode() + b"\n")


def main(hosts: int, window: int) -> None:
    """Make the hosts, tell what the switch carries, and serve until the input ends."""
    # /proc still is that of the lab's own processes, who see this one under this number.
    outer = int(Path("/proc/self").readlink().name)
    machine.mount("proc", "/proc")
    machine.set_timer_slack(1)
    with suppress(OSError):
        # Ranks that wait for messages keep all cores busy; the messages must not wait for them.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    keeper = Keeper(make_hosts(host_names(hosts), window))
    gc.disable()
    capacity = measure_capacity(keeper.switch, keeper.hosts)
    # Orphans of the lab come to its first process; nobody asks how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reply({"pid": outer, "capacity": capacity, "hosts": [host._asdict() for host in keeper.hosts]})
    keeper.switch.run(INPUT, keeper.obey)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
