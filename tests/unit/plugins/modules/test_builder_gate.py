# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""builder_gate: what is proved before it is installed. What the script does: module_utils/test_gate.py."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import gate
from ansible_collections.nixfleet.builders.plugins.modules import builder_gate

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run(run_module: Run, tmp_path: Path) -> Run:
    nix = tmp_path / "nix"
    nix.mkdir()
    (nix / "nix-store").touch()
    options = {"path": str(tmp_path / "libexec/gate"), "nix_bin_dir": str(nix)}
    return lambda **more: run_module(builder_gate, **{**options, **more})


def test_gate_is_made_and_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "libexec/gate"
    first = run(check=True)
    assert first["changed"] and not path.parent.exists()
    assert first["commands"] == [gate.DAEMON, gate.LOAD]
    assert run()["changed"]
    assert path.read_text() == first["diff"]["after"]
    assert path.stat().st_mode & 0o7777 == 0o755
    assert path.parent.stat().st_mode & 0o7777 == 0o755
    assert not run()["changed"]
    assert run(serve=True)["commands"] == [gate.DAEMON, gate.SERVE, gate.LOAD]


def test_mode_is_mended(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "libexec/gate").chmod(0o777)
    assert run()["changed"]
    assert (tmp_path / "libexec/gate").stat().st_mode & 0o7777 == 0o755


def test_gate_is_removed(run: Run, tmp_path: Path) -> None:
    run()
    assert run(state="absent", check=True)["changed"]
    assert (tmp_path / "libexec/gate").exists()
    assert run(state="absent")["changed"]
    assert not (tmp_path / "libexec/gate").exists()
    assert not run(state="absent")["changed"]


def test_directory_of_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "libexec").mkdir()
    (tmp_path / "libexec").chmod(0o777)
    result = run()
    assert result["failed"] and "is not root's alone" in result["msg"] and "chmod go-w" in result["msg"]
    assert not (tmp_path / "libexec/gate").exists()


def test_host_without_nix(run: Run, tmp_path: Path) -> None:
    result = run(nix_bin_dir=str(tmp_path / "none"))
    assert result["failed"] and "there is no nix-store in" in result["msg"]
    assert run(nix_bin_dir=str(tmp_path / "none"), check=True)["changed"]
    wrapped = run(nix_bin_dir="/nowhere/bin", wrapper=["/bin/proot"])
    assert wrapped["nix_bin_dir"] == "/nowhere/bin"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case x in", "/bin/sh cannot read the gate"),
        ("exit 3", "the gate's load probe ends with status 3"),
        ("echo fine", "the load probe's answer is no JSON"),
        (
            'echo \'{"load": 0, "cpus": 0, "pressure": 0, "memory": 0, "store": 0}\'',
            "the gate does not refuse 'nixfleet-self-test': status 0",
        ),
    ],
)
def test_gate_that_does_not_do_what_it_should(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    run()
    before = (tmp_path / "libexec/gate").read_text()
    monkeypatch.setattr(gate, "render", lambda *_args, **_options: f"{text}\n")
    result = run()
    assert result["failed"] and says in result["msg"]
    assert (tmp_path / "libexec/gate").read_text() == before
