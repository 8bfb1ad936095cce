"""Compiling kernels with Numba, and keeping their machine code on disk for the next process.

Whoever can write what a process loads can run code in it, and Numba's own cache loads whatever lies in its
folder. Here a file is loaded only if it and its folder belong to this user or to root, and nobody else can
write them. A file that is damaged, or that another version wrote, is ignored: the kernel is compiled again.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from .cache_folder import user_cache_folder

_DIGEST_BYTES = sha256().digest_size


class _NotPrivate(OSError):
    """A file or folder that somebody else may have written."""


def kernel(uses: Sequence[str] = (), **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with Numba when it is first called, or load the code that was kept of it.

    Parameters
    ----------
    uses : sequence of str
        Names of the files, beside the function's own, that its code is made of.
    **options
        For `numba.njit`.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        dispatcher._cache = _Cache(function, uses)
        return dispatcher

    return compiled


def folder() -> Path:
    """Folder of the compiled kernels: `NUMBA_CACHE_DIR`, or one in the user's cache folder.

    Raises
    ------
    OSError
        The user has no home folder.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    return user_cache_folder() / "kernels"


def describe_cache() -> str:
    """Folder in which compiled kernels are kept, or why there is none."""
    try:
        path = folder()
        with _opened(path, os.O_DIRECTORY):
            return f"{path}" if os.access(path, os.W_OK, effective_ids=True) else f"{path} (read-only)"
    except OSError as error:
        return f"none, compiled in each process ({_reason(error)})"


class _Cache:
    """The cache that Numba's dispatcher asks before it compiles a signature, and tells afterwards."""

    def __init__(self, function: Callable[..., Any], uses: Sequence[str]) -> None:
        self._file = Path(function.__code__.co_filename)
        self._function = function.__name__
        self._uses = uses

    def load_overload(self, signature: Any, target: Any) -> Any:
        target.refresh()
        try:
            data = self._load(self._key(signature, target.codegen()))
            return None if data is None else CompileResult._rebuild(target, *pickle.loads(data))
        except _NotPrivate as error:
            _warn_once(str(error))
        except Exception:
            # No fault of a file may end a program that can do without it.
            pass
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        # A folder that is refused was named when the kernel was looked for; a read-only one is no fault.
        with suppress(OSError):
            key = self._key(signature, result.codegen)
            self._save(key, dumps(result._reduce()))

    def _key(self, signature: Any, codegen: Any) -> bytes:
        """All that the machine code depends on."""
        sources = [self._file, *(self._file.with_name(name) for name in self._uses)]
        digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        made_by = numba.__version__, sys.implementation.cache_tag, codegen.magic_tuple()
        return repr((self._function, digest, signature, made_by)).encode()

    def _name(self, key: bytes) -> str:
        return f"{self._file.stem}.{self._function}-{sha256(key).hexdigest()[:16]}.kernel"

    def _load(self, key: bytes) -> bytes | None:
        """The data that was saved under a key, or None if it is damaged."""
        path = folder()
        with (
            _opened(path, os.O_DIRECTORY) as directory,
            # A pipe in the place of the file must not make this wait.
            _opened(path / self._name(key), os.O_NONBLOCK, directory) as descriptor,
            os.fdopen(descriptor, "rb", closefd=False) as file,
        ):
            content = file.read()
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return data if digest == sha256(key + data).digest() else None

    def _save(self, key: bytes, data: bytes) -> None:
        """Write the file in one step, so that nobody reads half of it."""
        path, name = folder(), self._name(key)
        _make_private(path)
        with _opened(path, os.O_DIRECTORY) as directory:
            unfinished = f".{name}.{uuid4().hex}"
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(sha256(key + data).digest() + data)
                os.replace(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                os.unlink(unfinished, dir_fd=directory)
                raise


@contextmanager
def _opened(path: Path, flags: int, directory: int | None = None) -> Iterator[int]:
    """Descriptor of a file, or of a folder, that nobody else can have written. Raises `OSError`."""
    name = path.name if directory is not None else path
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=directory)
    try:
        # Look at the file that was opened, whatever is put under its name meanwhile.
        status = os.fstat(descriptor)
        if status.st_uid not in (0, os.geteuid()):
            raise _NotPrivate(f"{path}: not used as kernel cache: it belongs to user {status.st_uid}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(status.st_mode)
            raise _NotPrivate(f"{path}: not used as kernel cache: others can write it (mode {mode:04o})")
        yield descriptor
    finally:
        os.close(descriptor)


def _make_private(path: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(0o700, exist_ok=True)


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


@cache
def _warn_once(text: str) -> None:
    warnings.warn(f"{text}; kernels are compiled in each process", stacklevel=2)
