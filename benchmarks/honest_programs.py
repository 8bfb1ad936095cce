"""Programs without a fault, of which the monitor should have nothing to say; ranks of `benchmarks.faults`.

    mpiexec -n 4 python -m benchmarks.honest_programs random 0 100
    mpiexec -n 4 python -m benchmarks.honest_programs clean 60

"random" runs programs drawn from a seed each, "clean" works in all the ways that look like a hang: compute
phases, unequal work, a server that waits for whoever comes, checkpoints, polling.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.random_programs import run_random
from roundelay import MPI

WORLD = MPI.COMM_WORLD


def compute(seconds: float) -> None:
    """Keep a core busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        np.linalg.norm(np.ones(1000))


def unequal(random: Random) -> None:
    """Steps in which each rank has another amount of work, and each time another."""
    own = Random(f"{random.random()} {WORLD.rank}")
    for _ in range(20):
        compute(own.choice([0.01, 0.05, 0.2]))
        WORLD.Allreduce(np.ones(10), np.empty(10))


def long_phase(random: Random) -> None:
    """A phase in which nobody communicates."""
    compute(random.uniform(4, 8))
    WORLD.Barrier()


def alone(random: Random) -> None:
    """One rank computes, or lets another program compute, and all others wait."""
    seconds, root = random.uniform(4, 8), random.randrange(WORLD.size)
    is_own = random.random() < 0.5
    if WORLD.rank == root and is_own:
        compute(seconds)
    elif WORLD.rank == root:
        code = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    WORLD.Bcast(np.ones(10), root)


def rare_questions(random: Random) -> None:
    """A server that waits for whoever comes, and workers that come seldom."""
    own = Random(f"{random.random()} {WORLD.rank}")
    answer, status = np.empty(1), MPI.Status()
    if WORLD.rank == 0:
        for _ in range(3 * (WORLD.size - 1)):
            WORLD.Recv(answer, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
            WORLD.Send(answer, status.source, 1)
    else:
        for _ in range(3):
            compute(own.uniform(0.5, 3))
            WORLD.Send(np.ones(1), 0, WORLD.rank)
            WORLD.Recv(answer, 0, 1)
    WORLD.Barrier()


def checkpoint(random: Random) -> None:
    """All ranks write a file each, or one of them writes for all."""
    is_shared = random.random() < 0.5
    block: Any = np.ones((8 << 20) // 8)
    whole: Any = np.empty((WORLD.size, block.size)) if is_shared and WORLD.rank == 0 else None
    if is_shared:
        WORLD.Gather(block, whole)
    if not is_shared or WORLD.rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(4):
                with Path(folder, str(number)).open("wb") as file:
                    file.write(block if whole is None else whole)
                    os.fsync(file.fileno())
    WORLD.Barrier()


def polling(random: Random) -> None:
    """One rank looks whether something has come, while another one computes."""
    by_test, seconds = random.random() < 0.5, random.uniform(3, 6)
    if WORLD.rank == 0 and by_test:
        request = WORLD.Irecv(np.empty(1), 1, 2)
        while not request.Test():
            time.sleep(0.001)
    elif WORLD.rank == 0:
        while not WORLD.Iprobe(1, 2):
            pass
        WORLD.Recv(np.empty(1), 1, 2)
    elif WORLD.rank == 1:
        compute(seconds)
        WORLD.Send(np.ones(1), 0, 2)
    WORLD.Barrier()


def some_programs(random: Random) -> None:
    """Random programs."""
    run_random(random.randrange(1 << 20), 20)


KINDS = [unequal, long_phase, alone, rare_questions, checkpoint, polling, some_programs]


def run_clean(seconds: float) -> None:
    """Work for so long."""
    random = Random(0)
    end = time.monotonic() + seconds
    turn = 0
    while WORLD.bcast(time.monotonic() < end):
        KINDS[turn % len(KINDS)](random)
        turn += 1


def main(kind: str, *numbers: str) -> None:
    """Be a rank."""
    if kind == "random":
        run_random(*map(int, numbers))
    else:
        run_clean(float(numbers[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
