# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A finished run as one HTML page without outside references.

Pure. All that is told stands in tables, which need no script; the script draws the timeline, filters and sorts. What a
build printed is text here, never markup.
"""

from __future__ import annotations

import html
import json
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.report import (
    Run,
    Step,
    critical_path,
    totals,
    with_slots,
)

#: How much of the logs of failed steps is shown: for each, for all.
LOG_CHARS = 20_000
ALL_LOG_CHARS = 400_000
#: How many failures stand there at once; the others behind a line to open.
FAILURES_SHOWN = 8
#: How many machines a refusal names.
NAMES_SHOWN = 12
#: Up to so many slots the timeline shows those that did nothing, too.
IDLE_SLOTS = 200

_TERMINAL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_KINDS = ("wait", "upload", "build", "download")
#: What people call a machine, by its key.
_Labels = t.Mapping[str, str]
_STATUS_WORDS = {"built": "built", "failed": "failed", "cancelled": "cancelled", "found": "was valid"}


def as_html(run: Run) -> str:
    """The page. It can be encoded as UTF-8 whatever the texts hold."""
    critical = {step.drv_path for step in critical_path(run)}
    labels = {machine.key: machine.label for machine in run.machines}
    body = [
        _summary(run),
        _failures(run, labels),
        _unreachable(run),
        TIMELINE,
        _critical(run, labels),
        _machines(run),
        _steps(run, critical, labels),
        _refusals(run, labels),
        _options(run),
    ]
    data = json.dumps(_data(run, critical, labels), separators=(",", ":")).replace("<", "\\u003c")
    title = f"{_result(run)[0]}: {_count(len(run.steps), 'derivation')} in {_seconds(run.seconds)}"
    return PAGE.format(
        title=_text(title),
        style=STYLE,
        body="\n".join(part for part in body if part),
        data=data,
        script=SCRIPT,
    )


def _plain(text: str) -> str:
    """Without what a terminal would act on, and without what UTF-8 cannot hold."""
    text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _TERMINAL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: object) -> str:
    """As text between tags or in a quoted attribute."""
    return html.escape(_plain(str(value)))


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds:02d} s"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _row(cells: t.Iterable[str], tag: str = "td", more: str = "") -> str:
    return f"<tr{more}>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _table(heads: t.Iterable[str], rows: t.Iterable[str], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _result(run: Run) -> tuple[str, str]:
    """In a word, and its class."""
    if any(step.status == "failed" for step in run.steps):
        return "Failed", "bad"
    if any(step.status == "cancelled" for step in run.steps):
        return "Stopped", "bad"
    return "Succeeded", "good"


# ---------------------------------------------------------------------------------------------------- the parts


def _summary(run: Run) -> str:
    word, kind = _result(run)
    count = {status: sum(step.status == status for step in run.steps) for status in _STATUS_WORDS}
    kinds = {name: sum(step.seconds(name) for step in run.steps) for name in ("wait", "upload", "build", "download")}
    chain = sum(step.seconds("build") for step in critical_path(run))
    queued = sum(step.queued for step in run.steps)
    moved = sum(machine.bytes_in + machine.bytes_out for machine in run.machines)
    slots = sum(machine.slots for machine in run.machines)
    used = sum(kinds.values()) / (slots * run.seconds) if slots and run.seconds else 0.0
    tiles = [
        ("Time", _seconds(run.seconds), f"critical path: {_seconds(chain)} of building"),
        ("Built", str(count["built"]), f"of {len(run.steps)}; {count['found']} were valid already"),
        ("Failed", str(count["failed"]), f"{count['cancelled']} cancelled"),
        ("Building", _seconds(kinds["build"]), "all slots together"),
        ("Copying", _seconds(kinds["upload"] + kinds["download"]), f"{_bytes(moved)} to and from machines"),
        ("Waiting", _seconds(queued + kinds["wait"]), f"{_seconds(queued)} of it for a free machine"),
        ("Slots used", f"{100 * used:.0f} %", f"of {slots} on {_count(len(run.machines), 'machine')}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><dd>{_text(more)}</dd></div>" for name, value, more in tiles)
    began = f"<p>{_text(run.began)}</p>" if run.began else ""
    title = f'<h1>Build run <span class="word {kind}">{word}</span></h1>'
    return f'<header>{title}{began}<dl class="tiles">{cells}</dl></header>'


def _failures(run: Run, labels: _Labels) -> str:
    failed = [step for step in run.steps if step.status == "failed"]
    if not failed:
        return ""
    left = ALL_LOG_CHARS
    parts = []
    for step in failed:
        log = "\n".join(step.log)[-min(LOG_CHARS, left) :] if left > 0 else ""
        left -= len(log)
        shown = f'<pre tabindex="0">{_text(log)}</pre>' if log else "<p>No log.</p>"
        where = (
            f" on {_text(labels.get(step.attempts[-1].machine, step.attempts[-1].machine))}" if step.attempts else ""
        )
        parts.append(
            f"<details{' open' if len(failed) <= 5 else ''}><summary><b>{_text(step.name)}</b>{where}"
            f"<span>{_text(step.reason)}</span></summary><p><code>{_text(step.drv_path)}</code></p>{shown}</details>"
        )
    if len(parts) > FAILURES_SHOWN + 1:
        more = "".join(parts[FAILURES_SHOWN:])
        parts[FAILURES_SHOWN:] = [
            f"<details><summary>{len(parts) - FAILURES_SHOWN} more failures</summary>{more}</details>"
        ]
    cancelled = sum(step.status == "cancelled" for step in run.steps)
    after = f"<p>Cancelled because of them: {cancelled}; the table of steps says why.</p>" if cancelled else ""
    return f'<section class="failures"><h2>Failures</h2>{"".join(parts)}{after}</section>'


def _unreachable(run: Run) -> str:
    rows = [_row((_text(one.label), _text(one.trouble))) for one in run.machines if one.trouble]
    return f"<section><h2>Machines in trouble</h2>{_table(('Machine', 'Why'), rows)}</section>" if rows else ""


def _critical(run: Run, labels: _Labels) -> str:
    rows = []
    for step in critical_path(run):
        last = step.attempts[-1]
        times = (step.queued, step.seconds("upload") + step.seconds("download"), step.seconds("build"))
        rows.append(
            _row(
                (
                    _name(step),
                    _text(labels.get(last.machine, last.machine)),
                    *(f"{one:.2f}" for one in times),
                    f"{last.stop:.2f}",
                )
            )
        )
    if not rows:
        return ""
    heads = ("Derivation", "Machine", "Waited, s", "Copying, s", "Building, s", "Done at, s")
    return (
        f"<section><h2>Critical path</h2><p>The chain of {_count(len(rows), 'derivation')} that the run waited for: "
        f"each was the last of what the next one needed.</p>{_table(heads, rows, 'numbers3')}</section>"
    )


def _machines(run: Run) -> str:
    sums = totals(run)
    rows = []
    for machine in run.machines:
        one = sums[machine.key]
        used = f'<span class="used"><i style="width:{100 * one.used:.1f}%"></i></span>{100 * one.used:.0f} %'
        rows.append(
            _row(
                (
                    f'<span title="{_text(machine.key)}">{_text(machine.label)}</span>',
                    _text(machine.nix_version),
                    f"{machine.slots} &times; {machine.speed_factor:g}",
                    used,
                    str(one.built),
                    str(one.failed),
                    str(one.lost),
                    f"{one.building:.1f}",
                    f"{one.copying:.1f}",
                    _bytes(machine.bytes_in),
                    _bytes(machine.bytes_out),
                )
            )
        )
    heads = ("Machine", "Nix", "Slots &times; speed", "Used", "Built", "Failed", "Lost", "Building, s", "Copying, s")
    return f"<section><h2>Machines</h2>{_table((*heads, 'In', 'Out'), rows, 'numbers5')}</section>"


def _steps(run: Run, critical: t.Collection[str], labels: _Labels) -> str:
    rows = []
    for number, step in enumerate(run.steps):
        times = (step.queued, step.seconds("upload") + step.seconds("download"), step.seconds("build"), step.stop)
        machine = _text(labels.get(step.attempts[-1].machine, step.attempts[-1].machine)) if step.attempts else ""
        status = f'<span class="status {step.status}">{_STATUS_WORDS[step.status]}</span>'
        why = f"<small>{_text(step.reason)}</small>" if step.reason else ""
        star = ' <abbr title="on the critical path">&#9733;</abbr>' if step.drv_path in critical else ""
        cells = (_name(step) + star + why, status, machine, str(len(step.attempts)))
        shown = (f"{one:.2f}" if step.attempts else "" for one in times)
        rows.append(_row((*cells, *shown), more=f' id="s{number}"'))
    heads = ("Derivation", "Status", "Machine", "Attempts", "Waited, s", "Copying, s", "Building, s", "Done at, s")
    return (
        '<section><h2 id="steps">Steps</h2><p class="tools" hidden><label>Show <input type="search" id="filter" '
        'placeholder="name, machine, status&hellip;"></label> <output id="shown"></output></p>'
        + _table(heads, rows, "steps numbers4")
        + "</section>"
    )


def _refusals(run: Run, labels: _Labels) -> str:
    if not run.refusals:
        return ""
    found: dict[str, dict[str, list[str]]] = {}
    for one in run.refusals:
        found.setdefault(one.requirement, {}).setdefault(one.reason, []).append(labels.get(one.machine, one.machine))
    parts = []
    for requirement, reasons in found.items():
        rows = []
        for reason, names in reasons.items():
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            rows.append(_row((_text(reason), _text(", ".join(names[:NAMES_SHOWN]) + more))))
        steps = sum(step.requirement == requirement for step in run.steps)
        machines = sum(map(len, reasons.values()))
        told = f"{_count(machines, 'machine')} may not build {_count(steps, 'step')}"
        parts.append(
            f"<details><summary><b>{_text(requirement)}</b><span>{told}</span></summary>"
            f"{_table(('Why', 'Machines'), rows)}</details>"
        )
    return f"<section><h2>Who may not build what</h2>{''.join(parts)}</section>"


def _options(run: Run) -> str:
    rows = [_row((_text(name), f"<code>{_text(value)}</code>")) for name, value in run.options.items()]
    return f"<section><h2>Options</h2>{_table(('Option', 'Value'), rows)}</section>" if rows else ""


def _name(step: Step) -> str:
    return f'<span title="{_text(step.drv_path)}">{_text(step.name)}</span>'


def _data(run: Run, critical: t.Collection[str], labels: _Labels) -> dict[str, t.Any]:
    """What the script draws; names stand in the table of steps already.

    steps: [critical, bytes in, bytes out, requirement, attempts]; attempts: [row, outcome, reason, queued, kind, start,
    stop, and so for each phase].
    """
    slots = with_slots(run)
    keys = dict.fromkeys(machine.key for machine in run.machines)
    keys.update(dict.fromkeys(one.machine for step in run.steps for one in step.attempts))
    used = {(one.machine, slot) for step, row in zip(run.steps, slots) for one, slot in zip(step.attempts, row)}
    if sum(machine.slots for machine in run.machines) <= IDLE_SLOTS:
        used.update((machine.key, slot) for machine in run.machines for slot in range(machine.slots))
    places = {key: place for place, key in enumerate(keys)}
    rows = sorted(used, key=lambda pair: (places[pair[0]], pair[1]))
    numbers = {pair: number for number, pair in enumerate(rows)}
    requirements = list(dict.fromkeys(step.requirement for step in run.steps))
    steps = []
    for step, row in zip(run.steps, slots):
        attempts = []
        for one, slot in zip(step.attempts, row):
            made: list[t.Any] = [numbers[(one.machine, slot)], one.outcome, _plain(one.reason), round(one.queued, 3)]
            for phase in one.phases:
                made += [_KINDS.index(phase.kind), round(phase.start, 3), round(phase.stop, 3)]
            attempts.append(made)
        steps.append(
            [
                int(step.drv_path in critical),
                step.bytes_in,
                step.bytes_out,
                requirements.index(step.requirement),
                attempts,
            ]
        )
    return {
        "seconds": round(run.seconds, 3),
        "rows": [[_plain(labels.get(key, key)), slot + 1, places[key]] for key, slot in rows],
        "requirements": [_plain(one) for one in requirements],
        "steps": steps,
    }


# ---------------------------------------------------------------------------------------------------- the page

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

TIMELINE = """<section><h2 id="timeline">Timeline</h2>
<noscript><p>The timeline is drawn by a script, which does not run here. The tables below tell the same.</p></noscript>
<div id="tl" hidden>
<p class="tools"><span class="legend"><span><i class="build"></i>building</span> <span><i class="upload"></i>copying
in</span> <span><i class="download"></i>copying out</span> <span><i class="wait"></i>waiting</span>
<span><i class="failed"></i>failed</span> <span><i class="lost"></i>lost</span> <span><i class="critical"></i>critical
path</span></span>
<span class="buttons"><label><input type="checkbox" id="only"> critical path only</label>
<button type="button" id="minus" aria-label="zoom out">&minus;</button>
<button type="button" id="plus" aria-label="zoom in">+</button>
<button type="button" id="all">whole run</button></span></p>
<div id="scroll"><div id="spacer"><canvas id="canvas" tabindex="0" role="img"
aria-label="Timeline of all slots. Left and right move, plus and minus zoom, n and p go from step to step; the table of
steps tells the same."></canvas></div></div>
<div id="detail" aria-live="polite"></div>
</div></section>"""

STYLE = """
:root{--bg:#f7f7f5;--card:#fff;--ink:#1c2026;--soft:#5d6672;--line:#dfe1e5;--band:#f2f3f4;--build:#3f74d8;--upload:#e59a1f;
--download:#149384;--wait:#b9c0ca;--failed:#cc3b3b;--lost:#8a56c8;--good:#1d7f4c;--bartext:#fff;--critical:#111}
@media (prefers-color-scheme:dark){:root{--bg:#121519;--card:#1a1e23;--ink:#e7eaee;--soft:#9ba5b1;--line:#2d333b;
--band:#1f242a;--build:#3f73d6;--upload:#dc9c34;--download:#2aa797;--wait:#56606d;--failed:#d24b4b;--lost:#9063d3;
--good:#55c088;--bartext:#fff;--critical:#fff}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem clamp(.7rem,3vw,2.2rem) 3rem;max-width:110rem;background:var(--bg);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.08rem;margin:0 0 .5rem}
p{margin:.3rem 0;color:var(--soft)}
code,pre{font:13px/1.45 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.9rem 1rem;margin:1rem 0}
.word{font-size:1rem;padding:.12em .6em;border-radius:99px;color:#fff;vertical-align:.15em}
.word.good{background:#1d7f4c}.word.bad{background:#c13434}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;margin:1rem 0 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.55rem .8rem}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}
dd+dd{font-size:.8rem;font-weight:400;color:var(--soft)}
.failures{border-left:4px solid var(--failed)}
details{border-top:1px solid var(--line);padding:.4rem 0}
summary{cursor:pointer}summary span{color:var(--soft);margin-left:.7em;overflow-wrap:anywhere}
pre{background:var(--band);border-radius:6px;padding:.6rem .8rem;margin:.4rem 0;max-height:24rem;overflow:auto;
white-space:pre-wrap;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td{overflow-wrap:break-word;font-variant-numeric:tabular-nums}td small{display:block;color:var(--soft)}
td:first-child{min-width:11rem;overflow-wrap:anywhere}
.numbers3 :is(th,td):nth-child(n+3),.numbers4 :is(th,td):nth-child(n+4),
.numbers5 :is(th,td):nth-child(n+5){text-align:right;white-space:nowrap}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--build)}
th[aria-sort] button::after{content:" \\25be"}th[aria-sort=ascending] button::after{content:" \\25b4"}
.steps tbody tr{cursor:pointer;content-visibility:auto}.steps tr:hover,.steps tr.chosen{background:var(--band)}
.status{display:inline-flex;align-items:center;gap:.4em;white-space:nowrap}
.status::before{content:"";width:.65em;height:.65em;border-radius:50%;background:var(--wait)}
.status.built::before{background:var(--good)}.status.failed::before{background:var(--failed);border-radius:0}
.status.found::before{background:none;border:2px solid var(--good)}
.status.failed{font-weight:600}
.used{display:inline-block;width:5rem;margin-right:.5em;height:.6em;background:var(--band);border:1px solid var(--line);
border-radius:3px;overflow:hidden}
.used i{display:block;height:100%;background:var(--build)}
abbr{text-decoration:none;color:var(--upload)}
.tools{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:center;justify-content:space-between;font-size:.88rem}
.tools[hidden]{display:none}
.buttons{display:flex;gap:.4rem;align-items:center}
button,input[type=search]{font:inherit;color:inherit;background:var(--band);border:1px solid var(--line);
border-radius:6px;padding:.15rem .6rem}
input[type=search]{width:17rem}
.legend span{white-space:nowrap;margin-right:.7em}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em;vertical-align:-.05em;
background:var(--wait)}
.legend .build{background:var(--build)}
.legend .upload{background:var(--upload)}.legend .download{background:var(--download)}
.legend .failed{background:var(--failed)}.legend .lost{background:var(--lost)}
.legend .critical{background:none;border:2px solid var(--critical)}
#scroll{overflow-y:auto;max-height:72vh;border:1px solid var(--line);border-radius:6px}
#canvas{display:block;position:sticky;top:0;width:100%;touch-action:pan-y;cursor:crosshair}
#canvas:focus-visible{outline:2px solid var(--build);outline-offset:-2px}
#detail{min-height:4.6em;padding:.5rem 0 0;font-size:.9rem;color:var(--soft)}
#detail b{color:var(--ink)}#detail code{overflow-wrap:anywhere}
@media print{#tl{display:none}body{background:#fff}}
"""

SCRIPT = r"""
"use strict";
(() => {
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const table = document.querySelector("table.steps"), body = table.tBodies[0], trs = [...body.rows];
const nameOf = s => trs[s].cells[0].firstElementChild.textContent;
const canvas = $("canvas"), scroll = $("scroll"), g = canvas.getContext("2d");
const KINDS = ["wait", "upload", "build", "download"];
const WORDS = {wait: "waiting", upload: "copying in", build: "building", download: "copying out"};
const AXIS = 24;
const end = Math.max(data.seconds, 1e-3);
const rowHeight = data.rows.length <= 40 ? 22 : data.rows.length <= 120 ? 15 : 10;
let from = 0, to = end, chosen = -1, hidden = new Set(), colors = {}, gutter = 0, width = 0, height = 0;
// What stands in each row: [start, stop, step, attempt].
const items = data.rows.map(() => []);
data.steps.forEach((step, s) => step[4].forEach((a, n) => {
  if (a.length > 4) items[a[0]].push([a[5], a[a.length - 1], s, n]);
}));
items.forEach(row => row.sort((a, b) => a[0] - b[0]));
const order = data.steps.map((_, s) => s).filter(s => data.steps[s][4].some(a => a.length > 4))
  .sort((a, b) => data.steps[a][4][0][5] - data.steps[b][4][0][5]);

const seconds = v => v >= 3600 ? `${Math.floor(v / 3600)} h ${Math.round(v % 3600 / 60)} min`
  : v >= 60 ? `${Math.floor(v / 60)} min ${Math.round(v % 60)} s` : `${+v.toFixed(v < 10 ? 3 : 1)} s`;
function bytes(v) {
  let u = 0;
  while (v >= 1000 && u < 3) { v /= 1000; u++; }
  return `${+v.toFixed(1)} ${["B", "kB", "MB", "GB"][u]}`;
}

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["card", "ink", "soft", "line", "band", "bartext", "critical", "failed", "lost", ...KINDS])
    colors[name] = style.getPropertyValue("--" + name).trim();
}
const x = time => gutter + (time - from) / (to - from) * (width - gutter);

function cut(text, room) {
  if (g.measureText(text).width <= room) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const mid = (low + high + 1) >> 1;
    if (g.measureText(text.slice(0, mid) + "…").width <= room) low = mid; else high = mid - 1;
  }
  return low ? text.slice(0, low) + "…" : "";
}

function layout() {
  $("spacer").style.height = AXIS + data.rows.length * rowHeight + 2 + "px";
  width = scroll.clientWidth;
  height = Math.min(scroll.clientHeight, AXIS + data.rows.length * rowHeight + 2);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.height = height + "px";
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.font = "12px system-ui, sans-serif";
  const widest = Math.max(0, ...data.rows.slice(0, 400).map(r => g.measureText(r[0]).width));
  gutter = Math.min(widest + 34, width * (width < 600 ? .28 : .2));
  draw();
}

function ticks() {
  const want = Math.max(2, (width - gutter) / 90), raw = (to - from) / want;
  const nice = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000, 86400];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = (raw < 1 ? [1, 2, 5, 10].map(n => n * power) : nice).find(n => n >= raw * .999) || 86400;
  const found = [];
  for (let v = Math.ceil(from / step - 1e-9) * step; v <= to + step * 1e-6; v += step) found.push(v);
  return [found, step];
}
const clock = (v, step) => {
  if (v < 1e-9) return "0";
  if (step >= 60 || v >= 600) {
    const two = n => String(n).padStart(2, "0"), h = Math.floor(v / 3600), m = Math.floor(v % 3600 / 60);
    return (h ? `${h}:${two(m)}` : `${m}`) + `:${two(Math.round(v % 60))}`;
  }
  return +v.toFixed(6) + " s";
};

function draw() {
  const top = scroll.scrollTop, only = $("only").checked;
  g.clearRect(0, 0, width, height);
  g.fillStyle = colors.card; g.fillRect(0, 0, width, height);
  const first = Math.max(0, Math.floor(top / rowHeight));
  const last = Math.min(data.rows.length, Math.ceil((top + height - AXIS) / rowHeight));
  const [marks, step] = ticks();
  g.textBaseline = "middle";
  for (let r = first; r < last; r++) {
    const y = AXIS + r * rowHeight - top;
    if (data.rows[r][2] % 2) { g.fillStyle = colors.band; g.fillRect(0, y, width, rowHeight); }
  }
  g.strokeStyle = colors.line; g.lineWidth = 1;
  const line = (x1, y1, x2, y2) => { g.beginPath(); g.moveTo(x1, y1); g.lineTo(x2, y2); g.stroke(); };
  for (const v of marks) { const at = Math.round(x(v)) + .5; line(at, AXIS, at, height); }
  g.save(); g.beginPath(); g.rect(gutter, AXIS, width - gutter, height - AXIS); g.clip();
  const outlines = [];
  g.font = `${rowHeight > 20 ? 12 : 10.5}px system-ui, sans-serif`;
  for (let r = first; r < last; r++) {
    const y = AXIS + r * rowHeight - top + 1, h = rowHeight - (rowHeight > 12 ? 3 : 1);
    for (const [start, stop, s, n] of items[r]) {
      if (stop < from || start > to) continue;
      const entry = data.steps[s], a = entry[4][n];
      g.globalAlpha = hidden.has(s) || (only && !entry[0]) ? .13 : 1;
      const left = x(start), wide = Math.max(1, x(stop) - left);
      for (let p = 4; p < a.length; p += 3) {
        const kind = KINDS[a[p]], l = x(a[p + 1]), w = x(a[p + 2]) - l;
        const bad = a[1] === "failed" && kind === "build" ? "failed" : a[1] === "lost" ? "lost" : kind;
        g.fillStyle = colors[bad];
        const thin = kind === "build" || h < 10 ? 0 : Math.round(h * .18);
        g.fillRect(l, y + thin, Math.max(w - (w > 3 ? .6 : 0), p === 4 ? 1 : .4), h - 2 * thin);
        if (kind === "build" && w > 34 && h >= 12) {
          g.fillStyle = colors.bartext;
          const shown = Math.max(l, gutter);
          g.fillText(cut(nameOf(s), l + w - shown - 8), shown + 4, y + h / 2 + .5);
        }
      }
      if (entry[0] || s === chosen) outlines.push([left, y, wide, h, s === chosen, g.globalAlpha]);
    }
  }
  for (const [l, y, w, h, is, alpha] of outlines) {
    g.globalAlpha = alpha;
    g.lineWidth = is ? 3 : rowHeight > 20 ? 2 : 1.5;
    g.strokeStyle = is ? colors.upload : colors.critical;
    g.strokeRect(l + .5, y, Math.max(w - 1, 1), h);
  }
  g.restore();
  let lastLabel = -99;
  for (let r = first; r < last; r++) {
    const y = AXIS + r * rowHeight - top, begins = !r || data.rows[r][2] !== data.rows[r - 1][2];
    g.strokeStyle = colors.line; g.lineWidth = 1;
    if (begins && r) line(0, Math.round(y) + .5, width, Math.round(y) + .5);
    const middle = y + rowHeight / 2;
    if ((begins || r === first) && middle - lastLabel >= 13 && middle > AXIS) {
      g.fillStyle = colors.ink; g.fillText(cut(data.rows[r][0], gutter - 32), 6, middle); lastLabel = middle;
    }
    if (rowHeight < 14) continue;
    g.fillStyle = colors.soft; g.textAlign = "right";
    g.fillText(data.rows[r][1], gutter - 8, middle);
    g.textAlign = "left";
  }
  g.fillStyle = colors.card; g.fillRect(0, 0, width, AXIS);
  g.fillStyle = colors.soft;
  for (const v of marks) {
    const label = clock(v, step), w = g.measureText(label).width;
    g.fillText(label, Math.min(Math.max(x(v) - w / 2, gutter + 3), width - w - 4), AXIS / 2);
  }
  g.strokeStyle = colors.line;
  line(0, AXIS - .5, width, AXIS - .5);
  line(gutter - .5, 0, gutter - .5, height);
}

function hit(event) {
  const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
  if (px < gutter || py < AXIS) return -1;
  const row = items[Math.floor((py - AXIS + scroll.scrollTop) / rowHeight)] || [];
  let best = -1, near = 4;
  for (const [start, stop, s] of row) {
    const off = Math.max(x(start) - px, px - x(stop), 0);
    if (off < near) { near = off; best = s; }
  }
  return best;
}

function add(parent, tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function tell(s) {
  const box = $("detail"); box.textContent = "";
  if (s < 0) { box.textContent = "Point at a bar, or choose a row of the table of steps."; return; }
  const [critical, into, out, requirement, attempts] = data.steps[s], cells = trs[s].cells;
  const head = add(box, "div", ""); add(head, "b", nameOf(s));
  const facts = ["", cells[1].textContent, critical ? "on the critical path" : "", data.requirements[requirement],
    into || out ? `${bytes(into)} in, ${bytes(out)} out` : ""];
  head.append(facts.filter((fact, n) => fact || !n).join(" · "));
  add(add(box, "div", ""), "code", cells[0].firstElementChild.title);
  attempts.forEach((a, n) => {
    const [label, slot] = data.rows[a[0]], parts = [];
    const wait = (a.length > 4 ? a[5] : a[3]) - a[3];
    if (wait > .0005) parts.push(`waited ${seconds(wait)} for a machine`);
    for (let p = 4; p < a.length; p += 3) parts.push(`${WORDS[KINDS[a[p]]]} ${seconds(a[p + 2] - a[p + 1])}`);
    add(box, "div", `${attempts.length > 1 ? `attempt ${n + 1}, ` : ""}${label} slot ${slot}, ${a[1]}`
      + (a.length > 4 ? ` from ${seconds(a[5])} to ${seconds(a[a.length - 1])}` : "")
      + (parts.length ? ": " + parts.join(", ") : "") + (a[2] ? ` (${a[2]})` : ""));
  });
}

function choose(s, show) {
  if (chosen >= 0) trs[chosen].classList.remove("chosen");
  chosen = s; tell(s);
  if (s >= 0) {
    trs[s].classList.add("chosen");
    const a = data.steps[s][4].find(one => one.length > 4);
    if (show && a) {
      const y = a[0] * rowHeight, room = height - AXIS - rowHeight;
      if (y < scroll.scrollTop || y > scroll.scrollTop + room) scroll.scrollTop = y - room / 2;
      if (a[5] > to || a[a.length - 1] < from) pan(a[5] - (from + to) / 2);
    }
  }
  draw();
}

function pan(by) {
  const span = to - from;
  from = Math.min(Math.max(0, from + by), end - span);
  to = from + span;
  draw();
}
function zoom(factor, at) {
  const span = Math.min(end, Math.max((to - from) * factor, Math.min(end, .01)));
  const part = (at - from) / (to - from);
  from = Math.min(Math.max(0, at - part * span), end - span); to = from + span; draw();
}

// Dragging moves, a click or tap chooses.
let drag = null;
canvas.addEventListener("pointerdown", e => { drag = {x: e.clientX, from, moved: false}; });
window.addEventListener("pointerup", e => {
  if (drag && !drag.moved && e.target === canvas) choose(hit(e), false);
  drag = null;
});
window.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointermove", e => {
  if (drag && Math.abs(e.clientX - drag.x) > 4) drag.moved = true;
  if (drag && drag.moved) {
    pan(drag.from - (e.clientX - drag.x) / (width - gutter) * (to - from) - from);
    return;
  }
  const s = hit(e); canvas.style.cursor = s >= 0 ? "pointer" : "crosshair"; tell(s >= 0 ? s : chosen);
});
canvas.addEventListener("pointerleave", () => tell(chosen));
canvas.addEventListener("wheel", e => {
  if (!e.ctrlKey && !e.metaKey && Math.abs(e.deltaX) <= Math.abs(e.deltaY)) return;
  e.preventDefault();
  const perPixel = (to - from) / (width - gutter), left = canvas.getBoundingClientRect().left + gutter;
  if (e.ctrlKey || e.metaKey) zoom(e.deltaY > 0 ? 1.25 : .8, from + Math.max(0, e.clientX - left) * perPixel);
  else pan(e.deltaX * perPixel);
}, {passive: false});
canvas.addEventListener("keydown", e => {
  const middle = (from + to) / 2, near = order.indexOf(chosen);
  const go = place => order.length && choose(order[Math.min(Math.max(place, 0), order.length - 1)], true);
  const act = {
    ArrowLeft: () => pan((from - to) / 8), ArrowRight: () => pan((to - from) / 8),
    "+": () => zoom(.8, middle), "=": () => zoom(.8, middle), "-": () => zoom(1.25, middle),
    "0": () => zoom(1e9, middle),
    n: () => go(near + 1), p: () => go(near - 1),
  }[e.key];
  if (act && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); act(); }
});
$("plus").onclick = () => zoom(.5, (from + to) / 2);
$("minus").onclick = () => zoom(2, (from + to) / 2);
$("all").onclick = () => zoom(1e9, 0);
$("only").onchange = draw;
scroll.addEventListener("scroll", draw);

// The table.
const texts = trs.map(tr => tr.textContent.toLowerCase());
$("filter").addEventListener("input", () => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  hidden = new Set();
  trs.forEach((tr, s) => {
    tr.hidden = !words.every(w => texts[s].includes(w));
    if (tr.hidden) hidden.add(s);
  });
  $("shown").textContent = words.length ? `${trs.length - hidden.size} of ${trs.length}` : "";
  draw();
});
const heads = [...table.tHead.rows[0].cells];
heads.forEach((th, column) => {
  const name = th.textContent;
  th.textContent = "";
  const button = add(th, "button", name);
  button.type = "button";
  button.onclick = () => {
    const up = th.getAttribute("aria-sort") === "descending" || (column < 3 && !th.hasAttribute("aria-sort"));
    sort(column, up ? 1 : -1);
  };
});
function sort(column, sign) {
  heads.forEach(th => th.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const keys = new Map(trs.map(tr => [tr, tr.cells[column].textContent]));
  const words = new Intl.Collator(undefined, {numeric: true}), number = tr => parseFloat(keys.get(tr)) || 0;
  const compare = column < 3 ? (a, b) => words.compare(keys.get(a), keys.get(b)) : (a, b) => number(a) - number(b);
  body.append(...[...trs].sort((a, b) => sign * compare(a, b)));
}
trs.forEach((tr, s) => {
  tr.tabIndex = 0;
  tr.addEventListener("click", () => choose(s, true));
  tr.addEventListener("keydown", e => {
    if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(s, true); }
  });
});

// A log is read from its end.
document.querySelectorAll("details").forEach(one => {
  const down = () => one.querySelectorAll("pre").forEach(pre => { pre.scrollTop = pre.scrollHeight; });
  one.addEventListener("toggle", down); down();
});
document.querySelectorAll(".tools[hidden]").forEach(one => { one.hidden = false; });
if (data.rows.length) {
  $("tl").hidden = false;
  readColors(); sort(6, -1); layout(); tell(-1);
  new ResizeObserver(layout).observe(scroll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); draw(); });
}
})();
"""
