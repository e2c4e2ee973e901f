# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished run as JSON and as a Chrome trace."""

from __future__ import annotations

import json

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.report import (
    Attempt,
    Machine,
    Phase,
    Refusal,
    Run,
    Step,
    as_dict,
    as_trace,
    critical_path,
    totals,
    with_slots,
)
from ansible_collections.nixfleet.builders.tests.support.report_samples import sample_run


def attempt(machine: str, start: float, stop: float, slot: int | None = None, outcome: str = "built") -> Attempt:
    half = (start + stop) / 2
    return Attempt(machine, outcome, start - 1, (Phase("upload", start, half), Phase("build", half, stop)), slot)


def run_of(*steps: Step, seconds: float = 10.0) -> Run:
    return Run([Machine("m", "M", 2), Machine("n", "N", 1)], steps, seconds)


def test_the_critical_path_follows_what_ended_last() -> None:
    steps = (
        Step("/a", "a", "built", attempts=[attempt("m", 1, 3)]),
        Step("/b", "b", "built", attempts=[attempt("m", 1, 5)]),
        Step("/c", "c", "built", dependencies=["/a", "/b", "/gone"], attempts=[attempt("n", 5, 9)]),
        Step("/d", "d", "built", dependencies=["/a"], attempts=[attempt("m", 3, 8)]),
        Step("/e", "e", "cancelled", dependencies=["/c"]),
    )
    assert [step.name for step in critical_path(run_of(*steps))] == ["b", "c"]
    assert critical_path(run_of()) == []


def test_a_slot_that_is_not_known_is_the_first_free_one() -> None:
    steps = (
        Step("/a", "a", "built", attempts=[attempt("m", 0, 4)]),
        Step("/b", "b", "built", attempts=[attempt("m", 1, 2), attempt("m", 3, 5)]),
        Step("/c", "c", "built", attempts=[attempt("m", 1, 3)]),
        Step("/d", "d", "built", attempts=[attempt("m", 4, 6)]),
        Step("/e", "e", "built", attempts=[attempt("n", 1, 3)]),
    )
    assert with_slots(run_of(*steps)) == [[0], [1, 1], [2], [0], [0]]
    known = Step("/k", "k", "built", attempts=[attempt("m", 0, 4, slot=1)])
    assert with_slots(run_of(known, *steps[:1])) == [[1], [0]]


def test_totals_of_a_machine() -> None:
    steps = (
        Step("/a", "a", "built", attempts=[attempt("m", 0, 4, outcome="lost"), attempt("n", 4, 10)]),
        Step("/b", "b", "failed", attempts=[attempt("m", 0, 6, outcome="failed")]),
    )
    sums = totals(run_of(*steps))
    assert (sums["m"].built, sums["m"].failed, sums["m"].lost) == (0, 1, 1)
    assert (sums["m"].building, sums["m"].copying, sums["m"].used) == (5, 5, 0.5)
    assert (sums["n"].built, sums["n"].used) == (1, pytest.approx(0.6))
    assert list(sums) == ["m", "n"]


def test_a_run_of_no_time_has_no_use_of_slots() -> None:
    assert totals(run_of(seconds=0.0))["m"].used == 0


def test_times_of_a_step() -> None:
    step = Step("/a", "a", "built", attempts=[attempt("m", 2, 4), attempt("n", 5.5, 9.5)])
    assert (step.queued, step.seconds("upload"), step.seconds("build"), step.seconds("wait")) == (2, 3, 3, 0)
    assert step.stop == 9.5
    never = Attempt("m", "lost", 3.0)
    assert (never.start, never.stop) == (3, 3)


def test_the_dict_holds_everything_and_is_json() -> None:
    run = Run(
        [Machine("m", "M", 2, 1.5, "2.26.3", "", 10, 20)],
        [Step("/a", "a", "built", "x86_64-linux kvm", ["/z"], [attempt("m", 1, 3.00049)], log=["one"], bytes_in=5)],
        4.0,
        "now",
        [Refusal("x86_64-linux kvm", "m", "no kvm")],
        {"policy": "load"},
    )
    made = json.loads(json.dumps(as_dict(run)))
    assert made["success"] is True and made["version"] == 1 and made["seconds"] == 4
    assert made["counts"] == {"built": 1, "failed": 0, "cancelled": 0, "found": 0}
    assert made["critical_path"] == ["/a"] and made["options"] == {"policy": "load"}
    (machine,) = made["machines"]
    assert machine["building"] == 1 and machine["bytes_out"] == 20 and machine["used"] == 0.2501
    (step,) = made["steps"]
    assert step["log"] == ["one"] and step["dependencies"] == ["/z"]
    assert step["attempts"][0]["slot"] == 0
    assert step["attempts"][0]["phases"][1] == {"kind": "build", "start": 2.0, "stop": 3.0}
    assert made["refusals"] == [{"requirement": "x86_64-linux kvm", "machine": "m", "reason": "no kvm"}]


@pytest.mark.parametrize(("status", "success"), [("failed", False), ("cancelled", False), ("found", True)])
def test_success(status: str, success: bool) -> None:
    assert as_dict(run_of(Step("/a", "a", status)))["success"] is success  # type: ignore[arg-type]


def test_the_trace_has_a_process_for_each_machine_and_a_thread_for_each_slot() -> None:
    steps = (
        Step("/a", "a", "built", attempts=[attempt("n", 1, 3)]),
        Step("/b", "b", "built", dependencies=["/a"], attempts=[attempt("m", 3, 5, slot=1)]),
        Step("/c", "c", "built", attempts=[attempt("unknown", 0, 1)]),
    )
    made = json.loads(json.dumps(as_trace(run_of(*steps))))
    events = made["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"M", "N", "unknown"}
    (build,) = [e for e in events if e["name"] == "b"]
    assert (build["ph"], build["pid"], build["tid"], build["ts"], build["dur"]) == ("X", 1, 2, 4_000_000, 1_000_000)
    assert build["args"]["critical"] is True and build["args"]["drv"] == "/b" and build["args"]["waited"] == 1
    assert {e["name"] for e in events if e["ph"] == "X" and e["cat"] == "upload"} == {f"upload: {n}" for n in "abc"}
    threads = [(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"]
    assert sorted(threads) == sorted(set(threads)) == [(1, 2), (2, 1), (3, 1)]


def test_no_two_events_of_a_slot_overlap() -> None:
    events = [e for e in as_trace(sample_run(300))["traceEvents"] if e["ph"] == "X"]
    ends: dict[tuple[int, int], int] = {}
    for event in sorted(events, key=lambda e: e["ts"]):
        place = (event["pid"], event["tid"])
        assert event["ts"] >= ends.get(place, 0) - 1
        ends[place] = event["ts"] + event["dur"]
    assert len(events) > 800
