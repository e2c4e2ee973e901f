# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options and its one message about all builders that fail."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.modules import builder_checks

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
    nix = """case "$*" in
      --version) echo "nix (Nix) 2.26.3" ;;
      *"store info"*) echo '{"trusted": true}' ;;
      *"config show"*) echo '{"trusted-public-keys": {"value": ["b1-1:key"]}}' ;;
    esac"""
    scripts = {
        "nix": nix,
        "nix-build": 'case "$*" in *@b1*) echo "$*" >"$0.log"; echo /nix/store/x ;; *) echo no >&2; exit 1 ;; esac',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


def test_good(run_module: Run, bin_dir: str) -> None:
    result = run_module(builder_checks, builders={"b1": FACT}, ssh_key="/k", nix_bin_dir=bin_dir)
    assert not result["changed"] and result["passed"], result
    assert [it["output"] for it in result["builders"]] == ["/nix/store/x"]
    command = Path(f"{bin_dir}/nix-build.log").read_text()
    assert "ssh-ng://nixremote@b1 i686-linux,x86_64-linux /k 1 1 - - -" in command
    assert "--argstr system x86_64-linux" in command


@pytest.mark.parametrize("fail", [True, False])
def test_all_are_tried_before_it_fails(run_module: Run, bin_dir: str, fail: bool) -> None:
    others = {name: {**FACT, "machine": {"uri": f"ssh-ng://{name}"}} for name in ("b2", "b3")}
    builders = {"b2": others["b2"], "b1": FACT, "b3": others["b3"]}
    result = run_module(builder_checks, builders=builders, nix_bin_dir=bin_dir, fail=fail)
    assert (result.get("failed", False), result["passed"]) == (fail, False)
    assert [it["name"] for it in result["builders"]] == ["b2", "b1", "b3"]
    if fail:
        lines = result["msg"].split("\n")
        assert lines[0] == "2 of 3 builders failed"
        assert lines[1] == "b2: build failed (build_failed): nix-build failed with status 1: no"
        assert lines[2].startswith("To mend it: ")


def test_builder_that_is_not_known(run_module: Run, bin_dir: str) -> None:
    result = run_module(builder_checks, builders={"b7": {}}, nix_bin_dir=bin_dir)
    assert "b7: known failed (unknown_to_client)" in result["msg"]


@pytest.mark.parametrize("fact", ["text", {"host_keys": []}, {"machine": {"uri": "a b", "max_jobs": "x"}}])
def test_builder_that_has_published_nothing_of_use(run_module: Run, bin_dir: str, fact: t.Any) -> None:
    result = run_module(builder_checks, builders={"b7": fact}, nix_bin_dir=bin_dir)
    assert result["failed"]
    assert "b7" in result["msg"] or "a b" in result["msg"]


@pytest.mark.parametrize(
    ("offer", "says"),
    [
        ({"unreachable": True, "msg": "no route\n"}, "Ansible did not reach the builder: no route"),
        ({"msg": "no Nix"}, "Ansible did not get to know the builder: no Nix"),
        (None, "the builder was not looked at"),
    ],
)
def test_builder_of_which_ansible_knows_nothing(run_module: Run, bin_dir: str, offer: t.Any, says: str) -> None:
    offers = {} if offer is None else {"b1": offer}
    result = run_module(builder_checks, builders={"b1": FACT}, offers=offers, checks=["disk"], nix_bin_dir=bin_dir)
    assert [it["because"] for it in result["builders"][0]["checks"]] == [says]


def test_clock(run_module: Run, bin_dir: str) -> None:
    offers = {"b1": {"system_features": [], "clock_offset": 7200.0}}
    result = run_module(
        builder_checks, builders={"b1": FACT}, offers=offers, checks=["clock"], reference_time=1.0, nix_bin_dir=bin_dir
    )
    assert "clock failed (clock_skew)" in result["msg"]


def test_nothing_is_built_in_check_mode(run_module: Run, bin_dir: str) -> None:
    result = run_module(builder_checks, check=True, builders={"b1": FACT}, nix_bin_dir=bin_dir)
    assert result["passed"] and not Path(f"{bin_dir}/nix-build.log").exists()


@pytest.mark.parametrize("option", ["timeout", "build_timeout"])
def test_times(run_module: Run, bin_dir: str, option: str) -> None:
    result = run_module(builder_checks, builders={"b1": FACT}, nix_bin_dir=bin_dir, **{option: 0})
    assert f"{option} is 0" in result["msg"]


def test_documented_checks_are_those_that_there_are() -> None:
    import yaml
    from ansible_collections.nixfleet.builders.plugins.module_utils import checks

    options = yaml.safe_load(builder_checks.DOCUMENTATION)["options"]
    assert tuple(options["checks"]["choices"]) == checks.NAMES
    assert tuple(options["checks"]["default"]) == checks.WAY_TO_A_BUILD
