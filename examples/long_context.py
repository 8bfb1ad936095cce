"""Attention of a sequence that is too long for the memory of one process, and not for that of several.

Each rank may take so much more memory than it has at the start, by `resource.setrlimit`. One alone is refused
the whole sequence; all together compute it, by a ring, each under the same limit. Linux only:

    mpiexec -n 4 python examples/long_context.py

Some rows of the output are compared with what is computed for them directly, in float64, from one chunk of
the keys and values after another. It takes some ten seconds on two cores; `--tokens 32768 --limit 128` takes
four times as long.
"""

from __future__ import annotations

import os

# Ranks share the cores; threads of the matrix products would also take memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import contextlib
import ctypes
import re
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import roundelay
from roundelay import MPI

Array = NDArray[np.float32]

# Eight heads of queries share one of keys and values, as in most language models of today.
HEADS, KEY_HEADS, SIZE = 8, 1, 64
CHUNK = 512
MIB = 1 << 20
# glibc's number for the size from which memory is taken from the system, and given back, piece by piece.
M_MMAP_THRESHOLD = -3
TOLERANCE = 1e-5
HOW: dict[str, Any] = {"causal": True, "placement": "zigzag", "heads": "BHSD", "algorithm": "ring"}


def make_chunk(number: int) -> list[Array]:
    """Queries, keys and values of some tokens that follow one another, the same on any rank."""
    rng = np.random.default_rng(number)
    return [
        rng.standard_normal((1, heads, CHUNK, SIZE), np.float32) for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def make_tokens(chunks: list[int]) -> list[Array]:
    """Queries, keys and values of some chunks, (1, heads, tokens, 64)."""
    tokens = CHUNK * len(chunks)
    arrays = [np.empty((1, heads, tokens, SIZE), np.float32) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    for place, number in enumerate(chunks):
        for array, part in zip(arrays, make_chunk(number), strict=True):
            array[:, :, place * CHUNK : (place + 1) * CHUNK] = part
    return arrays


def compute_row(position: int) -> NDArray[np.float64]:
    """Output of one token, (heads, 64), from one chunk of keys and values after another."""
    last, place = divmod(position, CHUNK)
    query = make_chunk(last)[0][0, :, place].astype(np.float64) / np.sqrt(SIZE)
    top, total, out = np.full((HEADS, 1), -np.inf), np.zeros((HEADS, 1)), np.zeros((HEADS, SIZE))
    for number in range(last + 1):
        seen = slice(place + 1 if number == last else CHUNK)
        keys, values = (each[0, 0, seen].astype(np.float64) for each in make_chunk(number)[1:])
        scores = query @ keys.T
        higher = np.maximum(top, scores.max(axis=1, keepdims=True))
        weights, kept = np.exp(scores - higher), np.exp(top - higher)
        top, total = higher, kept * total + weights.sum(axis=1, keepdims=True)
        out = kept * out + weights @ values
    return out / total


def memory_of(what: str) -> int:
    """Bytes of this process: what it may write to (VmData), has in use (VmRSS), or had at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise click.ClickException(f"/proc/self/status has no {what}: this needs Linux")
    return 1024 * int(found[1])


def allow(nbytes: int) -> None:
    """Refuse this process more than a number of bytes beside the memory that it has.

    Memory that the MPI library shares with other processes does not count, of which it maps a lot.
    """
    # Otherwise glibc may keep what arrays had that are freed, and not have it in one piece for the next ones.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (memory_of("VmData") + nbytes, hard))


def needed(tokens: int) -> int:
    """Bytes of queries, keys, values and output."""
    return 4 * SIZE * tokens * (2 * HEADS + 2 * KEY_HEADS)


def try_alone(tokens: int) -> str:
    """Why one rank cannot attend to the whole sequence; empty if it can."""
    try:
        roundelay.attention(*make_tokens(list(range(tokens // CHUNK))), MPI.COMM_SELF, **HOW)
    except MemoryError as error:
        return str(error) or "MemoryError"
    return ""


def attend(tokens: int) -> tuple[Array, NDArray[np.int64], float, int]:
    """Output of this rank's tokens, where they are in the sequence, seconds, and bytes that it took."""
    comm = MPI.COMM_WORLD
    # From here on the highest use counts anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = memory_of("VmRSS")
    chunks = roundelay.shard(np.arange(tokens // CHUNK), comm.rank, comm.size, HOW["placement"], axis=0)
    try:
        arrays = make_tokens(chunks.tolist())
        comm.Barrier()
        start = perf_counter()
        out, _ = roundelay.attention(*arrays, comm, **HOW)
    except MemoryError as error:
        # The others wait for this rank.
        print(f"rank {comm.rank} is refused its part: {error}; use more ranks", flush=True)
        comm.Abort(1)
    seconds = perf_counter() - start
    positions = (CHUNK * chunks[:, None] + np.arange(CHUNK)).ravel()
    return out, positions, seconds, memory_of("VmHWM") - before


def largest_error(out: Array, positions: NDArray[np.int64]) -> float:
    """Error of the first, some middle and the last row, relative to the largest value."""
    rows = (0, len(positions) // 3, 2 * len(positions) // 3, len(positions) - 1)
    errors = []
    for row in rows:
        expected = compute_row(int(positions[row]))
        errors.append(float(np.abs(out[0, :, row] - expected).max() / np.abs(expected).max()))
    return max(errors)


def say(text: str) -> None:
    """Print what begins now, once for all ranks."""
    if MPI.COMM_WORLD.rank == 0:
        print(text, flush=True)


@click.command()
@click.option(
    "--tokens", default=16384, show_default=True, type=click.IntRange(min=CHUNK), help="Of the sequence."
)
@click.option("--limit", default=68, show_default=True, type=click.IntRange(min=1), help="MiB of a rank.")
def main(tokens: int, limit: int) -> None:
    """Attend to a sequence that one rank has no memory for."""
    comm = MPI.COMM_WORLD
    if tokens % (2 * CHUNK * comm.size):
        raise click.ClickException(
            f"--tokens: expected a multiple of {2 * CHUNK * comm.size}, two chunks a rank"
        )
    say(f"{tokens} tokens, {HEADS} heads of {SIZE}, causal; each rank may take {limit} MiB")
    # Load, compile and connect once, before the limit is set.
    roundelay.attention(*make_tokens([0, 1]), comm, **HOW)
    allow(limit * MIB)
    say("one rank alone tries ...")
    refused = comm.bcast(try_alone(tokens) if comm.rank == 0 else None)
    if not refused:
        if comm.rank == 0:
            print(f"one rank can do it alone with {limit} MiB: give more --tokens or a lower --limit")
        sys.exit(1)
    say(f"all {comm.size} ranks together ...")
    out, positions, seconds, took = attend(tokens)
    say("some rows are computed directly, in float64 ...")
    error = comm.allreduce(largest_error(out, positions), MPI.MAX)
    used, seconds = comm.gather(took), comm.allreduce(seconds, MPI.MAX)
    if comm.rank == 0:
        print(f"  one rank alone   needs {needed(tokens) / MIB:6.1f} MiB and is refused: {refused}")
        for rank, nbytes in enumerate(used):
            print(
                f"  rank {rank} of {comm.size}      took {nbytes / MIB:7.1f} MiB for {len(positions)} tokens"
            )
        right = "are" if error <= TOLERANCE else "are NOT"
        print(
            f"computed in {seconds:.1f} s; all scores at once would be {4 * HEADS * tokens**2 / MIB:.0f} MiB"
        )
        print(f"rows {right} what float64 gives for them: they differ by {error:.1e} at most", flush=True)
    sys.exit(0 if error <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
