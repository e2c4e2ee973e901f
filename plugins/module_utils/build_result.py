# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the module dispatch and the lookup build tell of a run. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan

#: How many failures a message tells of, and how many lines of each one's log.
TOLD = 5
TOLD_LINES = 10


def wanted(plan: Plan) -> dict[str, t.Any]:
    """What was wanted."""
    return {
        "paths": plan.wanted_paths,
        "outputs": {drv: dict(outputs) for drv, outputs in plan.wanted.items()},
        "substituted": sorted(plan.substitute.intersection(plan.wanted_paths)),
    }


def summary(run: dispatch.Run) -> dict[str, t.Any]:
    """What became of it, as RETURN of the module describes."""
    labels = {machine.key: machine.label for machine in run.machines}
    derivations = [_derivation(record, labels) for record in run.records.values()]
    return {
        "derivations": derivations,
        "failures": [each for each in derivations if each["status"] == "failed"],
        "builders": [
            {
                "builder": machine.label,
                "uri": machine.key,
                "built": machine.built,
                "failed": machine.failed,
                "lost": machine.lost,
                "busy_seconds": round(machine.busy, 3),
                "bytes_in": machine.bytes_in,
                "bytes_out": machine.bytes_out,
                "nix_version": machine.nix_version,
                "trouble": machine.trouble,
                "load": None if machine.load is None else asdict(machine.load),
            }
            for machine in run.machines
        ],
        "copied_bytes": run.delivered_bytes,
        "seconds": round(run.stopped - run.started, 3),
    }


def _derivation(record: dispatch.Record, labels: t.Mapping[str, str]) -> dict[str, t.Any]:
    attempts = [
        {
            "builder": labels[each.machine],
            "start": each.given,
            "stop": each.stopped,
            "outcome": each.outcome,
            "reason": each.reason,
        }
        for each in record.attempts
    ]
    last = attempts[-1] if attempts and not record.only_found else {}
    return {
        "derivation": record.task.drv.path,
        "name": record.task.drv.name,
        "status": record.status,
        "found": record.only_found,
        "builder": last.get("builder"),
        "start": last.get("start"),
        "stop": last.get("stop"),
        "attempts": attempts,
        "outputs": dict(record.task.outputs),
        "error": record.error,
        "log": record.log,
    }


def complaint(result: t.Mapping[str, t.Any]) -> str:
    """What failed, in words, with the ends of logs. result: summary()'s."""
    failures = result["failures"]
    cancelled = sum(each["status"] == "cancelled" for each in result["derivations"])
    lines = [f"{len(failures)} of {len(result['derivations'])} derivations failed, {cancelled} were not built for that"]
    for each in failures[:TOLD]:
        where = f" on {each['builder']}" if each["builder"] else ""
        lines.append(f"{each['name']}{where}: {each['error']}")
        lines += [f"  > {line}" for line in each["log"][-TOLD_LINES:]]
    if len(failures) > TOLD:
        lines.append(f"and {len(failures) - TOLD} more")
    return "\n".join(lines)
