"""The file of measured figures: one JSON for each class of hosts and MPI library, in the user's cache folder.

A file that is damaged, or was measured elsewhere, is named in a warning and ignored.
"""

from __future__ import annotations

import json
import os
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from ..datatypes.cache_folder import user_cache_folder
from ..datatypes.plain import MPI
from .figures import BETWEEN_NODES, SAME_NODE, Curve, Figures, Table
from .nodes import counts_of, host_class

__all__ = ["Table", "folder", "known_table", "library", "load", "path", "save"]

FORMAT = 1
_MEASURED = ("figures", "reduction", "attention", "step", "native", "trials", "pairs")
_OURS = ("format", "host", "library", *_MEASURED)
_FIGURES = ("latency", "per_byte", "overhead", "gap", "per_byte_crowded")


def folder() -> Path:
    """Folder of the files: `ROUNDELAY_CACHE_DIR`, or the user's cache folder.

    Raises `FileNotFoundError` where the user has none, and `ValueError` for the home folder of somebody who
    has none.
    """
    chosen = os.environ.get("ROUNDELAY_CACHE_DIR")
    if not chosen:
        return user_cache_folder()
    try:
        return Path(chosen).expanduser()
    except RuntimeError as error:
        raise ValueError(f"ROUNDELAY_CACHE_DIR {chosen!r}: {error}") from error


def library() -> str:
    """Name and version of the running MPI library."""
    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def path() -> Path:
    """File for this class of hosts and MPI library, whether it exists or not."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{host_class()} {library()}").strip("-.")
    return folder() / f"{name}.json"


def load(file: Path | None = None) -> Table | None:
    """Read the measured figures.

    Parameters
    ----------
    file : Path, optional
        Another file than `path()`.

    Returns
    -------
    Table or None
        None where nothing was measured, and, with a warning that names the file and what is wrong with
        it, where the file cannot be used.
    """
    try:
        file = path() if file is None else file
        return _table(_read(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        what = "measured figures" if file is None else file
        warnings.warn(f"{what}: ignored, run `roundelay measure` again: {error}", stacklevel=2)
        return None


@cache
def known_table() -> Table:
    """The measured figures as this process first found them, typical ones where it found none."""
    return load() or Table()


def save(table: Table, file: Path | None = None) -> Path:
    """Write the figures in one step, so that nobody reads half a file; keep what others keep in it.

    Parameters
    ----------
    table : Table
        What to write. Its host and library are filled in where they are empty.
    file : Path, optional
        Another file than `path()`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    file = path() if file is None else file
    kept = dict(table.others)
    try:
        on_disk = _read(file)
    except (OSError, ValueError, RecursionError):
        pass
    else:
        kept = {name: value for name, value in on_disk.items() if name not in _OURS} | kept
    values = {name: value for name, value in asdict(table).items() if name in _OURS}
    values |= {"host": table.host or host_class(), "library": table.library or library()}
    text = json.dumps({"format": FORMAT, **values, **kept}, indent=1, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    known_table.cache_clear()
    return file


def _read(file: Path) -> dict[str, Any]:
    """The file's content, if it is an object of this format."""
    data = json.loads(_text(file), parse_constant=_refuse_constant)
    values = _mapping(data, "the file")
    if values.get("format") != FORMAT:
        raise ValueError(f"format {values.get('format')!r}: expected {FORMAT}")
    return values


def _text(file: Path) -> str:
    # A pipe would be waited for, and a device may never end.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise ValueError("not a regular file")
        return opened.read()


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"number {text}: expected a finite one")


def _table(data: dict[str, Any]) -> Table:
    """Check everything that roundelay computes with. Raises `ValueError`."""
    for name, expected in (("host", host_class()), ("library", library())):
        if data.get(name) != expected:
            raise ValueError(f"{name} {data.get(name)!r}: expected {expected!r}")
    return Table(
        host=data["host"],
        library=data["library"],
        figures=_placements(data.get("figures"), "figures", _classes),
        reduction=_placements(data.get("reduction"), "reduction", _curve),
        attention=_placements(data.get("attention", {}), "attention", partial(_number, least=1.0)),
        step=_number(data.get("step"), "step"),
        native={
            operation: _placements(curves, f"native {operation}", _curve)
            for operation, curves in _mapping(data.get("native"), "native").items()
        },
        trials={
            operation: _placements(curves, f"trials {operation}", _curves)
            for operation, curves in _mapping(data.get("trials", {}), "trials").items()
        },
        pairs={
            sender: {
                receiver: _numbers(pair, f"pairs {sender} {receiver}", ("latency", "per_byte"))
                for receiver, pair in _mapping(row, f"pairs {sender}").items()
            }
            for sender, row in _mapping(data.get("pairs", {}), "pairs").items()
        },
        others={name: value for name, value in data.items() if name not in _OURS},
    )


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_shown(value)}: expected an object")
    return value


def _placements(value: Any, what: str, check: Callable[[Any, str], Any]) -> dict[str, Any]:
    checked = {}
    for text, inner in _mapping(value, what).items():
        counts_of(text)
        checked[text] = check(inner, f"{what} {text}")
    return checked


def _classes(value: Any, what: str) -> dict[str, Figures]:
    classes = _mapping(value, what)
    if unknown := classes.keys() - {SAME_NODE, BETWEEN_NODES}:
        raise ValueError(f"{what}: unknown class of pairs {min(unknown)!r}")
    return {
        name: Figures(
            **_numbers(figures, f"{what} {name}", _FIGURES),
            spread=_numbers(figures.get("spread", {}), f"{what} {name} spread"),
        )
        for name, figures in classes.items()
    }


def _numbers(value: Any, what: str, names: tuple[str, ...] | None = None) -> dict[str, float]:
    values = _mapping(value, what)
    return {name: _number(values.get(name), f"{what} {name}") for name in names or values}


def _number(value: Any, what: str, least: float = 0.0) -> float:
    """Accept finite numbers that are not negative, nor below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is {_shown(value)}: expected a number")
    if not (isinstance(value, int) or isfinite(value)) or not least <= value <= 1e300:
        raise ValueError(f"{what} is {_shown(value)}: expected a finite number of at least {least:g}")
    return float(value)


def _curves(value: Any, what: str) -> dict[str, Curve]:
    return {name: _curve(curve, f"{what} {name}") for name, curve in _mapping(value, what).items()}


def _curve(value: Any, what: str) -> Curve:
    """Accept a list of [bytes, seconds] with growing bytes and no time of zero, for logarithms are taken."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is {_shown(value)}: expected a list of [bytes, seconds]")
    curve: Curve = []
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"{what} has {_shown(point)}: expected [bytes, seconds]")
        nbytes = _number(point[0], f"{what} bytes", 1)
        if curve and nbytes <= curve[-1][0]:
            raise ValueError(f"{what} has {nbytes:g} bytes after {curve[-1][0]:g}: expected ascending ones")
        curve.append([nbytes, _number(point[1], f"{what} seconds", 1e-15)])
    return curve


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
