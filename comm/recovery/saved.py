"""Commits on disk: a file for each rank and commit, and for each rank a list of its files, written last.

Writing them needs no MPI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .failures import DamagedCheckpoint
from .registered import Arrays, Form, as_list
from .segment import Segment, Version

if TYPE_CHECKING:
    from ...datatypes.plain import MPI

Array = NDArray[Any]

_FORMAT = "roundelay commits 1"
_LIST = ".list.json"
_CHUNK = 1 << 20


class Part(NamedTuple):
    """The arrays of one rank in one commit."""

    job: str
    owners: tuple[int, ...]
    owner: int
    form: Form
    segment: Segment
    version: Version

    @property
    def is_there(self) -> bool:
        """Whether its memory has not been used for another commit."""
        return self.segment.find(self.version.serial) == self.version


def save(folder: str | os.PathLike[str], writer: int, parts: list[Part]) -> None:
    """Write parts and then the list of them, in the place of what this rank of the job wrote before.

    A part that its rank overwrites meanwhile, for another commit, is left out. What was written before of
    other ranks in the same commits is kept: they may be lost.
    """
    if not parts:
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    listed = path / f"{parts[0].job}-{writer:05d}{_LIST}"
    before = {each["file"]: each for each in _entries(listed)} if listed.exists() else {}
    owners, serials = {part.owner for part in parts}, {part.version.serial for part in parts}
    entries = {
        name: entry
        for name, entry in before.items()
        if entry["owner"] not in owners and entry["serial"] in serials
    }
    torn = set()
    for part in parts:
        name = f"{part.job}-{part.version.serial:08d}-{part.owner:05d}-by-{writer:05d}.npz"
        entry = before.get(name) or _write_part(path, name, part)
        if name in before or part.is_there:
            entries[name] = entry
        else:
            torn.add(name)
    if entries == before and not torn:
        return
    content = {"format": _FORMAT, "entries": list(entries.values())}
    text = json.dumps({**content, "checksum": _digest(content)}, indent=1).encode()
    _replace(listed, lambda file: file.write(text))
    for name in (before.keys() | torn) - entries.keys():
        (path / name).unlink(missing_ok=True)


def _write_part(folder: Path, name: str, part: Part) -> dict[str, Any]:
    views = as_list(part.form.views(part.segment.slot(part.version.slot)))
    # NumPy's format knows no data types of other packages: their bytes are written, and their names listed.
    members = {f"array{number}": _for_disk(view) for number, view in enumerate(views)}
    _replace(folder / name, lambda file: np.savez(file, **members))  # type: ignore[arg-type]
    return {
        "file": name,
        "job": part.job,
        "serial": part.version.serial,
        "step": part.version.step,
        "owners": list(part.owners),
        "owner": part.owner,
        "names": part.form.names,
        "dtypes": [each.dtype.name if _is_foreign(each.dtype) else None for each in part.form.arrays],
        "checksum": _checksum(folder / name),
    }


def _is_foreign(dtype: np.dtype[Any]) -> bool:
    return dtype.isbuiltin == 2


def _for_disk(view: Array) -> Array:
    return view.view(np.dtype((np.void, view.dtype.itemsize))) if _is_foreign(view.dtype) else view


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The name is on disk when its folder is.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(content: dict[str, Any]) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _entries(listed: Path) -> list[dict[str, Any]]:
    """What a list says is there."""
    try:
        content = json.loads(listed.read_bytes())
        checksum = content.pop("checksum")
        is_whole = content["format"] == _FORMAT and checksum == _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise DamagedCheckpoint(f"{listed}: torn, corrupted, or no list of commits")
    entries: list[dict[str, Any]] = content["entries"]
    return entries


def load(
    folder: str | os.PathLike[str], comm: MPI.Intracomm, step: int | None
) -> tuple[int, dict[int, Arrays], dict[int, int]]:
    """Read a commit: its step, the arrays of the old ranks that this rank gets, and who gets which."""
    from ...datatypes.plain import MPI

    plain, path = MPI.Intracomm(comm), Path(folder)
    found: Any = None
    if plain.rank == 0:
        found = _caught(lambda: _choose(path, step))
    commit = _raise_first([plain.bcast(found)])
    holders = {
        owner: number * plain.size // len(commit["owners"]) for number, owner in enumerate(commit["owners"])
    }
    mine = [owner for owner, holder in holders.items() if holder == plain.rank]
    pieces = _caught(lambda: {owner: _read(path, commit["files"][owner]) for owner in mine})
    problem = pieces if isinstance(pieces, Exception) else None
    if isinstance(problem, DamagedCheckpoint) and commit["before"] is not None:
        problem = DamagedCheckpoint(f"{problem}; the commit before can be loaded by step={commit['before']}")
    _raise_first(plain.allgather(problem))
    return commit["step"], pieces, holders


def _caught(function: Callable[[], Any]) -> Any:
    """What a function returns, or its exception, which all ranks must hear of."""
    try:
        return function()
    except (OSError, ValueError) as error:
        return error


def _raise_first(found: list[Any]) -> Any:
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found[0]


def _choose(folder: Path, step: int | None) -> dict[str, Any]:
    """The newest commit of which there is a file of each rank, or the one of a step."""
    lists = sorted(folder.glob(f"*{_LIST}"))
    if not lists:
        what = "the folder has no list of commits" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: no commits were saved here: {what}")
    commits: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in (entry for listed in lists for entry in _entries(listed)):
        commit = commits.setdefault(
            (entry["job"], entry["serial"]), {"step": entry["step"], "owners": entry["owners"], "files": {}}
        )
        commit["files"].setdefault(entry["owner"], []).append(entry)
    if step is not None:
        commits = {key: commit for key, commit in commits.items() if commit["step"] == step}
        if not commits:
            raise DamagedCheckpoint(f"{folder}: no commit of step {step}")
    complete = [commits[key] for key in sorted(commits, reverse=True) if not _missing(commits[key])]
    if complete:
        before = (each["step"] for each in complete[1:] if each["step"] != complete[0]["step"])
        return {**complete[0], "before": next(before, None)}
    newest = commits[max(commits)]
    missing = ", ".join(map(str, _missing(newest)))
    raise DamagedCheckpoint(
        f"{folder}: no commit is complete; of the last one, of step {newest['step']}, nothing is there of "
        f"rank{'s' * (len(_missing(newest)) > 1)} {missing}"
    )


def _missing(commit: dict[str, Any]) -> list[int]:
    return [owner for owner in commit["owners"] if owner not in commit["files"]]


def _read(folder: Path, entries: list[dict[str, Any]]) -> Arrays:
    """The arrays of a rank, from the first of its files that is whole."""
    problems = []
    for entry in entries:
        path = folder / entry["file"]
        if not path.exists():
            problems.append(f"{path}: missing")
        elif _checksum(path) != entry["checksum"]:
            problems.append(f"{path}: torn or corrupted, its checksum is not that of the list")
        else:
            arrays = list(_arrays(path, entry["dtypes"]))
            return arrays if entry["names"] is None else dict(zip(entry["names"], arrays, strict=True))
    raise DamagedCheckpoint("; ".join(problems))


def _arrays(path: Path, foreign: list[str | None]) -> Iterator[Array]:
    with np.load(path, allow_pickle=False) as file:
        for number, name in enumerate(foreign):
            array = file[f"array{number}"]
            yield array if name is None else array.view(_foreign_dtype(name))


def _foreign_dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
