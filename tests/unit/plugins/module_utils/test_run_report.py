# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run as the report takes it: runs made up here, with every time in them, and a played one."""

from __future__ import annotations

import itertools
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import derivation, dispatch, report, route, run_report
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.dispatch import Attempt, MachineRecord, Record
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan, Task
from ansible_collections.nixfleet.builders.plugins.module_utils.report import Phase, Refusal
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, World, drv

LINUX = Requirements("x86_64-linux")
#: The run's clock when it starts; the report's is 0 then.
START = 1000.0


def record(made: Drv, *attempts: Attempt, required: Requirements = LINUX, **values: t.Any) -> Record:
    task = Task(
        drv=derivation.parse(made.path, made.text),
        required=required,
        outputs=made.outputs,
        wanted=frozenset(),
        inputs=(),
        needs=tuple(each.path for each in made.needs),
    )
    return Record(task, attempts=list(attempts), **values)


def as_report(
    *records: Record, machines: t.Sequence[MachineRecord] = (), builders: t.Sequence[Machine] = ()
) -> report.Run:
    plan = Plan({}, {}, frozenset(), 0, 0, t.cast("t.Any", None))
    by_path = {each.task.drv.path: each for each in records}
    run = dispatch.Run(plan, by_path, list(machines), START, START + 12.5, [], 0)
    request = dispatch.Request({}, builders, route.LocalMachine("x86_64-linux", max_jobs=0))
    return run_report.as_report(run, request, "today", {"policy": "nix"})


def attempt(given: float, ready: float, building: float, stopped: float, outcome: str = "built") -> report.Attempt:
    """One attempt's report; 0: it did not come so far."""
    times = [time and START + time for time in (given, ready, building, stopped)]
    tried = Attempt("b1", times[0], times[1], times[2], times[3], outcome, "so")
    (step,) = as_report(record(drv("a"), tried, status="built")).steps
    (found,) = step.attempts
    assert (found.machine, found.outcome, found.reason) == ("b1", outcome, "so")
    return found


def test_the_run_and_its_machines() -> None:
    machine = MachineRecord(
        "ssh-ng://b1", "b1", 4, 2.0, bytes_in=5, bytes_out=6, nix_version="2.26.3", trouble="it was gone"
    )
    found = as_report(machines=[MachineRecord("local", "this host", 1, 1.0), machine])
    assert (found.seconds, found.began, found.options, found.steps) == (12.5, "today", {"policy": "nix"}, [])
    assert found.machines == [
        report.Machine("local", "this host", 1),
        report.Machine(
            "ssh-ng://b1", "b1", 4, 2.0, nix_version="2.26.3", trouble="it was gone", bytes_in=5, bytes_out=6
        ),
    ]


@pytest.mark.parametrize(
    ("times", "phases"),
    [
        ((1, 2, 4, 8, "built"), [("upload", 1, 2), ("wait", 2, 4), ("build", 4, 8)]),
        ((1, 2, 4, 8, "lost"), [("upload", 1, 2), ("wait", 2, 4), ("build", 4, 8)]),
        # What takes no time is left out.
        ((1, 1, 1, 8, "built"), [("build", 1, 8)]),
        ((1, 2, 2, 2, "built"), [("upload", 1, 2)]),
        # Its machine was lost before it built, or before it had all inputs.
        ((1, 2, 0, 8, "lost"), [("upload", 1, 2), ("wait", 2, 8)]),
        ((1, 0, 0, 8, "lost"), [("upload", 1, 8)]),
        # The machine never said that it began.
        ((1, 2, 0, 8, "built"), [("upload", 1, 2), ("build", 2, 8)]),
        ((1, 2, 0, 8, "failed"), [("upload", 1, 2), ("build", 2, 8)]),
        # It said so before the client had noted that the inputs are there.
        ((1, 4, 2, 8, "built"), [("upload", 1, 4), ("build", 4, 8)]),
        # It ended at once.
        ((3, 3, 3, 3, "returned"), [("build", 3, 3)]),
    ],
)
def test_phases_of_an_attempt(times: t.Any, phases: list[t.Any]) -> None:
    assert attempt(*times).phases == [Phase(*phase) for phase in phases]


def test_when_a_step_was_queued() -> None:
    """From the start, or from the end of the last step that it needs; after that, when its machine gave it back."""
    low, high = drv("low"), drv("high")
    top = drv("top", [low, high])
    first = record(low, Attempt("b1", START + 1, START + 1, 0, START + 3, "built"), status="built")
    second = record(
        high,
        Attempt("b1", START + 1, START + 1, 0, START + 2, "lost"),
        Attempt("b2", START + 4, START + 4, 0, START + 5, "built"),
        status="built",
    )
    third = record(
        top,
        Attempt("b1", START + 6, 0, 0, START + 7, "lost"),
        Attempt("b2", START + 9, START + 9, 0, START + 10, "built"),
        status="built",
    )
    steps = as_report(first, second, third).steps
    assert [[each.queued for each in step.attempts] for step in steps] == [[0], [0, 2], [5, 7]]
    assert [step.queued for step in steps] == [1, 3, 3]


def test_a_step_that_began_while_what_it_needs_was_made_again() -> None:
    """Then nobody waited: it is not queued after it began."""
    low = drv("low")
    top = drv("top", [low])
    below = record(low, Attempt("b1", START + 1, 0, 0, START + 9, "built"), status="built")
    above = record(top, Attempt("b1", START + 4, 0, 0, START + 6, "returned"), status="cancelled")
    assert as_report(below, above).steps[1].attempts[0].queued == 4


def test_a_step_above_one_that_never_ran() -> None:
    low = drv("low")
    top = drv("top", [low])
    above = record(top, Attempt("b1", START + 4, 0, 0, START + 6, "built"), status="built")
    steps = as_report(record(low, status="built", found=True), above).steps
    assert (steps[0].attempts, steps[1].attempts[0].queued) == ([], 0)


@pytest.mark.parametrize(
    ("status", "found", "attempts", "shown"),
    [
        ("built", False, 1, "built"),
        ("built", True, 0, "found"),
        # It was built, lost, and found again.
        ("built", True, 1, "built"),
        ("built", True, -1, "found"),
        ("failed", False, 1, "failed"),
        ("failed", False, 0, "failed"),
        ("cancelled", False, 0, "cancelled"),
        ("waiting", False, 0, "cancelled"),
    ],
)
def test_status_of_a_step(status: str, found: bool, attempts: int, shown: str) -> None:
    outcome = "built" if attempts > 0 else "returned"
    tried = [Attempt("b1", START, START, START, START + 1, outcome)] * abs(attempts)
    (step,) = as_report(record(drv("a"), *tried, status=status, found=found)).steps
    assert step.status == shown


def test_the_rest_of_a_step() -> None:
    low = drv("low")
    top = drv("top", [low])
    tried = [Attempt("b1", START + number, 0, 0, START + number, "lost", bytes_copied=5) for number in (1, 2)]
    required = Requirements("aarch64-linux", frozenset({"kvm", "big"}))
    step = as_report(
        record(low), record(top, *tried, required=required, status="failed", error="why", log=["a", "b"])
    ).steps[1]
    assert (step.drv_path, step.name, step.dependencies) == (top.path, "top", (low.path,))
    assert (step.requirement, step.reason, step.log) == ("aarch64-linux big kvm", "why", ["a", "b"])
    assert (step.bytes_in, len(step.attempts)) == (10, 2)


def test_refusals_of_each_requirement() -> None:
    """Once for each requirement, in the order of the machines; all of one machine's reasons in one."""
    builders = [
        Machine("ssh-ng://u@b1", systems=("x86_64-linux",)),
        Machine("ssh-ng://u@b2", systems=("i686-linux",), mandatory_features=("big",)),
        # Builds for the client's system.
        Machine("ssh-ng://u@b3"),
    ]
    kvm = Requirements("x86_64-linux", frozenset({"kvm"}))
    records = [record(drv("a")), record(drv("b")), record(drv("c"), required=kvm)]
    found = as_report(*records, builders=builders).refusals
    assert all(isinstance(each, Refusal) for each in found)
    assert [(each.requirement, each.machine) for each in found] == [
        ("x86_64-linux", "b2"),
        ("x86_64-linux", "this host itself"),
        ("x86_64-linux kvm", "b1"),
        ("x86_64-linux kvm", "b2"),
        ("x86_64-linux kvm", "b3"),
        ("x86_64-linux kvm", "this host itself"),
    ]
    system, mandatory = found[0].reason.split("; ")
    assert system.startswith("builds for i686-linux") and mandatory.startswith("takes only what requires big")
    assert found[2].reason.startswith("lacks feature kvm")


def test_a_played_run() -> None:
    """By a clock that counts how often it is asked: times grow, and all of them are within the run."""
    world = World()
    low = drv("low")
    top, bad = drv("top", [low]), drv("bad", fails=True)
    world.know([top, bad])
    request = dispatch.Request(
        {top.path: (), bad.path: ()}, world.machines(), route.LocalMachine("x86_64-linux", max_jobs=0), keep_going=True
    )
    ticks = itertools.count(1)
    run = dispatch.run(request, world, world.read_file, lambda: float(next(ticks)), lambda event: None)
    found = run_report.as_report(run, request, "", {})
    steps = {step.name: step for step in found.steps}
    assert {name: step.status for name, step in steps.items()} == {"low": "built", "top": "built", "bad": "failed"}
    assert steps["top"].attempts[0].queued == steps["low"].stop <= steps["top"].attempts[0].start
    assert {each.machine for step in found.steps for each in step.attempts} <= {each.key for each in found.machines}
    for step in found.steps:
        assert 0 < step.attempts[0].start < step.stop < found.seconds
    assert report.as_trace(found)["traceEvents"]
