# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""News in lines."""

from __future__ import annotations

import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import progress
from ansible_collections.nixfleet.builders.plugins.module_utils.progress import Progress


def news(
    kind: str, name: str = "", machine: str = "", text: str = "", time: float = 0, **counts: int
) -> dict[str, t.Any]:
    return {"kind": kind, "name": name, "machine": machine, "text": text, "time": time, "counts": counts}


def test_each_finished_step_is_told() -> None:
    told = Progress()
    assert told.lines([news("plan", text="2 to build", ready=2)], 0) == ["2 to build"]
    assert (
        told.lines([news("up", machine="b1", ready=2), news("building", "a", "b1", time=1, running=1, ready=1)], 1)
        == []
    )
    assert told.lines([news("built", "a", "b1", time=3.25, built=1, ready=1)], 2) == ["[1/2] built a on b1 in 2.2 s"]
    assert told.lines([news("failed", "b", "b1", "it\nbroke", built=1, failed=1)], 3) == [
        "[2/2] FAILED b on b1: it broke"
    ]


def test_nothing_to_build_says_nothing() -> None:
    assert Progress().lines([news("plan", text="0 to build")], 0) == []


def test_many_at_once_are_counted() -> None:
    told = Progress()
    many = [news("built", f"a{number}", "b1", built=number + 1, ready=100 - number) for number in range(50)]
    assert told.lines(many, 0) == ["[50/101] built 50 more"]


def test_machines() -> None:
    down = news("down", machine="b1", text="no route " + "x" * 500, ready=1)
    line = Progress().lines([down], 0)[0]
    assert line.startswith("b1 cannot be reached: no route") and len(line) < 200
    up = news("up", machine="b1", text="Nix 2.8.0", ready=1)
    assert Progress(verbose=True).lines([up], 0) == ["b1 is there: Nix 2.8.0"] and Progress().lines([up], 0) == []


def test_a_heartbeat_says_what_runs() -> None:
    told = Progress()
    told.lines([news("building", f"a{number}", "b1", time=number, running=6, waiting=3) for number in range(6)], 0)
    assert told.lines([], progress.HEARTBEAT - 1) == []
    assert told.lines([], progress.HEARTBEAT) == [
        "[0/9] building a0 on b1, a1 on b1, a2 on b1, a3 on b1 and 2 more; 3 wait"
    ]
    assert told.lines([], progress.HEARTBEAT + 1) == []
