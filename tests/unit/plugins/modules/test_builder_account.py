# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module on a host whose accounts are made up and whose programs of shadow are scripts; the files are real."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.builder_account import COMMENT
from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER
from ansible_collections.nixfleet.builders.plugins.modules import builder_account

Run = t.Callable[..., dict[str, t.Any]]
KEY = "ssh-ed25519 AAAAc"


class Host:
    """A host in a directory."""

    def __init__(self, root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run = run
        self._log = root / "log"
        self.home = root / "lib" / "nixremote"
        self.keys = self.home / ".ssh" / "authorized_keys"
        self.socket = root / "daemon-socket"
        self.accounts: dict[str, pwd.struct_passwd] = {}
        self.groups: dict[str, grp.struct_group] = {}
        monkeypatch.setattr(builder_account.pwd, "getpwnam", lambda name: self.accounts[name])
        monkeypatch.setattr(builder_account.grp, "getgrnam", lambda name: self.groups[name])
        monkeypatch.setattr(builder_account.grp, "getgrgid", self._group_of)
        monkeypatch.setattr(builder_account.grp, "getgrall", lambda: list(self.groups.values()))
        monkeypatch.setattr(builder_account, "SHADOW", str(root / "shadow"))
        # The files are this user's, who need not be root.
        monkeypatch.setattr(builder_account, "ROOT", (os.getuid(), os.getgid()))
        (root / "shadow").write_text("root:!:1::::::\nnixremote:*:1::::::\n")
        programs = root / "bin"
        programs.mkdir()
        for name in ("groupadd", "groupdel", "useradd", "userdel", "usermod"):
            (programs / name).write_text(
                f'#!/bin/sh\nfor word in {name} "$@"; do printf "[%s]" "$word"; done >>{self._log}\n'
            )
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def _group_of(self, number: int) -> grp.struct_group:
        return next(group for group in self.groups.values() if group.gr_gid == number)

    def exists(self, home: str | None = None, uid: int = 990, shell: str = "/bin/sh") -> None:
        """There is the account, with its group."""
        self.groups["nixremote"] = grp.struct_group(("nixremote", "x", 990, []))
        fields = ("nixremote", "x", uid, 990, COMMENT, home or str(self.home), shell)
        self.accounts["nixremote"] = pwd.struct_passwd(fields)

    def guard_socket(self) -> None:
        """Only a group may talk to the daemon."""
        self.socket.mkdir(mode=0o750)
        self.groups["nix-users"] = grp.struct_group(("nix-users", "x", os.stat(self.socket).st_gid, []))

    def __call__(self, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        given = {"name": "nixremote", "home": str(self.home), "clients": {"c1": KEY}, "daemon_socket": str(self.socket)}
        return self._run(builder_account, check, **{**given, **options})

    def ran(self) -> str:
        """The programs that were run since this was asked last."""
        text = self._log.read_text() if self._log.exists() else ""
        self._log.unlink(missing_ok=True)
        return text


@pytest.fixture
def host(run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, run_module, monkeypatch)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_account(host: Host) -> None:
    host.guard_socket()
    umask = os.umask(0o077)
    try:
        result = host(uid=700)
    finally:
        os.umask(umask)
    assert result["changed"]
    assert host.ran() == (
        "[groupadd][--system][nixremote]"
        f"[useradd][--system][--no-create-home][--uid][700][--gid][nixremote][--password][*][--shell][/bin/sh]"
        f"[--home-dir][{host.home}][--comment][{COMMENT}][--groups][nix-users][nixremote]"
    )
    assert host.keys.read_text() == f"# {HEADER}\nrestrict {KEY} nixfleet:c1\n"
    assert [mode(path) for path in (host.keys, host.keys.parent, host.home)] == [0o444, 0o555, 0o555]
    assert mode(host.home.parent) == 0o755
    assert result["authorized_keys"] == str(host.keys)


def test_second_run_changes_nothing(host: Host) -> None:
    host()
    host.exists()
    host.ran()
    result = host()
    assert (result["changed"], result["diff"], result["uid"], host.ran()) == (False, [], 990, "")


def test_check_mode_on_a_bare_host(host: Host) -> None:
    result = host(check=True)
    assert result["changed"]
    assert result["uid"] is None
    assert [part.get("prepared", "").split(" ")[0] or part["after_header"] for part in result["diff"]] == [
        "groupadd",
        str(host.home),
        str(host.keys.parent),
        str(host.keys),
        "useradd",
    ]
    assert host.ran() == ""
    assert not host.home.parent.exists()


def test_open_socket_needs_no_group(host: Host) -> None:
    host.guard_socket()
    host.socket.chmod(0o755)
    host()
    assert "--groups" not in host.ran()


def test_drift_is_mended(host: Host) -> None:
    host()
    host.exists(shell="/bin/bash")
    host.ran()
    host.home.chmod(0o755)
    host.keys.chmod(0o644)
    result = host(check=True)
    assert result["changed"]
    assert result["diff"][0] == {
        **dict.fromkeys(("before_header", "after_header"), str(host.home)),
        "before": {"mode": "0755"},
        "after": {"mode": "0555"},
    }
    assert (host.ran(), mode(host.home)) == ("", 0o755)
    assert host()["changed"]
    assert host.ran() == "[usermod][--shell][/bin/sh][nixremote]"
    assert (mode(host.home), mode(host.keys)) == (0o555, 0o444)


def test_keys_of_others(host: Host, tmp_path: Path) -> None:
    former = tmp_path / "former"
    (former / ".ssh").mkdir(parents=True)
    (former / ".ssh/authorized_keys").write_text("ssh-ed25519 AAAAh by hand\n")
    host.exists(home=str(former))
    result = host(exclusive=False)
    assert host.keys.read_text() == f"# {HEADER}\nrestrict {KEY} nixfleet:c1\nssh-ed25519 AAAAh by hand\n"
    assert result["kept"] == 1
    assert host.ran() == f"[usermod][--home][{host.home}][nixremote]"
    host.exists()
    assert not host(exclusive=False)["changed"]
    assert host()["changed"]
    assert "by hand" not in host.keys.read_text()


def test_keys_of_others_survive_a_run_that_dies(host: Host, tmp_path: Path) -> None:
    """Before the account has its new home, the keys are in it."""
    former = tmp_path / "former"
    (former / ".ssh").mkdir(parents=True)
    (former / ".ssh/authorized_keys").write_text("ssh-ed25519 AAAAh by hand\n")
    host.exists(home=str(former))
    (tmp_path / "bin/usermod").write_text("#!/bin/sh\necho no >&2\nexit 8\n")
    assert host(exclusive=False)["msg"] == "usermod failed with status 8: no"
    assert "by hand" in host.keys.read_text()


def test_root_is_not_taken_over(host: Host) -> None:
    host.exists(uid=0)
    result = host()
    assert result["failed"]
    assert "root by another name" in result["msg"]
    assert host.ran() == ""


@pytest.mark.parametrize("home", ["relative", "/", "/nixremote", "/nixremote/"])
def test_home_that_is_no_home(host: Host, home: str) -> None:
    assert "must be an absolute path" in host(home=home)["msg"]


def test_absent(host: Host) -> None:
    host()
    host.exists()
    host.ran()
    assert host(check=True, state="absent")["changed"]
    assert (host.ran(), host.keys.exists()) == ("", True)
    assert host(state="absent")["changed"]
    assert host.ran() == "[userdel][nixremote][groupdel][nixremote]"
    assert not host.home.exists()
    assert host.home.parent.exists()
    host.accounts.clear()
    host.groups.clear()
    result = host(state="absent")
    assert (result["changed"], host.ran()) == (False, "")
