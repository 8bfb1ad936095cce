"""Workers that do not look at messages, and trainings that go on beside them.

    mpiexec -n 4 python -m tests.straggling soak --kind stop --late 2 --seconds 30

trains while the last workers are stopped for so long. Other jobs than ``soak`` are tests of how a job
ends.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from roundelay import MPI, coding

KINDS = ("sleep", "burn", "stop", "die")
ROWS = np.random.default_rng(0).standard_normal((24, 4))
# Of a soak: parameters, and rounds that there must be at least.
SIZE, AWAY = 8192, 300
MOST_ROUNDS = 200_000
# What becomes of a training that loses a worker.
JOBS = ("tolerate", "replan", "uncoded", "turns")
PAGE = os.sysconf("SC_PAGE_SIZE")


def load(partition: coding.Partition) -> Any:
    """Rows of a partition."""
    return ROWS[partition.rows(len(ROWS))]


def slope(weights: Any, rows: Any) -> Any:
    """A gradient that differs with the weights and with the rows."""
    return rows.sum() * weights + rows[:, 0].sum()


def direct(weights: Any, scheme: coding.Scheme) -> Any:
    """The sum over all data."""
    return sum(slope(weights, load(each)) for each in scheme.partitions)


def start(script: str) -> None:
    """Run a script of the shell beside this process."""
    subprocess.run(["/bin/sh", "-c", f"({script}) >/dev/null 2>&1 &"], check=True)


def be_away(kind: str, until: Path) -> None:
    """Be killed; or look at nothing until a file is there; or let another process stop this one till then."""
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        pid = os.getpid()
        wait = f"while [ ! -e '{until}' ] && kill -0 {pid}; do sleep 0.02; done"
        script = f"sleep 0.0{pid % 10}; kill -STOP {pid}; {wait}; kill -CONT {pid}"
        start(script)
        return
    while not until.exists():
        if kind == "sleep":
            time.sleep(0.02)
        else:
            # One call into C, which does not give up the interpreter's lock.
            sum(range(1_000_000))


@dataclass
class Straggling:
    """Some ranks that are away from one of their gradients on, until they are let come back.

    `let_back` is of use on the master, which is told how it goes by the rounds that it counts.
    """

    comm: Any
    kind: str
    late: tuple[int, ...]
    after: int = 20
    folder: Path = field(init=False)
    calls: int = 0

    def __post_init__(self) -> None:
        self.folder = Path(self.comm.bcast(tempfile.mkdtemp() if self.comm.rank == 0 else None))

    @property
    def until(self) -> Path:
        """The file that they wait for."""
        return self.folder / "back"

    def let_back(self) -> None:
        """Let them come back."""
        self.until.touch()

    def let_back_in(self, seconds: float) -> None:
        """Let them come back after some time, whatever this rank does."""
        start(f"sleep {seconds}; touch '{self.until}'")

    @contextmanager
    def over(self) -> Iterator[None]:
        """Let them come back once this rank is done."""
        try:
            yield
        finally:
            self.let_back()

    def gradient(self, weights: Any, rows: Any) -> Any:
        """The gradient of a worker, who may go away first."""
        self.calls += 1
        if self.calls == self.after and self.comm.rank in self.late:
            be_away(self.kind, self.until)
        return slope(weights, rows)


@dataclass
class Account:
    """Counts of the master: rounds, those without the late ranks, the longest, who came back."""

    rounds: int = 0
    without: int = 0
    longest: float = 0.0
    grown_bytes: int = 0
    grown_files: int = 0
    is_back: bool = False


def resources() -> tuple[int, int]:
    """Bytes that are resident, and open files."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return resident, len(list(Path("/proc/self/fd").iterdir()))


def train(
    straggling: Straggling,
    scheme: coding.Scheme,
    away: int,
    size: int = 4,
    seconds: float = 0.0,
    **options: Any,
) -> Account:
    """Train until the late ranks were away for some rounds and seconds, and take part again.

    Each gradient is compared with the direct one.
    """
    comm, account = straggling.comm, Account()
    models = tuple(np.full(size, 1.0 + stream) for stream in range(scheme.delay + 1))
    coded = coding.CodedGradients(comm, scheme, straggling.gradient, load, models, **options)
    last = since = time.perf_counter()
    before, back = resources(), set[int]()
    for total, info in coded.rounds(MOST_ROUNDS):
        weights = models[info.stream]
        assert_allclose(total, direct(weights, scheme), rtol=1e-6, atol=1e-6)
        weights *= 0.999
        account.rounds += 1
        account.longest = max(account.longest, time.perf_counter() - last)
        if set(straggling.late).issubset(info.missing):
            account.without += 1
        if account.without <= away // 4:
            before, since = resources(), last
        elif account.without >= away and last - since >= seconds and not straggling.until.exists():
            now = resources()
            account.grown_bytes, account.grown_files = now[0] - before[0], now[1] - before[1]
            straggling.let_back()
        if straggling.until.exists():
            back.update(info.computed)
            if back.issuperset(straggling.late):
                account.is_back = True
                break
        last = time.perf_counter()
    return account


# Jobs, whose end is looked at from outside -------------------------------------------------------


def soak(comm: Any, kind: str, late: tuple[int, ...], seconds: float, times: int) -> None:
    """Train with stragglers that come back after some seconds, again and again."""
    scheme = coding.scheme("gc", comm.size - 1, stragglers=len(late))
    for _ in range(times):
        account = train(Straggling(comm, kind, late), scheme, AWAY, size=SIZE, seconds=seconds)
        if comm.rank == 0:
            print(json.dumps(vars(account)), flush=True)


def end(comm: Any, how: str, lost_after: float) -> None:
    """End a training, by its end or an error, while rank 1 is away for some seconds or for good."""
    straggling, weights = (
        Straggling(comm, "stop" if how in ("gone", "lost", "finalize") else "sleep", (1,)),
        np.ones(4),
    )
    if comm.rank == 1 and how in ("ends", "raise"):
        straggling.let_back_in(3)
    scheme = coding.scheme("gc", comm.size - 1, stragglers=int(how != "lost"))
    coded = coding.CodedGradients(comm, scheme, straggling.gradient, load, weights, lost_after=lost_after)
    for total, info in coded.rounds(200):
        assert_allclose(total, direct(weights, scheme), rtol=1e-6)
        if how == "raise" and info.job == 100:
            raise ZeroDivisionError
    print(f"rank {comm.rank} has come to the end", flush=True)
    if how == "finalize":
        MPI.Finalize()


def lose(comm: Any, kind: str, job: str) -> None:
    """Go on without rank 1, which is gone for as long as the training runs, or end with its name."""
    straggling, weights, workers = Straggling(comm, kind, (1,)), np.ones(4), comm.size - (job != "turns")
    scheme = coding.scheme("gc", workers, stragglers=int(job == "tolerate"))
    coded = coding.CodedGradients(
        comm,
        scheme,
        straggling.gradient,
        load,
        weights,
        replan=(lambda left: coding.scheme("uncoded", left)) if job == "replan" else None,
        master=None if job == "turns" else 0,
    )
    lost: set[int] = set()
    begun = time.perf_counter()
    with straggling.over():
        try:
            for total, info in coded.rounds(200):
                lost.update(info.lost)
                left = coding.scheme("uncoded", workers - 1) if job == "replan" and lost else scheme
                assert_allclose(total, direct(weights, left), rtol=1e-6)
            print(f"rank {comm.rank} went on without {sorted(lost)}", flush=True)
        except coding.TooFewWorkers as error:
            print(f"rank {comm.rank} ended: {error}", flush=True)
        print(f"rank {comm.rank} in {time.perf_counter() - begun:.1f} s", flush=True)


def main() -> None:
    """Run one job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=(*JOBS, "soak", "ends", "gone", "finalize", "raise", "lost"))
    parser.add_argument("--kind", choices=KINDS, default="stop")
    parser.add_argument("--late", type=int, default=1, help="how many workers")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--sent", action="store_true", help="show nothing in memory")
    options = parser.parse_args()
    if options.sent:
        del os.memfd_create
    comm = MPI.COMM_WORLD
    if options.job == "soak":
        late = tuple(range(comm.size - options.late, comm.size))
        soak(comm, options.kind, late, options.seconds, options.times)
    elif options.job in JOBS:
        lose(comm, options.kind, options.job)
    else:
        end(comm, options.job, options.seconds)


if __name__ == "__main__":
    main()
