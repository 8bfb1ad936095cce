"""A report as one HTML page that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..wording import counted, dropped
from .heat_map import figure, heat_map
from .report_file import Call, Finding, RankState, Report
from .trace_events import trace_of

_MOST_DRAWN = 100_000
_MOST_LISTED = 5
_MOST_RANKS_SHOWN = 16
# The job goes on in spite of these.
_SLOW = ("slow-rank", "slow-link", "slow-all", "leak")

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p>$facts</p></header>
<main>
<section id="verdicts" aria-label="Verdicts">$verdicts</section>
<section id="ranks"><h2>Ranks</h2>$ranks</section>
<section id="waiting"><h2>Who waits for whom</h2>$waiting</section>
<section id="timeline"><h2>Timeline</h2>$timeline</section>
</main>
<script type="application/json" id="data">$data</script>
<script>$script</script>
</body>
</html>
""")


def page(report: Report) -> str:
    """Give the page."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded from anywhere, and no script runs but that of the page, whatever a report contains.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    name = " ".join(report.argv) or "a job"
    return _PAGE.substitute(
        policy=policy,
        title=f"{escape(_shortened(name))} on {counted(report.size, 'rank')}",
        style=style,
        facts=_facts(report),
        verdicts=_verdicts(report.findings),
        ranks=_ranks(report.ranks, report.findings),
        waiting=_waiting(report),
        timeline=_timeline(report),
        data=_script_data(_data(report)),
        script=script,
    )


def _facts(report: Report) -> str:
    state = "it had ended" if report.ended else "it was running, or was killed with its watcher"
    hosts = sorted({each.host for each in report.ranks})
    where = f"on {_listed(hosts)}" if hosts else ""
    written = f"The report was written {report.seconds:.1f} s later, when {state}."
    outsiders = dropped(report.dropped)
    refused = f" Connections and messages that the watcher dropped: {outsiders}." if outsiders else ""
    return escape(f"Started {_date(report.started)} {where}. {written}{refused}")


def _date(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text


def _verdicts(findings: Sequence[Finding]) -> str:
    if not findings:
        return '<p class="none">Nothing was found: no rank is dead, stuck or slow.</p>'
    return "".join(map(_verdict, findings))


def _verdict(found: Finding) -> str:
    ranks = f"{'rank' if len(found.ranks) == 1 else 'ranks'} {_listed(list(map(str, found.ranks)))}"
    hosts = f" on {_listed(sorted(set(found.hosts)))}" if found.hosts else ""
    facts = f"{ranks}{hosts}, found {found.time:.1f} s after the start"
    stacks = sorted(found.stacks, key=lambda rank: (rank not in found.ranks, rank))
    look = "verdict slow" if found.kind in _SLOW else "verdict"
    return (
        f'<article class="{look}"><p class="kind">{escape(found.kind)}</p>'
        f'<p class="sentence">{escape(found.sentence)}</p><p class="facts">{escape(facts)}</p>'
        f"{_evidence(found.evidence)}"
        f"{''.join(_stack(rank, found) for rank in stacks)}</article>"
    )


def _evidence(evidence: Mapping[str, Any]) -> str:
    if not evidence:
        return ""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(_as_text(value))}</td></tr>"
        for name, value in evidence.items()
    )
    return f"<details><summary>Evidence</summary><table>{rows}</table></details>"


def _stack(rank: int, found: Finding) -> str:
    role = "" if rank in found.ranks else ", which waits" if rank == found.witness else ""
    return (
        f"<details><summary>Python stack of rank {rank}{role}</summary>"
        f"<pre>{escape(found.stacks[rank])}</pre></details>"
    )


def _ranks(ranks: Sequence[RankState], findings: Sequence[Finding]) -> str:
    if not ranks:
        return "<p>No rank was there when the report was written.</p>"
    culprits = {rank for found in findings for rank in found.ranks}
    rows = "".join(
        f'<tr class="{"culprit" if each.rank in culprits else ""}"><td>{each.rank}</td>'
        f"<td>{escape(each.host)}</td><td>{each.process}</td>"
        f"<td>{escape(each.state)}{escape(f', {each.ended_by}' if each.ended_by else '')}</td>"
        f'<td><meter min="0" max="1" value="{each.waiting:.3f}"></meter> {each.waiting:.0%}</td>'
        f"<td>{escape(_doing(each))}</td></tr>"
        for each in ranks
    )
    heads = ("rank", "host", "process", "state", "in MPI", "does")
    table = (
        f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    states = Counter(each.state for each in ranks)
    summary = escape(", ".join(f"{count} {state}" for state, count in states.most_common()))
    is_open = " open" if len(ranks) <= _MOST_RANKS_SHOWN else ""
    return f"<details{is_open}><summary>{summary}</summary>{table}</details>"


def _doing(rank: RankState) -> str:
    is_gone = rank.state in ("ended", "dead", "unreachable")
    return rank.doing or ("" if is_gone else "outside MPI")


def _waiting(report: Report) -> str:
    if not report.waited.any():
        return "<p>No rank has waited for a message of another. Collectives are not counted here.</p>"
    mean = np.divide(
        report.waited, report.messages, out=np.zeros_like(report.waited), where=report.messages > 0
    )
    maps = (
        '<div class="maps">'
        '<input type="radio" name="map" id="map-all" checked><label for="map-all">seconds in all</label>'
        '<input type="radio" name="map" id="map-mean"><label for="map-mean">ms a message</label>'
        f'<div class="map all">{heat_map(report.waited, "waited", "s")}</div>'
        f'<div class="map mean">{heat_map(mean * 1e3, "mean", "ms")}</div></div>'
    )
    hottest = np.argsort(report.waited, axis=None)[::-1][:_MOST_LISTED]
    items = "".join(
        f"<li>rank {i} waited {figure(report.waited[i, j])} s for rank {j}"
        f" ({report.messages[i, j]:.0f} messages, {figure(mean[i, j] * 1e3)} ms each)</li>"
        for i, j in zip(*map(list, np.unravel_index(hottest, report.waited.shape)), strict=True)
        if report.waited[i, j] > 0
    )
    return (
        "<p>Time in calls that received from another rank; collectives are not counted. One hot cell is a"
        " slow link, a hot column a rank that sends late, a hot row one that receives"
        f' slowly.</p><div class="waiting">{maps}'
        f"<div><h3>The longest</h3><ol>{items}</ol></div></div>"
    )


def _timeline(report: Report) -> str:
    if not any(report.timeline.values()):
        return "<p>No call has been recorded.</p>"
    trace = json.dumps(trace_of(_thinned(report)), separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(trace, 6, mtime=0)).decode()
    return (
        "<p>A sample of the calls of MPI: the latest ones at each look of the watcher. Drag to move, hold"
        " Ctrl and turn the wheel to zoom, or use the keys.</p>"
        '<div class="tools"><button data-do="in" title="zoom in">+</button>'
        '<button data-do="out" title="zoom out">&minus;</button>'
        '<button data-do="left" title="earlier">◀</button>'
        '<button data-do="right" title="later">▶</button><button data-do="all">all</button>'
        '<a class="button" download="trace.json.gz"'
        f' href="data:application/gzip;base64,{packed}">Download the trace</a>'
        "<span>for ui.perfetto.dev or chrome://tracing</span></div>"
        '<p class="legend"></p><div class="canvas"><canvas tabindex="0" aria-label="Calls of each rank over'
        ' time"></canvas><div class="tip" hidden></div></div>'
        "<noscript><p>The timeline needs JavaScript; the trace does not.</p></noscript>"
    )


def _thinned(report: Report) -> Report:
    """As many calls as a page can hold, the latest of each rank."""
    calls = sum(map(len, report.timeline.values()))
    if calls <= _MOST_DRAWN:
        return report
    each = max(_MOST_DRAWN // len(report.timeline), 1)
    timeline = {rank: found[-each:] for rank, found in report.timeline.items()}
    return Report(**{**vars(report), "timeline": timeline})


def _data(report: Report) -> dict[str, Any]:
    """What the script draws from."""
    kept = _thinned(report).timeline
    names = sorted({call.function for calls in kept.values() for call in calls})
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "seconds": report.seconds,
        "names": names,
        "calls": {str(rank): [_row(call, numbers) for call in calls] for rank, calls in sorted(kept.items())},
        "waited": [[float(f"{value:.4g}") for value in row] for row in report.waited.tolist()],
        "messages": report.messages.astype(np.int64).tolist(),
        "verdicts": [{"time": each.time, "ranks": each.ranks, "kind": each.kind} for each in report.findings],
    }


def _row(call: Call, numbers: Mapping[str, int]) -> list[Any]:
    what = (numbers[call.function], call.comm, call.sequence, call.dest, call.source, call.bytes)
    return [call.begin, call.end, *what]


def _script_data(data: Any) -> str:
    """JSON that ends no script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(words: Sequence[str], most: int = 8) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
