"""The files that commands write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OutputFile(click.Path):
    """A file that a command writes when it has done its work; refused at once where that cannot be.

    Parameters
    ----------
    suffix : str
        Of its name, where the name has none.
    """

    def __init__(self, suffix: str = "") -> None:
        super().__init__(dir_okay=False)
        self._suffix = suffix

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Give the path. Fails if the file cannot be written."""
        path = Path(value)
        if not path.suffix and path.name not in ("", ".."):
            path = path.with_name(path.name + self._suffix)
        if path.is_dir():
            self.fail(f"{path} cannot be written: it is a folder", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path} cannot be written: {path.parent} is no folder", param, ctx)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            self.fail(f"{path} cannot be written: permission denied", param, ctx)
        return path


def save_picture(option: str, draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure into the file that an option names, and say so.

    Raises
    ------
    click.ClickException
        Without matplotlib, for a kind of file that it does not know, and where the file cannot be written.
    """
    try:
        draw().savefig(path, dpi=150)
    except ImportError as error:
        raise click.ClickException(
            f"{option} needs matplotlib ({error}); python -m pip install 'roundelay[bench]' installs it"
        ) from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} cannot be written: {error}") from error
    click.echo(f"drawn in {path}")
