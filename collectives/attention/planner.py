"""Which ranks take which sequences of a training step, where lengths differ.

A sequence that is a fair share of the work, or less, is best left whole: nothing is sent for it. A longer
one is spread over as few ranks as bring it down to such a share; any number of them, not only powers of two,
as a ring needs no other. The longest come first, and each goes to the ranks that are free the earliest
(ByteScale, Ge et al. 2025, arXiv 2502.21231, algorithm 2). There is no solver: smaller and smaller shares are
tried until one is good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index as as_index
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .costs import Ints, Rates, Work, shares
from .packed import Assignment, Load, SequencePlan

Floats = NDArray[np.float64]

# Parts of a fair share of the work that a sequence may be at most: the shorter the longest ones, the less
# ranks wait for each other, and the more they send. Exact in binary, so that all hosts find the same.
_PARTS = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16, 1 / 32)
# Sequences are spread further only for more than this.
_WORTH = 1.02


def plan_sequences(  # noqa: PLR0913
    lengths: Iterable[int],
    ranks: int,
    *,
    heads: int,
    key_heads: int,
    size: int,
    value_size: int | None = None,
    itemsize: int = 4,
    causal: bool = True,
    tokens_per_rank: int | None = None,
    rates: Rates | None = None,
) -> SequencePlan:
    """Plan which ranks take which of some sequences, whole or spread, so that all are done early.

    The same arguments give the same plan on all ranks, and nothing is sent.

    Parameters
    ----------
    lengths : ints
        Tokens of each sequence, also 0.
    ranks : int
    heads, key_heads : int
        Heads of the queries, and of keys and values.
    size, value_size : int
        Numbers in a query or key, and in a value; the same if not given.
    itemsize : int
        Bytes of a number.
    causal : bool
        Whether a token sees none after it.
    tokens_per_rank : int, optional
        Most tokens that a rank has room for.
    rates : Rates, optional
        The same on all ranks, such as those of `measured_rates`; `Rates()` if not given.

    Returns
    -------
    SequencePlan

    Raises
    ------
    ValueError
        No lengths or a negative one, more tokens than all ranks have room for, heads that do not divide, or
        another number that is not positive.

    References
    ----------
    FlexSP (Wang et al. 2025), arXiv 2412.01523: what a sequence costs, by its length and degree.
    ByteScale (Ge et al. 2025), arXiv 2502.21231, algorithm 2: the longest first, to the least loaded.

    Examples
    --------
    >>> plan = plan_sequences([3_000, 60_000, 200, 4_000], 4, heads=8, key_heads=2, size=64)
    >>> [each.ranks for each in plan.sequences]
    [(1,), (0, 1, 2, 3), (2,), (0,)]
    >>> plan.of_rank(1), plan.loads[1].messages
    ([1, 0], 3)
    """
    value_size = size if value_size is None else value_size
    rates = Rates() if rates is None else rates
    tokens = _read(lengths)
    room = max(int(tokens.sum()), 1) if tokens_per_rank is None else tokens_per_rank
    _check_positive(ranks=ranks, heads=heads, key_heads=key_heads, size=size, value_size=value_size)
    _check_positive(itemsize=itemsize, tokens_per_rank=room, **rates._asdict())
    if heads % key_heads:
        raise ValueError(f"heads {heads}: expected a multiple of the {key_heads} of keys and values")
    if tokens.sum() > ranks * room:
        raise ValueError(
            f"lengths of {tokens.sum()} tokens together, the longest of {tokens.max()}: expected at most "
            f"{ranks * room}, {room} for each of {ranks} ranks"
        )
    work = Work(heads, key_heads, size + value_size, itemsize, causal, rates)
    return _plan(_best(tokens, ranks, room, work), work)


def _read(lengths: Iterable[int]) -> Ints:
    tokens = np.array([as_index(each) for each in lengths], np.int64)
    if not tokens.size:
        raise ValueError("no lengths: expected one or more")
    if tokens.min() < 0:
        raise ValueError(f"lengths[{tokens.argmin()}] {tokens.min()}: expected 0 or more")
    return tokens


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} {number}: expected more than 0")


class _Deal(NamedTuple):
    """Sequences in the order in which they are dealt; seconds each rank is busy, and until all are done."""

    sequences: dict[int, Assignment]
    busy: Floats
    seconds: float


def _best(tokens: Ints, ranks: int, room: int, work: Work) -> _Deal:
    """The deal that spreads sequences the least, of those that are about as fast as the fastest."""
    # Added in one order, so that all hosts find the same.
    fair = sum(work.arithmetic(tokens).tolist()) / ranks
    deals = []
    for degrees in _degrees(tokens, ranks, fair, work):
        deals.append(_deal(tokens, degrees, np.full(ranks, room), work))
        if deals[-1].seconds <= _WORTH * fair:
            break
    fastest = min(deal.seconds for deal in deals)
    return next(deal for deal in deals if deal.seconds <= _WORTH * fastest)


def _degrees(tokens: Ints, ranks: int, fair: float, work: Work) -> Iterator[Ints]:
    """Over how many ranks each sequence is spread: first all over one, then over more and more."""
    yield np.ones_like(tokens)
    lengths, degrees = tokens[:, None], np.arange(1, ranks + 1)
    seconds = work.seconds(lengths, degrees, -(-lengths // degrees))
    # A rank without a token would only pass on what others send.
    seconds[degrees > np.maximum(lengths, 1)] = np.inf
    for part in _PARTS:
        short = seconds <= part * fair
        yield np.where(short.any(1), short.argmax(1), seconds.argmin(1)) + 1


def _deal(tokens: Ints, degrees: Ints, free: Ints, work: Work) -> _Deal:
    """Give the longest sequences first to the ranks that are done the earliest; `free` is used up."""
    done, busy = np.zeros(len(free)), np.zeros(len(free))
    sequences = {}
    for sequence in np.argsort(-tokens, kind="stable").tolist():
        length = int(tokens[sequence])
        members = _members(length, int(degrees[sequence]), free, done)
        counts = _counts(length, free[members].tolist())
        free[members] -= counts
        seconds = work.seconds(length, len(counts), max(counts))
        done[members] = done[members].max() + seconds
        busy[members] += seconds
        sequences[sequence] = Assignment(length, tuple(members.tolist()), tuple(counts))
    return _Deal(sequences, busy, float(done.max()))


def _members(length: int, degree: int, free: Ints, done: Floats) -> Ints:
    """Of ranks with room for even shares those done the earliest: `degree`, or as many more as must be."""
    fits = np.sort(free)[::-1] * np.arange(1, len(free) + 1) >= length
    if not fits[degree - 1 :].any():
        return np.flatnonzero(free)
    degree += int(fits[degree - 1 :].argmax())
    earliest = np.argsort(done, kind="stable")
    return np.sort(earliest[free[earliest] * degree >= length][:degree])


def _counts(length: int, free: list[int]) -> list[int]:
    """Shares of a sequence, as even as memory allows: those with the least room first."""
    counts = [0] * len(free)
    for done, place in enumerate(sorted(range(len(free)), key=free.__getitem__)):
        counts[place] = min(free[place], length // (len(free) - done))
        length -= counts[place]
    return counts


def _plan(deal: _Deal, work: Work) -> SequencePlan:
    totals = np.zeros((4, len(deal.busy)), np.int64)
    for _, ranks, counts in deal.sequences.values():
        totals[:, ranks] += shares(counts, work.causal)
    loads = tuple(
        Load(
            flops=pairs * work.flops_of_pair,
            bytes=sent * work.bytes_of_keys,
            messages=messages,
            tokens=tokens,
            memory=tokens * work.memory_of_token,
            seconds=seconds,
        )
        for (pairs, sent, messages, tokens), seconds in zip(
            totals.T.tolist(), deal.busy.tolist(), strict=True
        )
    )
    arithmetic = sum(load.flops for load in loads) / len(loads) / work.rates.flops
    return SequencePlan(
        sequences=tuple(each for _, each in sorted(deal.sequences.items())),
        loads=loads,
        order=tuple(deal.sequences),
        causal=work.causal,
        seconds=deal.seconds,
        efficiency=arithmetic / deal.seconds if deal.seconds else 1.0,
    )
