"""The files that commands write."""

from __future__ import annotations

import os
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


class PictureFile(OutputFile):
    """A picture that a command draws when it has done its work: PNG, if its name does not say otherwise."""

    def __init__(self) -> None:
        super().__init__(".png")

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Give the path. Fails without matplotlib, for a kind of file that it does not know, and as above."""
        path = super().convert(value, param, ctx)
        try:
            from matplotlib.backend_bases import FigureCanvasBase
        except ImportError as error:
            option = param.opts[0] if param else "a picture"
            raise click.ClickException(
                f"{option} needs matplotlib ({error}); python -m pip install matplotlib"
            ) from error
        kinds = sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix[1:].lower() not in kinds:
            self.fail(f"{path} cannot be drawn: expected a name that ends with one of {kinds}", param, ctx)
        return path


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure into a file, and say so.

    Raises
    ------
    click.ClickException
        Where the file cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error}") from error
    click.echo(f"drawn in {path}")
