# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Host keys: what a known_hosts file says about one host, and what follows for the key that a server shows.

Pure. The format is that of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Nothing is ever trusted because it is seen first.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
import typing as t
from dataclasses import dataclass

_HASHED = "|1|"


@dataclass(frozen=True)
class HostKey:
    """A public key. type: as in its line, like ssh-ed25519. blob: the key. where: file and line, for messages."""

    type: str
    blob: bytes
    where: str

    @property
    def fingerprint(self) -> str:
        """As ssh shows it."""
        return fingerprint(self.blob)


@dataclass(frozen=True)
class KnownKeys:
    """What is known of a host. keys: good ones. revoked: never to be taken. authorities: where a CA is named for it."""

    keys: tuple[HostKey, ...] = ()
    revoked: tuple[HostKey, ...] = ()
    authorities: tuple[str, ...] = ()

    def __add__(self, other: KnownKeys) -> KnownKeys:
        return KnownKeys(self.keys + other.keys, self.revoked + other.revoked, self.authorities + other.authorities)

    def types(self) -> tuple[str, ...]:
        """The types of the good keys, each once."""
        return tuple(dict.fromkeys(key.type for key in self.keys))


def fingerprint(blob: bytes) -> str:
    """SHA256:…, as ssh shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def key_from_line(line: str, where: str) -> HostKey | None:
    """The key of a public key line, TYPE BASE64 [COMMENT]; None if it is none."""
    words = line.split(None, 2)
    if len(words) < 2:
        return None
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    # The blob begins with its type as an ssh string (RFC 4253, 6.6).
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length] != words[0].encode("utf-8", "surrogateescape"):
        return None
    return HostKey(words[0], blob, where)


def known_keys(text: str, host: str, file: str) -> KnownKeys:
    """What a known_hosts file says about C(host): a name in lower case or C([name]:port). Passes over bad lines."""
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    authorities: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        marker = ""
        if line.startswith("@"):
            marker, _blank, line = line.partition(" ")
            line = line.lstrip()
        names, _blank, key_line = line.partition(" ")
        if not _matches(names, host):
            continue
        key = key_from_line(key_line.strip(), f"{file}:{number}")
        if key is None:
            continue
        if marker == "@revoked":
            revoked.append(key)
        elif marker == "@cert-authority":
            authorities.append(key.where)
        elif not marker:
            keys.append(key)
    return KnownKeys(tuple(keys), tuple(revoked), tuple(authorities))


def refusal(known: KnownKeys, type_: str, blob: bytes, known_as: str, searched: t.Sequence[str]) -> str | None:
    """Why the key that a server shows is refused, and what to do; None: it is a good one."""
    shown_key = f"{type_} {fingerprint(blob)}"
    for key in known.revoked:
        if key.blob == blob:
            return f"its host key {shown_key} is revoked ({key.where})"
    if any(key.blob == blob for key in known.keys):
        return None
    if known.keys:
        expected = ", ".join(f"{key.type} {key.fingerprint} ({key.where})" for key in known.keys)
        return (
            f"its host key has changed: it shows {shown_key}, known is {expected}. Somebody may be in between; if the "
            "host was reinstalled, compare the fingerprint on it (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub) and "
            "replace the known key there"
        )
    return unknown(known, shown_key, known_as, searched)


def unknown(known: KnownKeys, shown_key: str, known_as: str, searched: t.Sequence[str]) -> str:
    """Why a host without a known key is refused. shown_key: type and fingerprint, "" if it was not asked for one."""
    if known.authorities:
        return (
            f"its host key is known only through a certificate authority ({', '.join(known.authorities)}), which is "
            "not supported; set the machine's public_host_key, or add the host's own key to known_hosts"
        )
    files = ", ".join(searched) or "no file at all"
    shows = f" {shown_key}" if shown_key else ""
    return (
        f"its host key{shows} is not known as {known_as} (searched: {files}). Compare the fingerprint on the host "
        "(ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then set the machine's public_host_key or add the key to "
        "known_hosts"
    )


def _matches(names: str, host: str) -> bool:
    if names.startswith(_HASHED):
        salt, _bar, digest = names[len(_HASHED) :].partition("|")
        try:
            made = hmac.new(base64.b64decode(salt), host.encode(), hashlib.sha1).digest()
            return hmac.compare_digest(made, base64.b64decode(digest))
        except (binascii.Error, ValueError):
            return False
    found = False
    for name in names.lower().split(","):
        if name.startswith("!") and _like(name[1:], host):
            return False
        found = found or _like(name, host)
    return found


def _like(pattern: str, host: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == host
    # Only * and ? are special in known_hosts; brackets are part of [host]:port.
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), host) is not None
