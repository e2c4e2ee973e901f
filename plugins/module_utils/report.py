# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A finished run of the dispatcher: as a JSON-able dict, as one HTML page, as a Chrome trace.

Pure. Times are seconds since the run began, sizes bytes. Texts may hold anything that a build printed.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

#: What an attempt spends its time with: C(wait) is waiting on the machine, for its turn.
PhaseKind = t.Literal["wait", "upload", "build", "download"]

#: How a step ended. C(found): it was valid already, or was substituted.
StepStatus = t.Literal["built", "failed", "cancelled", "found"]

#: The version of as_dict()'s shape.
VERSION = 1


@dataclass(frozen=True)
class Phase:
    """A part of an attempt."""

    kind: PhaseKind
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.stop - self.start)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a step. machine: its key. slot: from 0; None: not known, one is chosen for the picture.

    queued: when the step became ready, or was given back. phases: in order of time. outcome: built, failed, lost,
    returned.
    """

    machine: str
    outcome: str
    queued: float
    phases: t.Sequence[Phase] = ()
    slot: int | None = None
    reason: str = ""

    @property
    def start(self) -> float:
        """When the machine got it."""
        return self.phases[0].start if self.phases else self.queued

    @property
    def stop(self) -> float:
        return self.phases[-1].stop if self.phases else self.queued


@dataclass(frozen=True)
class Step:
    """One derivation. requirement: system and features, in words. dependencies: drv paths of steps that came before it.

    reason: why it failed or was cancelled. log: the last lines of its build.
    """

    drv_path: str
    name: str
    status: StepStatus
    requirement: str = ""
    dependencies: t.Sequence[str] = ()
    attempts: t.Sequence[Attempt] = ()
    reason: str = ""
    log: t.Sequence[str] = ()
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def stop(self) -> float:
        """When it came to its end; 0 when it never ran."""
        return self.attempts[-1].stop if self.attempts else 0.0

    def seconds(self, kind: PhaseKind) -> float:
        """What it spent with one kind of phase, over all attempts."""
        return sum(phase.seconds for one in self.attempts for phase in one.phases if phase.kind == kind)

    @property
    def queued(self) -> float:
        """How long it was ready and had no machine, over all attempts."""
        return sum(max(0.0, one.start - one.queued) for one in self.attempts)


@dataclass(frozen=True)
class Machine:
    """A machine of the run. label: what a person calls it. trouble: why it could not be reached, or empty."""

    key: str
    label: str
    slots: int
    speed_factor: float = 1.0
    nix_version: str = ""
    trouble: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


class Refusal(t.NamedTuple):
    """Why a machine does not take what has this requirement."""

    requirement: str
    machine: str
    reason: str


@dataclass(frozen=True)
class Run:
    """A finished run. began: in words, for people. seconds: from its beginning to its end. options: as given."""

    machines: t.Sequence[Machine]
    steps: t.Sequence[Step]
    seconds: float
    began: str = ""
    refusals: t.Sequence[Refusal] = ()
    options: t.Mapping[str, t.Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MachineTotals:
    """What a machine did. used: the part of its slots' time in which something ran there, 0 to 1."""

    built: int
    failed: int
    lost: int
    building: float
    copying: float
    waiting: float
    used: float


def critical_path(run: Run) -> list[Step]:
    """The chain that the run waited for, first step first: what ended last, and back over what it needed."""
    by_path = {step.drv_path: step for step in run.steps if step.attempts}
    path: list[Step] = []
    step = max(by_path.values(), key=_stop, default=None)
    while step is not None:
        path.append(step)
        before = [by_path[one] for one in step.dependencies if one in by_path]
        step = max(before, key=_stop, default=None)
    return path[::-1]


def _stop(step: Step) -> float:
    return step.stop


def with_slots(run: Run) -> list[list[int]]:
    """The slot of each attempt of each step; where none is known, the first that is free on its machine.

    More slots than the machine has come out when more was running there.
    """
    slots: list[list[int]] = [[0] * len(step.attempts) for step in run.steps]
    ends: dict[str, list[float]] = {}
    attempts = [(one.start, s, a) for s, step in enumerate(run.steps) for a, one in enumerate(step.attempts)]
    for start, s, a in sorted(attempts):
        one = run.steps[s].attempts[a]
        used = ends.setdefault(one.machine, [])
        slot = one.slot
        if slot is None:
            slot = next((number for number, end in enumerate(used) if end <= start), len(used))
        used.extend([0.0] * (slot + 1 - len(used)))
        used[slot] = max(used[slot], one.stop)
        slots[s][a] = slot
    return slots


def totals(run: Run) -> dict[str, MachineTotals]:
    """By machine, in the order of the run's machines."""
    seconds: dict[str, dict[str, float]] = {machine.key: {} for machine in run.machines}
    outcomes: dict[str, dict[str, int]] = {machine.key: {} for machine in run.machines}
    for one in (one for step in run.steps for one in step.attempts if one.machine in seconds):
        counts, spent = outcomes[one.machine], seconds[one.machine]
        counts[one.outcome] = counts.get(one.outcome, 0) + 1
        for phase in one.phases:
            spent[phase.kind] = spent.get(phase.kind, 0.0) + phase.seconds
    found = {}
    for machine in run.machines:
        counts, spent = outcomes[machine.key], seconds[machine.key]
        there = machine.slots * run.seconds
        found[machine.key] = MachineTotals(
            built=counts.get("built", 0),
            failed=counts.get("failed", 0),
            lost=counts.get("lost", 0),
            building=spent.get("build", 0.0),
            copying=spent.get("upload", 0.0) + spent.get("download", 0.0),
            waiting=spent.get("wait", 0.0),
            used=min(1.0, sum(spent.values()) / there) if there else 0.0,
        )
    return found


def as_dict(run: Run) -> dict[str, t.Any]:
    """The whole run for a JSON file, rounded to milliseconds."""
    slots = with_slots(run)
    sums = totals(run)
    critical = critical_path(run)
    statuses = [step.status for step in run.steps]
    return {
        "version": VERSION,
        "began": run.began,
        "seconds": _ms(run.seconds),
        "success": not any(status in ("failed", "cancelled") for status in statuses),
        "counts": {status: statuses.count(status) for status in t.get_args(StepStatus)},
        "critical_path": [step.drv_path for step in critical],
        "options": dict(run.options),
        "machines": [
            {
                "key": machine.key,
                "label": machine.label,
                "slots": machine.slots,
                "speed_factor": machine.speed_factor,
                "nix_version": machine.nix_version,
                "trouble": machine.trouble,
                "bytes_in": machine.bytes_in,
                "bytes_out": machine.bytes_out,
                "built": sums[machine.key].built,
                "failed": sums[machine.key].failed,
                "lost": sums[machine.key].lost,
                "building": _ms(sums[machine.key].building),
                "copying": _ms(sums[machine.key].copying),
                "waiting": _ms(sums[machine.key].waiting),
                "used": round(sums[machine.key].used, 4),
            }
            for machine in run.machines
        ],
        "steps": [
            {
                "drv_path": step.drv_path,
                "name": step.name,
                "status": step.status,
                "requirement": step.requirement,
                "dependencies": list(step.dependencies),
                "reason": step.reason,
                "log": list(step.log),
                "bytes_in": step.bytes_in,
                "bytes_out": step.bytes_out,
                "attempts": [
                    {
                        "machine": one.machine,
                        "slot": slot,
                        "outcome": one.outcome,
                        "reason": one.reason,
                        "queued": _ms(one.queued),
                        "phases": [
                            {"kind": phase.kind, "start": _ms(phase.start), "stop": _ms(phase.stop)}
                            for phase in one.phases
                        ],
                    }
                    for one, slot in zip(step.attempts, places)
                ],
            }
            for step, places in zip(run.steps, slots)
        ],
        "refusals": [refusal._asdict() for refusal in run.refusals],
    }


def as_trace(run: Run) -> dict[str, t.Any]:
    """In Chrome's trace event format (JSON object): machines are processes, slots threads, phases X events.

    Read by chrome://tracing and Perfetto.
    """
    numbers = {machine.key: number for number, machine in enumerate(run.machines, 1)}
    events: list[dict[str, t.Any]] = []
    threads: dict[tuple[int, int], None] = {}
    critical = {step.drv_path for step in critical_path(run)}
    for step, places in zip(run.steps, with_slots(run)):
        for one, slot in zip(step.attempts, places):
            pid = numbers.setdefault(one.machine, len(numbers) + 1)
            threads[(pid, slot + 1)] = None
            for phase in one.phases:
                events.append(
                    {
                        "ph": "X",
                        "name": step.name if phase.kind == "build" else f"{phase.kind}: {step.name}",
                        "cat": phase.kind,
                        "pid": pid,
                        "tid": slot + 1,
                        "ts": round(phase.start * 1e6),
                        "dur": round(phase.seconds * 1e6),
                        "args": {
                            "drv": step.drv_path,
                            "outcome": one.outcome,
                            "reason": one.reason,
                            "waited": _ms(max(0.0, one.start - one.queued)),
                            "bytes_in": step.bytes_in,
                            "bytes_out": step.bytes_out,
                            "critical": step.drv_path in critical,
                        },
                    }
                )
    labels = {machine.key: machine.label for machine in run.machines}
    names = [_named("process_name", pid, 0, labels.get(key, key)) for key, pid in numbers.items()]
    names += [_named("thread_name", pid, tid, f"slot {tid}") for pid, tid in sorted(threads)]
    return {"displayTimeUnit": "ms", "traceEvents": names + events, "otherData": {"began": run.began}}


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, t.Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _ms(seconds: float) -> float:
    return round(seconds, 3)
