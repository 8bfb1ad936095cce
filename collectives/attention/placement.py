"""How a sequence lies over ranks: contiguous, in a zigzag, or in stripes.

With causal attention a token sees all before it, so the rank with the end of a contiguous sequence has the
most to do. In a zigzag the sequence is cut into two chunks for each rank, and rank r has chunk r and the
r-th from the end (llama3's and Megatron's balance); in stripes tokens are dealt in turns (Brandon et al.,
"Striped Attention", arXiv 2311.09431).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

PLACEMENTS = ("contiguous", "zigzag", "striped")


def check_placement(placement: str) -> None:
    """Raise `ValueError` for an unknown placement."""
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r}: expected one of {', '.join(PLACEMENTS)}")


def positions(counts: Sequence[int], placement: str = "contiguous") -> list[Positions]:
    """Places in the whole sequence of the tokens of each rank, in the order in which the rank has them.

    Parameters
    ----------
    counts : sequence of int
        Tokens of each rank; any numbers.
    placement : str
        "contiguous", "zigzag" or "striped".

    Raises
    ------
    ValueError
        Unknown placement.

    Examples
    --------
    >>> positions([4, 4], "zigzag")
    [array([0, 1, 6, 7]), array([2, 3, 4, 5])]
    >>> positions([3, 2], "striped")
    [array([0, 2, 4]), array([1, 3])]
    """
    check_placement(placement)
    lengths = np.asarray(counts, np.int64)
    if placement == "contiguous":
        begins = np.cumsum(lengths) - lengths
        return [begin + np.arange(length) for begin, length in zip(begins, lengths, strict=True)]
    if placement == "zigzag":
        chunks = np.concatenate([(lengths + 1) // 2, (lengths // 2)[::-1]])
        begins = np.cumsum(chunks) - chunks
        parts = [begin + np.arange(length) for begin, length in zip(begins, chunks, strict=True)]
        return [np.concatenate([parts[rank], parts[-1 - rank]]) for rank in range(len(lengths))]
    # In the order of the turns, and in each turn of the ranks that still get a token.
    turn = np.concatenate([np.arange(length) for length in lengths])
    rank = np.repeat(np.arange(len(lengths)), lengths)
    place = np.empty(len(turn), np.int64)
    place[np.lexsort((rank, turn))] = np.arange(len(turn))
    return np.split(place, np.cumsum(lengths)[:-1])


def even_counts(tokens: int, ranks: int, placement: str = "contiguous") -> list[int]:
    """How many tokens each rank gets of a sequence that is dealt evenly.

    Raises `ValueError` for an unknown placement.

    Examples
    --------
    >>> even_counts(10, 4), even_counts(10, 4, "zigzag")
    ([2, 3, 2, 3], [2, 3, 2, 3])
    """
    check_placement(placement)
    if placement == "striped":
        return [(tokens + ranks - 1 - rank) // ranks for rank in range(ranks)]
    return [tokens * (rank + 1) // ranks - tokens * rank // ranks for rank in range(ranks)]


def shard(array: Any, rank: int, ranks: int, placement: str = "contiguous", axis: int = 1) -> Any:
    """The part of a rank of an array over the whole sequence, dealt evenly.

    Parameters
    ----------
    array : array
        Of NumPy, CuPy or PyTorch, with all tokens along `axis`.
    rank, ranks : int
        Which of how many ranks.
    placement : str
        "contiguous", "zigzag" or "striped".
    axis : int

    Returns
    -------
    array
        A copy, but for contiguous placements and stripes, which are views.

    Raises
    ------
    ValueError
        Unknown placement, or a rank that is not one of them.

    Examples
    --------
    >>> tokens = np.arange(8).reshape(1, 8)
    >>> shard(tokens, 0, 2, "zigzag"), shard(tokens, 1, 2)
    (array([[0, 1, 6, 7]]), array([[4, 5, 6, 7]]))
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank}: expected 0 to {ranks - 1}")
    tokens = array.shape[axis]
    mine: Any = positions(even_counts(tokens, ranks, placement), placement)[rank]
    if placement == "contiguous":
        mine = slice(tokens * rank // ranks, tokens * (rank + 1) // ranks)
    elif placement == "striped":
        mine = slice(rank, None, ranks)
    where = [slice(None)] * array.ndim
    where[axis] = mine
    return array[tuple(where)]


def permutation(counts: Sequence[int], placement: str) -> Positions:
    """Places in the sequence of all tokens, rank after rank: `sequence[permutation]` is the shards joined.

    Parameters and errors are those of `positions`.

    Examples
    --------
    >>> permutation([4, 4], "zigzag")
    array([0, 1, 6, 7, 2, 3, 4, 5])
    """
    return np.concatenate(positions(counts, placement))


def inverse_permutation(counts: Sequence[int], placement: str) -> Positions:
    """Places of all tokens in the joined shards: `joined[inverse_permutation]` is the sequence.

    Parameters and errors are those of `positions`.

    Examples
    --------
    >>> joined = np.concatenate([shard(np.arange(8), rank, 2, "zigzag", axis=0) for rank in range(2)])
    >>> joined[inverse_permutation([4, 4], "zigzag")]
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    there = permutation(counts, placement)
    back = np.empty_like(there)
    back[there] = np.arange(len(there))
    return back
