# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a run. That of runs that happen is tested with the module."""

from __future__ import annotations

import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, dispatch
from ansible_collections.nixfleet.builders.plugins.module_utils.build_result import (
    TOLD,
    TOLD_LINES,
    complaint,
    summary,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, Task
from ansible_collections.nixfleet.builders.plugins.module_utils.scheduler import Load
from ansible_collections.nixfleet.builders.tests.support.played_fleet import drv

Result = dict[str, t.Any]


def test_what_is_told_of_derivations_and_builders() -> None:
    """Of the last attempt, where there are several."""
    made = drv("made")
    task = Task(derivation.parse(made.path, made.text), Requirements("x86_64-linux"), made.outputs, frozenset(), (), ())
    attempts = [
        dispatch.Attempt("ssh-ng://b1", given=3, stopped=4, outcome="lost", reason="it is gone"),
        dispatch.Attempt("ssh-ng://b2", given=5, stopped=7, outcome="failed", reason="exit code 1"),
    ]
    record = dispatch.Record(task, "failed", attempts, error="exit code 1", log=["a", "b"])
    builders = [
        dispatch.MachineRecord("ssh-ng://b1", "b1", 1, 1.0, lost=1, busy=1.00049, trouble="it is gone", bytes_out=8),
        dispatch.MachineRecord(
            "ssh-ng://b2", "b2", 1, 1.0, failed=1, busy=2, nix_version="2.8.0", bytes_in=9, load=Load(0.5, 2)
        ),
    ]
    plan = Plan({}, {}, frozenset(), 0, 0, t.cast("t.Any", None))
    result = summary(dispatch.Run(plan, {made.path: record}, builders, 1, 8.0004, [], 6))
    (shown,) = result["derivations"]
    assert result["failures"] == [shown]
    assert (shown["builder"], shown["start"], shown["stop"]) == ("b2", 5, 7)
    assert (shown["error"], shown["log"]) == ("exit code 1", ["a", "b"])
    assert shown["attempts"] == [
        {"builder": "b1", "start": 3, "stop": 4, "outcome": "lost", "reason": "it is gone"},
        {"builder": "b2", "start": 5, "stop": 7, "outcome": "failed", "reason": "exit code 1"},
    ]
    counts = ("built", "failed", "lost", "busy_seconds", "bytes_in", "bytes_out", "nix_version", "trouble")
    assert [[each[name] for name in counts] for each in result["builders"]] == [
        [0, 0, 1, 1.0, 0, 8, "", "it is gone"],
        [0, 1, 0, 2, 9, 0, "2.8.0", ""],
    ]
    assert [each["load"] for each in result["builders"]] == [
        None,
        {"load_average": 0.5, "cpus": 2, "pressure": None, "free_memory": None, "free_disk": None},
    ]
    assert (result["copied_bytes"], result["seconds"]) == (6, 7.0)


def test_the_message_of_a_failure() -> None:
    failures: list[Result] = [
        {"name": f"a{number}", "builder": "b1", "error": "why", "status": "failed", "log": []}
        for number in range(TOLD + 2)
    ]
    failures[1]["builder"] = None
    failures[2]["log"] = [f"line {number}" for number in range(TOLD_LINES + 1)]
    others = [{"status": "cancelled"}] * 3 + [{"status": "built"}]
    message = complaint({"failures": failures, "derivations": [*failures, *others]})
    assert message.splitlines() == [
        "7 of 11 derivations failed, 3 were not built for that",
        "a0 on b1: why",
        "a1: why",
        "a2 on b1: why",
        *[f"  > line {number}" for number in range(1, TOLD_LINES + 1)],
        "a3 on b1: why",
        "a4 on b1: why",
        "and 2 more",
    ]
