"""Who speaks to the watcher: ranks, and those that look on. And the wait for either, or for a rank's end."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import handover
from .members import Member
from .process_table import ProcessTable
from .processes import Process

SECONDS_BETWEEN_SHOWS = 0.5
# Without a descriptor that tells of a process's end.
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class Newcomer:
    """A process that has connected and has not said yet what for."""

    connection: socket.socket
    process: Process


class Clients:
    """All connections.

    Parameters
    ----------
    listener : socket
    welcome : callable
        Makes a member of a newcomer, his greeting and his descriptors.
    hear : callable
        Gets what a member says later on, and descriptors, which are closed then.
    """

    def __init__(
        self,
        listener: socket.socket,
        welcome: Callable[[Newcomer, dict[str, Any], list[int]], Member | None],
        hear: Callable[[Member, dict[str, Any], list[int]], None],
    ) -> None:
        listener.setblocking(False)
        self._listener, self._welcome, self._hear = listener, welcome, hear
        self._table = ProcessTable()
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._by_connection: dict[int, Newcomer | Member] = {}
        self._by_process: dict[int, Newcomer | Member] = {}
        self._viewers: dict[int, socket.socket] = {}
        # Those whose connections have ended, in that order.
        self._closed: list[Member] = []
        self._shown = 0.0
        self.refused = 0
        # Connections of ranks wait before the watcher has begun.
        self._take_all()

    def are_there(self) -> bool:
        """Whether anybody is left who is, or may become, a rank."""
        return any(
            isinstance(each, Newcomer) or not each.process.is_gone for each in self._by_connection.values()
        )

    def hear_all(self) -> None:
        """Let in all that have come, and hear all that they have said until now."""
        self._take_all()
        for file in list(self._by_connection):
            # Ends are left to `wait`, which sees them in the order in which they happened.
            self._serve_all(file, until_end=False)

    def wait(self, seconds: float) -> list[Member]:
        """Serve connections for so long, or until a rank ends; give those that have, in that order."""
        ended: list[Member] = []
        if not any(isinstance(each, Member) for each in self._by_connection.values()):
            seconds = _SECONDS_BETWEEN_LOOKS
        for file, _ in self._poll.poll(max(seconds, 0.0)):
            if file == self._listener.fileno():
                self._take_all()
            elif file in self._by_process:
                client = self._by_process.pop(file)
                self._poll.unregister(file)
                if isinstance(client, Member):
                    ended += [each for each in (*self._dying(client), client) if each not in ended]
                else:
                    client.process.is_gone = True
            elif file in self._viewers:
                self._drop_viewer(file)
            else:
                self._serve_all(file)
        ended = [each for each in ended if not each.process.is_gone]
        self._hear_last_words(ended)
        return ended

    def _dying(self, ended: Member) -> list[Member]:
        """Ranks that began to die before this one did, and have not come to an end as soon.

        A rank closes its connections before it is gone, by which mpiexec learns of it, and may end others.
        """
        before = self._closed.index(ended) if ended in self._closed else len(self._closed)
        return [each for each in self._closed[:before] if each.process.is_exiting()]

    def _hear_last_words(self, ended: list[Member]) -> None:
        """What those have said that are gone by now, some of them before this has begun."""
        for file, client in list(self._by_connection.items()):
            if isinstance(client, Newcomer) and client.process.file < 0:
                # Members are looked at anyway.
                client.process.look(time.monotonic(), False)
            if not client.process.is_gone and client not in ended:
                continue
            self._serve_all(file)
            if isinstance(self._by_connection.get(file), Newcomer):
                self._forget(file)

    def _take_all(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                process = Process(handover.check(connection), self._table)
            except OSError:
                # Another user, or gone already.
                self.refused += 1
                connection.close()
                continue
            connection.setblocking(False)
            newcomer = Newcomer(connection, process)
            self._by_connection[connection.fileno()] = newcomer
            # In the order of what happens: those that stay ready would come first, whatever happens next.
            self._poll.register(connection.fileno(), select.EPOLLIN | select.EPOLLET)
            if process.file >= 0:
                self._by_process[process.file] = newcomer
                self._poll.register(process.file, select.EPOLLIN)

    def _serve_all(self, file: int, until_end: bool = True) -> None:
        while self._serve(file, until_end):
            pass

    def _serve(self, file: int, until_end: bool) -> bool:
        """Receive a message, or the end if that is wanted; tell whether there was a message."""
        client = self._by_connection.get(file)
        if client is None:
            return False
        files: list[int] = []
        try:
            message, files = handover.receive(client.connection, 3)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            message = None
        if message is None:
            if until_end:
                self._lose(file)
            return False
        if isinstance(client, Member):
            try:
                with suppress(TypeError, ValueError):
                    self._hear(client, message, files)
            finally:
                handover.close(files)
        elif message.get("kind") == "rank" and len(files) in (2, 3):
            self._let_in(file, client, message, files)
        else:
            handover.close(files)
            is_viewer = message.get("kind") == "top"
            if is_viewer:
                self._viewers[file] = client.connection
                self._shown = 0.0
            self._forget(file, keeps_connection=is_viewer)
        return True

    def _let_in(self, file: int, client: Newcomer, greeting: dict[str, Any], files: list[int]) -> None:
        member = self._welcome(client, greeting, files)
        if member is None:
            self._forget(file)
            return
        self._by_connection[file] = member
        if client.process.file in self._by_process:
            self._by_process[client.process.file] = member

    def _lose(self, file: int) -> None:
        """A connection ends: nothing follows for a rank, which is watched until its process ends."""
        client = self._by_connection[file]
        if isinstance(client, Member):
            if client not in self._closed:
                self._closed.append(client)
                with suppress(OSError):
                    self._poll.unregister(file)
        else:
            self._forget(file)

    def _forget(self, file: int, keeps_connection: bool = False) -> None:
        client = self._by_connection.pop(file)
        if client.process.file in self._by_process:
            self._poll.unregister(client.process.file)
            del self._by_process[client.process.file]
        client.process.close()
        if not keeps_connection:
            self._poll.unregister(file)
            client.connection.close()

    def _drop_viewer(self, file: int) -> None:
        self._poll.unregister(file)
        self._viewers.pop(file).close()

    def show(self, state: Callable[[], dict[str, Any]], now: float) -> None:
        """Send those that look on the state of the job, not too often."""
        if not self._viewers or now - self._shown < SECONDS_BETWEEN_SHOWS:
            return
        self._shown = now
        found = state()
        for file, connection in list(self._viewers.items()):
            try:
                handover.send(connection, found)
            except BlockingIOError:
                # He has not read those before.
                continue
            except OSError:
                self._drop_viewer(file)
