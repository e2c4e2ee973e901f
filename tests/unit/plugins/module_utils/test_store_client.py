# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a store is asked: the environment, the time limit, the result. Nix's programs are small shell scripts."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.nixfleet.builders.plugins.module_utils import store_client
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

URI = "ssh-ng://nixremote@b1"


def fake_nix(directory: Path, script: str) -> Nix:
    """A Nix whose C(nix) is a shell script."""
    (directory / "nix-store").touch()
    program = directory / "nix"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Nix(lambda args, data=None, environ_update=None: (0, "nix (Nix) 2.26.3\n", ""), str(directory))


def ask(directory: Path, script: str, uri: str = URI, timeout: float = 5) -> dict[str, t.Any]:
    return store_client.ask(fake_nix(directory, script), uri, timeout)


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
    result = ask(tmp_path, 'echo "error: $*" >&2; exit 1')
    assert result["message"] == (f"error: --extra-experimental-features nix-command store info --json --store {URI}")


def test_unreachable(tmp_path: Path) -> None:
    result = ask(tmp_path, "echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1")
    assert (result["reachable"], result["reason"]) == (False, "permission_denied")
    assert result["latency_ms"] is None
    assert "nixremote@b1" in result["suggestion"]
    assert store_client.complaint(result) == (
        "the store ssh-ng://nixremote@b1 is not reachable (permission_denied): "
        f"nixremote@b1: Permission denied (publickey).\nTo mend it: {result['suggestion']}"
    )


def test_time_limit(tmp_path: Path) -> None:
    result = ask(tmp_path, "echo first words >&2; sleep 60", timeout=1)
    assert result["reason"] == "timeout"
    assert result["message"] == "no answer within 1 seconds: first words"


def test_environment() -> None:
    given = {"PATH": "/bin", "SSH_ASKPASS": "x", "SSH_AUTH_SOCK": "y", "NIX_SSHOPTS": "-p 2222", "NIX_CONFIG": "z"}
    assert store_client.clean_environment(given, 7) == {
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
