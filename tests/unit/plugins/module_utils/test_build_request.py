# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of users. More is tested with the module and the lookup."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, slots
from ansible_collections.nixfleet.builders.plugins.module_utils.build_request import (
    builders,
    check,
    make_request,
    read_bytes,
    read_text,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

DEFAULTS: dict[str, t.Any] = {
    "derivations": [],
    "file": None,
    "expression": None,
    "attributes": [],
    "installables": None,
    "builders": [],
    "builders_file": None,
    "local_jobs": None,
    "policy": "load",
    "keep_going": False,
    "copy_results": "client",
    "out_link": None,
    "max_attempts": 3,
    "connect_timeout": 20,
    "build_timeout": 0,
    "builders_use_substitutes": None,
    "report": None,
    "trace": None,
    "progress": None,
    "nix_bin_dir": None,
}


@pytest.fixture
def nix(tmp_path: Path) -> Nix:
    (tmp_path / "nix-store").touch()
    return Nix(lambda args, **given: (0, "nix (Nix) 2.26.3", ""), str(tmp_path))


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 harm neither a derivation nor a machines file."""
    file = tmp_path / "machines"
    file.write_bytes(b"# M\xfcller\r\nssh-ng://b1 x86_64-linux\n")
    assert read_bytes(str(file)) == file.read_bytes()
    assert read_text(str(file)).startswith("# M\udcfcller")


def request(nix: Nix, settings: t.Mapping[str, t.Any] | None = None, **options: t.Any) -> dispatch.Request:
    return make_request({**DEFAULTS, **options}, nix, {"system": "x86_64-linux", **(settings or {})})


def test_the_request(nix: Nix) -> None:
    plain = request(nix)
    assert (plain.roots, plain.machines, plain.client.max_jobs) == ({}, [], 1)
    assert (plain.policy, plain.keep_going, plain.max_attempts, plain.build_timeout) == ("load", False, 3, None)
    assert (plain.builders_substitute, plain.destination) == (False, dispatch.TO_CLIENT)
    full = request(
        nix, policy="nix", keep_going=True, max_attempts=5, build_timeout=9, local_jobs=4, copy_results="ssh://c"
    )
    assert (full.policy, full.keep_going, full.max_attempts, full.build_timeout) == ("nix", True, 5, 9)
    assert (full.client.max_jobs, full.destination) == (4, "ssh://c")
    for setting in (True, False):
        settings = {"builders-use-substitutes": setting}
        assert request(nix, settings).builders_substitute is setting
        assert request(nix, settings, builders_use_substitutes=not setting).builders_substitute is not setting


def test_only_root_takes_slots(nix: Nix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert isinstance(request(nix).slots, slots.Slots)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert request(nix).slots is None


def test_where_builders_are_from(nix: Nix, tmp_path: Path) -> None:
    file = tmp_path / "machines"
    file.write_text("ssh-ng://b1 x86_64-linux\n")
    uris = [
        [machine.uri for machine in builders({**DEFAULTS, **options}, nix, {"builders": "ssh-ng://b2 x86_64-linux"})]
        for options in (
            {"builders": None},
            {"builders": None, "builders_file": str(file)},
            {"builders": [{"uri": "ssh-ng://b3"}]},
        )
    ]
    assert uris == [["ssh-ng://b2"], ["ssh-ng://b1"], ["ssh-ng://b3"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_jobs": -1}, "local_jobs is -1, it has to be at least 0"),
        ({"connect_timeout": 0}, "connect_timeout is 0, it has to be at least 1"),
        ({"out_link": "/r", "copy_results": "none"}, "out_link needs the results on this host"),
        ({"out_link": "/nowhere/r"}, "there is no directory /nowhere for out_link"),
        ({"attributes": ["a"]}, "attributes are those of a file or an expression"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, t.Any], message: str) -> None:
    check(DEFAULTS)
    with pytest.raises(ValueError, match=message):
        check({**DEFAULTS, **options})
