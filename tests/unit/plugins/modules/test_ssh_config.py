# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our file of ssh configuration and its line in the user's own, with this machine's ssh."""

from __future__ import annotations

import getpass
import os
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import ssh_config

CONFIG = "Host b1\n    HostName 192.0.2.11\n"
Result = dict[str, t.Any]


class User:
    """A directory .ssh, and the module run on it."""

    def __init__(self, root: Path, run: t.Callable[..., Result]) -> None:
        self._run = run
        self.ssh = root / ".ssh"
        self.ssh.mkdir(0o700)
        self.main = self.ssh / "config"
        self.ours = self.ssh / "nixfleet"
        self.line = f"Include {self.ours}/config\n"

    def __call__(self, check: bool = False, **options: t.Any) -> Result:
        given = {"directory": str(self.ours), "user": getpass.getuser(), "config": CONFIG, "known_hosts": "b1 key\n"}
        return self._run(ssh_config, check, **{**given, **options})

    def absent(self, check: bool = False) -> Result:
        return self(check, state="absent")


@pytest.fixture
def user(run_module: t.Callable[..., Result], tmp_path: Path) -> User:
    return User(tmp_path, run_module)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new(user: User) -> None:
    assert user()["changed"]
    assert user.main.read_text() == user.line
    assert ((user.ours / "config").read_text(), (user.ours / "known_hosts").read_text()) == (CONFIG, "b1 key\n")
    assert [mode(it) for it in (user.main, user.ours, *user.ours.iterdir())] == [0o600, 0o700, 0o600, 0o600]
    effective = subprocess.run(["ssh", "-G", "-F", str(user.main), "b1"], check=True, capture_output=True, text=True)
    assert "hostname 192.0.2.11\n" in effective.stdout
    result = user()
    assert (result["changed"], result["diff"]) == (False, [])


def test_own_configuration_stays(user: User) -> None:
    own = "# mine\nHost *\n    User me\n"
    user.main.write_text(own)
    user.main.chmod(0o640)
    user()
    assert (user.main.read_text(), mode(user.main)) == (user.line + own, 0o640)
    user.absent()
    assert (user.main.read_text(), mode(user.main)) == (own, 0o640)


def test_line_that_was_moved_stays_there(user: User) -> None:
    user.main.write_text(f"# mine\n{user.line}Host *\n")
    user()
    assert user.main.read_text() == f"# mine\n{user.line}Host *\n"


def test_linked_configuration(user: User, tmp_path: Path) -> None:
    dotfile = tmp_path / "dotfile"
    dotfile.write_text("")
    user.main.symlink_to(dotfile)
    user()
    assert (dotfile.read_text(), user.main.is_symlink()) == (user.line, True)
    user.absent()
    assert (dotfile.read_text(), user.main.is_symlink()) == ("", True)


def test_link_into_the_store(user: User, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ssh_config, "STORE", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store/config").write_text("Host *\n")
    user.main.symlink_to(tmp_path / "store/config")
    assert f"put the line '{user.line.strip()}'" in user()["msg"]
    assert not user.ours.exists()


@pytest.mark.parametrize("broken", ["ours", "own"])
def test_what_ssh_does_not_take(user: User, broken: str) -> None:
    if broken == "own":
        user.main.write_text("NoSuchOption yes\n")
    result = user(config="NoSuchOption yes\n" if broken == "ours" else CONFIG)
    path = user.main if broken == "own" else user.ours / "config"
    assert result["msg"].startswith(f"ssh does not take what is meant for {path}: {path}: line ")
    assert "nosuchoption" in result["msg"].lower()
    assert not user.ours.exists()


def test_check_mode(user: User) -> None:
    result = user(check=True)
    assert result["changed"]
    assert [it["after_header"] for it in result["diff"]] == [
        str(it) for it in (user.ours, user.ours / "known_hosts", user.ours / "config", user.main)
    ]
    assert os.listdir(user.ssh) == []


def test_absent(user: User) -> None:
    assert not user.absent()["changed"]
    user()
    assert user.absent(check=True)["changed"]
    assert user.main.exists()
    assert user.absent()["changed"]
    assert os.listdir(user.ssh) == []


@pytest.mark.parametrize("options", [{"directory": "x"}, {"directory": "/x"}, {"main": "x"}, {"user": "no-such-user"}])
def test_bad_options(user: User, options: dict[str, str]) -> None:
    assert user(**options)["failed"]
    assert os.listdir(user.ssh) == []
