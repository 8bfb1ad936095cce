"""Pairs that see each other as few rectangles, each seen as a whole or up to its diagonal.

That is what fused kernels take. Of contiguous, zigzag and striped shards of a causal sequence one or two
rectangles are seen (Brandon et al., "Striped Attention", arXiv 2311.09431, section 3); of documents one for
each and what lies before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .visibility import NO_LIMIT, Stripe

Bounds = NDArray[np.int64]

# More than these take longer to begin than tiles.
MOST = 16
# Of how many pairs of shards the regions are kept.
KNOWN = 1024

# How a row goes on from the one before it: it sees the same keys, or one more, or something else.
_SAME, _ONE_MORE, _OTHER = 0, 1, 2


class Region(NamedTuple):
    """Queries and keys of which all see each other, or each query the keys up to its own place.

    Attributes
    ----------
    rows, keys : slice
    causal : bool
        Whether row i sees keys 0 to i of the region only. There are as many keys as rows then: of other
        shapes, some kernels lay the diagonal into the first corner and some into the last one.
    """

    rows: slice
    keys: slice
    causal: bool


def regions(stripes: Sequence[Stripe]) -> list[Region] | None:
    """Regions of the pairs that the stripes say are seen, each pair in one; None if more than `MOST`.

    Examples
    --------
    >>> from .visibility import Rule, Tokens
    >>> tokens = Tokens(np.arange(8))
    >>> regions(Rule(after=0).stripes(tokens, tokens))
    [Region(rows=slice(0, 8, None), keys=slice(0, 8, None), causal=True)]
    >>> regions(Rule(before=2).stripes(Tokens(np.arange(100)), Tokens(np.arange(100)))) is None
    True
    """
    found: list[Region] = []
    if not stripes:
        return found
    begins, ends = _seen(stripes)
    for rows, one_more in _runs(_steps(begins, ends)):
        begin, end = int(begins[rows.start]), int(ends[rows.start])
        if one_more:
            # The first row's last key is the corner of a square, to the left of which all is seen.
            end -= 1
            found.append(Region(rows, slice(end, end + rows.stop - rows.start), True))
        if begin < end:
            found.append(Region(rows, slice(begin, end), False))
        if len(found) > MOST:
            return None
    return found


_known: dict[int, tuple[Sequence[Stripe], list[Region] | None]] = {}


def known_regions(stripes: Sequence[Stripe]) -> list[Region] | None:
    """The same for stripes that come again, call after call, and are not changed: found out once."""
    if id(stripes) not in _known:
        if len(_known) >= KNOWN:
            _known.clear()
        # With the stripes themselves: as long as they are kept, no others have their place in memory.
        _known[id(stripes)] = stripes, regions(stripes)
    return _known[id(stripes)][1]


def _seen(stripes: Sequence[Stripe]) -> tuple[Bounds, Bounds]:
    """The first key that each row sees, and the one after the last; 0 and 0 where it sees none.

    By any rule, what a row sees lies together.
    """
    count = stripes[-1].rows.stop
    begins, ends = np.full(count, NO_LIMIT), np.zeros(count, np.int64)
    for stripe in stripes:
        for tile in stripe.tiles:
            rows = tile.rows.stop - tile.rows.start
            first, last = np.full(rows, tile.keys.start), np.full(rows, tile.keys.stop)
            for some, hidden in tile.hidden:
                blind = hidden.all(axis=1)
                first[some] += np.where(blind, NO_LIMIT, hidden.argmin(axis=1))
                last[some] -= np.where(blind, last[some], hidden[:, ::-1].argmin(axis=1))
            np.minimum(begins[tile.rows], first, out=begins[tile.rows])
            np.maximum(ends[tile.rows], last, out=ends[tile.rows])
    begins[ends == 0] = 0
    return begins, ends


def _steps(begins: Bounds, ends: Bounds) -> NDArray[Any]:
    """How each row after the first goes on."""
    steps = np.diff(ends)
    blind = ends == 0
    goes_on = (np.diff(begins) == 0) & (steps <= _ONE_MORE) & (blind[1:] == blind[:-1])
    return np.where(goes_on, steps, _OTHER)


def _runs(steps: NDArray[Any]) -> Iterator[tuple[slice, bool]]:
    """Rows that go on in the same way, and whether each sees one key more than the one before it."""
    changes = np.append(np.flatnonzero(np.diff(steps)) + 1, len(steps))
    start = 0
    while start <= len(steps):
        step = steps[start] if start < len(steps) else _OTHER
        stop = start + 1
        if step != _OTHER:
            stop += int(changes[np.searchsorted(changes, start, side="right")]) - start
        yield slice(start, stop), bool(step == _ONE_MORE)
        start = stop
