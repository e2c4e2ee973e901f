# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of a local fact, as ansible-core's own collector reads it."""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.facts.system.local import LocalFactCollector
from ansible_collections.nixfleet.builders.plugins.modules import local_fact

VALUE = {"b": [1, "ü"], "a": {"x": None}}
Publish = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def publish(run_module: t.Callable[..., dict[str, t.Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Publish:
    """The module for a directory of this user's."""
    monkeypatch.setattr(local_fact, "ROOT", (os.getuid(), os.getgid()))
    given = {"name": "nix_test", "value": VALUE, "directory": str(tmp_path / "ansible/facts.d")}
    return lambda check=False, **options: run_module(local_fact, check, **{**given, **options})


def collected(directory: Path) -> t.Any:
    class Module:
        params = {"fact_path": str(directory)}

        def warn(self, text: str) -> None:
            raise AssertionError(text)

    return LocalFactCollector().collect(module=Module())["local"]


def test_published(publish: Publish, tmp_path: Path) -> None:
    result = publish()
    path = tmp_path / "ansible/facts.d/nix_test.fact"
    assert (result["changed"], result["path"]) == (True, str(path))
    assert [stat.S_IMODE(it.stat().st_mode) for it in (path, path.parent)] == [0o644, 0o755]
    assert collected(path.parent) == {"nix_test": VALUE}
    assert not publish(value=dict(reversed(VALUE.items())))["changed"]
    assert publish(value={})["changed"]
    assert collected(path.parent) == {"nix_test": {}}


def test_check_mode(publish: Publish, tmp_path: Path) -> None:
    assert publish(check=True)["changed"]
    assert os.listdir(tmp_path) == []


def test_absent(publish: Publish, tmp_path: Path) -> None:
    publish()
    publish(name="other")
    assert publish(state="absent")["changed"]
    assert os.listdir(tmp_path / "ansible/facts.d") == ["other.fact"]
    assert not publish(state="absent")["changed"]
    publish(name="other", state="absent")
    assert os.listdir(tmp_path) == []


def test_other_things_stay(publish: Publish, tmp_path: Path) -> None:
    publish()
    (tmp_path / "ansible/hosts").touch()
    publish(state="absent")
    assert os.listdir(tmp_path / "ansible") == ["hosts"]


@pytest.mark.parametrize("name", ["", "../x", "a b", "a.b"])
def test_bad_name(publish: Publish, tmp_path: Path, name: str) -> None:
    assert publish(name=name)["failed"]
    assert os.listdir(tmp_path) == []
