# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nix_tarball does step by step, with programs of Nix that only note how they are called."""

from __future__ import annotations

import io
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import nix_tarball as room
from ansible_collections.nixfleet.builders.plugins.modules import nix_tarball

NIX = "0123456789abcdfghijklmnpqrsvwxyz-nix-2.34.8"
CERTIFICATES = "1123456789abcdfghijklmnpqrsvwxyz-nss-cacert-1.0"


class Failed(Exception):
    """fail_json was called."""


class Module:
    """The part of AnsibleModule that is used."""

    def __init__(self, tmpdir: Path, check_mode: bool = False) -> None:
        self.tmpdir = str(tmpdir)
        self.check_mode = check_mode
        self.calls: list[tuple[list[str], str | None]] = []
        self.status: dict[str, int] = {}

    def run_command(self, argv: list[str], data: str | None = None, **_rest: t.Any) -> tuple[int, str, str]:
        self.calls.append((argv, data))
        return next((rc for word, rc in self.status.items() if word in argv), 0), "", "what Nix said"

    def fail_json(self, **result: t.Any) -> t.NoReturn:
        raise Failed(result["msg"])


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose /nix is elsewhere, and a tarball that is unpacked already when C(missing) is empty."""
    for name in ("ROOT", "STORE", "STAGING", "PROFILE"):
        value = getattr(nix_tarball, name)
        monkeypatch.setattr(nix_tarball, name, value.replace("/nix", str(tmp_path / "nix"), 1))
    monkeypatch.setattr(nix_tarball.grp, "getgrnam", lambda name: type("Group", (), {"gr_gid": os.getegid()}))


def stage(monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> None:
    contents = room.Contents("2.34.8", "x86_64-linux", [NIX, CERTIFICATES], missing, NIX, "registered\n")
    monkeypatch.setattr(room, "unpack", lambda *_args, **_rest: contents)


def test_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(monkeypatch, [NIX, CERTIFICATES])
    module = Module(tmp_path)
    installer = nix_tarball.Installer(module)
    result = installer.present(io.BytesIO(), "n")
    store = f"{tmp_path}/nix/store"
    assert result == {"version": "2.34.8", "store_path": f"{store}/{NIX}"}
    load, install = module.calls
    assert load == ([f"{store}/{NIX}/bin/nix-store", "--load-db"], "registered\n")
    assert install[0][-3:] == ["--install", f"{store}/{NIX}", f"{store}/{CERTIFICATES}"]
    assert installer.actions[-4:] == [
        f"unpack {NIX}",
        f"unpack {CERTIFICATES}",
        "register 2 paths",
        "install nix-2.34.8 into the default profile",
    ]


def test_check_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(monkeypatch, [NIX])
    module = Module(tmp_path, check_mode=True)
    installer = nix_tarball.Installer(module)
    installer.present(io.BytesIO(), "n")
    assert module.calls == []
    assert len(installer.actions) == len(room.TREE) + 3
    assert not (tmp_path / "nix").exists()


def test_second_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(monkeypatch, [])
    room.make_tree(str(tmp_path / "nix"), os.getegid())
    program = tmp_path / "nix/store" / NIX / "bin"
    program.mkdir(parents=True)
    (program / "nix-store").touch()
    (tmp_path / "nix/var/nix/profiles/default").symlink_to(program.parent)
    module = Module(tmp_path)
    installer = nix_tarball.Installer(module)
    installer.present(io.BytesIO(), "n")
    assert installer.actions == []
    assert [argv[1] for argv, _data in module.calls] == ["--check-validity"]


def test_unpacked_but_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(monkeypatch, [])
    module = Module(tmp_path)
    module.status = {"--check-validity": 1}
    installer = nix_tarball.Installer(module)
    installer.present(io.BytesIO(), "n")
    assert installer.actions[-2:] == ["register 2 paths", "install nix-2.34.8 into the default profile"]


def test_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(monkeypatch, [NIX])
    module = Module(tmp_path)
    module.status = {"--load-db": 1}
    with pytest.raises(Failed, match="nix-store --load-db failed with status 1: what Nix said"):
        nix_tarball.Installer(module).present(io.BytesIO(), "n")


def test_absent(tmp_path: Path) -> None:
    module = Module(tmp_path)
    installer = nix_tarball.Installer(module)
    installer.absent()
    assert installer.actions == []
    program = tmp_path / "nix/var/nix/profiles/default/bin/nix-env"
    program.parent.mkdir(parents=True)
    program.touch()
    installer.absent()
    assert module.calls[0][0][-3:] == ["--uninstall", "nix", "nss-cacert"]
