"""`roundelay report`: the page and the trace, read by Python and shown by a browser."""

import base64
import gzip
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from roundelay.__main__ import main
from roundelay.comm.monitor import report as written
from roundelay.comm.monitor.page.document import page
from roundelay.comm.monitor.page.heat_map import heat_map
from roundelay.comm.monitor.page.report_file import NotAReport, read_report
from roundelay.comm.monitor.page.trace_events import trace_of
from tests import reports

HOSTILE = (
    "</script><script>document.title='broken'</script>"
    """<img src=x onerror="document.title='broken'">'"&<!--"""
)
BROWSER = next(
    filter(
        None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
    ),
    None,
)


def run(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def read(found, tmp_path):
    return read_report(reports.save(found, tmp_path / "report.json"))


class Page(HTMLParser):
    """The elements of a page, and that each is closed."""

    VOID = frozenset({"meta", "input", "img", "link", "br"})
    SHAPES = frozenset({"rect", "path"})

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note an element without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close the last one."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note text, but for that of scripts and styles."""
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag):
        """Give the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def spoilt():
    """A report with a hostile string wherever there is one."""
    found = reports.report(4)
    found["job"]["argv"] = [HOSTILE]
    found["job"]["started"] = HOSTILE
    found["job"]["dropped"] = {HOSTILE: 1}
    for rank in found["job"]["ranks"]:
        rank.update(host=HOSTILE, state=HOSTILE, ended_by=HOSTILE)
        rank["doing"] = {"function": HOSTILE, "sequence": 1, "seconds": 1.0}
    for verdict in found["verdicts"]:
        verdict.update(
            kind=HOSTILE, sentence=HOSTILE, hosts=[HOSTILE], evidence={HOSTILE: {HOSTILE: HOSTILE}}
        )
        verdict["stacks"] = {"0": HOSTILE, "1": "\udcff\0 File \u202e"}
    for rank in found["history"]["ranks"].values():
        for call in rank["timeline"]:
            call[2] = HOSTILE
    return found


@pytest.mark.parametrize("size", [0, 1, 2, 4, 64, 256])
def test_the_page_is_one_file(size, tmp_path):
    found = reports.report(size) if size else reports.report(4)
    if not size:
        # As where no rank came.
        found["job"].update(size=0, ranks=[])
        found["history"]["ranks"] = {}
        found["verdicts"] = []
    text = page(read(found, tmp_path))
    seen = Page(text)
    outside = [
        value
        for _, attributes in seen.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster") and not value.startswith("data:")
    ]
    assert outside == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text) < 6_000_000
    [policy] = [each["content"] for each in seen.all("meta") if "content" in each and "http-equiv" in each]
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy


def test_outsiders_are_counted(tmp_path):
    found = reports.report(4)
    assert "dropped" not in page(read(found, tmp_path))
    found["job"]["dropped"] = {"unauthenticated": 3, "malformed": 1}
    said = "Connections and messages that the watcher dropped: 1 malformed, 3 unauthenticated."
    assert said in page(read(found, tmp_path))


def test_verdicts_come_first(tmp_path):
    found = reports.report(4)
    texts = Page(page(read(found, tmp_path))).texts
    sentences = [texts.index(verdict["sentence"]) for verdict in found["verdicts"]]
    assert sentences == sorted(sentences)
    assert max(sentences) < texts.index("Who waits for whom")
    assert "Python stack of rank 3" in texts
    assert "Python stack of rank 0, which waits" in texts
    assert found["verdicts"][1]["stacks"]["3"] in texts
    assert any("rank 2 waited" in text for text in texts)


def test_what_a_rank_did_when_it_died(tmp_path):
    found = reports.report(4)
    for rank in found["job"]["ranks"]:
        rank["state"], rank["ended_by"] = "dead", "SIGTERM"
    texts = Page(page(read(found, tmp_path))).texts
    # The others were outside MPI.
    assert texts.count("was in Allreduce #20") == 2
    assert "outside MPI" not in texts


def test_collectives_are_no_waiting_for_messages(tmp_path):
    found = reports.report(4)
    assert any("collectives are not counted" in text for text in Page(page(read(found, tmp_path))).texts)
    for rank in found["history"]["ranks"].values():
        rank["waited"] = [0.0] * 4
    wanted = "No rank has waited for a message of another. Collectives are not counted here."
    assert wanted in Page(page(read(found, tmp_path))).texts


def test_a_report_without_verdicts(tmp_path):
    found = reports.report(4)
    found["verdicts"] = []
    assert "Nothing was found: no rank is dead, stuck or slow." in Page(page(read(found, tmp_path))).texts


def test_hostile_strings_are_text(tmp_path):
    text = page(read(spoilt(), tmp_path))
    seen = Page(text)
    assert seen.all("img") == []
    assert len(seen.all("script")) == 2
    assert not [
        attributes for _, attributes in seen.elements if any(name.startswith("on") for name in attributes)
    ]
    assert "".join(seen.texts).count("onerror=") > 10
    # The data of the script is still that.
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["names"] == [HOSTILE]


def test_what_the_watcher_writes_can_be_read(tmp_path):
    """What the watcher's own function writes has the version that is read."""
    found = reports.report(3)
    del found["roundelay"]
    path = tmp_path / "report.json"
    written.write(str(path), found)
    assert read_report(path).size == 3


def test_the_trace_is_that_of_chrome(tmp_path):
    found = reports.report(3, calls=30)
    found["history"]["ranks"]["1"]["timeline"][-1][1] = None
    trace = trace_of(read(found, tmp_path))
    events = trace["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 90
    assert all(
        event["dur"] >= 0 and event["ts"] >= 0 and {"pid", "tid", "name"} <= event.keys()
        for event in complete
    )
    first = found["history"]["ranks"]["0"]["timeline"][1]
    event = complete[1]
    assert event["name"] == "Recv"
    assert event["ts"] == pytest.approx(first[0] * 1e6)
    assert event["dur"] == pytest.approx((first[1] - first[0]) * 1e6, abs=1e-2)
    assert event["args"] == {"communicator": 1, "from": 2, "bytes": 65536}
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == [
        "rank 0 on h0",
        "rank 1 on h0",
        "rank 2 on h1",
    ]
    assert [event["args"]["kind"] for event in events if event["ph"] == "i"] == ["slow-link", "stuck"]
    assert sum("state" in event["args"] for event in complete) == 1


def test_the_page_holds_the_trace(tmp_path):
    report = read(reports.report(4), tmp_path)
    [link] = Page(page(report)).all("a")
    assert link["download"] == "trace.json.gz"
    packed = link["href"].removeprefix("data:application/gzip;base64,")
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == trace_of(report)


def test_a_long_history_is_thinned(tmp_path, monkeypatch):
    from roundelay.comm.monitor.page import document

    monkeypatch.setattr(document, "_MOST_DRAWN", 40)
    found = reports.report(4)
    text = page(read(found, tmp_path))
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [len(calls) for calls in data["calls"].values()] == [10] * 4
    assert data["calls"]["0"][-1][0] == found["history"]["ranks"]["0"]["timeline"][-1][0]


@pytest.mark.parametrize("size", [1, 3, 40, 256])
def test_a_heat_map_has_each_cell_once(size):
    random = np.random.default_rng(size)
    matrix = random.uniform(0, 1, (size, size)) * (random.uniform(0, 1, (size, size)) < 0.4)
    matrix[0, -1] = 2.0
    text = heat_map(matrix, "waited", "s")
    cell = float(re.findall(r'data-cell="([\d.]+)"', text)[0])
    widths = [float(each) / cell for each in re.findall(r"h([\d.]+)v", text)]
    assert sum(map(round, widths)) == np.count_nonzero(matrix)
    assert len(text) < 2_000_000
    assert "2" in text


def test_the_command_writes_a_page(tmp_path):
    path = reports.save(reports.report(4), tmp_path / "found.json")
    result = run(path)
    assert result.exit_code == 0, result.output
    assert result.output == f"{tmp_path / 'found.html'}: 2 verdicts, 4 ranks\n"
    assert run(path, "--output", tmp_path / "other.html").exit_code == 0
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "found.html").read_bytes()


def test_one_verdict_on_one_rank(tmp_path):
    found = reports.report(1)
    del found["verdicts"][1:]
    result = run(reports.save(found, tmp_path / "found.json"))
    assert result.output.endswith(": 1 verdict, 1 rank\n")
    assert " on 1 rank</title>" in (tmp_path / "found.html").read_text()


def test_the_command_writes_a_trace(tmp_path):
    path = reports.save(reports.report(4), tmp_path / "found.json")
    result = run(path, "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "trace.json").read_text()) == json.loads(
        json.dumps(trace_of(read_report(path)))
    )
    assert not (tmp_path / "found.html").exists()
    assert run(path, "--trace", tmp_path / "trace.json", "--output", tmp_path / "a.html").exit_code == 0
    assert (tmp_path / "a.html").exists()


def test_names_that_are_not_unicode(tmp_path):
    path = reports.save(spoilt(), tmp_path / "found.json")
    assert run(path).exit_code == 0
    assert "\\udcff" in (tmp_path / "found.html").read_text("utf-8")
    assert run(path, "--trace", tmp_path / "trace.json").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no report"),
        ("not JSON", "is no report"),
        ("[" * 100_000, "is no report"),
        ("[]", "is no report: expected one written by roundelay run"),
        ('{"verdicts": []}', "is no report: expected one written by roundelay run"),
        ('{"verdicts": [], "job": {}}', "report of version None: expected 1"),
        ('{"verdicts": [], "job": {}, "roundelay": 99}', "report of version 99: expected 1"),
        ('{"verdicts": [], "job": {}, "roundelay": 1}', "no complete report: size None"),
    ],
)
def test_a_file_that_is_no_report(tmp_path, text, message):
    path = tmp_path / "found.json"
    path.write_text(text)
    result = run(path)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert [*tmp_path.iterdir()] == [path]


def test_a_binary_file(tmp_path):
    path = tmp_path / "found.json"
    path.write_bytes(bytes(range(256)))
    result = run(path)
    assert (result.exit_code, result.output[:7]) == (1, "Error: ")


def test_no_file(tmp_path):
    result = run(tmp_path / "nothing.json")
    assert result.exit_code == 2
    assert "does not exist" in result.output


CHANGES = {
    "size": lambda found: found["job"].update(size=-1),
    "a huge size": lambda found: found["job"].update(size=1 << 40),
    "seconds": lambda found: found["job"].update(seconds=float("nan")),
    "ranks": lambda found: found["job"].update(ranks=[3]),
    "a rank": lambda found: found["verdicts"][0].update(ranks=[7]),
    "a negative rank": lambda found: found["verdicts"][0].update(ranks=[-1]),
    "a sentence": lambda found: found["verdicts"][0].update(sentence=None),
    "stacks": lambda found: found["verdicts"][0].update(stacks={"x": "y"}),
    "waited": lambda found: found["history"]["ranks"]["0"].update(waited=[1.0]),
    "infinite": lambda found: found["history"]["ranks"]["0"].update(waited=[float("inf")] * 4),
    "a call": lambda found: found["history"]["ranks"]["0"]["timeline"].append([1, 2]),
    "a name": lambda found: found["history"]["ranks"]["0"]["timeline"].append([1, 2, 3, 4, 5, 6, 7, 8]),
    "history": lambda found: found.update(history=[1]),
    "columns": lambda found: found["history"].update(columns=["begin"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_report_that_is_damaged(tmp_path, change):
    found = reports.report(4)
    CHANGES[change](found)
    with pytest.raises(NotAReport, match="no complete report"):
        read(found, tmp_path)


def test_a_report_that_ends_early(tmp_path):
    path = reports.save(reports.report(4), tmp_path / "found.json")
    whole = path.read_text()
    for length in range(0, len(whole) - 1, len(whole) // 40):
        path.write_text(whole[:length])
        with pytest.raises(NotAReport):
            read_report(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    path = reports.save(reports.report(4), tmp_path / "found.json")
    for option in ("--output", "--trace"):
        result = run(path, option, "/dev/full")
        assert result.exit_code == 1
        assert "/dev/full cannot be written: No space left on device" in result.output


def test_a_disk_that_fills_up_leaves_the_old_page(tmp_path, monkeypatch):
    path = reports.save(reports.report(4), tmp_path / "found.json")
    (tmp_path / "found.html").write_text("old")

    def fill(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    result = run(path)
    assert result.exit_code == 1
    assert "found.html cannot be written: No space left on device" in result.output
    assert (tmp_path / "found.html").read_text() == "old"
    assert len([*tmp_path.iterdir()]) == 2


def shown(path, tmp_path, *more):
    """The page as a browser has it after its script, and what the browser complained of."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
        "--enable-logging=stderr",
        "--window-size=1200,900",
    ]
    command = [BROWSER, *flags, *more, "--dump-dom", path.as_uri()]
    result = subprocess.run(command, capture_output=True, timeout=100, check=True)
    return result.stdout.decode(), [
        line for line in result.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line
    ]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.timeout_s(240)
@pytest.mark.parametrize("size", [4, 256])
def test_a_browser_draws_it(tmp_path, size):
    path = reports.save(reports.report(size), tmp_path / "found.json")
    assert run(path).exit_code == 0
    text, complaints = shown(tmp_path / "found.html", tmp_path)
    assert complaints == []
    assert f'data-drawn="{size}"' in text
    assert 'class="legend"><span><i style="background' in text


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.timeout_s(240)
def test_a_browser_runs_nothing_of_what_a_report_contains(tmp_path):
    path = reports.save(spoilt(), tmp_path / "found.json")
    assert run(path).exit_code == 0
    text, complaints = shown(tmp_path / "found.html", tmp_path)
    assert complaints == []
    assert "<title>broken" not in text
    assert 'data-drawn="4"' in text


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.timeout_s(240)
def test_pointer_and_keys(tmp_path):
    """A script that moves the pointer and presses keys finds tips, and another picture."""
    path = reports.save(reports.report(4), tmp_path / "found.json")
    assert run(path).exit_code == 0
    script = """
        setTimeout(() => {
          const canvas = document.querySelector("canvas"), before = canvas.toDataURL();
          const at = canvas.getBoundingClientRect();
          const to = (x, y, target) => target.dispatchEvent(new PointerEvent("pointermove",
            {clientX: x, clientY: y, bubbles: true}));
          to(at.left + 300, at.top + 30, canvas);
          const tip = document.querySelector(".canvas .tip").textContent;
          const map = document.querySelector("svg.heat"), frame = map.getBoundingClientRect();
          to(frame.left + 54 + 1.5 * 56, frame.top + 54 + 2.5 * 56, map);
          const cell = document.querySelector(".maps .tip").textContent;
          canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "+"}));
          document.querySelector('[data-do="right"]').click();
          setTimeout(() => {
            document.body.dataset.found = JSON.stringify([tip, cell, canvas.toDataURL() !== before]);
          }, 300);
        }, 300);
    """
    # The page's own rule lets no other script run.
    text = re.sub(r'<meta http-equiv="Content[^>]*>', "", (tmp_path / "found.html").read_text())
    # And there are no frames to wait for.
    text = text.replace("<head>", "<head><script>requestAnimationFrame = (draw) => draw();</script>")
    (tmp_path / "driven.html").write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    seen = Page(shown(tmp_path / "driven.html", tmp_path)[0])
    [body] = seen.all("body")
    tip, cell, changed = json.loads(body["data-found"])
    assert re.match(r"rank 0: \w+", tip)
    assert cell.startswith("rank 2 waited ")
    assert " for rank 1\n20 messages, " in cell
    assert changed
