"""The emulated cluster: its switch alone, and programs on its hosts where this machine can have them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.netlab import Lab, LabError, unavailable
from benchmarks.netlab.__main__ import main
from benchmarks.netlab.network import Network
from benchmarks.netlab.switch import Link, Port, Setting, Switch
from tests import launch

pytestmark = pytest.mark.timeout_s(60)

REASON = unavailable()
needs_hosts = pytest.mark.skipif(REASON is not None, reason=str(REASON))

RATE = 1e6
LIMIT_S = 40


# The switch, without any host


def make_link(out=None, into=None, rate=RATE, link_rate=float("inf"), delay=0.5):
    """A link between ports of some rate, all in bytes a second."""
    out, into = out or Port(), into or Port()
    out.byte_seconds = into.byte_seconds = 1 / rate
    link = Link(out, into, -1)
    link.set(Setting(delay, 0.0, link_rate))
    return link


def test_a_frame_alone_takes_its_bytes_once_and_the_delay():
    assert make_link().pass_through(1000, 7.0) == pytest.approx(7.0 + 0.001 + 0.5)


def test_frames_of_one_sender_follow_each_other():
    out = Port()
    first, second = make_link(out), make_link(out)
    assert first.pass_through(1000, 0.0) == pytest.approx(0.501)
    assert second.pass_through(1000, out.free_at) == pytest.approx(0.502)


def test_frames_of_two_senders_share_the_receiver():
    into = Port()
    arrivals = [make_link(into=into).pass_through(1000, 0.0) for _ in range(2)]
    assert arrivals == pytest.approx([0.501, 0.502])


def test_a_slow_link_does_not_hold_up_its_sender():
    out = Port()
    slow, other = make_link(out, link_rate=RATE / 10), make_link(out)
    assert slow.pass_through(1000, 0.0) == pytest.approx(0.51)
    assert slow.pass_through(1000, out.free_at) == pytest.approx(0.52)
    assert other.pass_through(1000, out.free_at) == pytest.approx(0.503)


def test_frames_stay_in_order_when_the_delay_falls():
    link = make_link()
    late = link.pass_through(1000, 0.0)
    link.set(Setting(0.0, 0.0, RATE))
    assert link.pass_through(1000, 0.001) == late


def test_jitter_is_added_within_its_bounds():
    link = make_link(delay=0.0)
    link.set(Setting(0.0, 0.25, float("inf")))
    extra = [link.pass_through(1000, 10.0 * step) - 10.0 * step - 0.001 for step in range(200)]
    assert 0 <= min(extra) < 0.05
    assert 0.2 < max(extra) <= 0.25


@pytest.fixture
def wires():
    """Three sockets in place of TAP devices (the switch's ends), and the hosts' ends."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.setblocking(False)
    yield [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
    for pair in pairs:
        for end in pair:
            end.close()


def frame(receiver, content, size=100):
    """An Ethernet frame for the host of a number."""
    return bytes([2, 0, 0, 0, 0, receiver]) + content.ljust(size - 6, b".")


def carry(switch, frames, wires):
    """Let host 0 send frames, and give what the switch does with each in order: (receiver, first byte)."""
    ours, theirs = wires
    for each in frames:
        theirs[0].send(each)
    switch._read(ours[0].fileno(), switch.links[0])
    order = []
    switch._deliver = lambda link, content: order.append((switch.taps.index(link.tap), content[6:7]))
    while switch.events:
        switch._catch_up()
    return order


def test_a_port_takes_turns_between_receivers(wires):
    switch = Switch([end.fileno() for end in wires[0]])
    switch.outs[0].byte_seconds = 1e-4
    frames = [frame(1, b"a"), frame(1, b"b"), frame(1, b"c"), frame(2, b"x"), frame(2, b"y")]
    order = carry(switch, frames, wires)
    assert order == [(1, b"a"), (1, b"b"), (2, b"x"), (1, b"c"), (2, b"y")]


def test_a_cut_link_loses_its_frames(wires):
    switch = Switch([end.fileno() for end in wires[0]])
    switch.links[0][1].set(Setting(0.0, 0.0, RATE, cut=True))
    assert carry(switch, [frame(1, b"a"), frame(2, b"x")], wires) == [(2, b"x")]
    assert switch.lost == 1


# The network's figures


def test_slow_hosts_and_links():
    network = Network(3, 0.002, 1e6)
    network.slow_host(2, 10)
    network.slow_link(0, 1, 4)
    network.cut(0, 2)
    settings = network.settings()
    links = {row[:2]: row[2:] for row in settings.links}
    assert settings.ports == pytest.approx([1e6, 1e6, 1e5])
    assert links[0, 1] == links[1, 0] == pytest.approx((0.008, 0, 2.5e5, False))
    assert links[1, 2] == links[2, 1] == pytest.approx((0.02, 0, 1e5, False))
    assert links[2, 0][3]
    network.restore(2)
    assert not any(row[5] for row in network.settings().links)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"delay": [[0.0]], "rate": 1.0}, r"delay: shape \(1, 1\)"),
        ({"delay": -1.0, "rate": 1.0}, "delay: expected finite"),
        ({"delay": 0.0, "rate": 0.0}, "rate: expected more than 0"),
    ],
)
def test_figures_that_make_no_network(how, message):
    with pytest.raises(ValueError, match=message):
        Network(2, **how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delay", "2"], "'2': expected a number and one of s, ms, us"),
        (["--rate", "2mbyte"], "expected a number and one of kbit, mbit, gbit"),
        (["--slow-host", "2"], "expected slow-host=I:FACTOR"),
        (["--at", "3s:stop=2"], "expected one of slow-host=, slow-link=, cut=, restore="),
        (["--at", "3s:cut=9"], "host 9: expected 0 to 1"),
        (["--slow-link", "1-1:2"], "link 1-1: expected two different hosts"),
        (["--slow-host", "1:0.5"], "factor 0.5: expected 1 or more"),
    ],
)
def test_options_that_make_no_sense(options, message):
    result = CliRunner().invoke(main, [*options, "--", "true"])
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())


# Hosts

SERVER = """
import socket
with socket.create_server(("", 5000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(1 << 20):
            last = data[-1:]
            # Each message ends with a line's end.
            if last == b"\\n":
                connection.sendall(b"!")
"""
CLIENT = """
import socket, sys, time
with socket.create_connection(("h1", 5000), 20) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(int(sys.argv[2])):
        start = time.perf_counter()
        connection.sendall(b"." * (int(sys.argv[1]) - 1) + b"\\n")
        connection.recv(1)
        print(time.perf_counter() - start, flush=True)
"""


def round_trips(lab, size, count):
    """Seconds from sending a number of bytes from host 0 to host 1 until a byte comes back."""
    with lab.start_on(1, [sys.executable, "-c", SERVER]) as server:
        assert server.stdout.readline() == "ready\n"
        client = lab.run_on(0, [sys.executable, "-c", CLIENT, str(size), str(count)], LIMIT_S)
        assert client.status == 0, client.errors
        server.wait(LIMIT_S)
    return [float(line) for line in client.output.split()]


@pytest.fixture(scope="module")
def lab():
    """Three hosts, 20 ms and 100 Mbit/s from one to another."""
    if REASON is not None:
        pytest.skip(REASON)
    with Lab(hosts=3, delay=0.02, rate=100e6 / 8) as made:
        yield made


@needs_hosts
def test_a_message_takes_the_delay(lab):
    times = round_trips(lab, 100, 8)
    # No load of this machine makes it earlier, and of eight one is not late.
    assert min(times) >= 0.04
    assert min(times) < 0.06


@needs_hosts
def test_bytes_take_their_time(lab):
    times = round_trips(lab, 1 << 20, 4)
    ideal = 0.04 + (1 << 20) / (100e6 / 8)
    assert min(times) >= ideal
    assert min(times) < ideal / 0.85


@needs_hosts
def test_a_host_is_slowed_while_a_program_runs(lab):
    assert min(round_trips(lab, 100, 3)) < 0.1
    with lab.start_on(1, [sys.executable, "-c", SERVER]) as server:
        assert server.stdout.readline() == "ready\n"
        with lab.start_on(0, [sys.executable, "-c", CLIENT, "100", "30"]) as client:
            before = [float(client.stdout.readline()) for _ in range(5)]
            lab.slow_host(1, 10)
            try:
                after = [float(client.stdout.readline()) for _ in range(3)]
            finally:
                lab.slow_host(1, 1)
            assert client.wait(LIMIT_S) == 0
        server.wait(LIMIT_S)
    assert min(before) < 0.1
    # The first one may have been on its way.
    assert min(after[1:]) >= 0.4


@needs_hosts
def test_a_cut_link_carries_nothing_until_it_is_restored(lab):
    lab.cut(0, 1)
    lost = lab.count()["lost"]
    try:
        connect = "import socket; socket.create_connection(('h{}', 5000), {})"
        cut = lab.run_on(0, [sys.executable, "-c", connect.format(1, 0.5)], LIMIT_S)
        other = lab.run_on(0, [sys.executable, "-c", connect.format(2, 20)], LIMIT_S)
    finally:
        lab.restore(0, 1)
    assert "TimeoutError" in cut.errors
    assert "ConnectionRefusedError" in other.errors
    assert lab.count()["lost"] > lost
    restored = lab.run_on(0, [sys.executable, "-c", connect.format(1, 20)], LIMIT_S)
    assert "ConnectionRefusedError" in restored.errors


RANKS = """
from mpi4py import MPI
world = MPI.COMM_WORLD
names = world.gather(MPI.Get_processor_name())
sizes = world.gather(world.Split_type(MPI.COMM_TYPE_SHARED).size)
if world.rank == 0:
    print(names, sizes)
    raise SystemExit(5)
"""


@needs_hosts
@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (3, "['h0', 'h1', 'h2'] [1, 1, 1]"),
        (6, "['h0', 'h0', 'h1', 'h1', 'h2', 'h2'] [2, 2, 2, 2, 2, 2]"),
        (2, "['h0', 'h1'] [1, 1]"),
    ],
)
def test_ranks_are_on_their_hosts(lab, ranks, expected):
    result = lab.run([sys.executable, "-c", RANKS], ranks, LIMIT_S)
    assert result.output.strip() == expected, result.errors
    assert result.status == 5


@needs_hosts
def test_a_program_that_does_not_end_is_ended(lab):
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run([sys.executable, "-c", "import time; time.sleep(1000)"], timeout=1.5)
    assert time.monotonic() - start < LIMIT_S
    listing = lab.run_on(0, ["ps", "-A", "-o", "args="], LIMIT_S)
    assert "time.sleep(1000)" not in listing.output
    # The lab is still there.
    assert lab.run([sys.executable, "-c", RANKS], 2, LIMIT_S).status == 5


@needs_hosts
def test_more_than_the_switch_carries_is_refused():
    with pytest.raises(LabError, match=r"2 hosts may send 8,000,000 Mbit/s together, but the switch carries"):
        Lab(hosts=2, delay=0.0, rate=500e9)


@needs_hosts
def test_no_rank_on_too_many_hosts(lab):
    with pytest.raises(ValueError, match="ranks: 4, expected 1 to 3, or a multiple of 3"):
        lab.start(["true"], 4)


# The command line, and what is left when it ends

NETLAB = [sys.executable, "-m", "benchmarks.netlab"]
WAITING = """
import time
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if MPI.COMM_WORLD.rank == 0:
    print("ready", flush=True)
time.sleep(1000)  # {}
"""


def processes():
    """Numbers of all processes, each with its command line and the process namespace that it is in."""
    for folder in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile.
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / "cmdline").read_bytes(), (folder / "ns/pid").readlink()


def lab_of(mark):
    """Process namespace of the lab that runs a program whose command line has `mark`."""
    (own,) = {space for number, _, space in processes() if number == os.getpid()}
    (lab,) = {space for _, line, space in processes() if mark.encode() in line and space != own}
    return lab


def left(mark, lab):
    """Processes of a lab, its keeper among them, or whose command line has `mark`."""
    return [number for number, line, space in processes() if mark.encode() in line or space == lab]


@needs_hosts
def test_the_command_line_ends_with_the_status_of_the_program():
    line = [
        "--hosts",
        "2",
        "--delay",
        "1ms",
        "--rate",
        "50mbit",
        "--timeout",
        "40s",
        "--at",
        "0s:slow-host=1:2",
    ]
    done = subprocess.run(
        [*NETLAB, *line, "--", "python", "-c", RANKS],
        cwd=launch.ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout.strip() == "['h0', 'h1'] [1, 1]", done.stderr
    assert done.returncode == 5


@pytest.fixture
def interruptible():
    """Let programs be interrupted that are started here; they would ignore it in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_hosts
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_lab_that_is_killed(number):
    mark = f"netlab-test-{os.getpid()}-{int(number)}"
    program = ["python", "-c", WAITING.format(mark)]
    with subprocess.Popen(
        [*NETLAB, "--hosts", "2", "--", *program],
        cwd=launch.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            lab = lab_of(mark)
            # Two ranks, what started them, and the keeper, who holds the hosts.
            assert len(left(mark, lab)) > 4
            process.send_signal(number)
            process.wait(LIMIT_S / 2)
        finally:
            process.kill()
        end = time.monotonic() + LIMIT_S / 2
        while left(mark, lab) and time.monotonic() < end:
            time.sleep(0.05)
        assert left(mark, lab) == []
