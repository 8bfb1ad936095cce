"""The arguments of a call: read, checked, agreed on, and seen as (B, H, S, D)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datatypes.plain import MPI
from ..array_views import check_usable
from .agreement import agree, signed
from .arrays import by_head, check_axes, check_key_heads, check_layout, check_scale, check_tokens
from .dropout import Dropout
from .group import Array, Group, wait
from .placement import check_placement
from .problem import Problem, Shape, geometry
from .visibility import NO_LIMIT, Rule

_PADDING_LANE = 6


class Options(NamedTuple):
    """Options of a call; the arguments of `roundelay.attention` have the same names."""

    causal: bool = False
    scale: float | None = None
    placement: str = "contiguous"
    heads: str = "BSHD"
    window: tuple[int | None, int | None] | int | None = None
    documents: Sequence[int] | None = None
    key_padding: NDArray[np.bool_] | None = None
    dropout: float = 0.0
    seed: int | None = None
    ranks: Sequence[int] | None = None
    algorithm: str = "auto"


class Signature(NamedTuple):
    """Properties in which all members must agree."""

    batch: int
    query_heads: int
    key_heads: int
    size: int
    value_size: int
    dtype: str
    heads: str
    placement: str
    causal: bool
    window: tuple[int | None, int | None]
    scale: float
    dropout: float
    seed: int | None
    documents: tuple[int, ...] | None
    has_key_padding: bool
    algorithm: str


class Call(NamedTuple):
    """A call that all members agree on; its arrays are views of (B, H, S, D)."""

    problem: Problem
    options: Options
    q: Array
    k: Array
    v: Array


def read(comm: MPI.Intracomm, what: str, arrays: dict[str, Any], options: Options) -> Call:
    """Read the arguments of all members together.

    Parameters
    ----------
    comm : Intracomm
    what : str
        What is called, for errors.
    arrays : dict
        q, k and v; for gradients also dout, out and lse.
    options : Options

    Raises
    ------
    ValueError
        On all members alike: something is wrong with the arguments of one, or they differ.
    """
    group = Group(comm, options.ranks)
    signature = signed(lambda: _signature(arrays, options))
    count = 0 if isinstance(signature, str) else arrays["q"].shape[options.heads.index("S")]
    counts = agree(group, what, signature, count)
    assert isinstance(signature, Signature)
    if signature.documents is not None and signature.documents[-1] != sum(counts):
        raise ValueError(
            f"{what}: documents end at {signature.documents[-1]}; expected {sum(counts)}, all ranks' tokens"
        )
    q, k, v = (by_head(arrays[name], options.heads) for name in "qkv")
    problem = Problem(
        group,
        Shape(*signature[:5], np.dtype(signature.dtype)),
        geometry(_rule(signature), tuple(counts), signature.placement, signature.documents),
        signature.scale,
        None if options.key_padding is None else _paddings(group, options.key_padding, counts),
        Dropout(signature.dropout, signature.seed or 0) if signature.dropout else None,
    )
    return Call(problem, options, q, k, v)


def _signature(arrays: dict[str, Any], options: Options) -> Signature:
    check_layout(options.heads)
    check_placement(options.placement)
    check_axes({name: array for name, array in arrays.items() if name != "lse"}, options.heads)
    check_usable({**arrays, "key_padding": options.key_padding})
    check_scale(options.scale)
    q, k, v = (arrays[name] for name in "qkv")
    dtypes = {str(array.dtype) for name, array in arrays.items() if name not in ("lse",)}
    if len(dtypes) > 1 or q.dtype.kind not in "fV":
        raise ValueError(f"dtypes {', '.join(sorted(dtypes))}: expected one floating-point dtype")
    check_tokens(q, k, options.heads)
    key_heads = check_key_heads(q, k, v, options.heads)
    batch, query_heads, count, size = by_head(q, options.heads).shape
    value_size = v.shape[3]
    order = [options.heads.index(axis) for axis in "BHSD"]
    _check_gradients(arrays, (batch, query_heads, count, value_size), order)
    _check_padding(options, batch, count)
    return Signature(
        batch,
        query_heads,
        key_heads,
        size,
        value_size,
        str(q.dtype),
        options.heads,
        options.placement,
        bool(options.causal),
        _window(options.window),
        float(size**-0.5 if options.scale is None else options.scale) if size else 1.0,
        *_dropout(options),
        _documents(options),
        options.key_padding is not None,
        options.algorithm,
    )


def _check_gradients(arrays: dict[str, Any], shape: tuple[int, ...], order: list[int]) -> None:
    for name in arrays.keys() - {"q", "k", "v", "lse"}:
        if tuple(arrays[name].shape[axis] for axis in order) != shape:
            raise ValueError(
                f"{name} of shape {arrays[name].shape}: expected that of the output, {shape} as (B, H, S, D)"
            )
    if "lse" in arrays and tuple(arrays["lse"].shape) != shape[:3]:
        raise ValueError(f"lse of shape {arrays['lse'].shape}: expected {shape[:3]}")


def _check_padding(options: Options, batch: int, count: int) -> None:
    padding = options.key_padding
    if padding is not None and (padding.shape != (batch, count) or padding.dtype != np.bool_):
        raise ValueError(
            f"key_padding of shape {padding.shape} and {padding.dtype}: expected bool of ({batch}, {count})"
        )


def _window(window: Any) -> tuple[int | None, int | None]:
    before, after = window if isinstance(window, tuple | list) else (window, window)
    for each in (before, after):
        if each is not None and each < 0:
            raise ValueError(f"window {window}: expected tokens before and after, 0 or more, or None")
    return before, after


def _dropout(options: Options) -> tuple[float, int | None]:
    if not 0 <= options.dropout < 1:
        raise ValueError(f"dropout {options.dropout}: expected a share from 0 to less than 1")
    if not options.dropout:
        return 0.0, None
    if options.seed is None:
        raise ValueError("dropout without a seed: expected an int, the same on all ranks")
    return float(options.dropout), int(options.seed)


def _documents(options: Options) -> tuple[int, ...] | None:
    if options.documents is None:
        return None
    bounds = tuple(int(each) for each in options.documents)
    if len(bounds) < 2 or bounds[0] != 0 or any(a > b for a, b in pairwise(bounds)):
        raise ValueError(f"documents {bounds}: expected where each begins and the last one ends, from 0 on")
    return bounds


def _rule(signature: Signature) -> Rule:
    before, after = (NO_LIMIT if each is None else each for each in signature.window)
    return Rule(before, 0 if signature.causal else after)


def _paddings(group: Group, mine: NDArray[np.bool_], counts: list[int]) -> list[NDArray[np.bool_]]:
    """Which keys of each member are there."""
    found = [np.empty((len(mine), count), np.bool_) for count in counts]
    found[group.index] = np.ascontiguousarray(mine)
    others = [member for member in range(group.size) if member != group.index]
    requests = [group.receive(found[member], member, _PADDING_LANE) for member in others]
    requests += [group.send(found[group.index], member, _PADDING_LANE) for member in others]
    wait(requests)
    return found
