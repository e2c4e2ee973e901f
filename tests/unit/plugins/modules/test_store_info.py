# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How store_info runs Nix: the environment, the time limit, the result. Programs are small shell scripts."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix
from ansible_collections.nixfleet.builders.plugins.modules import store_info

PARAMS = {"uri": "ssh-ng://nixremote@b1", "ssh_key": None, "public_host_key": None, "timeout": 5}


def fake_nix(directory: Path, script: str) -> Nix:
    """A Nix whose C(nix) is a shell script."""
    (directory / "nix-store").touch()
    program = directory / "nix"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Nix(lambda args, data=None, environ_update=None: (0, "nix (Nix) 2.26.3\n", ""), str(directory))


def ask(directory: Path, script: str, **params: t.Any) -> dict[str, t.Any]:
    return store_info.ask(fake_nix(directory, script), {**PARAMS, **params})


def test_reachable(tmp_path: Path) -> None:
    result = ask(tmp_path, """echo '{"trusted":1,"url":"x","version":"2.26.3"}'""")
    assert result.pop("latency_ms") >= 0
    assert result == {
        "uri": "ssh-ng://nixremote@b1",
        "reachable": True,
        "version": "2.26.3",
        "trusted": True,
        "reason": None,
        "message": None,
        "suggestion": None,
    }


def test_arguments(tmp_path: Path) -> None:
    result = ask(tmp_path, 'echo "error: $*" >&2; exit 1', ssh_key="/k")
    assert result["message"] == (
        "error: --extra-experimental-features nix-command store info --json --store ssh-ng://nixremote@b1?ssh-key=/k"
    )


def test_unreachable(tmp_path: Path) -> None:
    result = ask(tmp_path, "echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1")
    assert (result["reachable"], result["reason"]) == (False, "permission_denied")
    assert result["latency_ms"] is None
    assert "nixremote@b1" in result["suggestion"]


def test_time_limit(tmp_path: Path) -> None:
    result = ask(tmp_path, "echo first words >&2; sleep 60", timeout=1)
    assert result["reason"] == "timeout"
    assert result["message"] == "no answer within 1 seconds: first words"


def test_environment() -> None:
    given = {"PATH": "/bin", "SSH_ASKPASS": "x", "SSH_AUTH_SOCK": "y", "NIX_SSHOPTS": "-p 2222", "NIX_CONFIG": "z"}
    assert store_info.clean_environment(given, 7) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "NIX_SSHOPTS": "-oBatchMode=yes -oConnectTimeout=7 -p 2222",
    }


def test_path_that_is_not_there(tmp_path: Path) -> None:
    """Nix would make a store there."""
    result = ask(tmp_path, "echo called >&2; exit 1", uri=str(tmp_path / "none"))
    assert (result["reason"], result["reachable"]) == ("bad_uri", False)
    assert "there is no directory" in result["message"]
    assert ask(tmp_path, "true", uri=f"{tmp_path}?x=y")["reachable"]
