"""`roundelay plan`, its units, and the picture of a simulated schedule."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from roundelay.__main__ import main
from roundelay.collectives import timeline, units
from roundelay.collectives.algorithms.ring import ring_allreduce
from roundelay.collectives.catalogue import NATIVE, SHARED_MEMORY, Setting, algorithms, members
from roundelay.collectives.links import Links
from roundelay.collectives.simulate import chunk_sizes, simulate
from roundelay.planning import predict

EDGE = ["--ranks", "8", "--latency", "2ms", "--bandwidth", "300mbit"]


def plan(*arguments):
    return CliRunner().invoke(main, ["plan", *arguments])


def rows(output):
    """The cells of the table, without its head, and the last line."""
    *table, last = output.splitlines()
    cells = [[cell.strip() for cell in line.split("│")] for line in table if "│" in line]
    return [row for row in cells if row[0]], last


def test_all_members_and_the_choice_are_shown():
    result = plan("allreduce", "--bytes", "1KiB", *EDGE)
    assert result.exit_code == 0, result.output
    table, last = rows(result.output)
    known = [str(algorithm) for algorithm in members("allreduce", Setting(8))]
    assert sorted(name for name, *_ in table) == sorted(known)
    assert table[0][0] == "direct"
    assert table[0][1:] == ["1", "2.19 ms", "1.00 x"]
    assert last == "allreduce of 1 KiB on 8 ranks: direct, 2.19 ms"


def test_best_of_each_name_comes_first():
    table, _ = rows(plan("allreduce", "--bytes", "1MiB", *EDGE).output)
    # Nodes of one rank each share no memory.
    names = {*algorithms("allreduce")} - {NATIVE, SHARED_MEMORY}
    families = [max((name for name in names if row[0].startswith(name)), key=len) for row in table]
    assert len(set(families[: len(names)])) == len(names)
    times = [float(row[3].split()[0]) for row in table]
    assert times[: len(names)] == sorted(times[: len(names)])
    assert times[len(names) :] == sorted(times[len(names) :])
    assert min(times) == 1.0


def test_forecasts_are_those_of_the_simulator():
    setting, links = Setting(6), Links(1e-4, 1e-9, 1e-6)
    found = predict("allgather", setting, 4800, links)
    assert [each.seconds for each in found] == sorted(each.seconds for each in found)
    for each in found:
        schedule = each.algorithm.build()
        sizes = chunk_sizes(4800, schedule.chunks, 8)
        assert each.seconds == simulate(schedule, sizes, links).seconds
    steps = {str(each.algorithm): each.steps for each in found}
    assert (steps["ring"], steps["bidirectional-ring"], steps["direct"]) == (5, 3, 1)


def test_top_shows_fewer():
    result = plan("bcast", "--bytes", "64KiB", "--root", "3", "--top", "3", *EDGE)
    assert len(rows(result.output)[0]) == 3
    assert result.output.splitlines()[-1].startswith("bcast of 64 KiB on 8 ranks: ")


def test_nodes_make_hierarchies_and_share_a_link():
    inside = ["--node-latency", "1us", "--node-bandwidth", "8GB/s"]
    described = [
        "allreduce",
        "--ranks",
        "16",
        "--bytes",
        "64KiB",
        "--latency",
        "50us",
        "--bandwidth",
        "1GB/s",
    ]
    alone, _ = rows(plan(*described).output)
    shared, last = rows(plan(*described, "--per-node", "4", *inside).output)
    assert any(row[0].startswith("hierarchical parts") for row in shared)
    assert not any(row[0].startswith("hierarchical parts") for row in alone)
    # Four ranks of a node at one link: what sends everything to everyone is slower than it was.
    ratio = {row[0]: row[3] for row in shared}["direct"], {row[0]: row[3] for row in alone}["direct"]
    assert float(ratio[0].split()[0]) > float(ratio[1].split()[0])
    assert "direct," not in last


def test_shared_medium_changes_the_choice():
    # On links of their own all ranks send at a time; on one medium the fewest bytes are best.
    described = [
        "allreduce",
        "--bytes",
        "64KiB",
        "--overhead",
        "1us",
        "--gap",
        "1us",
        "--reduce",
        "10GB/s",
        *EDGE,
    ]
    own, shared = (rows(plan(*described, *more).output)[0] for more in ([], ["--shared"]))
    place = [[row[0] for row in table].index("direct") for table in (own, shared)]
    star = [next(number for number, row in enumerate(table) if "star" in row[0]) for table in (own, shared)]
    assert place[0] < star[0]
    assert place[1] > star[1]


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_few_ranks(ranks):
    result = plan("allreduce", "--ranks", ranks, "--bytes", "12", "--latency", "1us", "--bandwidth", "1GB/s")
    assert result.exit_code == 0, result.output
    assert f"allreduce of 12 B on {ranks} ranks: " in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", *EDGE, "--bytes", "8"], "'scan' is not one of 'allreduce'"),
        (["allreduce", *EDGE], "Missing option '--bytes'"),
        (["allreduce", *EDGE, "--bytes", "1Mb"], "'1Mb': expected a size in bytes such as 64KiB"),
        (["allreduce", *EDGE, "--bytes", "8", "--overhead", "5"], "'5': expected a time such as 50us"),
        (["allreduce", *EDGE, "--bytes", "8", "--reduce", "0GB/s"], "'0GB/s': expected a rate above 0"),
        (
            ["allreduce", *EDGE, "--bytes", "8", "--per-node", "2"],
            "expected --node-latency and --node-bandwidth",
        ),
        (["bcast", *EDGE, "--bytes", "8", "--root", "8"], "'--root': 8: expected one of the ranks 0 to 7"),
        (["allreduce", *EDGE, "--bytes", "8", "--ranks", "0"], "0 is not in the range x>=1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    result = plan(*arguments)
    assert result.exit_code == 2, result.output
    words = " ".join(result.output.replace("│", " ").split())
    assert message in words


def test_choice_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "drawn.png"
    result = plan("allreduce", "--bytes", "1MiB", *EDGE, "--draw", str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert result.output.endswith(f"drawn in {path}\n")
    result = plan("allreduce", "--bytes", "1MiB", *EDGE, "--ranks", "4", "--draw", str(tmp_path / "other"))
    assert result.output.endswith(f"drawn in {tmp_path / 'other.png'}\n")
    assert (tmp_path / "other.png").read_bytes().startswith(b"\x89PNG")
    result = plan("allreduce", "--bytes", "1MiB", *EDGE, "--draw", str(tmp_path / "no" / "drawn.png"))
    assert result.exit_code == 2
    assert "drawn.png cannot be written: " in " ".join(result.output.split())
    result = plan("allreduce", "--bytes", "1MiB", *EDGE, "--draw", str(tmp_path / "drawn.doc"))
    assert result.exit_code == 2
    assert "drawn.doc cannot be drawn: expected a name that ends with" in " ".join(result.output.split())


def test_drawing_needs_matplotlib(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.backend_bases", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    result = plan("allreduce", "--bytes", "1KiB", *EDGE, "--draw", str(tmp_path / "drawn.png"))
    assert result.exit_code == 1
    assert "--draw needs matplotlib" in result.output
    assert "pip install matplotlib" in result.output


def test_picture_has_a_line_for_each_message():
    pytest.importorskip("matplotlib")
    links = Links(1e-3, 1e-8)
    schedule = ring_allreduce(4, 2)
    prediction = simulate(schedule, np.full(8, 1000), links, timeline=True)
    figure = timeline.draw(prediction.timeline, 4, "ring")
    (axes,) = figure.axes
    lines: Any = axes.collections[0]
    segments = np.array(lines.get_segments())
    assert segments.shape == (2 * 2 * 3 * 4, 2, 2)
    assert np.array_equal(segments[:, :, 1].T, [prediction.timeline.source, prediction.timeline.destination])
    assert segments[:, 1, 0] == pytest.approx(prediction.timeline.end * 1e3)
    assert len(np.unique(lines.get_colors(), axis=0)) == 2


def test_messages_of_one_rank_stand_out_of_many(monkeypatch):
    """Others lie behind them in grey; where they are more than pixels, they are left out."""
    pytest.importorskip("matplotlib")
    schedule = ring_allreduce(16, 2)
    found = simulate(schedule, np.full(32, 1000), Links(1e-3, 1e-8), timeline=True).timeline
    for largest, drawn in ((len(found.start), 2), (len(found.start) - 1, 1)):
        monkeypatch.setattr(timeline, "LARGEST", largest)
        (axes,) = timeline.draw(found, 16, "ring", rank=5).axes
        lines: Any = axes.collections[:drawn]
        assert {begin[1] for begin, _ in lines[-1].get_segments()} == {5}
        assert sum(len(each.get_segments()) for each in lines) == (len(found.start) if drawn == 2 else 60)
        assert ("in colour" if drawn == 2 else "only") + " what rank 5 sends" in axes.get_title(loc="left")


def test_command_line_loads_neither_mpi_nor_matplotlib():
    code = (
        "import sys\nfrom roundelay.__main__ import main\nassert 'roundelay.planning' not in sys.modules\n"
        f"main({['plan', 'allreduce', '--bytes', '8', *EDGE]!r}, standalone_mode=False)\n"
        "assert 'roundelay.planning' in sys.modules\n"
        "assert not {'matplotlib', 'mpi4py.MPI'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_is_of_the_command_itself():
    result = plan("--help")
    assert result.exit_code == 0
    assert "Usage: main plan [OPTIONS]" in result.output
    assert "--node-bandwidth RATE" in result.output
    assert "  plan " in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_seconds, "50us", 50e-6),
        (units.parse_seconds, " 1.5 ms ", 1.5e-3),
        (units.parse_seconds, "2min", 120.0),
        (units.parse_seconds, "0s", 0.0),
        (units.parse_seconds, ".5s", 0.5),
        (units.parse_bytes, "4096", 4096),
        (units.parse_bytes, "64KiB", 64 << 10),
        (units.parse_bytes, "64kB", 64_000),
        (units.parse_bytes, "1.5MB", 1_500_000),
        (units.parse_bytes, "0", 0),
        (units.parse_rate, "10GB/s", 10e9),
        (units.parse_rate, "1GiB/s", float(1 << 30)),
        (units.parse_rate, "8Gbit/s", 1e9),
        (units.parse_rate, "300mbit", 37.5e6),
    ],
)
def test_units(parse, text, value):
    assert parse(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_seconds, "50"),
        (units.parse_seconds, "-1s"),
        (units.parse_seconds, "1h"),
        (units.parse_seconds, ""),
        (units.parse_seconds, "nan s"),
        (units.parse_seconds, "1Ms"),
        (units.parse_bytes, "1Mb"),
        (units.parse_bytes, "8b"),
        (units.parse_rate, "8b/s"),
        (units.parse_bytes, "0.5"),
        (units.parse_bytes, "1.0001KiB"),
        (units.parse_rate, "10GB"),
        (units.parse_rate, "10"),
        (units.parse_rate, "0B/s"),
    ],
)
def test_what_is_no_quantity_is_refused(parse, text):
    with pytest.raises(ValueError, match=f"{text!r}: expected a "):
        parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (999.96e-6, "1.00 ms"),
        (999.4e-6, "999 us"),
        (9.996e-3, "10.0 ms"),
        (99.96e-3, "100 ms"),
        (3e-12, "0.00 ns"),
    ],
)
def test_three_digits(seconds, text):
    assert units.format_seconds(seconds) == text
