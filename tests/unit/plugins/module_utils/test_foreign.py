# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""foreign: the kernel is asked, with programs of its own processor; handlers as files of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import binfmt, foreign

OWN = f"{platform.machine()}-linux"


def handler(system: str, flags: str) -> binfmt.Handler:
    kind = binfmt.processor(system)
    assert kind is not None
    return binfmt.Handler(kind.handler, True, "/usr/bin/qemu", flags, 0, *binfmt.magic_and_mask(kind))


@pytest.mark.skipif(binfmt.processor(OWN) is None, reason="a processor of which nothing is known")
def test_the_own_processor_runs_its_programs() -> None:
    assert foreign.why_not_run(OWN) == ""


def test_what_cannot_be_asked() -> None:
    assert foreign.why_not_run("aarch64-darwin") is None
    assert foreign.unrunnable(["aarch64-darwin"], True, []) == {}


def test_what_no_program_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # No kernel runs this, and no handler is there for it.
    monkeypatch.setattr(binfmt, "probe_program", lambda system: b"\x7fELF" + bytes(200))
    assert "neither the processor nor a handler" in (foreign.why_not_run("riscv64-linux") or "")
    monkeypatch.setattr(binfmt, "probe_program", lambda system: b"#!/nonexistent/interpreter\n")
    assert "is not there" in (foreign.why_not_run("riscv64-linux") or "")
    monkeypatch.setattr(binfmt, "probe_program", lambda system: b"#!/bin/sh\nexit 3\n")
    assert "ended with 3" in (foreign.why_not_run("riscv64-linux") or "")
    monkeypatch.setattr(binfmt, "probe_program", lambda system: b"#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(foreign, "PATIENCE", 0.3)
    assert "did not end" in (foreign.why_not_run("riscv64-linux") or "")


def test_handlers_are_read(tmp_path: Path) -> None:
    assert foreign.read_handlers(str(tmp_path / "absent")) == []
    for name in ("register", "status", "aaa", "nixfleet-aarch64"):
        (tmp_path / name).write_text("enabled\n")
    assert [found.name for found in foreign.read_handlers(str(tmp_path))] == ["nixfleet-aarch64", "aaa"]


def test_emulated_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "riscv64-linux" if OWN != "riscv64-linux" else "s390x-linux"
    monkeypatch.setattr(foreign, "why_not_run", lambda system: "" if system == other else "no")
    monkeypatch.setattr(foreign, "read_handlers", lambda: [handler(other, "OC"), handler("aarch64-linux", "F")])
    assert list(foreign.emulated([OWN, other, "aarch64-darwin"])) == [other]
    why = foreign.unrunnable([other, "i686-linux"], True, [])
    assert why["i686-linux"] == "no" and "flag F" in why[other]
    assert other not in foreign.unrunnable([other], False, [])
