# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What builder_info asks, and of whom."""

from __future__ import annotations

import json
import pwd
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import foreign
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import NixNotFound
from ansible_collections.nixfleet.builders.plugins.modules import builder_info

SETTINGS = {
    "system": "x86_64-linux",
    "extra-platforms": ["i686-linux", "riscv64-linux"],
    "system-features": ["kvm", "big-parallel"],
    "max-jobs": 1,
    "cores": 0,
    "trusted-users": ["root"],
}
SSHD_T = "port 22\nlistenaddress [::]:2222\nhostkey {0}/rsa\nhostkey {0}/ed25519\n"


class Module:
    """The part of AnsibleModule that is used, with a host made of texts."""

    def __init__(self, root: Path, sshd: str | None = None, **params: t.Any) -> None:
        self.root = root
        self.sshd = sshd
        self.params: dict[str, t.Any] = {
            **dict.fromkeys(("host", "port", "ssh_key", "systems", "max_jobs", "supported_features"), None),
            "mandatory_features": None,
            "user": "nixremote",
            "protocol": "ssh-ng",
            "speed_factor": 1.0,
            "missing_ok": False,
            "reference_time": None,
            "nix_bin_dir": str(root),
            "nix_user": None,
            "nix_wrapper": [],
            **params,
        }

    def get_bin_path(self, name: str, opt_dirs: list[str]) -> str | None:
        return f"/usr/sbin/{name}" if self.sshd is not None else None

    def run_command(
        self, args: list[str], data: str | None = None, environ_update: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        program = args[0].rpartition("/")[2]
        if program == "sshd":
            return (0, self.sshd, "") if self.sshd else (255, "", "no hostkeys")
        if program == "ssh-keygen":
            assert args[-2] == "-f"
            return (0, "ssh-ed25519 AAAAtrue root@b1\n", "") if args[-1].endswith("ed25519") else (255, "", "agent")
        if any(word.endswith("/nix-instantiate") for word in args):
            return 0, '"/nix/store"\n', ""
        if "--version" in args:
            return 0, "nix (Nix) 2.26.3\n", ""
        assert environ_update == {"NIX_CONFIG": ""}
        return 0, json.dumps({name: {"value": value} for name, value in SETTINGS.items()}), ""


@pytest.fixture(autouse=True)
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_info, "cpu_count", lambda: 16)
    monkeypatch.setattr(builder_info, "probe_features", lambda module, kernel: {"kvm": "there is no /dev/kvm"})
    monkeypatch.setattr(builder_info.os, "sysconf", lambda name: 2**18 if name == "SC_PHYS_PAGES" else 2**18)
    monkeypatch.setattr(builder_info.platform, "system", lambda: "Linux")
    monkeypatch.setattr(builder_info.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(builder_info.platform, "node", lambda: "b1")
    monkeypatch.setattr(builder_info.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(foreign, "why_not_run", lambda system: "nothing runs it" if system == "riscv64-linux" else "")
    monkeypatch.setattr(foreign, "read_handlers", list)


def test_whole(tmp_path: Path) -> None:
    (tmp_path / "nix-store").touch()
    (tmp_path / "rsa.pub").write_text("ssh-rsa AAAArsa root@b1\n")
    (tmp_path / "ed25519").touch()
    (tmp_path / "ed25519.pub").write_text("ssh-ed25519 AAAAstale root@old\n")
    result = builder_info.inspect(Module(tmp_path, SSHD_T.format(tmp_path)))
    assert result["nix_version"] == "2.26.3"
    assert (result["cores"], result["max_jobs"], result["build_cores"]) == (16, 4, 4)
    assert result["memory_mb"] == 65536
    assert result["unbacked_features"] == ["kvm"]
    assert result["host_keys"] == ["ssh-ed25519 AAAAtrue root@b1", "ssh-rsa AAAArsa root@b1"]
    assert result["sshd_ports"] == [2222]
    assert result["store_dir"] == "/nix/store"
    assert result["machine"] == {
        "protocol": "ssh-ng",
        "user": "nixremote",
        "host": "b1",
        "systems": ["x86_64-linux", "i686-linux"],
        "max_jobs": 4,
        "speed_factor": 1.0,
        "supported_features": ["big-parallel"],
        "mandatory_features": [],
        "public_host_key": "ssh-ed25519 AAAAtrue root@b1",
    }
    assert result["systems"] == ["x86_64-linux", "i686-linux", "riscv64-linux"]
    assert result["unrunnable_reasons"] == {"riscv64-linux": "nothing runs it"}
    assert result["emulated_systems"] == {}
    assert result["trusted_public_keys"] == []
    assert result["clock_offset"] is None


def test_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("restrict ssh-ed25519 AAAAclient nixfleet:client1\n")
    (tmp_path / "nix-store").touch()
    sshd = f"{SSHD_T.format(tmp_path)}authorizedkeysfile {tmp_path}/keys /nonexistent/%u\nusepam yes\n"
    result = builder_info.inspect(Module(tmp_path, sshd, user="root"))
    assert result["account"] == {
        "user": "root",
        "refused": None,
        "authorized_keys_files": [f"{tmp_path}/keys", "/nonexistent/root"],
        "authorized_keys": ["ssh-ed25519 AAAAclient"],
        "trusted": True,
    }
    monkeypatch.setattr(builder_info.os, "access", lambda path, mode: False)
    result = builder_info.inspect(Module(tmp_path, sshd, user="root"))
    assert result["account"]["refused"]["reason"] == "account_shell"


def test_a_single_user_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nix-store").touch()
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(builder_info, "store_owner", lambda: nobody)
    result = builder_info.inspect(Module(tmp_path))
    assert (result["installation"], result["owner"]) == ("single-user", "nobody")
    assert (result["machine"]["user"], result["account"]["user"], result["account"]["trusted"]) == (
        "nobody",
        "nobody",
        True,
    )
    result = builder_info.inspect(Module(tmp_path, user="daemon"))
    assert (result["machine"]["user"], result["account"]["trusted"]) == ("daemon", False)
    monkeypatch.setattr(builder_info, "store_owner", lambda: None)
    result = builder_info.inspect(Module(tmp_path))
    assert (result["installation"], result["owner"], result["machine"]["user"]) == ("multi-user", None, "nixremote")
    words = {"nix_wrapper": ["/usr/bin/env", "-i"], "nix_user": "root", "nix_bin_dir": "/shown"}
    result = builder_info.inspect(Module(tmp_path, user="root", **words))
    assert (result["installation"], result["owner"]) == ("wrapped", "root")


def test_account_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "nix-store").touch()
    account = builder_info.inspect(Module(tmp_path, user="nosuchuser"))["account"]
    assert (account["refused"]["reason"], account["authorized_keys"]) == ("account_missing", None)


def test_space_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nix-store").touch()
    result = builder_info.inspect(Module(tmp_path, reference_time=builder_info.time.time() - 60))
    assert 60 <= result["clock_offset"] < 90
    free, total = builder_info.read_space(str(tmp_path))
    assert free is not None and total is not None and 0 < free <= total
    assert builder_info.read_space(str(tmp_path / "none")) == (None, None)


@pytest.mark.parametrize("sshd", [None, ""])
def test_keys_where_sshd_does_not_tell(tmp_path: Path, sshd: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "ssh_host_ed25519_key.pub"
    key.write_text("ssh-ed25519 AAAAfile root@b1\n")
    monkeypatch.setattr(builder_info.glob, "glob", lambda pattern: [str(key)])
    lines, ports = builder_info.read_sshd(Module(tmp_path, sshd))
    assert (lines, ports) == (["ssh-ed25519 AAAAfile root@b1"], [22])


def test_without_nix(tmp_path: Path) -> None:
    with pytest.raises(NixNotFound, match="no nix-store in"):
        builder_info.inspect(Module(tmp_path))
    result = builder_info.inspect(Module(tmp_path, missing_ok=True))
    assert result["nix_version"] is None
    assert result["machine"]["systems"] == ["x86_64-linux", "i686-linux"]
    assert result["machine"]["supported_features"] == ["benchmark", "big-parallel", "nixos-test"]
    assert "public_host_key" not in result["machine"]


def test_kvm(tmp_path: Path) -> None:
    assert "no /" in builder_info.why_no_kvm(str(tmp_path / "none"))
    (tmp_path / "kvm").touch()
    assert "does not answer" in builder_info.why_no_kvm(str(tmp_path / "kvm"))
    assert "cannot be opened" in builder_info.why_no_kvm(str(tmp_path))
