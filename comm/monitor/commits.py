"""Commits that ranks hand to the watcher of their node, which saves them if the job does not end well."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..recovery.kept import Kept, Whereabouts
from . import handover

if TYPE_CHECKING:
    from .members import Member


def hand_over(connection: socket.socket, folder: str, commits: Sequence[Whereabouts]) -> None:
    """On a rank: let the watcher map this rank's commits, and save them to a folder if need be.

    They take the place of those that it has been given for the same folder before.
    """
    description = os.memfd_create("roundelay-commits", os.MFD_CLOEXEC)
    with os.fdopen(description, "wb") as file:
        # It may be longer than a message.
        pickle.dump(list(commits), file)
        file.flush()
        handover.send(
            connection,
            {"kind": "commits", "folder": folder},
            [description, *(each.address.file for each in commits)],
        )


def take(files: Sequence[int]) -> Kept:
    """In the watcher: map what a rank has handed over, whether it still lives or not.

    Raises
    ------
    OSError, ValueError
        It cannot be mapped, or read.
    """
    description, *memory = files
    with os.fdopen(os.dup(description), "rb") as file:
        file.seek(0)
        try:
            commits: list[Whereabouts] = pickle.load(file)
        except Exception as error:
            # Of any kind: data types may be those of a package that is not here.
            raise ValueError(f"commits that cannot be read: {error}") from error
    # By the descriptors that came with it: the process that had them may be gone.
    return Kept(
        each._replace(address=each.address._replace(process=os.getpid(), file=own))
        for each, own in zip(commits, memory, strict=True)
    )


def save(members: Iterable[Member]) -> list[str]:
    """Save the commits of ranks, and give sentences that say so, or what has failed."""
    found: dict[str, list[tuple[int, int]]] = {}
    said = []
    for member in members:
        for folder, kept in member.commits.items():
            try:
                steps = kept.save(folder)
            except Exception as error:
                # Whatever it is, the job must be ended.
                said.append(f"the commits of rank {member.rank} cannot be saved: {error}")
                continue
            if steps:
                found.setdefault(folder, []).append((member.rank, steps[-1]))
    return said + [_saved(folder, dict(ranks)) for folder, ranks in found.items()]


def _saved(folder: str, steps: Mapping[int, int]) -> str:
    # All ranks have this one.
    return f"the last commits of {len(steps)} ranks are saved in {folder}, of step {min(steps.values())}"
