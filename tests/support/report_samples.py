# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the dispatcher as it might have ended, for the report. As a script: writes their pages into a directory."""

from __future__ import annotations

import random
import sys
import typing as t
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
    # Makes this checkout importable.
    __import__("conftest")

from ansible_collections.nixfleet.builders.plugins.module_utils import report_page
from ansible_collections.nixfleet.builders.plugins.module_utils.report import (
    Attempt,
    Machine,
    Phase,
    PhaseKind,
    Refusal,
    Run,
    Step,
    StepStatus,
)

NAMES = (
    "zlib",
    "openssl",
    "gcc-wrapper",
    "python3.12-numpy",
    "linux-6.12",
    "firefox-unwrapped",
    "glibc",
    "perl5.40-URI",
)


def sample_run(steps: int, machines: int = 3, slots: int = 4, seed: int = 1, faults: bool = True) -> Run:
    """Steps in layers on machines, first come first served; with faults some fail, are lost, or are cancelled."""
    chance = random.Random(seed)
    fleet = [
        Machine(
            key=f"ssh-ng://nixremote@b{n}",
            label=f"builder-{n}.example",
            slots=slots,
            speed_factor=chance.choice((1.0, 2.0)),
            nix_version=chance.choice(("2.8.0", "2.26.3", "2.34.8")),
            trouble="connection timed out after 10 s" if faults and n == machines - 1 and machines > 2 else "",
            bytes_in=chance.randrange(10**9),
            bytes_out=chance.randrange(10**8),
        )
        for n in range(machines)
    ]
    up = [machine for machine in fleet if not machine.trouble]
    free = {(machine.key, slot): 0.0 for machine in up for slot in range(slots)}
    made: list[Step] = []
    ends: dict[str, float] = {}
    bad: set[str] = set()
    for number in range(steps):
        name = f"{chance.choice(NAMES)}-{number}"
        path = f"/nix/store/{chance.getrandbits(160):032x}"[:43] + f"-{name}.drv"
        before = [
            made[chance.randrange(max(0, number - 60), number)].drv_path
            for _unused in range(chance.randint(0, 2))
            if number
        ]
        requirement = "x86_64-linux" + chance.choice(("", "", " kvm", " big-parallel"))
        status: StepStatus = "built"
        if bad & set(before):
            status = "cancelled"
        elif faults and chance.random() < 0.03:
            status = "failed"
        elif chance.random() < 0.05:
            status = "found"
        attempts = []
        if status in ("built", "failed"):
            ready = max((ends[one] for one in before), default=0.0)
            if faults and chance.random() < 0.03:
                attempts.append(attempt(chance, free, ready, "lost", "connection reset by peer"))
                ready = attempts[-1].stop
            attempts.append(
                attempt(chance, free, ready, status, "builder failed with exit code 2" if status == "failed" else "")
            )
        ends[path] = attempts[-1].stop if attempts else max((ends[one] for one in before), default=0.0)
        if status in ("failed", "cancelled"):
            bad.add(path)
        log = [
            f"building {name}",
            "checking for gcc... gcc",
            "\x1b[31merror:\x1b[0m <b>undefined</b> reference to `main'",
        ]
        made.append(
            Step(
                drv_path=path,
                name=name,
                status=status,
                requirement=requirement,
                dependencies=tuple(dict.fromkeys(before)),
                attempts=attempts,
                reason={"failed": "builder failed with exit code 2", "cancelled": "something it needs failed"}.get(
                    status, ""
                ),
                log=log * (20 if status == "failed" else 1),
                bytes_in=chance.randrange(10**8),
                bytes_out=chance.randrange(10**7),
            )
        )
    refusals = [
        Refusal(
            "x86_64-linux kvm", machine.key, chance.choice(("it does not offer kvm", "it builds for aarch64-linux"))
        )
        for machine in fleet[1:]
    ]
    return Run(
        machines=fleet,
        steps=made,
        seconds=max(ends.values(), default=0.0) + 0.4,
        began="20 November 2026, 14:08:03 UTC",
        refusals=refusals,
        options={"policy": "load", "keep_going": True, "max_attempts": 3, "copy_results": "client"},
    )


def attempt(
    chance: random.Random, free: dict[tuple[str, int], float], ready: float, outcome: str, reason: str
) -> Attempt:
    """On the slot that is free first."""
    place = min(free, key=lambda one: (max(free[one], ready), one[1], one[0]))
    now = max(free[place], ready) + 0.01
    phases = []
    spans: tuple[tuple[PhaseKind, float], ...] = (
        ("upload", chance.expovariate(3)),
        ("wait", chance.expovariate(8)),
        ("build", 0.3 + chance.expovariate(0.3)),
        ("download", chance.expovariate(4)),
    )
    for kind, seconds in spans[: 4 if outcome == "built" else 3]:
        phases.append(Phase(kind, now, now + seconds))
        now += seconds
    free[place] = now
    return Attempt(place[0], outcome, ready, phases, place[1], reason)


def main() -> int:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    pages: dict[str, t.Any] = {
        "5": sample_run(5, faults=False),
        "40": sample_run(40),
        "2000": sample_run(2000, machines=12, slots=8),
        "none": sample_run(0),
    }
    for name, run in pages.items():
        (target / f"{name}.html").write_text(report_page.as_html(run), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
