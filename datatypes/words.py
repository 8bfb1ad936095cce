"""Copy loops as LLVM code: for each class of run length, with words of a width fixed at compile time.

A run as long as one word is moved as that word; a longer one, up to twice (or four times) the word, as
two (or four) words of which the last ends with the run, so that they overlap. A handful of
widths thus serve all lengths without a branch per run. Very long runs go through memcpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INT = types.int64
_SIZE = ir.IntType(64)
_UNROLL = 4
# Half the width up to which one word is cheaper than two of half its width.
_WIDEST_HALF = 16


class _Class(NamedTuple):
    """Runs of up to `longest` bytes, and longer than the class before, are `words` words of `width` bytes."""

    longest: int
    width: int
    words: int


_CLASSES = (
    _Class(1, 1, 1),
    _Class(2, 2, 1),
    _Class(3, 2, 2),
    _Class(4, 4, 1),
    _Class(7, 4, 2),
    _Class(8, 8, 1),
    _Class(15, 8, 2),
    _Class(16, 16, 1),
    _Class(31, 16, 2),
    _Class(32, 32, 1),
    _Class(63, 32, 2),
    _Class(64, 64, 1),
    _Class(128, 64, 2),
    _Class(256, 64, 4),
)

# Emits the code that moves one run: builder, address of the target, address of the source.
_Mover = Callable[[Any, Any, Any], None]


def _constant(value: int) -> Any:
    return ir.Constant(_SIZE, value)


def _pointer(builder: Any, address: Any, target: Any) -> Any:
    return builder.inttoptr(address, target.as_pointer())


def _load(builder: Any, address: Any, index: Any) -> Any:
    """The int64 number `index` from `address`."""
    place = builder.add(address, builder.mul(index, _constant(8)))
    return builder.load(_pointer(builder, place, _SIZE))


def _word_mover(kind: _Class, length: Any) -> _Mover:
    """Move a run as words, half from its start and half up to its end, all loaded before any is stored."""
    width, words = kind.width, kind.words
    word = ir.IntType(8 * width) if width <= 8 else ir.VectorType(ir.IntType(64), width // 8)

    def move(builder: Any, target: Any, source: Any) -> None:
        half = words // 2
        tail = builder.sub(length, _constant(width * half))
        places = [_constant(i * width) for i in range(words - half)]
        places += [builder.add(tail, _constant(i * width)) for i in range(half)]
        loaded = []
        for place in places:
            value = builder.load(_pointer(builder, builder.add(source, place), word))
            value.align = 1
            loaded.append(value)
        for place, value in zip(places, loaded, strict=True):
            builder.store(value, _pointer(builder, builder.add(target, place), word)).align = 1

    return move


def _memcpy_mover(length: Any) -> _Mover:
    byte = ir.IntType(8)

    def move(builder: Any, target: Any, source: Any) -> None:
        pointer = byte.as_pointer()
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _SIZE])
        ordinary = ir.Constant(ir.IntType(1), 0)
        builder.call(
            memcpy, [_pointer(builder, target, byte), _pointer(builder, source, byte), length, ordinary]
        )

    return move


def _movers(builder: Any, length: Any) -> Iterator[tuple[_Class | None, _Mover]]:
    """Give each class (None: any longer run) and its mover, in a branch that is taken for its lengths."""
    end = builder.append_basic_block("end")
    for kind in _CLASSES:
        this, other = builder.append_basic_block("this"), builder.append_basic_block("other")
        builder.cbranch(builder.icmp_signed("<=", length, _constant(kind.longest)), this, other)
        builder.position_at_end(this)
        yield kind, _word_mover(kind, length)
        builder.branch(end)
        builder.position_at_end(other)
    yield None, _memcpy_mover(length)
    builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def load_int(_typing: Any, address: Any, index: Any) -> Any:
    """Read the int64 number `index` from an address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _load(builder, *arguments)

    return _INT(_INT, _INT), generate


class _Nest(NamedTuple):
    """Two nested loops: how often, and the strides of target and source."""

    n1: Any
    t1: Any
    s1: Any
    n0: Any
    t0: Any
    s0: Any


def _emit_nest(
    builder: Any, target: Any, source: Any, nest: _Nest, move: _Mover, last: _Mover | None = None
) -> None:
    """Move all runs of a nest; the last one of each inner loop with `last`, if that is given."""
    inner = nest.n0 if last is None else builder.sub(nest.n0, _constant(1))
    done = builder.mul(builder.sdiv(inner, _constant(_UNROLL)), _constant(_UNROLL))
    with cgutils.for_range(builder, nest.n1) as outer:
        t = builder.add(target, builder.mul(outer.index, nest.t1))
        s = builder.add(source, builder.mul(outer.index, nest.s1))

        def step(i: Any, mover: _Mover) -> None:
            mover(builder, builder.add(t, builder.mul(i, nest.t0)), builder.add(s, builder.mul(i, nest.s0)))

        with cgutils.for_range(builder, builder.sdiv(inner, _constant(_UNROLL))) as loop:
            first = builder.mul(loop.index, _constant(_UNROLL))
            for k in range(_UNROLL):
                step(builder.add(first, _constant(k)), move)
        with cgutils.for_range_slice(builder, done, inner, _constant(1)) as (i, _):
            step(i, move)
        if last is not None:
            step(inner, last)


@intrinsic
def move_strided(  # noqa: PLR0913, PLR0917 - the kernel has plain integers to hand on
    _typing: Any,
    target: Any,
    source: Any,
    length: Any,
    n1: Any,
    t1: Any,
    s1: Any,
    n0: Any,
    t0: Any,
    s0: Any,
    ahead: Any,
) -> Any:
    """Move n1 times n0 runs of `length` bytes; t1, t0 and s1, s0 are the strides of target and source.

    With `ahead`, the runs of an inner loop may be moved as one word that is longer than they are: what
    it writes too much, the next run overwrites.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source, length, *loops, ahead = arguments
        nest = _Nest(*loops)
        for kind, move in _movers(builder, length):
            if kind is None or kind.words != 2 or kind.width > _WIDEST_HALF:
                _emit_nest(builder, target, source, nest, move)
                continue
            wide = _word_mover(_Class(0, 2 * kind.width, 1), length)
            with builder.if_else(builder.icmp_signed("!=", ahead, _constant(0))) as (then, otherwise):
                with then:
                    _emit_nest(builder, target, source, nest, wide, last=move)
                with otherwise:
                    _emit_nest(builder, target, source, nest, move)
        return context.get_dummy_value()

    return types.void(*[_INT] * 10), generate


@intrinsic
def move_listed(
    _typing: Any, target: Any, source: Any, length: Any, count: Any, offsets: Any, unpack: Any
) -> Any:
    """Move equal runs, dense on one side and at listed offsets on the other: the target's when unpacking."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source, length, count, offsets, unpack = arguments
        unpacking = builder.icmp_signed("!=", unpack, _constant(0))
        for _, move in _movers(builder, length):
            with cgutils.for_range(builder, count) as loop:
                listed, dense = _load(builder, offsets, loop.index), builder.mul(loop.index, length)
                t = builder.add(target, builder.select(unpacking, listed, dense))
                s = builder.add(source, builder.select(unpacking, dense, listed))
                move(builder, t, s)
        return context.get_dummy_value()

    return types.void(*[_INT] * 6), generate


@intrinsic
def move_run(_typing: Any, target: Any, source: Any, length: Any) -> Any:
    """Move one run."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source, length = arguments
        for _, move in _movers(builder, length):
            move(builder, target, source)
        return context.get_dummy_value()

    return types.void(*[_INT] * 3), generate
