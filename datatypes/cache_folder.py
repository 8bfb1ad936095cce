"""The folder in which roundelay keeps things for a user from one process to the next."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def user_cache_folder() -> Path:
    """Folder for roundelay in the user's cache folder, whether it exists or not.

    Raises
    ------
    FileNotFoundError
        The user has no home folder.
    """
    try:
        folder = platformdirs.user_cache_path("roundelay", appauthor=False)
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from error
    if not folder.is_absolute():
        raise FileNotFoundError(f"{folder}: no home folder")
    return folder
