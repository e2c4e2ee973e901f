# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run of the dispatcher, as report.py takes it. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, report, route
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Requirements


def as_report(run: dispatch.Run, request: dispatch.Request, began: str, options: t.Mapping[str, t.Any]) -> report.Run:
    """began: in words, for people. options: as given by the user."""
    labels = {machine.key: machine for machine in run.machines}
    ends = {path: _end(run, record) for path, record in run.records.items()}
    steps = []
    for path, record in run.records.items():
        queued = max([0.0, *(ends[needed] for needed in record.task.needs)])
        attempts = []
        for each in record.attempts:
            attempts.append(_attempt(run, each, queued))
            queued = attempts[-1].stop
        steps.append(
            report.Step(
                drv_path=path,
                name=record.task.drv.name,
                status=_status(record),
                requirement=_words(record.task.required),
                dependencies=record.task.needs,
                attempts=attempts,
                reason=record.error,
                log=record.log,
                bytes_in=sum(each.bytes_copied for each in record.attempts),
            )
        )
    return report.Run(
        machines=[
            report.Machine(
                key=key,
                label=machine.label,
                slots=machine.slots,
                speed_factor=machine.speed_factor,
                nix_version=machine.nix_version,
                trouble=machine.trouble,
                bytes_in=machine.bytes_in,
                bytes_out=machine.bytes_out,
            )
            for key, machine in labels.items()
        ],
        steps=steps,
        seconds=run.stopped - run.started,
        began=began,
        refusals=_refusals(run, request),
        options=options,
    )


def _attempt(run: dispatch.Run, attempt: dispatch.Attempt, queued: float) -> report.Attempt:
    given, stopped = attempt.given - run.started, attempt.stopped - run.started
    # What did not come so far ended in the phase before.
    ready = attempt.ready - run.started if attempt.ready else stopped
    building = attempt.building - run.started if attempt.building else (ready if attempt.outcome != "lost" else stopped)
    building = max(ready, building)
    phases = [
        report.Phase("upload", given, ready),
        report.Phase("wait", ready, building),
        report.Phase("build", building, stopped),
    ]
    return report.Attempt(
        machine=attempt.machine,
        outcome=attempt.outcome,
        queued=min(queued, given),
        phases=[phase for phase in phases if phase.seconds > 0] or [report.Phase("build", given, stopped)],
        reason=attempt.reason,
    )


def _end(run: dispatch.Run, record: dispatch.Record) -> float:
    return record.attempts[-1].stopped - run.started if record.attempts else 0.0


def _status(record: dispatch.Record) -> report.StepStatus:
    if record.status == "built":
        return "found" if record.only_found else "built"
    return "failed" if record.status == "failed" else "cancelled"


def _words(required: Requirements) -> str:
    return " ".join([required.system, *sorted(required.features)])


def _refusals(run: dispatch.Run, request: dispatch.Request) -> list[report.Refusal]:
    """Each requirement of the run with the machines that do not take it."""
    found = []
    for required in dict.fromkeys(record.task.required for record in run.records.values()):
        for candidate in dispatch.candidates(request):
            reasons = route.refusals(candidate, required, request.client.system)
            if reasons:
                text = "; ".join(reason.text for reason in reasons)
                found.append(report.Refusal(_words(required), route.label(candidate), text))
    return found
