"""Attention of a sequence that ranks share, beside what PyTorch users have on processors, and its own kernel.

    pip install ".[mpich,bench-attention]"
    mpiexec -bind-to core -n 2 python -m benchmarks.attention [--rounds 9] [--largest 8192]

or, on an emulated cluster, of which only roundelay's own algorithms are timed,

    python -m benchmarks.netlab --hosts 4 --delay 1ms --rate 300mbit --timeout 1800s -- \
        python -m benchmarks.attention --name netlab

The peers are those of `benchmarks.gloo_ring`; PyTorch is large, so it is in an extra of its own, and without
it they are left out. All results are compared before any is timed, up to 2048 tokens with dense attention in
float64. All ways are timed in turn, in changing order, together with the local kernel on what each rank sees
and a matrix product; each rank has one thread, and a sample counts as long as its slowest rank.

    for n in 1 2 4; do mpiexec -n $n python -m benchmarks.attention --memory; done

writes by how much the memory of a rank grows in a call, beyond its arguments.
"""

from __future__ import annotations

import os

# Before NumPy and PyTorch are loaded, which read them once. Other kernels than the processor's own are slow.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

import contextlib
import ctypes
import random
import re
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from mpi4py import MPI as PLAIN
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import roundelay
from benchmarks.allreduce import sample
from benchmarks.measure import library_key
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.collectives.attention.backward import Backward, Queries, Sums
from roundelay.collectives.attention.call import Options, read
from roundelay.collectives.attention.catalogue import ALGORITHMS
from roundelay.collectives.attention.sums import Sum

if TYPE_CHECKING:
    from benchmarks.gloo_ring import Peers

WORLD, RANK, SIZE = PLAIN.COMM_WORLD, PLAIN.COMM_WORLD.rank, PLAIN.COMM_WORLD.size
SAMPLE_SECONDS = 20e-3
HEADS, TOKENS, MOST_OVER_NETWORK = 8, (64, 256, 1024, 2048, 4096, 8192), 1024
# The most tokens of which all algorithms and other shapes are timed; then of gradients, and of the package,
# which is slow. All of all would take an hour.
MIDDLE, MOST_GRADIENTS, MOST_OF_PACKAGE, FEWEST = 2048, 4096, 4096, 3
# Tokens of all ranks that dense attention still has the memory for, and what is rounded differently.
DENSE, TOLERANCE = 2048, 1e-5
KERNEL, GEMM, GEMM_SIZE = "kernel", "gemm", 2048
# Whose memory is measured, and glibc's number for the size from which memory is given back when it is freed.
MEASURED, MMAP_THRESHOLD = ("ring", "all-gather", "ulysses", "rsa"), -3
Array = NDArray[Any]
Way = Callable[[], list[Array]]


class Row(NamedTuple):
    """One problem: the tokens on each rank, and whether gradients are computed too."""

    tokens: int
    causal: bool = False
    placement: str = "contiguous"
    backward: bool = False
    size: int = 64
    key_heads: int = HEADS

    @property
    def share(self) -> float:
        """Of all pairs of tokens, those that see each other."""
        return 0.5 if self.causal else 1.0

    @property
    def flops(self) -> float:
        """Floating-point operations of a rank: two products, and five more for the gradients."""
        scores = HEADS * self.tokens * self.tokens * SIZE * self.share
        return scores * self.size * (14 if self.backward else 4)

    @property
    def is_usual(self) -> bool:
        """Whether all algorithms are timed."""
        return self.tokens <= MIDDLE and (self.size, self.key_heads) == (64, HEADS)

    def samples(self, rounds: int) -> int:
        """How many samples are taken: fewer of long calls."""
        return min(rounds, max(FEWEST, rounds * 512 // self.tokens))

    @property
    def label(self) -> str:
        """Description in words."""
        mask = f"causal {self.placement}" if self.causal else "all"
        return f"{self.tokens}, D {self.size}, Hk {self.key_heads}, {mask}{', gradients' * self.backward}"


def rows(largest: int) -> list[Row]:
    """All problems, those with few tokens first."""
    masks = [(False, "contiguous"), (True, "zigzag"), (True, "contiguous")]
    found = []
    for tokens in TOKENS:
        for backward in (False, True) if tokens <= MOST_GRADIENTS else (False,):
            found += [Row(tokens, *mask, backward) for mask in masks[: 3 if tokens <= MIDDLE else 2]]
            if tokens == MIDDLE:
                found += [Row(tokens, *mask, backward, size=128) for mask in masks[:2]]
                found += [Row(tokens, *mask, backward, key_heads=2) for mask in masks[:2]]
    return [row for row in found if row.tokens <= largest]


# Ways to compute ----------------------------------------------------------------------------------


def whole_arrays(row: Row) -> dict[str, Array]:
    """Arrays q, k, v and dout of all ranks, (1, H, S, D)."""
    rng = np.random.default_rng(0)
    heads = {"q": HEADS, "k": row.key_heads, "v": row.key_heads, "dout": HEADS}
    return {
        name: rng.standard_normal((1, count, row.tokens * SIZE, row.size), np.float32)
        for name, count in heads.items()
    }


def mine(array: Array, row: Row, rank: int = RANK) -> Array:
    """Part of a rank, this one if not given."""
    return np.ascontiguousarray(roundelay.shard(array, rank, SIZE, row.placement, axis=2))


def options_of(row: Row) -> Options:
    """How roundelay is called."""
    return Options(row.causal, placement=row.placement, heads="BHSD")


def ways(row: Row, own: dict[str, Array], peers: Peers | None) -> dict[str, Way]:
    """All that is compared; "auto" comes first."""
    arrays = {name: own[name] for name in "qkv"}
    problem = read(MPI.COMM_WORLD, "attention", arrays, options_of(row)).problem
    able = [name for name, each in ALGORITHMS.items() if not each.refuses(problem, row.placement)]
    found = {name: way(name, row, own) for name in ("auto", *(able if row.is_usual else ()))}
    if peers is not None:
        found |= peers.ways(own, row.causal, row.placement, row.backward, row.tokens <= MOST_OF_PACKAGE)
    return found


def way(name: str, row: Row, own: dict[str, Array]) -> Way:
    """Attention by one of roundelay's algorithms."""
    q, k, v, dout = own.values()
    how: dict[str, Any] = {"causal": row.causal, "placement": row.placement, "heads": "BHSD"}

    def run() -> list[Array]:
        out, lse = roundelay.attention(q, k, v, MPI.COMM_WORLD, **how, algorithm=name)
        if not row.backward:
            return [out]
        comm = MPI.COMM_WORLD
        return [out, *roundelay.attention_backward(dout, q, k, v, out, lse, comm, **how, algorithm=name)]

    return run


def kernel(row: Row, own: dict[str, Array], whole: dict[str, Array]) -> Way:
    """The local kernel alone, on what this rank's queries see: keys of all ranks are there before."""
    q, k, v, dout = own.values()
    problem = read(MPI.COMM_WORLD, "attention", {"q": q, "k": k, "v": v}, options_of(row)).problem
    blocks = [
        (
            problem.block(mine(whole["k"], row, other), mine(whole["v"], row, other), other),
            problem.geometry.stripes(RANK, other),
        )
        for other in range(SIZE)
        if problem.sees(RANK, other)
    ]

    def run() -> list[Array]:
        state = problem.begin(q, RANK)
        for block, stripes in blocks:
            state.add(block, stripes)
        out, lse = state.result()
        if row.backward:
            queries = Queries(q, dout, lse, problem.geometry.tokens[RANK], out=out)
            sums = Sums(*(Sum(each, each.shape, each.dtype) for each in (q, k, v)))
            for block, stripes in blocks:
                Backward(problem.scale).add(queries, block, sums, stripes)
        return []

    return run


def gemm(rows: int, inner: int, columns: int) -> Way:
    """A matrix product of NumPy."""
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)

    def run() -> list[Array]:
        np.matmul(left, right, out=out)
        return []

    return run


# Whether it is right ------------------------------------------------------------------------------


def dense(row: Row, whole: dict[str, Array]) -> list[Array]:
    """Output and gradients of q, k and v for all ranks, in float64."""
    arrays = [array.astype(np.float64) for array in whole.values()]
    out, dq, dk, dv = (np.zeros_like(arrays[place]) for place in (0, 0, 1, 2))
    tokens, scale = row.tokens * SIZE, row.size**-0.5
    for head in range(HEADS):
        key_head = head * row.key_heads // HEADS
        q, k, v, dout = (
            each[0, at] for each, at in zip(arrays, (head, key_head, key_head, head), strict=True)
        )
        scores = scale * q @ k.T
        if row.causal:
            scores[np.triu_indices(tokens, 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[0, head] = weights @ v
        slopes = weights * (dout @ v.T - np.sum(dout * out[0, head], axis=1, keepdims=True))
        dq[0, head] = scale * slopes @ k
        dk[0, key_head] += scale * slopes.T @ q
        dv[0, key_head] += weights.T @ dout
    return [out, dq, dk, dv]


def check(
    row: Row, whole: dict[str, Array], compared: dict[str, Way], by: Callable[..., list[Array]]
) -> None:
    """Raise `AssertionError` on all ranks if a way is wrong; beside the first one if too large for dense."""
    if row.tokens * SIZE <= DENSE:
        expected = [mine(array, row) for array in by(row, whole)]
    else:
        expected = next(iter(compared.values()))()
    for name, run in compared.items():
        errors = [
            np.abs(found - right).max() / np.abs(right).max()
            for found, right in zip(run(), expected, strict=False)
        ]
        worst = WORLD.allreduce(float(max(errors)), PLAIN.MAX)
        if not worst < TOLERANCE:
            raise AssertionError(f"{name} is wrong by {worst:.1e} of the largest value: {row.label}")


# How long it takes --------------------------------------------------------------------------------


def in_turn(compared: dict[str, Way], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Samples of each way, round by round."""
    counts = {name: max(1, round(SAMPLE_SECONDS / sample(run, 1))) for name, run in compared.items()}
    samples: dict[str, list[float]] = {name: [] for name in compared}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(compared), len(compared)):
            samples[name].append(sample(compared[name], counts[name]))
    return {name: np.array(times) for name, times in samples.items()}


def measure(row: Row, rounds: int, peers: Peers | None) -> dict[str, Any]:
    """Check and time all ways for one problem."""
    whole = whole_arrays(row)
    own = {name: mine(array, row) for name, array in whole.items()}
    compared = ways(row, own, peers)
    check(row, whole, compared, dense)
    product = gemm(GEMM_SIZE, GEMM_SIZE, GEMM_SIZE)
    times = in_turn({**compared, KERNEL: kernel(row, own, whole), GEMM: product}, rounds)
    # The time for the same operations.
    best_kernel = times.pop(KERNEL)
    best_gemm = times.pop(GEMM) * (row.flops / (2 * GEMM_SIZE**3))

    def medians(figure: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> dict[str, float]:
        return {name: statistics.median(map(float, figure(each))) for name, each in times.items()}

    return {
        **row._asdict(),
        "seconds": medians(lambda each: each),
        "least": {name: float(each.min()) for name, each in times.items()},
        "gflops": medians(lambda each: row.flops / each / 1e9),
        "of kernel": medians(lambda each: best_kernel / each),
        "of gemm": medians(lambda each: best_gemm / each),
        "than auto": medians(lambda each: each / times["auto"]),
        KERNEL: row.flops / float(np.median(best_kernel)) / 1e9,
        GEMM: row.flops / float(np.median(best_gemm)) / 1e9,
    }


def products(rounds: int) -> dict[str, float]:
    """GF/s of matrix products, square and in the shapes of a tile, while all ranks compute them."""
    tiles = [shape for size in (64, 128) for shape in ((1024, size, 256), (1024, 256, size))]
    shapes = [(GEMM_SIZE, GEMM_SIZE, GEMM_SIZE), *tiles]
    times = in_turn({" x ".join(map(str, shape)): gemm(*shape) for shape in shapes}, rounds)
    flops = [2 * rows * inner * columns for rows, inner, columns in shapes]
    return {name: work / float(np.median(times[name])) / 1e9 for name, work in zip(times, flops, strict=True)}


# How much memory it takes -------------------------------------------------------------------------


def memory_in_use(what: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def measure_memory(peers: Peers | None) -> dict[str, Any]:
    """By how much each way grows beyond its arguments, which are there before."""
    # Otherwise a way would find the memory that the one before it has freed, and not grow.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 64 << 10)
    grown: dict[str, list[int]] = {}
    # The first call loads what is needed once.
    for row in (Row(64), Row(MIDDLE)):
        own = {name: mine(array, row) for name, array in whole_arrays(row).items()}
        compared = {name: way(name, row, own) for name in MEASURED}
        if peers is not None:
            compared |= peers.ways(own, row.causal, row.placement, row.backward)
        for name, run in compared.items():
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            before = memory_in_use("VmRSS")
            run()
            grown[name] = WORLD.allgather(memory_in_use("VmHWM") - before)
    arguments = sum(own[name].nbytes for name in "qkv")
    return {"ranks": SIZE, **row._asdict(), "arguments": arguments, "grown": grown}


# Output -------------------------------------------------------------------------------------------


def installed() -> dict[str, Any]:
    """Versions of the peers, and the matrix products' library with its kernels."""
    found: dict[str, Any] = {}
    for name in ("torch", "ring-attention-pytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return found
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {**found, "blas": [{key: pool.get(key) for key in BLAS_FIGURES} for pool in pools]}


BLAS_FIGURES = ("internal_api", "version", "architecture", "num_threads")


def connect_peers(wanted: bool) -> Peers | None:
    """The peers, if the ranks are on one machine and PyTorch is there."""
    if not wanted or not on_one_machine():
        return None
    try:
        from benchmarks.gloo_ring import Peers
    except ImportError as error:
        if RANK == 0:
            print(f"The peers are left out: {error}")
        return None
    return Peers(WORLD)


def on_one_machine() -> bool:
    """Whether all ranks share memory."""
    here = WORLD.Split_type(PLAIN.COMM_TYPE_SHARED)
    try:
        return bool(here.size == SIZE)
    finally:
        here.Free()


def show(results: list[dict[str, Any]]) -> None:
    """Print a line for each row: what "auto" reaches, and milliseconds of all."""
    names = list(dict.fromkeys(name for result in results for name in result["seconds"]))
    table = Table("tokens, sizes and mask", "GF/s", "of kernel", "of GEMM", *names)
    for result in results:
        row = Row(*(result[field] for field in Row._fields))
        rates = (result["gflops"]["auto"], 100 * result["of kernel"]["auto"], 100 * result["of gemm"]["auto"])
        times = (
            f"{1e3 * result['seconds'][name]:.2f}" if name in result["seconds"] else "" for name in names
        )
        table.add_row(
            row.label,
            *(f"{rate:.0f}{unit}" for rate, unit in zip(rates, ("", " %", " %"), strict=True)),
            *times,
        )
    Console(width=220).print(table)


@click.command()
@results_folder
@click.option("--rounds", default=9, show_default=True, help="Samples of each way.")
@click.option("--largest", type=int, default=None, help="Tokens of a rank: 8192, or 1024 on several hosts.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Whether peers are timed.")
@click.option("--memory", is_flag=True, help="Measure memory in place of time.")
@click.option("--name", default="node", show_default=True, help="Of the setting, in the name of the JSON.")
def main(rounds: int, largest: int | None, peers: bool, memory: bool, name: str, output: Path) -> None:
    """Measure all problems."""
    name = "memory" if memory else name
    file = output / f"attention-{name}-{SIZE}-{library_key()}.json"
    load, others = os.getloadavg()[0], connect_peers(peers)
    if memory:
        results = measure_memory(others)
        if RANK == 0:
            for each, grown in results["grown"].items():
                print(f"{SIZE} ranks, {each}: {max(grown) / 2**20:.1f} MiB more")
            write_json(file, {"installed": installed(), **results})
        if others is not None:
            others.close()
        return
    largest = largest or (TOKENS[-1] if on_one_machine() else MOST_OVER_NETWORK)
    rates, found = products(rounds), []
    for row in rows(largest):
        found.append(measure(row, row.samples(rounds), others))
        if RANK == 0:
            print(f"{row.label}: {1e3 * found[-1]['seconds']['auto']:.2f} ms", flush=True)
    if others is not None:
        others.close()
    if RANK == 0:
        show(found)
        about = {"ranks": SIZE, "installed": installed(), "load": load, "products": rates}
        write_json(file, {**about, "rows": found})


if __name__ == "__main__":
    main()
