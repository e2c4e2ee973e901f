# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""News in lines. The watcher's clock is handed in, so nothing here takes any time."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, progress
from ansible_collections.nixfleet.builders.plugins.module_utils.progress import Progress


def news(
    kind: str, name: str = "", machine: str = "", text: str = "", time: float = 0.0, step: str = "", **counts: int
) -> t.Any:
    """An event as it comes out of the file."""
    return json.loads(json.dumps(dispatch.Event(time, kind, step or name, name, machine, text, counts)._asdict()))


def told(*events: t.Any, verbose: bool = False) -> list[str]:
    return Progress(verbose).lines(events, 0.0)


def test_a_run_from_its_plan_to_its_end() -> None:
    shown = Progress()
    plan = news("plan", text="2 to build, 1 to substitute", ready=1, waiting=1)
    assert shown.lines([plan], 0) == ["2 to build, 1 to substitute"]
    assert shown.lines([news("building", "low", "b1", time=1000.0, running=1, waiting=1)], 1) == []
    built = news("built", "low", "b1", time=1002.5, built=1, ready=1)
    assert shown.lines([built, news("building", "top", "b2", time=1003, built=1, running=1)], 2) == [
        "[1/2] built low on b1 in 2.5 s"
    ]
    assert shown.lines([news("built", "top", "b2", time=1003.04, built=2)], 3) == ["[2/2] built top on b2 in 0.0 s"]


def test_nothing_is_told_of_a_plan_in_which_nothing_is_built() -> None:
    assert told(news("plan", text="0 to build, 0 to substitute")) == []


def test_a_build_whose_beginning_was_not_seen() -> None:
    assert told(news("built", "a", "b1", built=1, waiting=2)) == ["[1/3] built a on b1"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            news("failed", "a", "b1", "exit\n code 1", failed=1, built=2, cancelled=3, running=4, ready=5),
            "[6/15] FAILED a on b1: exit code 1",
        ),
        (news("failed", "a", "", "nobody is there", failed=1), "[1/1] FAILED a: nobody is there"),
        (news("lost", "a", "b1", "it is gone", ready=1), "[0/1] lost a on b1: it is gone"),
        (news("down", "", "b1", "no route to host", ready=1), "b1 cannot be reached: no route to host"),
    ],
)
def test_bad_news(event: t.Any, line: str) -> None:
    assert told(event) == told(event, verbose=True) == [line]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (news("up", "", "b1", "Nix 2.26.3"), "b1 is there: Nix 2.26.3"),
        (news("delivered", "", "b1", "2 paths, 9 bytes"), "results of b1 are there: 2 paths, 9 bytes"),
    ],
)
def test_what_only_the_curious_are_told(event: t.Any, line: str) -> None:
    assert told(event) == []
    assert told(event, verbose=True) == [line]


@pytest.mark.parametrize("kind", ["cancelled", "inputs", "of a later version"])
def test_news_that_are_not_told(kind: str) -> None:
    assert told(news(kind, "a", "b1", "x", ready=1), verbose=True) == []


def test_long_reasons_are_cut() -> None:
    (line,) = told(news("down", machine="b1", text="x" * progress.WIDTH))
    assert line == "b1 cannot be reached: " + "x" * progress.WIDTH
    (line,) = told(news("down", machine="b1", text="x" * (progress.WIDTH + 1)))
    assert line == "b1 cannot be reached: " + "x" * (progress.WIDTH - 1) + "…"


def test_many_results_at_once_are_counted_only() -> None:
    many = [news("built", f"a{number}", "b1", built=number + 1) for number in range(progress.LINES_AT_ONCE)]
    assert told(*many)[-1] == f"[12/12] built a{progress.LINES_AT_ONCE - 1} on b1"
    assert len(told(*many)) == progress.LINES_AT_ONCE
    lost = news("lost", "x", "b1", "gone", built=12, ready=1)
    one_more = news("built", "b", "b1", built=13)
    assert told(*many, lost, one_more) == ["[12/13] lost x on b1: gone", "[13/13] built 13 more"]


def test_silence_is_broken_by_what_runs() -> None:
    shown = Progress()
    beat = progress.HEARTBEAT
    names = [f"a{number}" for number in range(progress.RUNNING_NAMED)]
    building = [news("building", name, "b1", time=-int(name[1:]), running=5, waiting=2, ready=1) for name in names]
    assert shown.lines(building, 100) == []
    assert shown.lines([], 100 + beat - 1) == []
    assert shown.lines([], 100 + beat) == ["[0/8] building a3 on b1, a2 on b1, a1 on b1, a0 on b1; 3 wait"]
    # Not again at once, and not after other news.
    assert shown.lines([], 101 + beat) == []
    more = [news("building", "late", "b2", time=9, running=6), news("building", "a9", "b2", time=-9, running=6)]
    assert shown.lines([*more, news("down", machine="b3", text="x")], 99 + 2 * beat) == ["b3 cannot be reached: x"]
    assert shown.lines([], 98 + 3 * beat) == []
    assert shown.lines([], 99 + 3 * beat) == [
        "[0/6] building a9 on b2, a3 on b1, a2 on b1, a1 on b1 and 2 more; 0 wait"
    ]


@pytest.mark.parametrize("kind", ["built", "failed", "lost"])
def test_what_ended_runs_no_more(kind: str) -> None:
    shown = Progress()
    shown.lines([news("building", "a", "b1", running=1), news(kind, "a", "b1")], 0)
    assert shown.lines([], progress.HEARTBEAT) == ["[0/1] building nothing; 0 wait"]


def test_two_of_one_name_on_one_machine() -> None:
    shown = Progress()
    shown.lines([news("building", "a", "b1", time=1, step=step, running=2) for step in ("x", "y")], 0)
    assert shown.lines([news("built", "a", "b1", time=3, step="x", built=1, running=1)], 1) == [
        "[1/2] built a on b1 in 2.0 s"
    ]
    assert shown.lines([], 100) == ["[1/2] building a on b1; 0 wait"]
    assert shown.lines([news("built", "a", "b1", time=6, step="y", built=2)], 101) == ["[2/2] built a on b1 in 5.0 s"]
