"""The verdicts on jobs that never run: hangs of all kinds, slow ranks and links, and programs without fault.

``python -m tests.test_verdicts --programs 10000 --cases 300`` looks at that many random correct programs, and
at that many seeded repeats of each case whose rate counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time

import numpy as np
import pytest

from roundelay.comm.monitor.judge import Judge
from tests.random_jobs import wrong_verdicts
from tests.simulated_job import Job
from tests.simulated_ranks import ANY, FUNCTIONS, WORLD
from tests.test_slow_links import HOW, PATTERNS, rate_of_slow_links
from tests.timed_jobs import collective_snapshots, collective_times, judged, work_of

ANY_SOURCE = -2
# Seeded repeats of a case whose rate is tested; the command has more.
CASES = 10


def watch(job, seconds, interval=0.15, judge=None):
    """Give the verdicts within some time, each with the moment when it came."""
    judge = judge or Judge(job.size, FUNCTIONS)
    found = []
    end = job.now + seconds
    while job.now < end and not job.is_over:
        job.run(job.now + interval)
        found += [(job.now, verdict) for verdict in judge.look(job.snapshot())]
    for _, verdict in found:
        json.dumps(verdict.evidence)
        assert len(verdict.hosts) == len(verdict.ranks)
    return found


def only(found):
    """The only verdict, and when it came."""
    assert len(found) == 1, [verdict.sentence for _, verdict in found]
    return found[0]


def allreduces(work=0.01, steps=1000, before=None):
    """Steps with an Allreduce, and something else in one of them."""

    def program():
        for step in range(steps):
            if before is not None and step == 20:
                yield from before()
            yield "compute", work
            yield "collective", "Allreduce", WORLD, 8

    return program()


def hang(*how):
    """Do one thing, for ever."""

    def act():
        yield how

    return act


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_a_rank_that_sleeps_for_ever(size):
    job = Job([allreduces(before=hang("stop") if rank == 1 else None) for rank in range(size)])
    when, verdict = only(watch(job, 10))
    assert verdict.kind == "stuck"
    assert verdict.ranks == (1,)
    assert when < 0.2 + 1.5
    assert verdict.witness != 1
    assert "rank 1 is at {1}, outside MPI, since 1." in verdict.sentence
    if size == 4:
        assert verdict.sentence.startswith("3 of 4 ranks wait in Allreduce #21 at {0}; ")


def test_a_rank_that_computes_is_given_ten_minutes():
    job = Job([allreduces(before=hang("stop", "running") if rank == 2 else None) for rank in range(4)])
    judge = Judge(4, FUNCTIONS)
    assert watch(job, 590, 0.5, judge) == []
    _, verdict = only(watch(job, 30, 0.5, judge))
    assert (verdict.kind, verdict.ranks) == ("stuck", (2,))


def test_a_long_compute_phase_and_a_disk():
    def program(rank):
        for _ in range(3):
            yield "compute", 100.0 if rank == 1 else 0.1
            yield "collective", "Barrier"

    assert watch(Job([program(rank) for rank in range(3)]), 400, 0.5) == []


def test_a_rank_that_is_idle_while_nobody_waits():
    def program(rank):
        yield "compute", 0.1
        yield ("stop",) if rank == 0 else ("compute", 100.0)

    assert watch(Job([program(rank) for rank in range(3)]), 60) == []


@pytest.mark.parametrize("inside", [False, True])
def test_a_rank_that_is_stopped(inside):
    job = Job([allreduces(work=0.05 if (rank == 2) == inside else 0.4) for rank in range(4)])
    judge = Judge(4, FUNCTIONS)
    assert watch(job, 4.1, judge=judge) == []
    assert (job.ranks[2].call is not None) == inside
    begin = job.now
    job.stop(2)
    when, verdict = only(watch(job, 10, judge=judge))
    assert (verdict.kind, verdict.ranks) == ("stuck", (2,))
    assert "stopped by a signal" in verdict.sentence
    assert when - begin < 2


@pytest.mark.parametrize("state", ["stopped", "idle"])
def test_a_rank_for_whose_messages_others_only_look(state):
    """One that is idle may rightly be so."""

    def program(rank):
        yield "compute", 0.1
        yield "poll", ANY_SOURCE if rank == 0 else 0

    job, judge = Job([program(rank) for rank in range(4)]), Judge(4, FUNCTIONS)
    assert watch(job, 5, judge=judge) == []
    job.stop(2, state)
    found = watch(job, 10, judge=judge)
    if state == "stopped":
        when, verdict = only(found)
        assert (verdict.kind, verdict.ranks, verdict.witness) == ("stuck", (2,), 0)
        assert verdict.sentence.startswith(
            "rank 0 waits in Iprobe from any rank (tag 0) at {0}, and ranks 1 and 3"
        )
        assert when < 5 + 1.5
    else:
        assert found == []


def test_a_debugger_and_a_pause_of_all():
    job = Job([allreduces(before=hang("stop", "traced") if rank == 2 else None) for rank in range(4)])
    assert watch(job, 700, 0.5) == []
    job = Job([allreduces(work=0.3) for _ in range(4)])
    judge = Judge(4, FUNCTIONS)
    watch(job, 5, judge=judge)
    job.freeze("stopped")
    assert watch(job, 20, judge=judge) == []
    job.freeze("")
    assert watch(job, 20, judge=judge) == []


def test_a_suspended_machine():
    def program(rank):
        for _ in range(100):
            yield "sleep", 0.8 if rank == 1 else 0.1
            yield "collective", "Allreduce", WORLD, 8

    job, judge = Job([program(rank) for rank in range(3)]), Judge(3, FUNCTIONS)
    watch(job, 5.3, judge=judge)
    job.freeze("idle")
    job.now += 3600
    job.freeze("")
    assert watch(job, 20, judge=judge) == []


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_chain_of_receives(length):
    """Each waits for the next, and the last is idle outside MPI."""

    def program(rank):
        yield "compute", 0.1
        yield ("recv", rank + 1, 3) if rank < length - 1 else ("stop",)

    when, verdict = only(watch(Job([program(rank) for rank in range(length)]), 10))
    assert (verdict.kind, verdict.ranks) == ("stuck", (length - 1,))
    assert f"Recv from {length - 1} (tag 3)" in verdict.sentence
    assert verdict.evidence["waiting"] == list(range(length - 1))
    assert when < 1.6


def test_a_rank_that_goes_on_and_hangs_again():
    def program(rank):
        for pause in (3.0, 1.2, 60.0):
            yield "compute", 1.0
            if rank == 0:
                yield "sleep", pause
            yield "collective", "Barrier"

    found = watch(Job([program(rank) for rank in range(3)]), 40)
    # It was a false alarm: twice as much is waited for the same rank then.
    assert [verdict.kind for _, verdict in found] == ["stuck", "stuck"]
    assert found[0][0] < 2.6
    assert 12 < found[1][0] < 16


def test_a_rank_that_dies():
    job = Job([allreduces() for _ in range(4)])
    judge = Judge(4, FUNCTIONS)
    watch(job, 1, judge=judge)
    job.stop(3, "dead")
    when, verdict = only(watch(job, 10, judge=judge))
    assert (verdict.kind, verdict.ranks) == ("dead", (3,))
    assert when < 1.5


def test_a_collective_that_one_has_skipped():
    job = Job([allreduces(steps=50 if rank else 49) for rank in range(4)])
    when, verdict = only(watch(job, 10))
    assert (verdict.kind, verdict.ranks) == ("stuck", (0,))
    assert "rank 0 has finished; rank 1 still waits for it in Allreduce #50" in verdict.sentence
    assert when < 0.8 + 2


def test_a_receive_from_a_rank_that_has_ended():
    def program(rank):
        if rank == 0:
            yield "recv", 1
        else:
            yield ("exit",)

    _, verdict = only(watch(Job([program(rank) for rank in range(2)]), 10))
    assert (verdict.kind, verdict.ranks) == ("stuck", (1,))
    assert "rank 1 has finished; rank 0 still waits for it in Recv from 1 (tag 0) at {0}" in verdict.sentence


def ring_of(kind, size):
    """Programs that wait in a circle."""

    def program(rank):
        right, left = (rank + 1) % size, (rank - 1) % size
        yield "compute", 0.1
        if kind == "Recv":
            yield "recv", left, rank
        elif kind == "Probe":
            yield "recv", left, rank, WORLD, "Probe"
        elif kind == "Ssend":
            yield "send", right, 0, 8, WORLD, "Ssend"
        elif kind == "Send":
            yield "send", right, 0, 1 << 20
        elif kind == "Waitall":
            request = yield "irecv", left, 5
            yield "waitall", [request]
        elif kind == "Waitany":
            requests = []
            for peer in {left, right}:
                requests.append((yield "irecv", peer, 5))
            yield "waitany", requests
        elif kind == "Issend":
            request = yield "isend", right, 0, 8, WORLD, "Issend"
            yield "waitall", [request]
        elif kind == "ANY_SOURCE":
            yield "recv", ANY_SOURCE, 1
        elif kind == "ANY_TAG":
            yield "recv", left, ANY
        elif kind == "wrong tag":
            yield "send", right, 1
            yield "recv", left, 2

    return [program(rank) for rank in range(size)]


@pytest.mark.parametrize("size", range(2, 9))
@pytest.mark.parametrize(
    "kind",
    ["Recv", "Probe", "Ssend", "Send", "Waitall", "Waitany", "Issend", "ANY_SOURCE", "ANY_TAG", "wrong tag"],
)
def test_deadlock(kind, size):
    when, verdict = only(watch(Job(ring_of(kind, size)), 10))
    assert verdict.kind == "deadlock"
    assert verdict.ranks == tuple(range(size))
    assert when < 1.6
    cycle = verdict.evidence["cycle"]
    if kind not in ("Waitany", "ANY_SOURCE"):
        assert len(cycle) == size
    if kind == "Recv" and size == 2:
        assert verdict.sentence == (
            "deadlock: rank 0 in Recv from 1 (tag 0) at {0} -> rank 1 in Recv from 0 (tag 1) at {1}"
        )
        assert cycle[1] == {"rank": 1, "call": "Recv from 0 (tag 1)", "waits_for": 0, "tag": 1}


def test_deadlock_with_others_behind():
    def program(rank):
        yield "compute", 0.1
        if rank < 2:
            yield "recv", 1 - rank
        yield "collective", "Barrier"

    _, verdict = only(watch(Job([program(rank) for rank in range(4)]), 10))
    assert (verdict.kind, verdict.ranks) == ("deadlock", (0, 1))
    assert verdict.evidence["waiting"] == [2, 3]


def test_deadlock_of_a_message_and_a_collective():
    def program(rank):
        yield "compute", 0.1
        if rank == 0:
            yield "recv", 1
        yield "collective", "Allreduce", WORLD, 8
        if rank == 1:
            yield "send", 0

    _, verdict = only(watch(Job([program(rank) for rank in range(3)]), 10))
    assert verdict.kind == "deadlock"
    assert set(verdict.ranks) >= {0, 1}
    assert "Allreduce #1, which rank 0 has not begun" in verdict.sentence


def test_deadlock_of_two_communicators():
    def program(rank):
        yield "compute", 0.1
        for comm in (2, 3) if rank == 0 else (3, 2):
            yield "collective", "Barrier", comm

    job = Job([program(rank) for rank in range(2)], {2: (0, 1), 3: (0, 1)})
    _, verdict = only(watch(job, 10))
    assert (verdict.kind, verdict.ranks) == ("deadlock", (0, 1))


def test_a_part_of_the_job_may_deadlock_while_others_compute():
    def program(rank):
        if rank < 3:
            yield "recv", (rank + 1) % 3
        for _ in range(1000):
            yield "compute", 0.05
            yield "collective", "Allreduce", 2, 8

    job = Job([program(rank) for rank in range(5)], {2: (3, 4)})
    _, verdict = only(watch(job, 10))
    assert (verdict.kind, verdict.ranks) == ("deadlock", (0, 1, 2))


def test_a_short_message_of_a_sendrecv_needs_no_receiver():
    """Rank 0 waits for what it receives, and rank 1 for another message than the one that was sent."""

    def program(rank):
        if rank == 0:
            yield "sendrecv", 1, 2, 3
            yield "send", 1, 4
        elif rank == 1:
            yield "recv", 0, 4
            yield "recv", 0, 3
        else:
            yield "compute", 20.0
            yield "send", 0, 3

    assert watch(Job([program(rank) for rank in range(3)]), 30) == []


def test_servers_wait_for_clients_that_are_idle():
    def program(rank):
        if rank == 0:
            while True:
                yield "recv", ANY_SOURCE, 1
        yield "compute", 0.1
        yield ("stop",)

    assert watch(Job([program(rank) for rank in range(4)]), 60) == []


def test_a_master_and_a_worker_that_hangs():
    def program(rank):
        if rank == 0:
            for _ in range(3):
                source = yield "recv", ANY_SOURCE, 1
            for source in (1, 2, 3):
                yield "send", source, 2
        yield "compute", 0.1
        if rank == 3:
            yield ("stop",)
        yield "send", 0, 1
        yield "recv", 0, 2

    _, verdict = only(watch(Job([program(rank) for rank in range(4)]), 10))
    assert (verdict.kind, verdict.ranks) == ("stuck", (3,))


def test_a_collective_that_does_not_end():
    job = Job([allreduces() for _ in range(4)])
    judge = Judge(4, FUNCTIONS)
    watch(job, 1, judge=judge)
    # The network is gone.
    job.delay = lambda: 1e9
    when, verdict = only(watch(job, 10, judge=judge))
    assert (verdict.kind, verdict.ranks) == ("stuck", (0, 1, 2, 3))
    assert "all 4 ranks have begun Allreduce" in verdict.sentence
    assert when < 1 + 3


def test_a_message_that_does_not_arrive():
    def program(rank):
        for _ in range(1000):
            yield "compute", 0.01
            if rank == 0:
                yield "send", 1, 0, 1 << 20
            else:
                yield "recv", 0, 0

    job = Job([program(rank) for rank in range(2)])
    judge = Judge(2, FUNCTIONS)
    watch(job, 1, judge=judge)
    job.delay = lambda: 1e9
    _, verdict = only(watch(job, 10, judge=judge))
    assert (verdict.kind, verdict.ranks) == ("stuck", (0, 1))
    assert "link" in verdict.sentence


@pytest.mark.parametrize(
    ("calls", "culprits", "words"),
    [
        (
            {2: ("Reduce", WORLD, 8, 0)},
            (2,),
            "Bcast of 8 bytes from root 0 on ranks 0, 1 and 3 at {3}, and Reduce",
        ),
        ({2: ("Bcast", WORLD, 16, 0)}, (2,), "and Bcast of 16 bytes from root 0 on rank 2, now at {2}"),
        ({1: ("Bcast", WORLD, 8, 1)}, (1,), "and Bcast of 8 bytes from root 1 on rank 1, now at {1}"),
        (
            {1: ("Bcast", WORLD, 8, 0, 7)},
            (1,),
            "Bcast of 8 bytes from root 0 with another operation on rank 1, now at {1}",
        ),
        (
            {0: ("Bcast", WORLD, 8, 1), 1: ("Bcast", WORLD, 8, 1, 7)},
            (0, 1),
            "root 1 on rank 0, now at {0}, and Bcast of 8 bytes from root 1 with another operation on rank 1",
        ),
        ({0: ("Barrier",), 1: ("Barrier",)}, (0, 1, 2, 3), "Barrier on ranks 0 and 1 at {0}, and Bcast"),
    ],
)
def test_mismatch(calls, culprits, words):
    def program(rank):
        for step in range(30):
            yield "compute", 0.01
            own = calls.get(rank) if step == 11 else None
            yield ("collective", *(own or ("Bcast", WORLD, 8, 0)))
        yield "collective", "Barrier"

    found = watch(Job([program(rank) for rank in range(4)]), 10)
    _, verdict = only(found)
    assert (verdict.kind, verdict.ranks) == ("mismatch", culprits)
    assert verdict.sentence.startswith("mismatch: collective 12 of a communicator of 4 ranks is ")
    assert words in verdict.sentence
    calls = verdict.evidence["calls"]
    assert not {calls[str(rank)] for rank in culprits} & {
        calls[str(rank)] for rank in set(range(4)) - set(culprits)
    }
    assert found[0][0] < 1


def test_mismatch_of_calls_that_one_rank_makes_long_after():
    def program(rank):
        yield "compute", 0.01 + 5.0 * (rank == 2)
        yield "collective", "Reduce", WORLD, 8 + rank // 2, 2
        yield "compute", 10.0

    _, verdict = only(watch(Job([program(rank) for rank in range(3)]), 10))
    assert (verdict.kind, verdict.ranks) == ("mismatch", (2,))


def test_a_mismatch_is_decided_by_ranks_that_come_a_little_later():
    def program(rank):
        yield "compute", 0.01 + 0.25 * (rank > 1)
        yield "collective", "Allreduce", WORLD, 16 if rank == 1 else 8
        yield "compute", 10.0

    _, verdict = only(watch(Job([program(rank) for rank in range(4)]), 10))
    assert (verdict.kind, verdict.ranks) == ("mismatch", (1,))


def test_leaks():
    def program(rank):
        if rank == 0:
            for _ in range(3):
                yield "send", 1, 4
        if rank == 2:
            yield "irecv", 0, 9
        yield "compute", 0.1
        yield "collective", "Barrier"

    _, verdict = only(watch(Job([program(rank) for rank in range(3)]), 10))
    assert (verdict.kind, verdict.ranks) == ("leak", (0, 1, 2))
    assert verdict.sentence == (
        "leak: 1 request of Irecv on rank 2 never completed; 3 messages of rank 0 to rank 1 never received"
    )


def test_what_was_received_without_a_name_is_no_leak():
    def program(rank):
        yield ("send", 1, 4) if rank == 0 else ("compute", 0.1)
        yield "collective", "Barrier"

    job = Job([program(rank) for rank in range(2)])
    job.run(10)
    snapshot = job.snapshot()
    views = {**snapshot.ranks, 1: dataclasses.replace(snapshot.ranks[1], unnamed=1)}
    assert Judge(2, FUNCTIONS).look(dataclasses.replace(snapshot, ranks=views)) == []
    assert [each.kind for each in Judge(2, FUNCTIONS).look(snapshot)] == ["leak"]


def test_a_rank_that_had_no_turn_is_waited_for():
    """A core that others keep busy looks like a deadlock, but for the processor time."""
    job = Job(ring_of("Recv", 3))
    judge, found = Judge(3, FUNCTIONS), []
    for look in range(40):
        job.run(job.now + 0.15)
        snapshot = job.snapshot()
        cpu = 0.0 if look < 30 else 0.1 * look
        views = {rank: dataclasses.replace(view, cpu=cpu) for rank, view in snapshot.ranks.items()}
        found += [(look, each) for each in judge.look(dataclasses.replace(snapshot, ranks=views))]
    look, verdict = only(found)
    assert verdict.kind == "deadlock"
    assert look >= 30


def slow_rank_case(seed, factor, step=None):
    """Let one rank be slow from the middle on: who, since which moment and step, all verdicts, the times."""
    generator = np.random.default_rng(seed)
    size = int(generator.choice([3, 4, 8]))
    step = step or float(generator.choice([0.005, 0.03, 0.3]))
    culprit, steps = int(generator.integers(size)), int(max(130, 28 / step))
    onset = steps // 2
    work = work_of(generator, steps, size, step)
    work[onset:, culprit] *= factor
    cost, leave = generator.exponential(0.02 * step, steps), generator.exponential(0.02 * step, (steps, size))
    entered, left = collective_times(work, cost, leave)
    found = judged(collective_snapshots(entered, left), size)
    return culprit, onset, found, entered


def is_named_in_time(case):
    """Whether the right rank was named within 50 operations or 10 s."""
    culprit, onset, found, entered = case
    for when, verdict in found:
        if verdict.kind == "slow-rank" and verdict.ranks == (culprit,):
            steps = np.searchsorted(entered[:, 0], when) - onset
            return 0 <= when - entered[onset].min() <= 10 or 0 <= steps <= 50
    return False


def rate_of_slow_ranks(factor, count):
    """How often the right rank is named in time, and sentences that say anything else."""
    cases = [slow_rank_case(seed, factor) for seed in range(count)]
    others = [verdict.sentence for case in cases for _, verdict in case[2] if verdict.ranks != (case[0],)]
    return np.mean([is_named_in_time(case) for case in cases]), others


@pytest.mark.timeout_s(300)
@pytest.mark.parametrize(("factor", "part"), [(2.0, 0.99), (1.3, 0.95)])
def test_slow_rank(factor, part):
    named, others = rate_of_slow_ranks(factor, CASES)
    assert named >= part
    assert len(others) <= 0.01 * CASES, others


@pytest.mark.timeout_s(300)
@pytest.mark.parametrize("noise", [0.05, 0.3, 0.5])
def test_unequal_work_is_no_slow_rank(noise):
    """Minutes of steps in all."""
    found = []
    for seed in range(2):
        generator = np.random.default_rng(seed)
        size, step = (3, 4, 8)[seed % 3], (0.01, 0.1, 0.5)[seed % 3]
        steps = int(180 / step)
        work = work_of(generator, min(steps, 6000), size, step, noise)
        entered, left = collective_times(work, np.full(len(work), 1e-4), np.zeros(work.shape))
        found += judged(collective_snapshots(entered, left), size)
    assert len(found) <= 1, [verdict.sentence for _, verdict in found]


def test_a_rank_that_waits_elsewhere_is_not_slow():
    """Two ranks are late to a collective because they have waited for a message, and one computes as long."""
    generator = np.random.default_rng(0)
    work = work_of(generator, 800, 4, 0.02, 0.05)
    elsewhere = np.zeros(work.shape)
    elsewhere[:, 1:3] = 0.02
    for slow in ((), (3,)):
        work[:, list(slow)] += 0.02
        times = collective_times(work + elsewhere, np.full(800, 1e-4), np.zeros(work.shape))
        found = judged(collective_snapshots(*times, elsewhere=elsewhere), 4)
        assert {verdict.ranks for _, verdict in found} == ({slow} if slow else set())


def test_short_steps_carry_no_verdict():
    assert slow_rank_case(3, 2.0, step=3e-4)[2] == []


def test_a_slow_job():
    generator = np.random.default_rng(1)
    work = work_of(generator, 3000, 4, 0.02)
    work[1500:] *= 3
    entered, left = collective_times(work, np.full(3000, 1e-4), np.zeros(work.shape))
    when, verdict = only(judged(collective_snapshots(entered, left), 4))
    assert (verdict.kind, verdict.ranks) == ("slow-all", (0, 1, 2, 3))
    assert 0 < when - entered[1500].min() < 15


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_correct_programs(first):
    for seed in range(first, first + 50):
        assert wrong_verdicts(seed)[0] == [], seed


def snapshots_of_eight(waiting):
    """Eight ranks, busy, or waiting for one of them."""
    size = 8
    if not waiting:
        work = np.random.default_rng(0).uniform(1e-3, 2e-3, (8000, size))
        entered, left = collective_times(work, np.full(len(work), 1e-5), np.zeros(work.shape))
        return list(collective_snapshots(entered, left))
    job = Job([allreduces(before=hang("stop", "running") if rank == 2 else None) for rank in range(size)])
    job.run(2.0)
    snapshots = []
    for _ in range(100):
        job.run(job.now + 0.15)
        snapshots.append(job.snapshot())
    return snapshots


def cost_of_a_look(waiting):
    """Seconds of processor time, the median."""
    judge, seconds = Judge(8, FUNCTIONS), []
    for snapshot in snapshots_of_eight(waiting):
        begin = time.process_time()
        judge.look(snapshot)
        seconds.append(time.process_time() - begin)
    return np.median(seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0, help="of slow ranks and links, of each kind")
    options = parser.parse_args()
    begin, wrong, looks = time.perf_counter(), 0, 0
    for seed in range(options.first, options.first + options.programs):
        found, count = wrong_verdicts(seed)
        looks += count
        wrong += len(found)
        for verdict in found:
            print(f"program {seed}: {verdict.kind}: {verdict.sentence}")
    seconds = time.perf_counter() - begin
    print(f"{options.programs} programs, {looks} looks, {wrong} wrong verdicts, {seconds:.0f} s")
    for waiting in (False, True):
        who = "that wait" if waiting else "that are busy"
        print(f"a look at 8 ranks {who}: {cost_of_a_look(waiting) * 1e3:.2f} ms")
    if options.cases:
        for factor in (2.0, 1.3):
            named, others = rate_of_slow_ranks(factor, options.cases)
            print(f"slow rank, {factor}: {named:.1%} named in time, {len(others)} other verdicts")
        for pattern, how in itertools.product(PATTERNS, HOW):
            named, others = rate_of_slow_links(pattern, options.cases, how)
            print(
                f"slow link, 3.0, {pattern.__name__} {how}: {named:.1%} named in time, "
                f"{len(others)} other verdicts"
            )
    return wrong > 0


if __name__ == "__main__":
    raise SystemExit(main())
