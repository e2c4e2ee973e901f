# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of Nix for each builder, and what its answers are taken for. Nix's programs are small shell scripts."""

from __future__ import annotations

import re
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import build_proof
from ansible_collections.nixfleet.builders.plugins.module_utils.build_proof import Builder, Proof, Verdict
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

INFO = """case "$*" in
  *"store info"*) echo '{"version": "2.34.8", "trusted": true}' ;;
  *"store verify"*) echo "$*" >"$(dirname "$0")/verified" ;;
esac"""
BUILD = 'printf "%s\\n" "$@" >"$(dirname "$0")/built"; echo /nix/store/x-proof'


def host(directory: Path, *, nix: str = INFO, nix_build: str = BUILD) -> Nix:
    """A host with these programs."""
    (directory / "nix-store").touch()
    for name, script in (("nix", nix), ("nix-build", nix_build)):
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return Nix(lambda args, data=None, environ_update=None: (0, "nix (Nix) 2.26.3\n", ""), str(directory))


def builder(name: str = "b1", system: str = "x86_64-linux", **machine: t.Any) -> Builder:
    given = {"uri": f"ssh-ng://nixremote@{name}", "systems": ["i686-linux", "x86_64-linux"], **machine}
    return Builder(name, Machine.from_dict(given), system, f"{name}-1:key")


def verdict(
    directory: Path, given: Builder | None = None, checks: t.Collection[str] = build_proof.CHECKS, **programs: str
) -> Verdict:
    return Proof(host(directory, **programs), checks, 5).try_all([given or builder()])[0]


def built(directory: Path) -> dict[str, str]:
    """The options that nix-build was given."""
    words = (directory / "built").read_text().split("\n")
    options = {name: words[words.index(name) + 1] for name in ("--max-jobs", "--builders")}
    for index, word in enumerate(words):
        if word == "--argstr":
            options[words[index + 1]] = words[index + 2]
    return options


def test_all_is_well(tmp_path: Path) -> None:
    found = verdict(tmp_path, builder(mandatory_features=["gpu"], speed_factor=1.5, ssh_key="/k"))
    assert (found.name, found.output, found.problem) == ("b1", "/nix/store/x-proof", None)
    assert found.store and found.store["version"] == "2.34.8"
    options = built(tmp_path)
    assert re.fullmatch("nixfleet-proof-b1-[0-9a-f]{16}", options.pop("name"))
    assert options == {
        "--max-jobs": "0",
        # This host's Nix reads a fractional speed.
        "--builders": "ssh-ng://nixremote@b1 i686-linux,x86_64-linux /k 1 1.5 - gpu -",
        "system": "x86_64-linux",
        "features": '["gpu"]',
    }
    verified = (tmp_path / "verified").read_text()
    assert "--sigs-needed 1 --option trusted-public-keys b1-1:key /nix/store/x-proof" in verified


def test_machine_without_system(tmp_path: Path) -> None:
    assert verdict(tmp_path, builder(system="")).problem is None
    assert "system" not in built(tmp_path)


def test_unreachable_builder_is_not_asked_to_build(tmp_path: Path) -> None:
    found = verdict(tmp_path, nix="echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1")
    assert found.problem and "not reachable (permission_denied)" in found.problem and "To mend it: " in found.problem
    assert found.output is None
    assert not (tmp_path / "built").exists()


def test_build_fails(tmp_path: Path) -> None:
    found = verdict(tmp_path, nix_build="echo 'error: unable to start any build' >&2; exit 100")
    assert found.problem == (
        "nix-build on ssh-ng://nixremote@b1 failed with status 100: error: unable to start any build"
    )


def test_build_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_proof, "BUILD_SECONDS", 1)
    found = verdict(tmp_path, nix_build="echo waiting for a slot >&2; sleep 60")
    assert found.problem == "nix-build on ssh-ng://nixremote@b1 had no result within 1 seconds: waiting for a slot"


def test_output_is_not_signed(tmp_path: Path) -> None:
    nix = f'{INFO}\n[ "$4" != verify ] || {{ echo "path is untrusted" >&2; exit 2; }}'
    found = verdict(tmp_path, nix=nix)
    assert found.problem and "does not carry a signature of its key b1-1:key: path is untrusted" in found.problem


def test_checks(tmp_path: Path) -> None:
    found = verdict(tmp_path, checks=["store"])
    assert (found.output, found.problem) == (None, None)
    assert found.store and not (tmp_path / "built").exists()
    found = verdict(tmp_path, checks=["build"], nix="exit 0")
    assert (found.store, found.output, found.problem) == (None, "/nix/store/x-proof", None)


def test_all_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    start = time.monotonic()
    builders = [builder(f"b{number}") for number in range(build_proof.AT_A_TIME)]
    found = Proof(host(tmp_path, nix_build="sleep 1; echo /nix/store/x"), ["build"], 5).try_all(builders)
    assert [(it.name, it.problem) for it in found] == [(it.name, None) for it in builders]
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("name", ["b1", "b 1", "ü", "b@[::1]", "x" * 300])
def test_fresh_name_is_a_valid_one_each_time(name: str) -> None:
    names = {build_proof.fresh_name(name) for _time in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch("[A-Za-z0-9+._?=-]{1,180}", it) for it in names)
