"""Calls that take buffers, each in its forms, to be made with one MPI module or the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.trees import whole

ROUNDS = 2
"""How often a persistent collective is started."""

SENDS = ["Send", "Ssend", "Isend", "Issend", "Send_init", "Ssend_init"]
READY_SENDS = ["Rsend", "Irsend", "Rsend_init"]
"""Sends to a receive that is posted before."""

BUFFERED_SENDS = ["Bsend", "Ibsend", "Bsend_init"]
"""Sends that need a buffer to be attached."""

POSTED = ["Irecv", "Recv_init"]
RECEIVES = [*POSTED, "Recv", "Mprobe, Recv", "Mprobe, Irecv"]
COMPLETIONS = ["Wait", "Waitall", "Waitany", "Test", "Testall"]
EXCHANGES = ["Sendrecv", "Isendrecv", "Sendrecv_replace", "Isendrecv_replace"]
FORMS = ["blocking", "nonblocking", "persistent"]


@dataclass(frozen=True)
class Message:
    """A message: how it is sent to a peer, received from it, and found complete.

    A receive that can be posted is posted first, for those who talk to themselves.
    """

    send: str
    receive: str
    complete: str
    peer: int

    def __str__(self) -> str:
        return f"{self.send} to {self.receive}, {self.complete}"

    def make(self, comm: Any, mpi: Any, out: Any, into: Any, tag: int) -> tuple[int, int]:
        """Send, receive or both; give the source and the bytes of the status, where there is one."""
        requests, status = [], mpi.Status()
        if into is not None and self.receive in POSTED:
            requests.append(getattr(comm, self.receive)(into, self.peer, tag))
            if self.receive.endswith("_init"):
                requests[-1].Start()
        if self.send in READY_SENDS:
            comm.Barrier()
        if out is not None:
            request = getattr(comm, self.send)(out, self.peer, tag)
            requests += [request] if request else []
            if self.send.endswith("_init"):
                request.Start()
        if into is not None and self.receive == "Recv":
            comm.Recv(into, self.peer, tag, status)
        elif into is not None and self.receive not in POSTED:
            message = comm.Mprobe(self.peer, tag)
            if self.receive.endswith("Irecv"):
                requests.append(message.Irecv(into))
            else:
                message.Recv(into, status)
        self.finish(mpi.Request, requests)
        return status.source, status.Get_count(mpi.BYTE)

    def finish(self, kind: Any, requests: list[Any]) -> None:
        """Complete all requests, and free the persistent ones."""
        if self.complete == "Waitall":
            kind.Waitall(requests)
        elif self.complete == "Testall":
            while not kind.Testall(requests):
                pass
        for request in list(requests):
            if self.complete == "Waitany":
                kind.Waitany(requests)
            while self.complete == "Test" and not request.Test():
                pass
            if self.complete == "Wait":
                request.Wait()
        for request in requests:
            if request:
                request.Free()


@dataclass(frozen=True)
class Exchange:
    """A send and a receive in one call, with one peer."""

    name: str
    peer: int

    def __str__(self) -> str:
        return self.name

    def make(self, comm: Any, mpi: Any, out: Any, into: Any, tag: int) -> tuple[int, int] | None:
        """Make the call; give the source and the bytes of the status, where there is one."""
        end, status = (self.peer, tag), mpi.Status()
        arguments = (into, *end, *end) if self.name.endswith("replace") else (out, *end, into, *end)
        if self.name.startswith("I"):
            getattr(comm, self.name)(*arguments).Wait()
            return None
        getattr(comm, self.name)(*arguments, status)
        return status.source, status.Get_count(mpi.BYTE)


@dataclass(frozen=True)
class Collective:
    """A collective: its form, and its arguments other than buffers; operations are given by name."""

    name: str
    form: str
    in_place: bool = False
    named: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.form} {self.name} {self.named}{' in place' if self.in_place else ''}"

    def make(self, comm: Any, mpi: Any, out: Any, into: Any, _tag: int) -> None:
        """Make the call."""
        named = {key: getattr(mpi, value) if key == "op" else value for key, value in self.named.items()}
        buffers = [mpi.IN_PLACE if self.in_place else out, into]
        if self.name == "Bcast":
            buffers = [into if out is None else out]
        if self.form == "blocking":
            getattr(comm, self.name)(*buffers, **named)
        elif self.form == "nonblocking":
            getattr(comm, f"I{self.name.lower()}")(*buffers, **named).Wait()
        else:
            request = getattr(comm, f"{self.name}_init")(*buffers, **named)
            for _ in range(ROUNDS):
                request.Start()
                request.Wait()
            request.Free()


@dataclass(frozen=True)
class Packing:
    """Instances of a datatype that are packed, and unpacked as those of another one."""

    position: int

    def __str__(self) -> str:
        return f"Pack and Unpack at {self.position}"

    def make(self, comm: Any, _mpi: Any, out: Any, into: Any, _tag: int) -> tuple[int, int, bytes]:
        """Make the calls; give the positions and what was packed."""
        (source, count, sent), (target, _, received) = out, into
        packed = np.zeros(self.position + count * sent.Get_size() + 3, np.uint8)
        with whole(sent, count, source) as (datatype, buffer):
            end = datatype.Pack(buffer, packed, self.position, comm)
        with whole(received, count, target) as (datatype, buffer):
            return end, datatype.Unpack(packed, self.position, buffer, comm), packed.tobytes()
