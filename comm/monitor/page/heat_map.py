"""A matrix of ranks by ranks as a picture in SVG: the more, the darker."""

from __future__ import annotations

import numpy as np

_SHADES = 10
# The longest side, and the largest cell, in pixels.
_SIDE, _CELL = 560, 56
_MARGIN = 54
_MOST_WITH_FIGURES = 12


def heat_map(matrix: np.ndarray, name: str, unit: str) -> str:
    """Draw a matrix.

    Parameters
    ----------
    matrix : ndarray
        Square, not negative; the row waits for the column.
    name, unit : str
        What it shows, and in which unit.

    Returns
    -------
    str
        An SVG element. Cells of one shade are one path, so that 256 ranks fit in a page.
    """
    size = len(matrix)
    cell = min(max(_SIDE / max(size, 1), 2.2), _CELL)
    side = cell * size
    most = float(matrix.max(initial=0.0))
    parts = [
        f'<svg class="heat" role="img" viewBox="0 0 {side + _MARGIN:.1f} {side + _MARGIN:.1f}"'
        f' width="{side + _MARGIN:.0f}" data-cell="{cell:.3f}" data-margin="{_MARGIN}" data-name="{name}">',
        f"<title>{name}, in {unit}, at most {figure(most)}</title>",
        f'<g transform="translate({_MARGIN} {_MARGIN})">',
        f'<rect class="ground" width="{side:.1f}" height="{side:.1f}"/>',
    ]
    if most > 0:
        shades = np.ceil(matrix / most * _SHADES).astype(int)
        parts += [_path(shades == shade, cell, shade) for shade in range(1, _SHADES + 1)]
    if size <= _MOST_WITH_FIGURES:
        parts += [
            f'<text class="figure{" on" if matrix[i, j] > most * 0.6 else ""}" x="{(j + 0.5) * cell:.1f}"'
            f' y="{(i + 0.5) * cell:.1f}">{figure(float(matrix[i, j]))}</text>'
            for i in range(size)
            for j in range(size)
            if matrix[i, j] > 0
        ]
    parts += [*_labels(size, cell), "</g></svg>"]
    return "".join(parts)


def figure(value: float) -> str:
    """Give a number with two or three digits that count."""
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _path(cells: np.ndarray, cell: float, shade: int) -> str:
    rows, columns = np.nonzero(cells)
    if not len(rows):
        return ""
    # Neighbours in a row are one rectangle.
    first = np.flatnonzero(np.diff(rows, prepend=-1) | (np.diff(columns, prepend=-2) != 1))
    lengths = np.diff(first, append=len(rows))
    squares = (
        f"M{columns[at] * cell:.4g} {rows[at] * cell:.4g}h{many * cell:.4g}v{cell:.4g}h{-many * cell:.4g}z"
        for at, many in zip(first.tolist(), lengths.tolist(), strict=True)
    )
    return f'<path class="shade" fill-opacity="{shade / _SHADES:.1f}" d="{"".join(squares)}"/>'


def _labels(size: int, cell: float) -> list[str]:
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64) if step * cell >= 22), 128)
    found = [
        f'<text class="row" x="-6" y="{(rank + 0.5) * cell:.1f}">{rank}</text>'
        f'<text class="column" x="{(rank + 0.5) * cell:.1f}" y="-6">{rank}</text>'
        for rank in range(0, size, step)
    ]
    middle = size * cell / 2
    return [
        *found,
        f'<text class="axis" x="{middle:.1f}" y="-32">for rank</text>',
        f'<text class="axis" transform="translate(-44 {middle:.1f}) rotate(-90)">rank waits</text>',
    ]
