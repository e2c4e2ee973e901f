# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that ssh-keygen has made, and damaged ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts, ssh_certificate
from ansible_collections.nixfleet.builders.tests.support.key_files import PrivateKey, public_line, write_key
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def sign(directory: Path, key: PrivateKey, *options: str) -> str:
    """The line of a certificate for a key, by an authority of its own."""
    write_key(directory / "authority")
    (directory / "authority").chmod(0o600)
    (directory / "key.pub").write_text(public_line(key) + "\n")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(directory / "authority"), "-I", "ci-1", *options, str(directory / "key.pub")],
        check=True,
    )
    return (directory / "key-cert.pub").read_text()


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["ed25519", "p256", "p521", "rsa"],
)
def test_what_is_in_one(tmp_path: Path, key: PrivateKey) -> None:
    line = sign(tmp_path, key, "-n", "nixremote,other", "-V", "20300101000000Z:20300102000000Z")
    certificate = ssh_certificate.from_line(line)
    plain = known_hosts.key_from_line(public_line(key), "")
    assert certificate is not None
    assert plain is not None
    assert certificate.key == plain.blob
    assert certificate.type == plain.type + "-cert-v01@openssh.com"
    assert certificate.identity == "ci-1"
    assert certificate.principals == ("nixremote", "other")
    assert str(certificate) == "certificate 'ci-1' for nixremote, other"
    assert certificate.useless(1893456000) == ""
    assert certificate.useless(1893455999) == "is not valid before 2030-01-01 00:00:00 UTC"
    assert certificate.useless(1893542400) == "is no longer valid since 2030-01-02 00:00:00 UTC"


def test_one_without_limits(tmp_path: Path) -> None:
    certificate = ssh_certificate.from_line(sign(tmp_path, ed25519.Ed25519PrivateKey.generate()))
    assert certificate is not None
    assert certificate.useless(0) == certificate.useless(1e12) == ""
    assert str(certificate) == "certificate 'ci-1' for anybody"


def test_those_of_hosts_are_none(tmp_path: Path) -> None:
    assert ssh_certificate.from_line(sign(tmp_path, ed25519.Ed25519PrivateKey.generate(), "-h")) is None


def test_keys_and_rubbish_are_none() -> None:
    assert ssh_certificate.from_line(public_line(ed25519.Ed25519PrivateKey.generate())) is None
    assert ssh_certificate.from_line("") is None
    assert ssh_certificate.from_line("ssh-ed25519-cert-v01@openssh.com rubbish") is None


def test_damaged_ones_are_none(tmp_path: Path) -> None:
    certificate = ssh_certificate.from_line(sign(tmp_path, ed25519.Ed25519PrivateKey.generate(), "-n", "a"))
    assert certificate is not None
    # Up to the time after which it is not valid, which is never.
    for size in range(certificate.blob.index(b"\xff" * 8) + 8):
        assert ssh_certificate.from_blob(certificate.blob[:size]) is None
    assert ssh_certificate.from_blob(b"\xff" * 200) is None
