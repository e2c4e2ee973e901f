# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options, and when it fails. What is asked is tested with the room of the same name."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.nixfleet.builders.plugins.module_utils.login_probe import CHECKS
from ansible_collections.nixfleet.builders.plugins.modules import login_probe
from ansible_collections.nixfleet.builders.tests.support.key_files import write_key
from ansible_collections.nixfleet.builders.tests.support.played_login import HOST_LINE, PlayedLogin

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, t.Any]]:
    """Of a server that takes passwords, which is a fault."""
    played = PlayedLogin()
    played.methods = ["publickey", "password"]
    played.keys["nixremote"] = {write_key(tmp_path / "key")}
    yield {
        "host": "127.0.0.1",
        "port": played.port,
        "ssh_key": str(tmp_path / "key"),
        "public_host_key": HOST_LINE,
        "checks": ["password", "protocol"],
    }
    played.close()


def test_fails_and_says_why(run_module: Run, options: dict[str, t.Any]) -> None:
    result = run_module(login_probe, **options)
    assert result["failed"]
    assert "the login nixremote@127.0.0.1 is not as it has to be: password: sshd takes password" in result["msg"]
    verdicts = {check["name"]: check["verdict"] for check in result["checks"]}
    assert verdicts == {"host_key": "passed", "password": "failed", "protocol": "passed"}
    assert result["server"].startswith("SSH-2.0-OpenSSH_9.2p1")


def test_tells_without_failing_and_in_check_mode(run_module: Run, options: dict[str, t.Any]) -> None:
    result = run_module(login_probe, check=True, fail=False, **options)
    assert "failed" not in result
    assert (result["passed"], result["changed"]) == (False, False)
    assert run_module(login_probe, **{**options, "checks": ["protocol"]})["passed"]


@pytest.mark.parametrize(
    "wrong",
    [{"port": 0}, {"connect_timeout": 0}, {"public_host_key": "x"}, {"checks": ["y"]}, {"proxy_jump": "a@b@:c"}],
)
def test_bad_options(run_module: Run, options: dict[str, t.Any], wrong: dict[str, t.Any]) -> None:
    assert run_module(login_probe, **{**options, **wrong})["failed"]


def test_documents_each_check() -> None:
    documented = yaml.safe_load(login_probe.DOCUMENTATION)["options"]["checks"]
    assert documented["choices"] == documented["default"] == list(CHECKS)
    text = " ".join(documented["description"])
    assert all(f"V({check})" in text for check in CHECKS)
