# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options, and when it fails. How a store is asked is tested with store_client."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import store_info

Run = t.Callable[..., dict[str, t.Any]]
URI = "ssh-ng://nixremote@b1"


@pytest.fixture
def bin_dir(tmp_path: Path) -> str:
    """A Nix that cannot log in, and shows for which store it was asked."""
    (tmp_path / "nix-store").touch()
    program = tmp_path / "nix"
    program.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || exec echo "nix (Nix) 2.26.3"\n'
        'echo "$*: Permission denied (publickey)." >&2; exit 1\n'
    )
    program.chmod(0o755)
    return str(tmp_path)


def test_fails_with_reason_and_remedy(run_module: Run, bin_dir: str) -> None:
    result = run_module(store_info, uri=URI, ssh_key="/k", nix_bin_dir=bin_dir)
    assert result["failed"]
    assert (result["reachable"], result["reason"]) == (False, "permission_denied")
    assert result["msg"].startswith(f"the store {URI}?ssh-key=/k is not reachable (permission_denied): ")
    assert f"--store {URI}?ssh-key=/k: Permission denied" in result["msg"]
    assert result["suggestion"] in result["msg"]


def test_tells_without_failing(run_module: Run, bin_dir: str) -> None:
    result = run_module(store_info, check=True, uri=URI, fail=False, nix_bin_dir=bin_dir)
    assert "failed" not in result
    assert (result["reachable"], result["reason"], result["changed"]) == (False, "permission_denied", False)


@pytest.mark.parametrize("options", [{"uri": " "}, {"uri": "ssh://a b"}, {"uri": URI, "timeout": 0}])
def test_bad_options(run_module: Run, options: dict[str, t.Any]) -> None:
    assert run_module(store_info, **options)["failed"]
