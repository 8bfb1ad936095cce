"""A soak: random calls, each from its number alone, until enough was met on all ranks together."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import count as count_up

from mpi4py import MPI

from tests.limit import Alarm

# Makes the call of a name, a seed and a number; gives how much was met, and what differs.
Examine = Callable[[str, int, int], tuple[int, str | None]]


def read_options(
    argv: list[str], what: str, description: str | None, names: Sequence[str]
) -> argparse.Namespace:
    """Read the command line of ``python -m tests.test_random_WHAT``."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.test_random_{what}", description=description)
    parser.add_argument(
        f"--{what}", dest="most", type=int, default=10_000, help="on all ranks together (default 10000)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="make just one of the calls")
    parser.add_argument("--call", choices=names, help="make calls of this name only")
    return parser.parse_args(argv)


def soak(
    comm: MPI.Intracomm, what: str, names: Sequence[str], options: argparse.Namespace, examine: Examine
) -> int:
    """Make calls until `options.most` were met on all ranks together; print what differs.

    Returns
    -------
    int
        The status of the process: 1 if anything differs.
    """
    alarm = Alarm(f"rank {comm.rank}", None)
    total, wrong = 0, 0
    for index in count_up(options.only or 0):
        name = options.call or names[index % len(names)]
        alarm.set(f"call {index} of {name}")
        met, message = examine(name, options.seed, index)
        total, wrong = total + met, wrong + bool(message)
        if message:
            print(f"rank {comm.rank} of {comm.size}: {message}", flush=True)
        if options.only is not None or (index % 100 == 0 and comm.allreduce(total) >= options.most):
            break
    alarm.clear()
    met, failed = comm.allreduce(total), comm.allreduce(wrong)
    if comm.rank == 0:
        print(f"{met} {what} in {index + 1} calls on {comm.size} ranks, seed {options.seed}: {failed} wrong")
    return 1 if failed else 0
