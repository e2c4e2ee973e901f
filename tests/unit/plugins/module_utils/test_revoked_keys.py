# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of revoked host keys, those that OpenSSH itself has made among them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts, revoked_keys
from ansible_collections.nixfleet.builders.tests.support.key_files import public_line
from cryptography.hazmat.primitives.asymmetric import ed25519

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def line() -> str:
    return public_line(ed25519.Ed25519PrivateKey.generate())


def refusal(file: Path, key: str) -> str | None:
    found = known_hosts.key_from_line(key, "")
    assert found is not None
    return revoked_keys.refusal(str(file), found.type, found.blob)


def krl(directory: Path, key: str) -> Path:
    (directory / "revoked.pub").write_text(key + "\n")
    file = directory / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(file), str(directory / "revoked.pub")], check=True)
    return file


def test_a_list_of_keys(tmp_path: Path) -> None:
    bad, good = line(), line()
    file = tmp_path / "revoked"
    file.write_text(f"# stolen\n\n{line()}\n{bad} b1, until May\nrubbish\n")
    assert refusal(file, good) is None
    refused = refusal(file, bad)
    assert refused is not None
    assert refused.startswith("its host key ssh-ed25519 SHA256:")
    assert refused.endswith(f"is revoked (RevokedHostKeys {file})")


@needs_keygen
def test_a_krl(tmp_path: Path) -> None:
    bad, good = line(), line()
    file = krl(tmp_path, bad)
    assert refusal(file, good) is None
    assert "is revoked" in (refusal(file, bad) or "")


def test_a_file_that_is_not_there_refuses_all(tmp_path: Path) -> None:
    file = tmp_path / "none"
    assert refusal(file, line()) == (
        "it cannot be looked up whether its host key is revoked (No such file or directory); correct RevokedHostKeys "
        f"{file} in ssh_config"
    )


@needs_keygen
def test_a_damaged_krl_refuses_all(tmp_path: Path) -> None:
    file = krl(tmp_path, line())
    file.write_bytes(file.read_bytes()[:40])
    assert "it cannot be looked up" in (refusal(file, line()) or "")


def test_no_ssh_keygen_refuses_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "krl"
    file.write_bytes(b"SSHKRL\n\0rest")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "it cannot be looked up" in (refusal(file, line()) or "")
