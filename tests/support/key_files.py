# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private keys of ssh in files, for tests."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PrivateKey = t.Union[ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey]


def public_line(key: PrivateKey) -> str:
    """TYPE BASE64."""
    form = serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, form).decode()


def write_key(path: Path, passphrase: bytes = b"", key: PrivateKey | None = None) -> bytes:
    """An OpenSSH key file; its public blob."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, protection))
    found = known_hosts.key_from_line(public_line(key), "")
    assert found is not None
    return found.blob
