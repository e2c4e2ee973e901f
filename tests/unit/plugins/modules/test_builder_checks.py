# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options and its one message about all builders that fail."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import build_proof

Run = t.Callable[..., dict[str, t.Any]]
FACT = {
    "machine": {"uri": "ssh-ng://nixremote@b1", "systems": ["x86_64-linux", "i686-linux"]},
    "signing_public_key": "b1-1:key",
    "host_keys": [],
}


@pytest.fixture
def bin_dir(tmp_path: Path) -> str:
    """A Nix that builds on the builder b1 only, and writes down how."""
    (tmp_path / "nix-store").touch()
    scripts = {
        "nix": '[ "$1" != --version ] || echo "nix (Nix) 2.26.3"; [ "$4" != info ] || echo "{}"',
        "nix-build": 'case "$*" in *@b1*) echo "$*" >"$0.log"; echo /nix/store/x ;; *) echo no >&2; exit 1 ;; esac',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


def test_good(run_module: Run, bin_dir: str) -> None:
    result = run_module(build_proof, builders={"b1": FACT}, ssh_key="/k", nix_bin_dir=bin_dir)
    assert not result["changed"]
    assert [it["output"] for it in result["builders"]] == ["/nix/store/x"]
    command = Path(f"{bin_dir}/nix-build.log").read_text()
    assert "ssh-ng://nixremote@b1 i686-linux,x86_64-linux /k 1 1 - - -" in command
    assert "--argstr system x86_64-linux" in command


def test_all_are_tried_before_it_fails(run_module: Run, bin_dir: str) -> None:
    others = {name: {**FACT, "machine": {"uri": f"ssh-ng://{name}"}} for name in ("b2", "b3")}
    result = run_module(build_proof, builders={"b2": others["b2"], "b1": FACT, "b3": others["b3"]}, nix_bin_dir=bin_dir)
    assert result["msg"] == (
        "this host cannot build on 2 of 3 builders\n"
        "b2: nix-build on ssh-ng://b2 failed with status 1: no\n"
        "b3: nix-build on ssh-ng://b3 failed with status 1: no"
    )
    assert [it["problem"] is None for it in result["builders"]] == [False, True, False]


@pytest.mark.parametrize("fact", [{}, None, "text", {"machine": FACT["machine"]}, {"machine": {"uri": "a b"}}])
def test_builder_that_has_published_nothing_of_use(run_module: Run, bin_dir: str, fact: t.Any) -> None:
    result = run_module(build_proof, builders={"b7": fact}, nix_bin_dir=bin_dir)
    assert result["failed"]
    assert "b7" in result["msg"]


def test_nothing_in_check_mode(run_module: Run, bin_dir: str) -> None:
    assert run_module(build_proof, check=True, builders={"b1": FACT}, nix_bin_dir=bin_dir)["skipped"]
