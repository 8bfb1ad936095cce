"""Which tokens see which: the rule, and the pairs that it leaves of two shards, as tiles for a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .placement import Positions

Hidden = NDArray[np.bool_]

# Rows and keys of a tile. A matrix product with many rows and few columns reads the keys from the caches.
ROWS = 2048
KEYS = 256
# Keys of a tile where some rows do not see them all, and of how many such keys on: narrow tiles compute less
# that is hidden, wide ones are faster.
EDGES = ((0, 64), (1024, 128))
# Of a distance: more than any sequence is long.
NO_LIMIT = 1 << 60


class Tokens(NamedTuple):
    """Tokens of a shard.

    Attributes
    ----------
    positions : (S,) int64 array
        Places in the whole sequence, ascending.
    documents : (S,) int64 array, optional
        Which document each belongs to, ascending.
    """

    positions: Positions
    documents: NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.positions)


def tokens_of(positions: Positions, bounds: Sequence[int] | None = None) -> Tokens:
    """Tokens at some positions of a sequence of documents, which begin and end at `bounds`."""
    if bounds is None:
        return Tokens(positions)
    return Tokens(positions, np.searchsorted(np.asarray(bounds)[1:], positions, side="right"))


class Tile(NamedTuple):
    """Queries and keys of which most see each other.

    Attributes
    ----------
    rows, keys : slice
    hidden : list of (slice, (rows, keys) bool array)
        Rows of the tile, from 0, that do not see all of its keys, and which they do not see.
    """

    rows: slice
    keys: slice
    hidden: list[tuple[slice, Hidden]]

    @property
    def scores(self) -> int:
        """How many scores are computed."""
        return int((self.rows.stop - self.rows.start) * (self.keys.stop - self.keys.start))


class Stripe(NamedTuple):
    """Queries that are computed together, and the tiles with all keys that they see."""

    rows: slice
    tiles: list[Tile]


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees by their distance; of its own document, if there are some.

    Attributes
    ----------
    before, after : int
        How many tokens before and after itself. Causal attention has none after it.
    """

    before: int = NO_LIMIT
    after: int = NO_LIMIT

    def stripes(self, queries: Tokens, keys: Tokens, rows: int = ROWS, columns: int = KEYS) -> list[Stripe]:
        """All pairs that see each other, in tiles of at most some rows and columns."""
        stripes = []
        for part in _row_parts(queries.positions, rows):
            begin, end = self._seen(queries, keys, part)
            first, last = self._seen_by_all(queries, keys, part, begin, end)
            # Whole tiles only: what is over belongs to an edge.
            if last < end:
                last -= (last - first) % columns
            elif first > begin:
                first += (last - first) % columns
            pieces = [
                *_edge_pieces(begin, first, columns),
                *_pieces(first, last, columns),
                *_edge_pieces(last, end, columns),
            ]
            tiles = [self._tile(queries, keys, part, slice(*bounds)) for bounds in pieces]
            if tiles:
                stripes.append(Stripe(part, tiles))
        return stripes

    def visible(self, queries: Tokens, keys: Tokens) -> bool:
        """Whether any of the queries may see any of the keys."""
        return any(
            begin < end
            for begin, end in (
                self._seen(queries, keys, part) for part in _row_parts(queries.positions, ROWS)
            )
        )

    def _seen(self, queries: Tokens, keys: Tokens, rows: slice) -> tuple[int, int]:
        """The first key that any of the rows may see, and the one after the last."""
        first, last = queries.positions[rows.start], queries.positions[rows.stop - 1]
        begin = np.searchsorted(keys.positions, first - self.before)
        end = np.searchsorted(keys.positions, last + self.after, side="right")
        if queries.documents is not None and keys.documents is not None:
            begin = max(begin, np.searchsorted(keys.documents, queries.documents[rows.start]))
            end = min(end, np.searchsorted(keys.documents, queries.documents[rows.stop - 1], side="right"))
        return int(begin), int(end)

    def _seen_by_all(
        self, queries: Tokens, keys: Tokens, rows: slice, begin: int, end: int
    ) -> tuple[int, int]:
        """Of the keys from `begin` to `end` the first that all rows see, and the one after the last."""
        first, last = queries.positions[rows.start], queries.positions[rows.stop - 1]
        start = np.searchsorted(keys.positions, last - self.before)
        stop = np.searchsorted(keys.positions, first + self.after, side="right")
        if queries.documents is not None and keys.documents is not None:
            documents = queries.documents[[rows.start, rows.stop - 1]]
            start = max(start, np.searchsorted(keys.documents, documents[1]))
            stop = min(stop, np.searchsorted(keys.documents, documents[0], side="right"))
        start = min(max(int(start), begin), end)
        return start, min(max(int(stop), start), end)

    def _tile(self, queries: Tokens, keys: Tokens, part: slice, columns: slice) -> Tile:
        """The rows of a part that see any of the columns."""
        first, last = keys.positions[columns.start], keys.positions[columns.stop - 1]
        positions = queries.positions[part]
        begin = np.searchsorted(positions, first - self.after)
        end = np.searchsorted(positions, last + self.before, side="right")
        # Between these, rows see all columns.
        all_begin = np.searchsorted(positions, last - self.after)
        all_end = np.searchsorted(positions, first + self.before, side="right")
        if queries.documents is not None and keys.documents is not None:
            documents, ends = queries.documents[part], keys.documents[[columns.start, columns.stop - 1]]
            begin = max(begin, np.searchsorted(documents, ends[0]))
            end = min(end, np.searchsorted(documents, ends[1], side="right"))
            if ends[0] != ends[1]:
                all_begin = all_end = end
        begin, end = int(begin), max(int(begin), int(end))
        all_begin = min(max(int(all_begin), begin), end)
        all_end = min(max(int(all_end), all_begin), end)
        rows = slice(part.start + begin, part.start + end)
        hidden = []
        for start, stop in ((begin, all_begin), (all_end, end)):
            if start < stop:
                some = slice(part.start + start, part.start + stop)
                hidden.append((slice(start - begin, stop - begin), self.hidden(queries, keys, some, columns)))
        return Tile(rows, columns, hidden)

    def hidden(
        self, queries: Tokens, keys: Tokens, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Hidden:
        """Which of the columns some rows do not see."""
        distance = queries.positions[rows, None] - keys.positions[None, columns]
        hidden = (distance > self.before) | (distance < -self.after)
        if queries.documents is not None and keys.documents is not None:
            hidden |= queries.documents[rows, None] != keys.documents[None, columns]
        return hidden


def _pieces(begin: int, end: int, longest: int) -> list[tuple[int, int]]:
    """Cut a range evenly."""
    pieces = -(-(end - begin) // longest)
    bounds = [begin + (end - begin) * piece // pieces for piece in range(pieces + 1)] if pieces > 0 else []
    return list(pairwise(bounds))


def _edge_pieces(begin: int, end: int, longest: int) -> list[tuple[int, int]]:
    """Cut a range of keys that not all rows see."""
    narrow = max(columns for least, columns in EDGES if end - begin >= least) if end > begin else longest
    return _pieces(begin, end, min(narrow, longest))


def _row_parts(positions: Positions, rows: int) -> list[slice]:
    """Rows that are computed together: not over a jump, or they would be given too many keys."""
    steps = np.diff(positions)
    jumps = np.flatnonzero(steps[1:] > steps[:-1]) + 2
    if len(jumps) * 8 > len(positions):
        jumps = jumps[:0]
    bounds = [0, *map(int, jumps), len(positions)]
    return [slice(*piece) for begin, end in pairwise(bounds) for piece in _pieces(begin, end, rows)]
