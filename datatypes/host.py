"""The copy kernel for host memory, compiled by Numba.

One function runs a whole `Program`, in either direction, without the GIL.
"""

from __future__ import annotations

from numba import njit, types

from .compiling import kernel
from .program import (
    COPIES,
    EXTENT,
    HEADER_WORDS,
    INSTANCE,
    KIND,
    LENGTH,
    LIST,
    LISTED,
    LISTED_EQUAL,
    LOOP_COUNT,
    LOOP_WORDS,
    LOOPS,
    MEMORY,
    NBYTES,
    NEAR,
    NEXT,
    PACKED,
    PATTERN_BYTES,
    PATTERN_STRIDE,
    ROWS,
    STRIDED,
    TILE,
)
from .words import load_int, move_listed, move_run, move_strided

PAGE_BYTES = 4096


@njit(forceinline=True)
def _run_row(row: int, unpack: int, target: int, source: int, instances: int, near: int) -> None:
    """Walk the outer loops of a row as the digits of one counter; hand the inner ones on."""
    kind, length = load_int(row, KIND), load_int(row, LENGTH)
    loops, instance = load_int(row, LOOP_COUNT), load_int(row, INSTANCE)
    lists, listed = row + 8 * load_int(row, LIST), load_int(row, LISTED)
    outer = loops - 2 if kind == STRIDED else loops
    total = 1
    for k in range(outer):
        total *= instances if k == instance else load_int(row, LOOPS + LOOP_WORDS * k)
    # In a loop, the memory's stride comes before the message's.
    at_target, at_source = (1, 2) if unpack else (2, 1)
    one, zero = LOOPS + LOOP_WORDS * (loops - 2), LOOPS + LOOP_WORDS * (loops - 1)
    n1 = instances if instance == loops - 2 else load_int(row, one)
    n0 = instances if instance == loops - 1 else load_int(row, zero)
    t1, s1 = load_int(row, one + at_target), load_int(row, one + at_source)
    t0, s0 = load_int(row, zero + at_target), load_int(row, zero + at_source)
    # A word that begins with a run and is longer than it reads on towards the next run: where that is
    # less than a page away, the memory between them is there. It may touch a cache line more.
    ahead = 1 if near and not unpack and t0 == length and length <= s0 <= PAGE_BYTES and n0 > 0 else 0
    for step in range(total):
        t, s, rest = target, source, step
        for k in range(outer - 1, -1, -1):
            loop = LOOPS + LOOP_WORDS * k
            count = instances if k == instance else load_int(row, loop)
            digit = rest % count
            rest //= count
            t += digit * load_int(row, loop + at_target)
            s += digit * load_int(row, loop + at_source)
        if kind == STRIDED:
            move_strided(t, s, length, n1, t1, s1, n0, t0, s0, ahead)
        elif kind == LISTED_EQUAL:
            move_listed(t, s, length, listed, lists, unpack)
        else:
            for i in range(listed):
                memory, packed = load_int(lists, i), load_int(lists, listed + i)
                nbytes = load_int(lists, 2 * listed + i)
                move_run(t + (memory if unpack else packed), s + (packed if unpack else memory), nbytes)


@kernel(uses=("program.py", "words.py"))
def _run(unpack: int, packed: int, memory: int, program: int, instances: int) -> None:
    rows, extent, nbytes = load_int(program, ROWS), load_int(program, EXTENT), load_int(program, NBYTES)
    copies, stride = load_int(program, COPIES), load_int(program, PATTERN_STRIDE)
    pattern, tile = load_int(program, PATTERN_BYTES), load_int(program, TILE)
    near = load_int(program, NEAR)
    if instances > 1 and extent == copies * stride:
        copies *= instances
        instances = 1
    for i in range(instances):
        done = 0
        while done < copies:
            part = min(tile, copies - done)
            row = program + 8 * HEADER_WORDS
            for _ in range(rows):
                m = memory + i * extent + done * stride + load_int(row, MEMORY)
                p = packed + i * nbytes + done * pattern + load_int(row, PACKED)
                _run_row(row, unpack, m if unpack else p, p if unpack else m, part, near)
                row += 8 * load_int(row, NEXT)
            done += part


# Run a program: see `movers.Run`. Without Numba's look at the types of the arguments, which are always
# integers, the call takes half the time.
_SIGNATURE = types.void(*(types.int64,) * 5)
run = _run.compile(_SIGNATURE)


def address() -> int:
    """Where the machine code of the kernel is.

    As Numba compiles a function, the addresses of its result and of an exception come before its arguments.
    """
    compiled = _run.overloads[_SIGNATURE.args]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
