# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table, the JSON file and the JUnit file."""

from __future__ import annotations

import json
import typing as t
import xml.etree.ElementTree as ET

from ansible_collections.nixfleet.builders.plugins.plugin_utils import check_report

TIME = "2026-11-20T12:00:00Z"


def check(name: str, verdict: str = "passed", **more: t.Any) -> dict[str, t.Any]:
    return {"check": name, "verdict": verdict, **dict.fromkeys(("reason", "message", "remedy", "because")), **more}


FAILED = check(
    "login", "failed", reason="permission_denied", message="b2: Permission\x1b denied <&>", remedy="run this"
)
SKIPPED = check("build", "skipped", because="login failed: permission_denied")
RESULTS: dict[str, dict[str, t.Any]] = {
    "client1": {
        "builders": [
            {"name": "builder1", "output": "/nix/store/x", "checks": [check("login"), check("build")]},
            {"name": "builder2", "output": None, "checks": [FAILED, SKIPPED]},
        ],
    },
    "client2": {"unreachable": True, "msg": "ssh: no route"},
    "client3": {"failed": True, "msg": "there is no Nix"},
    "client4": {"builders": []},
}
CLIENTS = check_report.read_clients(RESULTS)


def test_table() -> None:
    lines = check_report.table(CLIENTS, {"builder3": "ssh: timed out"})
    assert lines == [
        "CLIENT   BUILDER   RESULT",
        "client1  builder1  ok      2 passed",
        "client1  builder2  FAILED  login (permission_denied); 1 skipped",
        "client2  -         FAILED  unreachable",
        "client3  -         FAILED  failed",
        "client4  -         ok      no builder to check",
        "",
        "builder3: unreachable for Ansible: ssh: timed out",
        "",
        "client1 -> builder2: login: permission_denied",
        "    b2: Permission\x1b denied <&>",
        "    To mend it: run this",
        "",
        "client2: unreachable: ssh: no route",
        "",
        "client3: failed: there is no Nix",
    ]


def test_table_fits_a_terminal() -> None:
    failures = [{**FAILED, "check": f"check{number}", "message": "word " * 60} for number in range(8)]
    pair = {"name": "b" * 60, "output": None, "checks": failures}
    lines = check_report.table(check_report.read_clients({"c" * 60: {"builders": [pair]}}), {})
    assert max(map(len, lines)) <= 100
    assert sum("word" in line for line in lines) > 16
    row = " ".join(" ".join(lines[:12]).split())
    assert all(f"check{number} (permission_denied)" in row for number in range(8))


def test_json() -> None:
    document = json.loads(check_report.as_json(CLIENTS, {}, TIME, check_mode=True))
    assert (document["schema"], document["time"], document["check_mode"], document["passed"]) == (1, TIME, True, False)
    assert document["counts"] == {"pairs": 2, "pairs_failed": 1, "passed": 2, "failed": 1, "skipped": 1}
    client = document["clients"][0]
    assert [it["passed"] for it in client["builders"]] == [True, False]
    assert client["builders"][1]["checks"] == [FAILED, SKIPPED]
    assert [it["problem"] for it in document["clients"]] == [
        None,
        "unreachable: ssh: no route",
        "failed: there is no Nix",
        None,
    ]


def test_client_on_which_the_module_broke() -> None:
    assert check_report.read_clients({"c": {"exception": "Traceback: oh"}})[0].problem == "failed: Traceback: oh"
    assert check_report.read_clients({"c": {}})[0].problem == "failed: no result"


def test_passed() -> None:
    well = check_report.read_clients({"client1": {"builders": [RESULTS["client1"]["builders"][0]]}})
    assert json.loads(check_report.as_json(well, {}, TIME, check_mode=False))["passed"]
    assert not json.loads(check_report.as_json(well, {"builder3": "gone"}, TIME, check_mode=False))["passed"]


def test_junit() -> None:
    text = check_report.as_junit(CLIENTS, {"builder3": "ssh: timed out"}, TIME)
    root = ET.fromstring(text.encode())
    assert root.attrib == {"name": "nixfleet.builders.verify", "tests": "7", "failures": "1", "errors": "3"}
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["client1", "client2", "client3", "client4", "unreachable for Ansible"]
    assert {name: suites["client1"].get(name) for name in ("tests", "failures", "errors", "skipped", "timestamp")} == {
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "timestamp": TIME,
    }
    cases = {(case.get("classname"), case.get("name")): case for case in suites["client1"]}
    failure = cases["client1.builder2", "builder2: login"].find("failure")
    assert failure is not None
    assert failure.attrib == {
        "type": "permission_denied",
        # The escape character is not allowed in XML.
        "message": "permission_denied: b2: Permission\ufffd denied <&>",
    }
    assert failure.text and failure.text.endswith("\nTo mend it: run this")
    skipped = cases["client1.builder2", "builder2: build"].find("skipped")
    assert skipped is not None and skipped.get("message") == "login failed: permission_denied"
    assert len(cases["client1.builder1", "builder1: build"]) == 0


def test_complaints() -> None:
    assert check_report.by_client(CLIENTS) == {
        "client1": "1 of 2 builders failed\nbuilder2: login failed (permission_denied): "
        "b2: Permission\x1b denied <&>\nTo mend it: run this",
        "client2": "unreachable: ssh: no route",
        "client3": "failed: there is no Nix",
    }
    assert list(check_report.by_builder(CLIENTS)) == ["builder2"]
    assert check_report.by_builder(CLIENTS)["builder2"].startswith("1 of 1 clients failed\nclient1: login failed")
