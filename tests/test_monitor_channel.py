"""The channel between watchers: what it carries, whom it lets in, and what it does when nodes are lost."""

import json
import random
import socket
import struct
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

zmq = pytest.importorskip("zmq", reason="needs pyzmq: pip install '.[monitor]'")

from roundelay.comm.monitor import memory, view_bytes, wire  # noqa: E402
from roundelay.comm.monitor.addresses import Unreachable, address_for, addresses  # noqa: E402
from roundelay.comm.monitor.channel import ChannelUnavailable, Invitation, listen, open_channel  # noqa: E402
from roundelay.comm.monitor.silence import Silence  # noqa: E402
from roundelay.comm.monitor.wire import Answer, Asked, Head, Kind, Malformed, Request  # noqa: E402
from tests import views  # noqa: E402

HERE = "127.0.0.1"
LOST_AFTER = 0.9


class Job:
    """Watchers of some nodes with two ranks each, all in this process."""

    def __init__(self, nodes, lost_after=LOST_AFTER):
        self.gates = [listen(HERE, [2 * i, 2 * i + 1], f"h{i}") for i in range(nodes)]
        self.size = 2 * nodes
        invitations = [gate.invitation for gate in self.gates]
        self.channels = [
            open_channel(gate, invitations, size=self.size, functions=views.FUNCTIONS, lost_after=lost_after)
            for gate in self.gates
        ]
        self.alive = set(range(nodes))
        self.callers = []
        self.views = {rank: views.view(rank, self.size, host=f"h{rank // 2}") for rank in range(self.size)}

    def step(self):
        """Let all that are there look once."""
        for node in sorted(self.alive):
            self.channels[node].exchange([self.views[2 * node], self.views[2 * node + 1]])
        time.sleep(0.02)

    def until(self, what, seconds=10.0):
        """Let time pass until `what` is true."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "waited in vain"
            self.step()

    def settle(self, master=0):
        """Let time pass until `master` has heard all others."""
        found = {}

        def complete():
            found.update({view.rank: view for view in self.channels[master].master.collect()})
            return len(found) == 2 * (len(self.alive) - 1)

        self.until(complete)
        return found

    def lose(self, node):
        """Let a node be gone."""
        self.alive.discard(node)
        self.channels[node].close()

    def close(self):
        """Let go of all ports."""
        for caller in self.callers:
            caller.close()
        for node in self.alive:
            self.channels[node].close()


@pytest.fixture
def job():
    made = []

    def make(*arguments, **more):
        made.append(Job(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def add(found, more):
    """Note what has come; tell whether anything has."""
    found += more
    return found


def body_of(*given, **more):
    [body] = view_bytes.views_bytes(given, **more)
    return memoryview(body)


@pytest.mark.parametrize("size", [2, 3, 5, 64, 256])
def test_views_arrive_as_they_were(size):
    sent = [views.view(rank, size, seed=5) for rank in range(min(size, 8))]
    got = view_bytes.read_views(body_of(*sent), range(size), size, views.FUNCTIONS)
    assert all(map(views.equal, sent, got))
    assert got[0].peers.flags.aligned
    assert got[0].peers.flags.writeable


@pytest.mark.parametrize("ranks", [[], [3], [0, 1], [0, 2, 3], [1, 2, 3, 7, 9, 11, 12], [0, 5, 6, 8, 9]])
def test_members_of_any_kind(ranks):
    view = replace(views.view(0, 16), members={3: np.array(ranks, "i4")})
    [got] = view_bytes.read_views(body_of(view), range(16), 16, views.FUNCTIONS)
    assert got.members[3].tolist() == ranks


def test_the_newest_calls_are_sent():
    view = views.view(0, 4, ended=1000)
    [got] = view_bytes.read_views(body_of(view), [0], 4, views.FUNCTIONS)
    assert np.array_equal(got.calls, view.calls[-view_bytes.MOST_CALLS :])
    assert np.array_equal(got.messages, view.messages[-view_bytes.MOST_CALLS :])


def test_many_views_become_several_messages():
    sent = [views.view(rank, 64, ended=500) for rank in range(64)]
    bodies = list(view_bytes.views_bytes(sent, most=200_000))
    assert len(bodies) > 5
    assert max(map(len, bodies)) <= 200_000
    got = [
        each
        for body in bodies
        for each in view_bytes.read_views(memoryview(body), range(64), 64, views.FUNCTIONS)
    ]
    assert all(map(views.equal, sent, got))


@pytest.mark.parametrize(
    "change",
    [
        {"state": "dead", "idle": float("nan")},
        {"time": float("inf")},
        {"rank": 4},
        {"rank": 9},
        {"finalizing": 3},
        {"members": {1: np.array([0, 9], "i4")}},
        {"under_way": np.zeros(9, memory.TIMED_CALL)},
        {"comms": np.zeros(129, memory.COMM)},
    ],
)
def test_a_view_that_cannot_be_is_refused(change):
    body = body_of(replace(views.view(0, 8), **change))
    with pytest.raises(Malformed):
        view_bytes.read_views(body, [0, 1], 8, views.FUNCTIONS)


@pytest.mark.parametrize(
    ("array", "field", "value"),
    [
        ("calls", "dest", 8),
        ("calls", "source", -4),
        ("calls", "function", views.FUNCTIONS),
        ("requests", "sent_class", 8),
        ("under_way", "entered", float("nan")),
        ("peers", "waited", float("inf")),
        ("messages", "peer", -1),
        ("messages", "class", memory.ANY_CLASS),
        ("messages", "sent", 2),
        ("messages", "left", float("nan")),
    ],
)
def test_a_field_out_of_its_range_is_refused(array, field, value):
    view = views.view(0, 8)
    getattr(view, array)[field][0] = value
    with pytest.raises(Malformed):
        view_bytes.read_views(body_of(view), [0], 8, views.FUNCTIONS)


def test_a_rank_twice_is_refused():
    view = views.view(0, 8)
    with pytest.raises(Malformed, match="at most once"):
        view_bytes.read_views(body_of(view, view), [0], 8, views.FUNCTIONS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1] if len(data) < 30 else data[:20],
        lambda data: b"x" + data[1:],
        lambda data: data[:4] + struct.pack("<H", wire.VERSION + 1) + data[6:],
        lambda data: data[:6] + struct.pack("<H", 77) + data[8:],
        lambda data: data[:8] + struct.pack("<H", 2) + data[10:],
        lambda data: data[:10] + b"\1" + data[11:],
        lambda data: data[:12] + b"\1\2\3\4" + data[16:],
        lambda data: data + bytes(wire.MOST_BYTES),
    ],
)
def test_a_header_that_cannot_be_is_refused(spoil):
    good = wire.message(Head(Kind.HELLO, 0, 1))
    assert wire.read_message(good, 2)[0] == Head(Kind.HELLO, 0, 1)
    with pytest.raises(Malformed):
        wire.read_message(spoil(good), 2)


def test_answers_are_cut_between_characters():
    body = wire.answer_bytes(Answer(1, 0, True, "é" * wire.MOST_TEXT))
    assert wire.read_answer(memoryview(body), 1).text == "é" * (wire.MOST_TEXT // 2)


def test_views_reach_the_master(job):
    job = job(3)
    found = job.settle()
    assert sorted(found) == [2, 3, 4, 5]
    assert all(views.equal(view, replace(job.views[rank], calls=view.calls)) for rank, view in found.items())
    assert [channel.is_master for channel in job.channels] == [True, False, False]
    assert not job.channels[0].dropped


def test_calls_between_two_looks_are_joined(job):
    job = job(2)
    job.settle()
    for _ in range(5):
        job.step()
    view = next(view for view in job.channels[0].master.collect() if view.rank == 2)
    assert len(view.calls) % 20 == 0
    assert len(view.calls) >= 60
    [again, _] = job.channels[0].master.collect()
    assert len(again.calls) in (0, 20)


def test_questions_and_answers(job):
    job = job(3)
    job.settle()
    master = job.channels[0].master
    number = master.ask(4, Asked.STACKS)
    got = []

    def asked():
        got.extend(job.channels[2].node.requests())
        return got

    job.until(asked)
    assert got == [(0, Request(number, 4, Asked.STACKS))]
    assert job.channels[1].node.requests() == []
    job.channels[2].node.answer(*got[0], "File solve.py, line 88")
    answers: list[Answer] = []
    job.until(lambda: answers or add(answers, master.answers()))
    assert answers == [Answer(number, 4, True, "File solve.py, line 88")]
    with pytest.raises(ValueError, match="another node"):
        master.ask(0, Asked.STACKS)


def test_what_all_are_told_reaches_every_node(job):
    job = job(4)
    job.settle()
    job.channels[0].master.tell(Asked.VERDICT, "{}")
    job.channels[0].master.tell(Asked.ABORT)
    asked: dict[int, list[tuple[Asked, str]]] = {1: [], 2: [], 3: []}

    def all_asked():
        for node, found in asked.items():
            found += [(request.asked, request.text) for _, request in job.channels[node].node.requests()]
        return all(len(found) == 2 for found in asked.values())

    job.until(all_asked)
    told = [(Asked.VERDICT, "{}"), (Asked.ABORT, "")]
    assert asked == {1: told, 2: told, 3: told}


def test_a_lost_node_is_unreachable(job):
    job = job(3)
    job.settle()
    master = job.channels[0].master
    number = master.ask(3, Asked.STACKS)
    job.lose(1)
    job.until(master.unreachable)
    assert master.unreachable() == {2: "h1", 3: "h1"}
    assert {view.rank for view in master.collect()} == {4, 5}
    answers: list[Answer] = []
    job.until(lambda: answers or add(answers, master.answers()))
    assert (answers[0].number, answers[0].given) == (number, False)
    master.ask(2, Asked.STACKS)
    assert "cannot be reached" in master.answers()[0].text
    assert [channel.is_master for channel in (job.channels[0], job.channels[2])] == [True, False]


@pytest.mark.parametrize("lost", [[0], [0, 1]])
def test_the_next_node_takes_over(job, lost):
    job = job(4)
    job.settle()
    for node in lost:
        job.lose(node)
    begun, heir = time.monotonic(), len(lost)
    job.until(lambda: job.channels[heir].is_master)
    assert time.monotonic() - begun < 4 * LOST_AFTER
    found = job.settle(heir)
    assert set(found) == set(range(2 * heir + 2, 8))
    assert set(job.channels[heir].master.unreachable()) == set(range(2 * heir))
    assert not any(job.channels[node].is_master for node in job.alive - {heir})


def test_a_stopped_master_takes_its_place_again(job):
    job = job(3)
    job.settle()
    job.alive.remove(0)
    job.until(lambda: job.channels[1].is_master)
    job.alive.add(0)
    job.until(lambda: not job.channels[1].is_master)
    assert job.channels[0].is_master
    # It was away itself: the others are not lost.
    assert job.channels[0].master.unreachable() == {}
    job.settle()


def test_a_node_that_alone_does_not_hear_the_master_does_not_take_over(job):
    job = job(3)
    job.settle()
    # Node 1 is cut from node 0 only.
    node = job.channels[1].node
    node._masters[0].disconnect(job.gates[0].invitation.endpoint)
    job.until(lambda: node.follows == 1)
    for _ in range(20):
        job.step()
        assert not job.channels[1].is_master
    assert job.channels[0].is_master
    assert set(job.channels[0].master.unreachable()) == {2, 3}


def test_the_last_node_does_not_take_over_while_another_hears_the_master(job):
    job = job(3)
    job.settle()
    node = job.channels[2].node
    node._masters[0].disconnect(job.gates[0].invitation.endpoint)
    end = time.monotonic() + 3 * LOST_AFTER
    while time.monotonic() < end:
        job.step()
        assert not job.channels[2].is_master
    assert set(job.channels[0].master.unreachable()) == {4, 5}


def test_a_node_that_hears_nobody_does_not_take_over(job):
    job = job(3)
    job.settle()
    job.lose(0)
    job.lose(1)
    job.until(lambda: job.channels[2].node.follows == 2)
    end = time.monotonic() + LOST_AFTER
    job.until(lambda: time.monotonic() > end)
    assert not job.channels[2].is_master


def test_one_of_two_nodes_takes_over(job):
    job = job(2)
    job.settle()
    job.lose(0)
    job.until(lambda: job.channels[1].is_master)
    assert job.channels[1].master.unreachable() == {0: "h0", 1: "h0"}


def test_a_node_that_leaves_is_not_lost(job):
    job = job(3)
    found = job.settle()
    job.alive.remove(1)
    job.channels[1].leave()
    master = job.channels[0].master
    end = time.monotonic() + 1.5 * LOST_AFTER
    job.until(lambda: time.monotonic() > end)
    assert master.unreachable() == {}
    assert master.are_others_there()
    # What it said last is still known.
    assert {view.rank for view in master.collect()} == set(found)
    job.alive.remove(2)
    job.channels[2].leave()
    job.until(lambda: not master.are_others_there())


def test_the_next_node_takes_over_at_once_from_one_that_leaves(job):
    job = job(3, lost_after=60.0)
    job.settle()
    job.alive.remove(0)
    leaving = threading.Thread(target=job.channels[0].leave)
    leaving.start()
    job.until(lambda: job.channels[1].is_master)
    leaving.join()
    assert sorted(job.settle(1)) == [4, 5]
    assert job.channels[1].master.unreachable() == {}


def test_all_look_at_the_same_time(job):
    job = job(3)
    job.settle()
    job.until(lambda: all(job.channels[node].node._ahead for node in (1, 2)))
    period = 0.25
    looks = [channel.next_look(period) for channel in job.channels]
    apart = [(look - looks[0] + period / 2) % period - period / 2 for look in looks]
    # All have the same clock here.
    assert max(map(abs, apart)) < 0.05
    assert min(looks) > time.monotonic()


def test_the_time_in_which_nobody_listened_does_not_count():
    now = 0.0
    silence = Silence(lambda: now)
    silence.hear(1)
    now = 3600.0
    silence.look()
    assert silence.of(1) == 0.5
    for _ in range(10):
        now += 0.1
        silence.look()
    assert silence.of(1) == pytest.approx(1.5)
    assert silence.of(2) == float("inf")


def raw(job, node=0):
    host, port = job.gates[node].invitation.endpoint.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def greeting(mechanism):
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def test_outsiders_without_keys_are_dropped_and_counted(job):
    job = job(2)
    job.settle()
    sent = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" * 9,
        bytes(999),
        greeting(b"NULL"),
        greeting(b"CURVE") + bytes(300),
    ]
    for data in sent:
        with raw(job) as outsider:
            outsider.sendall(data)
            outsider.settimeout(0.2)
            for _ in range(10):
                job.step()
    job.until(lambda: job.channels[0].dropped["unauthenticated"] >= len(sent))
    assert job.channels[0].dropped == {"unauthenticated": len(sent)}
    job.settle()


def test_an_outsider_who_stays_silent_is_closed(job):
    job = job(2)
    with raw(job) as outsider:
        job.until(lambda: job.channels[0].dropped["unauthenticated"], 8)
        outsider.settimeout(5)
        while outsider.recv(100):
            pass
    job.settle()


def outside(job, *, known_server=True, curve=True):
    """Connect as an outsider, with or without the public keys that travel over MPI."""
    context = zmq.Context()
    caller = context.socket(zmq.DEALER)
    caller.linger = 0
    invitation = job.gates[0].invitation
    if curve:
        caller.curve_publickey, caller.curve_secretkey = zmq.curve_keypair()
        caller.curve_serverkey = invitation.server_key.encode() if known_server else zmq.curve_keypair()[0]
    caller.connect(invitation.endpoint)
    return caller


@pytest.mark.parametrize("how", [{}, {"known_server": False}, {"curve": False}])
def test_an_outsider_with_a_wrong_key_is_not_heard(job, how):
    job = job(2)
    job.settle()
    caller = outside(job, **how)
    caller.send(wire.message(Head(Kind.VIEWS, 0, 1 << 40), bytes(body_of(views.view(2, 4, seed=9)))))
    job.until(lambda: job.channels[0].dropped["unauthenticated"])
    caller.context.destroy(linger=0)
    assert {*job.channels[0].dropped} == {"unauthenticated"}
    job.settle()


def test_a_public_key_without_its_secret_is_not_enough(job):
    job = job(2)
    job.settle()
    context = zmq.Context()
    caller = context.socket(zmq.DEALER)
    caller.linger = 0
    caller.curve_publickey = job.gates[1].invitation.client_key.encode()
    caller.curve_secretkey = zmq.curve_keypair()[1]
    caller.curve_serverkey = job.gates[0].invitation.server_key.encode()
    caller.connect(job.gates[0].invitation.endpoint)
    job.until(lambda: job.channels[0].dropped["unauthenticated"])
    context.destroy(linger=0)
    job.settle()


def test_recorded_bytes_of_a_connection_open_nothing(job):
    """Someone on the way records all that a node sends, and sends it again."""
    job = job(2)
    address = job.gates[0].invitation.endpoint.removeprefix("tcp://").split(":")
    server = socket.create_server((HERE, 0))
    recorded, between = recorder(server, (address[0], int(address[1])))
    # Node 1 reaches node 0 through it.
    node = job.channels[1].node
    node._nodes = [
        replace(node._nodes[0], endpoint=f"tcp://{HERE}:{server.getsockname()[1]}"),
        *node._nodes[1:],
    ]
    job.settle()
    between.set()
    data = b"".join(recorded)
    assert len(data) > 2000
    before = job.channels[0].dropped["unauthenticated"]
    with raw(job) as replay:
        replay.sendall(data)
        job.until(lambda: job.channels[0].dropped["unauthenticated"] > before)
    server.close()
    assert job.channels[0].dropped["malformed"] == 0


def recorder(server, target):
    """Pass one connection on, and keep what the client sends."""
    recorded, ended = [], threading.Event()

    def pass_on(source, sink, keep):
        source.settimeout(0.1)
        while not ended.is_set():
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            if keep:
                recorded.append(data)
            sink.sendall(data)

    def serve():
        client, _ = server.accept()
        with client, socket.create_connection(target) as upstream:
            other = threading.Thread(target=pass_on, args=(upstream, client, False), daemon=True)
            other.start()
            pass_on(client, upstream, True)
            other.join()

    threading.Thread(target=serve, daemon=True).start()
    return recorded, ended


def insider(job, node=1):
    """Connect with the keys of a node of the job, and send whatever bytes."""
    caller = job.gates[node].call(job.gates[0].invitation)
    caller.immediate = False
    job.callers.append(caller)
    return caller


def test_a_message_of_the_past_is_dropped(job):
    job = job(2)
    caller = insider(job)
    messages = [wire.message(Head(Kind.HELLO, 0, number)) for number in (100, 101, 100, 7)]
    for data in messages:
        job.until(lambda data=data: sent(caller, data))
    job.until(lambda: job.channels[0].dropped["replayed"] >= 2)


def sent(caller, *frames):
    try:
        caller.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def test_a_node_cannot_speak_for_another(job):
    job = job(3)
    job.settle()
    caller = insider(job)
    forged = wire.message(Head(Kind.VIEWS, 0, 1 << 40), bytes(body_of(views.view(4, 6, seed=9))))
    job.until(lambda: sent(caller, forged))
    job.until(lambda: job.channels[0].dropped["malformed"])
    view = job.settle()[4]
    assert views.equal(view, replace(job.views[4], calls=view.calls, messages=view.messages))


def test_a_node_cannot_answer_for_another(job):
    job = job(3)
    job.settle()
    number = job.channels[0].master.ask(4, Asked.STACKS)
    caller = insider(job)
    forged = wire.message(Head(Kind.ANSWER, 0, 1 << 40), wire.answer_bytes(Answer(number, 4, True, "lie")))
    job.until(lambda: sent(caller, forged))
    job.until(lambda: job.channels[0].dropped["malformed"])
    assert job.channels[0].master.answers() == []


def test_a_message_that_is_too_long_ends_the_connection(job):
    job = job(2)
    job.settle()
    caller = insider(job)
    hello = wire.message(Head(Kind.HELLO, 0, 1 << 20))
    job.until(lambda: sent(caller, hello))
    job.until(lambda: sent(caller, bytes(wire.MOST_BYTES + 1)))
    job.until(lambda: job.channels[0].dropped["disconnected"])
    caller.close()
    assert job.channels[0].master.unreachable() == {}


def fuzzed(draw):
    """Frames that are like good ones, but for some bytes, their length, or their number."""
    kind = draw.choice(list(Kind))
    bodies = {
        Kind.VIEWS: lambda: bytes(body_of(views.view(2, 4, seed=draw.randrange(9)))),
        Kind.ANSWER: lambda: wire.answer_bytes(Answer(draw.randrange(9), 2, True, "text")),
        Kind.BEAT: lambda: wire.clock_bytes(draw.random()),
        Kind.ASK: lambda: wire.request_bytes(Request(draw.randrange(9), 2, Asked.STACKS)),
    }
    data = bytearray(wire.message(Head(kind, 0, 1), bodies.get(kind, bytes)()))
    for _ in range(draw.choice([0, 1, 3, 40])):
        at = draw.choice([draw.randrange(len(data)), draw.randrange(min(len(data), 100))])
        data[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
    cut = draw.choice([len(data), len(data), draw.randrange(len(data) + 1)])
    data = bytes(data[:cut]) + draw.randbytes(draw.choice([0, 0, 1, 400]))
    frames = [data, *[b"more"] * draw.choice([0, 0, 0, 0, 1, 9])]
    return draw.choice([frames, frames, frames, [draw.randbytes(draw.randrange(300))], [b""]])


@pytest.mark.timeout_s(120)
def test_ten_thousand_fuzzed_frames_of_one_with_a_key(job):
    job = job(3)
    job.settle()
    draw, caller = random.Random(5), insider(job)
    for _ in range(10_000):
        frames = fuzzed(draw)
        if len(frames) == 1 and len(frames[0]) >= 24:
            # As of one that has sent nothing before: what is left of it is not dropped as a replay.
            frames[0] = frames[0][:16] + struct.pack("<Q", 0) + frames[0][24:]
            job.channels[0].master._last.pop(1, None)
        while not sent(caller, *frames):
            job.channels[0].master.receive()
    job.until(lambda: job.channels[0].dropped["malformed"] + job.channels[0].dropped["replayed"] > 5000, 30)
    caller.close()
    # Its own messages begin at 1, as they did before.
    job.channels[0].master._last.clear()
    assert sorted(job.settle()) == [2, 3, 4, 5]
    assert job.channels[0].is_master


def test_ten_thousand_fuzzed_bodies_raise_nothing_else():
    draw = random.Random(6)
    refused = 0
    for _ in range(10_000):
        data = fuzzed(draw)[0]
        try:
            head, body = wire.read_message(data, 2)
        except Malformed:
            refused += 1
            # What is behind the header must stand up, too.
            head, body = Head(draw.choice(list(Kind)), 0, 1), memoryview(data)[24:]
        try:
            if head.kind is Kind.VIEWS:
                view_bytes.read_views(body, [2, 3], 4, views.FUNCTIONS)
            elif head.kind is Kind.ANSWER:
                wire.read_answer(body, 4)
            elif head.kind is Kind.BEAT:
                wire.read_clock(body)
            else:
                wire.read_request(body, 4)
        except Malformed:
            refused += 1
    assert refused > 5000


def test_fuzzed_requests_of_a_master(job):
    """A node stands up to a master that sends anything."""
    job = job(2)
    job.settle()
    draw, gate = random.Random(7), job.gates[0]
    address = job.channels[0].master._address[1]
    for _ in range(2000):
        gate.send(address, fuzzed(draw)[0])
        if draw.random() < 0.2:
            job.channels[1].node.requests()
    job.until(lambda: job.channels[1].dropped["malformed"] > 500)
    job.channels[1].node._last.clear()
    job.settle()


def test_ten_thousand_fuzzed_frames_without_a_key(job):
    """Bytes on raw connections, in 200 of them."""
    job = job(2)
    job.settle()
    draw = random.Random(8)
    for _ in range(200):
        with raw(job) as outsider:
            try:
                outsider.sendall(draw.choice([b"", greeting(b"CURVE"), greeting(b"NULL")]))
                for _ in range(50):
                    outsider.sendall(draw.randbytes(draw.randrange(60)))
            except OSError:
                pass  # Closed already.
        job.channels[0].master.receive()
    job.until(lambda: job.channels[0].dropped["unauthenticated"] >= 200)
    job.settle()


def test_a_port_in_use():
    with socket.create_server((HERE, 0)) as taken, socket.create_server((HERE, 0)) as other:
        ports = [taken.getsockname()[1], other.getsockname()[1]]
        with pytest.raises(ChannelUnavailable, match="no port on"):
            listen(HERE, [0], "h0", ports)
        other.close()
        gate = listen(HERE, [0], "h0", ports)
        assert gate.invitation.endpoint == f"tcp://{HERE}:{ports[1]}"
        gate.close()


def test_an_address_of_another_host():
    with pytest.raises(ChannelUnavailable, match="no port"):
        listen("192.0.2.1", [0], "h0")
    with pytest.raises(ChannelUnavailable, match="one interface"):
        listen("0.0.0.0", [0], "h0")


def test_it_listens_on_one_address_only():
    gate = listen(HERE, [0], "h0")
    port = gate.invitation.endpoint.rpartition(":")[2]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    gate.close()


def test_invitations_travel_as_text():
    gate = listen(HERE, [3, 1], "h0")
    text = gate.invitation.to_json()
    gate.close()
    assert Invitation.from_json(text) == gate.invitation
    assert gate.invitation.ranks == (1, 3)
    assert gate.client_secret.decode() not in text


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": []},
        {"ranks": [2, 1]},
        {"ranks": [True]},
        {"host": 3},
        {"client_key": "x" * 10},
        {"more": "x"},
    ],
)
def test_an_invitation_that_cannot_be(change):
    gate = listen(HERE, [0], "h0")
    gate.close()
    fields = json.loads(gate.invitation.to_json()) | change
    with pytest.raises(ValueError, match="invitation"):
        Invitation.from_json(json.dumps(fields))


def test_invitations_that_are_no_job():
    one, other = listen(HERE, [0], "h0"), listen(HERE, [2], "h1")
    with pytest.raises(ValueError, match="ranks"):
        open_channel(one, [one.invitation, replace(other.invitation, ranks=(0, 1))], size=4, functions=1)
    with pytest.raises(ValueError, match="no invitation of this node"):
        open_channel(other, [one.invitation], size=4, functions=1)
    with pytest.raises(ValueError, match="same key"):
        open_channel(one, [one.invitation, replace(one.invitation, ranks=(1,))], size=4, functions=1)
    one.close()
    other.close()


def test_a_job_on_one_node(job):
    job = job(1)
    for _ in range(3):
        job.step()
    assert job.channels[0].is_master
    assert job.channels[0].master.collect() == []


def test_the_address_that_peers_use():
    mine = ["10.1.0.3/16", "192.168.5.3/24", "127.0.0.1/8"]
    others = [["172.17.0.1/16", "192.168.5.4/24", "127.0.0.1/8"], ["192.168.5.9/24", "127.0.0.1/8"]]
    assert address_for(mine, others) == "192.168.5.3"
    assert address_for(mine, others, "10.0.0.0/8") == "10.1.0.3"
    assert address_for(mine, [mine, mine]) == HERE
    assert address_for(mine, []) == HERE
    with pytest.raises(Unreachable, match=r"10\.9"):
        address_for(mine, others, "10.9.0.0/16")
    with pytest.raises(Unreachable, match="no other node"):
        address_for(mine, [["127.0.0.1/8"]])


def test_addresses_of_this_host():
    found = addresses()
    assert "127.0.0.1/8" in found
    assert found[-1].startswith("127.")
