# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""builder_keys: whose lines are in the file. Logins with them are tested on the fleet."""

from __future__ import annotations

import os
import pwd
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import builder_keys

CLIENTS = {"client1": "ssh-ed25519 AAAAc1 root@client1"}
OURS = "restrict ssh-ed25519 AAAAc1 nixfleet:client1"
FOREIGN = "ssh-ed25519 AAAAh somebody"


@pytest.fixture
def run(run_module: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    return lambda **options: run_module(
        builder_keys, **{"path": str(tmp_path / "authorized_keys"), "clients": CLIENTS, **options}
    )


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "authorized_keys").read_text().splitlines()[1:]


def test_file_is_made_and_left_alone(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    assert run(check=True)["changed"]
    assert not (tmp_path / "authorized_keys").exists()
    first = run()
    assert first["changed"] and OURS in first["diff"]["after"]
    assert lines(tmp_path) == [OURS]
    assert (tmp_path / "authorized_keys").stat().st_mode & 0o777 == 0o444
    assert not run()["changed"]


def test_mode_is_mended(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    run()
    (tmp_path / "authorized_keys").chmod(0o666)
    assert run()["changed"]
    assert (tmp_path / "authorized_keys").stat().st_mode & 0o777 == 0o444


def test_lines_of_others(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    (tmp_path / "authorized_keys").write_text(f"{FOREIGN}\nssh-ed25519 AAAAc1 by hand\n")
    assert run(exclusive=False)["kept"] == 1
    assert lines(tmp_path) == [OURS, FOREIGN]
    assert run(exclusive=True)["changed"]
    assert lines(tmp_path) == [OURS]


def test_lines_of_others_in_the_present_home(
    run: t.Callable[..., dict[str, t.Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = tmp_path / "home"
    (former / ".ssh").mkdir(parents=True)
    (former / ".ssh/authorized_keys").write_text(f"{FOREIGN}\n")
    monkeypatch.setattr(pwd, "getpwnam", lambda name: types.SimpleNamespace(pw_dir=str(former)))
    assert run(exclusive=False, account="nixremote")["kept"] == 1
    assert lines(tmp_path) == [OURS, FOREIGN]


def test_no_account_yet(run: t.Callable[..., dict[str, t.Any]]) -> None:
    assert run(exclusive=False, account="no-such-account")["kept"] == 0


def test_command(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    run()
    assert run(command="/gate", keys=['from="192.0.2.1" ssh-ed25519 AAAAk'])["changed"]
    assert lines(tmp_path) == [
        'restrict,command="/gate" ssh-ed25519 AAAAc1 nixfleet:client1',
        'restrict,command="/gate",from="192.0.2.1" ssh-ed25519 AAAAk nixfleet:+',
    ]
    result = run(command="/gate", keys=['Command="id" ssh-ed25519 AAAAk'])
    assert result["failed"] and "a command of its own" in result["msg"]
    assert len(lines(tmp_path)) == 2


def test_login_files_are_removed(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    keys = str(ssh / "authorized_keys")
    hostile = [tmp_path / ".bashrc", tmp_path / ".pam_environment", ssh / "environment", ssh / "authorized_keys2"]
    for file in (*hostile, tmp_path / "other"):
        file.write_text("secret")
    (ssh / "rc").symlink_to("/nonexistent")
    assert run(path=keys)["removed"] == []
    tried = run(path=keys, purge_login_files=True, check=True)
    assert tried["changed"] and len(tried["removed"]) == 5 and all(file.exists() for file in hostile)
    assert "secret" not in str(tried)
    first = run(path=keys, purge_login_files=True, exclusive=False)
    assert first["changed"] and (ssh / "authorized_keys2").exists()
    assert run(path=keys, purge_login_files=True)["removed"] == [str(ssh / "authorized_keys2")]
    assert sorted(os.listdir(ssh)) == ["authorized_keys"] and sorted(os.listdir(tmp_path)) == [".ssh", "other"]
    assert not run(path=keys, purge_login_files=True)["changed"]
