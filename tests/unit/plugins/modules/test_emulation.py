# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""emulation: against a kernel made of a dict. With a real one: the scenario emulate."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.nixfleet.builders.plugins.module_utils import binfmt, foreign
from ansible_collections.nixfleet.builders.plugins.modules import emulation

Run = t.Callable[..., dict[str, t.Any]]
ROOT = Path(__file__).resolve().parents[4]


class Kernel:
    """What binfmt_misc does, with names of handlers and their lines."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.runs = True

    def write(self, name: str, text: str) -> None:
        if name == "register":
            handler = text.split(":")[1]
            assert handler not in self.lines
            self.lines[handler] = text
        else:
            assert text == "-1"
            del self.lines[name]

    def handlers(self) -> list[binfmt.Handler]:
        found = []
        for name, line in self.lines.items():
            _empty, _name, _kind, _offset, magic, mask, interpreter, flags = line.split(":")
            data = [bytes.fromhex(text.replace("\\x", "")) for text in (magic, mask)]
            found.append(binfmt.Handler(name, True, interpreter, flags, 0, *data))
        return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(emulation, "write", made.write)
    monkeypatch.setattr(foreign, "read_handlers", made.handlers)
    monkeypatch.setattr(foreign, "why_not_run", lambda system: "" if made.runs else "it does not")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "b1", "6.1", "#1", "x86_64")))
    return made


@pytest.fixture
def run(run_module: Run, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def candidates(kind: binfmt.Processor) -> list[str]:
        return [str(tmp_path / f"{kind.qemu}-binfmt-P"), str(tmp_path / f"qemu-{kind.qemu}")]

    for name in ("qemu-aarch64", "arm-binfmt-P"):
        (tmp_path / name).write_bytes(binfmt.probe_program("x86_64-linux"))
    monkeypatch.setattr(binfmt, "candidates", candidates)
    return lambda **more: run_module(emulation, **{"path": str(tmp_path / "binfmt.d/nixfleet.conf"), **more})


def test_there_and_back(run: Run, kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "binfmt.d/nixfleet.conf"
    both = ["armv7l-linux", "aarch64-linux", "armv6l-linux"]
    first = run(systems=both, check=True)
    assert first["changed"] and first["registered"] == ["nixfleet-aarch64", "nixfleet-arm"]
    assert not kernel.lines and not path.parent.exists()
    done = run(systems=both)
    assert done["diff"] == first["diff"]
    assert path.read_text().splitlines()[1:] == [kernel.lines["nixfleet-aarch64"], kernel.lines["nixfleet-arm"]]
    assert kernel.lines["nixfleet-aarch64"].endswith(f":{tmp_path}/qemu-aarch64:F")
    assert kernel.lines["nixfleet-arm"].endswith(f":{tmp_path}/arm-binfmt-P:PF")
    assert not run(systems=both)["changed"]
    kernel.lines["theirs"] = kernel.lines["nixfleet-arm"]
    fewer = run(systems=["aarch64-linux"])
    assert fewer["changed"] and fewer["removed"] == ["nixfleet-arm"] and "nixfleet-arm" not in path.read_text()
    assert run(state="absent", check=True)["removed"] == ["nixfleet-aarch64"]
    assert run(state="absent")["changed"] and list(kernel.lines) == ["theirs"] and not path.exists()
    assert not run(state="absent")["changed"]


def test_what_the_kernel_has_lost_or_has_otherwise_is_mended(run: Run, kernel: Kernel) -> None:
    run(systems=["aarch64-linux"])
    right = dict(kernel.lines)
    kernel.lines.clear()
    assert run(systems=["aarch64-linux"])["registered"] == ["nixfleet-aarch64"]
    kernel.lines["nixfleet-aarch64"] = right["nixfleet-aarch64"][:-1]
    assert run(systems=["aarch64-linux"])["changed"] and kernel.lines == right


@pytest.mark.parametrize(
    ("systems", "says"),
    [
        (["aarch64-linux", "vax-linux"], "vax-linux cannot be emulated; there are aarch64-linux, "),
        (["x86_64-v2-linux"], "cannot be emulated"),
        (["x86_64-linux"], "own system"),
        (["riscv64-linux"], "there is no static QEMU for riscv64"),
    ],
)
def test_what_is_refused(run: Run, kernel: Kernel, tmp_path: Path, systems: list[str], says: str) -> None:
    result = run(systems=systems)
    assert result["failed"] and says in result["msg"]
    assert not kernel.lines and not (tmp_path / "binfmt.d").exists()


def test_qemu_that_needs_libraries(run: Run, tmp_path: Path) -> None:
    (tmp_path / "qemu-riscv64").write_bytes(Path("/bin/sh").resolve().read_bytes())
    result = run(systems=["riscv64-linux"])
    assert result["failed"] and "which is not in Nix's sandbox" in result["msg"]


def test_what_does_not_run_is_not_left_for_the_next_boot(run: Run, kernel: Kernel, tmp_path: Path) -> None:
    kernel.runs = False
    result = run(systems=["aarch64-linux"])
    assert result["failed"] and "although its handler is registered: it does not" in result["msg"]
    assert not (tmp_path / "binfmt.d").exists()


def test_without_binfmt_misc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "BINFMT_MISC", str(tmp_path / "absent"))
    with pytest.raises(binfmt.BinfmtError, match="binfmt_misc is not mounted; mount it"):
        emulation.write("register", "x")


def test_the_role_knows_the_same_systems() -> None:
    variables = yaml.safe_load((ROOT / "roles/nix_builder/vars/main.yml").read_text())
    assert variables["_nix_builder_emulable"] == binfmt.emulable()
