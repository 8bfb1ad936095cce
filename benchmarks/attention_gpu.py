"""Attention on one GPU: the ring of one rank beside the fused kernel that it calls.

    python -m benchmarks.attention_gpu [--rounds 15]

Tensors of (1, H, S, D), without and with a causal mask, forward and with gradients. "kernel" is PyTorch's
operator itself, with the output that it needs for the gradients; "ours" is `roundelay.attention`, and for the
gradients also `attention_backward`, on the same tensors. Their results are compared first. "twice" times the
kernel again, under another name: how far it is from 1 is the noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

import roundelay
from benchmarks.measure import ratio, time_in_turn
from benchmarks.packages import require_cupy, require_torch
from benchmarks.results import results_folder, write_json
from roundelay import MPI
from roundelay.collectives.attention.flash import EFFICIENT, FLASH
from roundelay.terminal import track

if TYPE_CHECKING:
    import torch

HEADS = 16
# Tokens of the problems; of longer ones fewer samples are taken.
TOKENS = {"bfloat16": (1024, 4096, 16384, 65536), "float32": (1024, 4096, 16384)}
LONG, FEWEST = 1e12, 5
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


class Row(NamedTuple):
    """A problem."""

    dtype: str
    size: int
    tokens: int
    causal: bool
    backward: bool

    @property
    def flops(self) -> float:
        """Floating-point operations: two products, and five more for the gradients."""
        scores = HEADS * self.tokens**2 * (0.5 if self.causal else 1)
        return scores * self.size * (14 if self.backward else 4)

    @property
    def label(self) -> str:
        """Description in words."""
        options = ", causal" * self.causal + ", gradients" * self.backward
        return f"{self.dtype}, D {self.size}, {self.tokens}{options}"


def ways(row: Row) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """The kernel and ours; each returns all that it found."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    shape = 1, HEADS, row.tokens, row.size
    q, k, v, dout = (
        torch.randn(shape, generator=generator, device="cuda", dtype=getattr(torch, row.dtype))
        for _ in range(4)
    )
    operators = FLASH if row.dtype == "bfloat16" else EFFICIENT
    scale = row.size**-0.5
    options = {"causal": row.causal, "heads": "BHSD", "algorithm": "ring"}

    def kernel() -> list[torch.Tensor]:
        out, lse = operators.forward(q, k, v, scale, row.causal)
        found = [out]
        if row.backward:
            found += operators.backward(dout, q, k, v, out, lse, scale, row.causal)
        torch.cuda.synchronize()
        return found

    def ours() -> list[torch.Tensor]:
        out, lse = roundelay.attention(q, k, v, MPI.COMM_SELF, **options)
        found = [out]
        if row.backward:
            found += roundelay.attention_backward(dout, q, k, v, out, lse, MPI.COMM_SELF, **options)
        torch.cuda.synchronize()
        return found

    return {"kernel": kernel, "ours": ours, "twice": kernel}


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """Check and time one problem."""
    import torch

    calls = ways(row)
    for right, found in zip(calls["kernel"](), calls["ours"](), strict=True):
        error = torch.linalg.vector_norm(found.double() - right.double()) / torch.linalg.vector_norm(
            right.double()
        )
        if not error <= TOLERANCES[row.dtype]:
            raise SystemExit(f"{row.label}: ours differs from the kernel by {error:.1e} of its norm")
    samples = time_in_turn(calls, max(FEWEST, min(rounds, int(rounds * LONG / row.flops))))
    return {
        "dtype": row.dtype,
        "size": row.size,
        "tokens": row.tokens,
        "causal": row.causal,
        "gradients": row.backward,
        "milliseconds": {name: 1e3 * statistics.median(each) for name, each in samples.items()},
        "share of the kernel": ratio(samples, "kernel", "ours"),
        "noise": ratio(samples, "kernel", "twice"),
        "tflops": row.flops / statistics.median(samples["ours"]) / 1e12,
    }


@click.command()
@results_folder
@click.option("--rounds", default=15, show_default=True, help="Samples of each way.")
def main(rounds: int, output: Path) -> None:
    """Time attention on a GPU, and write the results as JSON."""
    torch, _ = require_torch(), require_cupy()
    problems = [
        Row(dtype, *problem)
        for dtype, tokens in TOKENS.items()
        for problem in product((64, 128), tokens, (False, True), (False, True))
    ]
    results = [measure(problem, rounds) for problem in track(problems, "problems")]
    gpu = torch.cuda.get_device_name()
    table = Table(title=f"{gpu}, PyTorch {torch.__version__}, one rank")
    for column in ("problem", "kernel [ms]", "ours [ms]", "share of the kernel", "noise", "TFLOP/s"):
        table.add_column(column, justify="left" if column == "problem" else "right")
    for problem, each in zip(problems, results, strict=True):
        kernel, ours = (each["milliseconds"][name] for name in ("kernel", "ours"))
        shares = f"{each['share of the kernel']:.3f}", f"{each['noise']:.3f}"
        table.add_row(problem.label, f"{kernel:.3f}", f"{ours:.3f}", *shares, f"{each['tflops']:.0f}")
    Console(width=120).print(table)
    write_json(output / "attention-gpu.json", {"gpu": gpu, "torch": torch.__version__, "rows": results})


if __name__ == "__main__":
    main()
