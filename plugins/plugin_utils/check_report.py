# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all clients found out about all builders: as a table, as JSON, as JUnit's XML.

Pure: the results and the time are handed in.
"""

from __future__ import annotations

import json
import re
import textwrap
import typing as t
import xml.etree.ElementTree as ET

from ansible_collections.nixfleet.builders.plugins.module_utils.checks import FAILED, complaint, complaints

#: The version of the JSON file: goes up when a key changes its meaning or goes.
SCHEMA = 1

WIDTH = 100

#: The longest name that is shown whole in a column.
NAME_WIDTH = 24

#: What XML 1.0 does not allow, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

VERDICTS = ("passed", "failed", "skipped")


class Pair(t.NamedTuple):
    """One builder as one client sees it."""

    name: str
    output: str | None
    checks: list[dict[str, t.Any]]

    @property
    def failures(self) -> list[dict[str, t.Any]]:
        return [check for check in self.checks if check["verdict"] == FAILED]

    def counts(self) -> dict[str, int]:
        """How many checks had which verdict."""
        return {verdict: sum(check["verdict"] == verdict for check in self.checks) for verdict in VERDICTS}


class Client(t.NamedTuple):
    """One client: C(problem) is why nothing is known of its builders, None when something is."""

    name: str
    problem: str | None
    pairs: list[Pair]

    @property
    def passed(self) -> bool:
        return self.problem is None and not any(pair.failures for pair in self.pairs)


def read_clients(results: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[Client]:
    """The clients, out of what module builder_checks has returned on each, by their names."""
    clients = []
    for name, result in results.items():
        problem = None
        if result.get("unreachable") or result.get("failed") or "builders" not in result:
            how = "unreachable" if result.get("unreachable") else "failed"
            said = result.get("msg") or result.get("exception") or result.get("module_stderr") or "no result"
            problem = f"{how}: {str(said).strip()}"
        pairs = [Pair(it["name"], it.get("output"), list(it["checks"])) for it in result.get("builders") or []]
        clients.append(Client(name, problem, pairs))
    return clients


def passed(clients: t.Sequence[Client], unreachable: t.Mapping[str, str]) -> bool:
    """Whether all is well everywhere."""
    return not unreachable and all(client.passed for client in clients)


def by_client(clients: t.Sequence[Client]) -> dict[str, str]:
    """By the names of clients, what failed there."""
    found = {}
    for client in clients:
        lists = {pair.name: complaints(pair.checks) for pair in client.pairs if pair.failures}
        if client.problem is not None:
            found[client.name] = client.problem
        elif lists:
            found[client.name] = complaint(lists, len(client.pairs), "builders")
    return found


def by_builder(clients: t.Sequence[Client]) -> dict[str, str]:
    """By the names of builders, what clients found there."""
    found = {}
    for name in dict.fromkeys(pair.name for client in clients for pair in client.pairs):
        pairs = {client.name: pair for client in clients for pair in client.pairs if pair.name == name}
        lists = {client: complaints(pair.checks) for client, pair in pairs.items() if pair.failures}
        if lists:
            found[name] = complaint(lists, len(pairs), "clients")
    return found


# ---------------------------------------------------------------------------------------------------- the table


def table(clients: t.Sequence[Client], unreachable: t.Mapping[str, str]) -> list[str]:
    """Lines of at most WIDTH columns: a row for each pair, then what failed and what mends it."""
    rows = [row for client in clients for row in _rows(client)]
    heads = ("CLIENT", "BUILDER", "RESULT")
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(3)]
    lines = []
    for row in [(*heads, ""), *rows]:
        start = "  ".join(word.ljust(width) for word, width in zip(row, widths))
        indent = " " * (len(start) + 2)
        lines += textwrap.wrap(f"{start}  {row[3]}", WIDTH, subsequent_indent=indent, **_WRAP) or [start.rstrip()]
    for host, message in unreachable.items():
        lines += ["", *_paragraph(f"{host}: unreachable for Ansible: {message}", "")]
    for client in clients:
        if client.problem is not None:
            lines += ["", *_paragraph(f"{client.name}: {client.problem}", "")]
        for pair in client.pairs:
            for check in pair.failures:
                lines += ["", f"{_clipped(client.name)} -> {_clipped(pair.name)}: {check['check']}: {check['reason']}"]
                lines += _paragraph(str(check["message"]), "    ")
                lines += _paragraph(f"To mend it: {check['remedy']}", "    ")
    return [line.rstrip() for line in lines]


_WRAP: dict[str, t.Any] = {"break_on_hyphens": False, "replace_whitespace": False, "drop_whitespace": True}


def _rows(client: Client) -> list[tuple[str, str, str, str]]:
    name = _clipped(client.name)
    if client.problem is not None:
        return [(name, "-", "FAILED", client.problem.partition(":")[0])]
    if not client.pairs:
        return [(name, "-", "ok", "no builder to check")]
    return [(name, _clipped(pair.name), "FAILED" if pair.failures else "ok", _summary(pair)) for pair in client.pairs]


def _summary(pair: Pair) -> str:
    counts = pair.counts()
    counted = ", ".join(f"{counts[it]} {it}" for it in ("passed", "skipped") if counts[it])
    failures = ", ".join(f"{check['check']} ({check['reason']})" for check in pair.failures)
    return "; ".join(part for part in (failures, counted) if part)


def _clipped(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _paragraph(text: str, indent: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=indent, **_WRAP)
    return lines


# ---------------------------------------------------------------------------------------------------- the files


def as_json(clients: t.Sequence[Client], unreachable: t.Mapping[str, str], time: str, check_mode: bool) -> str:
    """The JSON file; see docs/verify.md."""
    pairs = [pair for client in clients for pair in client.pairs]
    document = {
        "schema": SCHEMA,
        "time": time,
        "check_mode": check_mode,
        "passed": passed(clients, unreachable),
        "counts": {
            "pairs": len(pairs),
            "pairs_failed": sum(bool(pair.failures) for pair in pairs),
            **{verdict: sum(pair.counts()[verdict] for pair in pairs) for verdict in VERDICTS},
        },
        "unreachable": dict(unreachable),
        "clients": [
            {
                "name": client.name,
                "passed": client.passed,
                "problem": client.problem,
                "builders": [
                    {"name": pair.name, "passed": not pair.failures, "output": pair.output, "checks": pair.checks}
                    for pair in client.pairs
                ],
            }
            for client in clients
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_junit(clients: t.Sequence[Client], unreachable: t.Mapping[str, str], time: str) -> str:
    """JUnit's XML: a suite for each client, a case for each builder and check.

    Hosts that Ansible did not reach are a suite of their own.
    """
    root = ET.Element("testsuites", name="nixfleet.builders.verify")
    for client in clients:
        suite = ET.SubElement(root, "testsuite", name=_text(client.name), timestamp=time)
        if client.problem is not None:
            _case(suite, client.name, "client", ("error", client.problem.partition(":")[0], client.problem))
        for pair in client.pairs:
            for check in pair.checks:
                _case(suite, f"{client.name}.{pair.name}", f"{pair.name}: {check['check']}", _outcome(check))
    if unreachable:
        suite = ET.SubElement(root, "testsuite", name="unreachable for Ansible", timestamp=time)
        for host, message in unreachable.items():
            _case(suite, host, "ansible", ("error", "unreachable", message))
    for element in [*root, root]:
        cases = list(element.iter("testcase"))
        element.set("tests", str(len(cases)))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if element is not root or tag != "skipped":
                element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _outcome(check: t.Mapping[str, t.Any]) -> tuple[str, str, str] | None:
    """(element, its type, its text) of a check that has not passed."""
    if check["verdict"] == FAILED:
        return "failure", check["reason"], f"{check['message']}\nTo mend it: {check['remedy']}"
    return ("skipped", "", str(check["because"])) if check["verdict"] == "skipped" else None


def _case(suite: ET.Element, classname: str, name: str, outcome: tuple[str, str, str] | None) -> None:
    case = ET.SubElement(suite, "testcase", classname=_text(classname), name=_text(name), time="0")
    if outcome is None:
        return
    tag, kind, text = outcome
    element = ET.SubElement(case, tag, message=_text(text if tag == "skipped" else f"{kind}: {text.splitlines()[0]}"))
    if tag != "skipped":
        element.set("type", _text(kind))
        element.text = _text(text)


def _text(text: str) -> str:
    return _NO_XML.sub("�", text)
