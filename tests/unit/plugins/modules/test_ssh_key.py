# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key, with this machine's ssh-keygen."""

from __future__ import annotations

import getpass
import os
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import ssh_key

Make = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def make(run_module: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> Make:
    """The module for a key of this user's."""
    given = {"path": str(tmp_path / ".ssh/key"), "user": getpass.getuser(), "comment": "nixfleet:c 1"}
    return lambda check=False, **options: run_module(ssh_key, check, **{**given, **options})


def keygen(*words: str) -> str:
    return subprocess.run(["ssh-keygen", *words], check=True, capture_output=True, text=True).stdout


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}


def test_new_key(make: Make, tmp_path: Path) -> None:
    result = make()
    assert (result["changed"], result["comment"]) == (True, "nixfleet:c 1")
    assert modes(tmp_path / ".ssh") == {".ssh": 0o700, "key": 0o600, "key.pub": 0o644}
    line = f"{result['public_key']} nixfleet:c 1\n"
    assert keygen("-y", "-f", str(tmp_path / ".ssh/key")) == line
    assert (tmp_path / ".ssh/key.pub").read_text() == line
    assert "PRIVATE" not in str(result)
    assert "ED25519" in keygen("-l", "-f", str(tmp_path / ".ssh/key"))


def test_second_run(make: Make) -> None:
    first, second = make(), make(comment="another")
    assert (second["changed"], second["public_key"], second["comment"]) == (False, first["public_key"], "nixfleet:c 1")


def test_check_mode(make: Make, tmp_path: Path) -> None:
    result = make(check=True)
    assert (result["changed"], result["public_key"]) == (True, None)
    assert os.listdir(tmp_path) == []
    key = make()["public_key"]
    assert make(check=True)["public_key"] == key


def test_public_half_alone_is_no_key(make: Make, tmp_path: Path) -> None:
    """As of a run that was killed before the secret half was in place."""
    make()
    (tmp_path / ".ssh/key").unlink()
    result = make()
    assert result["changed"]
    assert (tmp_path / ".ssh/key.pub").read_text().startswith(result["public_key"])


def test_key_with_passphrase_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir(0o700)
    keygen("-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / ".ssh/key"))
    before = (tmp_path / ".ssh/key").read_bytes()
    result = make()
    assert "incorrect passphrase" in result["msg"]
    assert f"ssh-keygen -p -N '' -f {tmp_path}/.ssh/key" in result["msg"]
    assert (tmp_path / ".ssh/key").read_bytes() == before


def test_open_directory_is_closed(make: Make, tmp_path: Path) -> None:
    make()
    (tmp_path / ".ssh").chmod(0o755)
    assert make()["changed"]
    assert modes(tmp_path / ".ssh")[".ssh"] == 0o700


@pytest.mark.parametrize("options", [{"path": "key"}, {"user": "nobody-of-that-name"}])
def test_bad_options(make: Make, options: dict[str, str], tmp_path: Path) -> None:
    assert make(**options)["failed"]
    assert os.listdir(tmp_path) == []
