# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Certificates of users' ssh keys: what is in one. Pure. The format is PROTOCOL.certkeys of OpenSSH.

Whether a certificate is good is sshd's to say; here it is only found out whose it is, and whether it is worth a try.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts

SUFFIX = "-cert-v01@openssh.com"

#: By the type of the key: how many fields its public half has.
_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
}
_USER = 1


@dataclass(frozen=True)
class Certificate:
    """A certificate. type, blob: as they are sent. key: the blob of the key it is for. identity: its name in logs.

    valid_after, valid_before: seconds since 1970, the second is none of them any more.
    """

    type: str
    blob: bytes
    key: bytes
    identity: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int

    def __str__(self) -> str:
        names = ", ".join(self.principals) or "anybody"
        return f"certificate {self.identity!r} for {names}"

    def useless(self, now: float) -> str:
        """Why it is not worth a try at this time; "" if it is."""
        if now >= self.valid_before:
            return f"is no longer valid since {_shown(self.valid_before)}"
        if now < self.valid_after:
            return f"is not valid before {_shown(self.valid_after)}"
        return ""


def from_line(line: str) -> Certificate | None:
    """The certificate in a public key line, TYPE BASE64 [COMMENT]; None if it is none of a user's."""
    found = known_hosts.key_from_line(line, "")
    return from_blob(found.blob) if found is not None else None


def from_blob(blob: bytes) -> Certificate | None:
    """The certificate in a blob; None if it is none of a user's, or of a type that paramiko cannot use."""
    reader = _Reader(blob)
    try:
        type_ = reader.text()
        kind = type_[: -len(SUFFIX)]
        if not type_.endswith(SUFFIX) or kind not in _FIELDS:
            return None
        reader.string()  # the nonce
        fields = [reader.string() for _field in range(_FIELDS[kind])]
        reader.number(8)  # the serial number
        user = reader.number(4) == _USER
        identity = reader.text()
        names = _Reader(reader.string())
        principals = []
        while names.left:
            principals.append(names.text())
        after, before = reader.number(8), reader.number(8)
    except ValueError:
        return None
    key = b"".join(len(field).to_bytes(4, "big") + field for field in (kind.encode(), *fields))
    return Certificate(type_, blob, key, identity, tuple(principals), after, before) if user else None


class _Reader:
    """Fields one behind the other. Raises ValueError where there is less than there should be."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def string(self) -> bytes:
        return self._take(self.number(4))

    def text(self) -> str:
        return self.string().decode("utf-8", "backslashreplace")

    def _take(self, size: int) -> bytes:
        if size > len(self.left):
            raise ValueError("it is too short")
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def _shown(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
