# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module over played hosts: its options and what it returns."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import dispatch
from ansible_collections.nixfleet.builders.tests.support.played_fleet import Drv, World, drv, store_path

Result = dict[str, t.Any]


class PlayedNix:
    """The client's Nix, with two builders."""

    version = machines_version = (2, 26, 3)

    def __init__(self, *_arguments: t.Any) -> None:
        pass

    def settings(self) -> dict[str, t.Any]:
        lines = "; ".join(f"ssh-ng://{name} x86_64-linux - 2" for name in ("b1", "b2"))
        return {"system": "x86_64-linux", "max-jobs": 0, "builders": lines}

    def argv(self, program: str) -> list[str]:
        return [program]


class Dispatch:
    """The module in a played world."""

    def __init__(self, run: t.Callable[..., Result]) -> None:
        self.world = World()
        self._run = run

    def __call__(self, *wanted: Drv, check: bool = False, **options: t.Any) -> Result:
        self.world.know(wanted)
        if wanted:
            options["derivations"] = [each.path for each in wanted]
        return self._run(dispatch, check, **options)


@pytest.fixture
def build(run_module: t.Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Dispatch:
    made = Dispatch(run_module)
    monkeypatch.setattr(dispatch, "Nix", PlayedNix)
    monkeypatch.setattr(dispatch, "make_stores", lambda *_arguments: made.world)
    monkeypatch.setattr(dispatch, "read_bytes", made.world.read_file)
    monkeypatch.setattr(dispatch, "end_with_caller", lambda _file: None)
    monkeypatch.setattr(dispatch.os, "geteuid", lambda: 1000)
    return made


def test_builds_and_returns_what_was_done(build: Dispatch, tmp_path: Path) -> None:
    low = drv("low", sources=[store_path("source")])
    top = drv("top", [low])
    files = {name: str(tmp_path / name) for name in ("report", "trace", "progress")}
    result = build(top, **files)
    assert result["changed"] and result["paths"] == [top.out] and result["outputs"] == {top.path: {"out": top.out}}
    assert {each["name"]: each["status"] for each in result["derivations"]} == {"low": "built", "top": "built"}
    assert sum(each["built"] for each in result["builders"]) == 2 and not result["failures"]
    assert "<html" in Path(files["report"]).read_text() and json.loads(Path(files["trace"]).read_text())["traceEvents"]
    kinds = [json.loads(line)["kind"] for line in Path(files["progress"]).read_text().splitlines()]
    assert kinds[0] == "plan" and kinds.count("built") == 2
    assert not build(top)["changed"]


def test_check_mode_returns_the_plan(build: Dispatch) -> None:
    top = drv("top", [drv("low")])
    result = build(top, check=True)
    assert result["changed"] and not build.world.built
    assert result["diff"]["after"].splitlines() == [each["derivation"] for each in result["plan"]]
    assert build(top)["diff"] == result["diff"]
    assert [(each["name"], each["machines"]) for each in result["plan"]] == [
        ("low", ["b1", "b2"]),
        ("top", ["b1", "b2"]),
    ]


def test_a_failure_fails_with_its_reason(build: Dispatch) -> None:
    result = build(drv("top", [drv("bad", fails=True)]), keep_going=True)
    assert result["failed"] and "bad on b" in result["msg"] and "exit code 1" in result["msg"]
    assert [each["name"] for each in result["failures"]] == ["bad"]
    assert "1 of 2 derivations failed, 1 were not built" in result["msg"]


def test_what_nobody_takes_fails_first(build: Dispatch) -> None:
    result = build(drv("needy", features="kvm"))
    assert result["failed"] and "needy" in result["msg"] and "kvm" in result["msg"] and not build.world.built


def test_a_link(build: Dispatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ansible_collections.nixfleet.builders.tests.support.played_fleet.PlayedStore.add_indirect_root",
        lambda *_arguments: None,
        raising=False,
    )
    top = drv("top")
    assert build(top, out_link=str(tmp_path / "result"))["changed"]
    assert (tmp_path / "result").readlink() == Path(top.out)
    assert not build(top, out_link=str(tmp_path / "result"))["changed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the following is required"),
        ({"derivations": ["x"]}, "no derivation"),
        ({"expression": "1", "file": "/x"}, "mutually exclusive"),
        ({"installables": [".#x"], "attributes": ["a"]}, "attributes"),
        ({"expression": "1", "max_attempts": 0}, "at least 1"),
        ({"expression": "1", "local_jobs": -1}, "at least 0"),
        ({"expression": "1", "copy_results": "none", "out_link": "/x"}, "out_link"),
        ({"derivations": [drv("a").path], "builders": [{"hots": "b1"}]}, "hots"),
        ({"derivations": [drv("a").path], "builders_file": "/nonexistent/machines"}, "/nonexistent/machines"),
    ],
)
def test_options_that_are_refused(build: Dispatch, options: dict[str, t.Any], message: str) -> None:
    result = build(**options)
    assert result["failed"] and message in result["msg"]
