# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown and written on the controller."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.nixfleet.builders.plugins.action import check_report

CHECK = {"check": "login", "verdict": "passed", "reason": None, "message": None, "remedy": None, "because": None}
RESULTS = {"client1": {"builders": [{"name": "builder1", "output": None, "checks": [CHECK]}]}}


class Task:
    """As much of a task as is used."""

    def __init__(self, args: dict[str, t.Any]) -> None:
        self.args = args
        self.action = "check_report"
        self.check_mode = False
        self.diff = False
        self.async_val = 0


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown."""
    shown: list[str] = []
    monkeypatch.setattr(check_report.display, "display", shown.append)
    return shown


def run(**args: t.Any) -> dict[str, t.Any]:
    action = check_report.ActionModule.__new__(check_report.ActionModule)
    action._task = Task(args)
    action._supports_async = False
    action._cleanup_remote_tmp = False
    # The base class only looks whether the task's mode is supported.
    base = check_report.ActionBase.run
    try:
        check_report.ActionBase.run = lambda self, tmp=None, task_vars=None: {}
        result: dict[str, t.Any] = action.run(task_vars={})
        return result
    finally:
        check_report.ActionBase.run = base


def test_shows_and_writes_nothing(lines: list[str]) -> None:
    result = run(results=RESULTS)
    assert lines == ["CLIENT   BUILDER   RESULT", "client1  builder1  ok      1 passed"]
    assert (result["passed"], result["changed"], result["files"]) == (True, False, [])
    assert result["failures"] == {"clients": {}, "builders": {}}


def test_writes_both_files(lines: list[str], tmp_path: Path) -> None:
    place = tmp_path / "new/report"
    result = run(results=RESULTS, path=str(place))
    assert result["files"] == [str(place / "verify.json"), str(place / "verify.xml")]
    assert sorted(it.name for it in place.iterdir()) == ["verify.json", "verify.xml"]
    assert json.loads((place / "verify.json").read_text())["clients"][0]["name"] == "client1"
    umask = os.umask(0o22)
    os.umask(umask)
    assert (place / "verify.xml").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("path", "files"),
    [
        (None, []),
        ("/r/x.json", ["/r/x.json"]),
        ("/r/x.xml", ["/r/x.xml"]),
        ("/r", ["/r/verify.json", "/r/verify.xml"]),
    ],
)
def test_paths(path: str | None, files: list[str]) -> None:
    assert check_report.report_paths(path) == files


def test_none_or_both(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_report.write_all({str(tmp_path / "a"): "new", str(tmp_path / "file/b"): "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a", "file"]


def test_place_that_cannot_be_written(lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AnsibleActionFail, match="nix_verify_report"):
        run(results=RESULTS, path=str(tmp_path / "file/report"))
    assert lines


def test_results_of_something_else(lines: list[str]) -> None:
    with pytest.raises(AnsibleActionFail, match="not what builder_checks returns"):
        run(results={"client1": {"builders": [{"name": "builder1"}]}})
