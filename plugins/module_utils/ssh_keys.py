# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keys that an account is proved with, and their certificates: from files and from the client's ssh agent."""

from __future__ import annotations

import base64
import binascii
import os
import socket
import time
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts, ssh_certificate
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_certificate import Certificate
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target

if t.TYPE_CHECKING:
    import paramiko


class Keys:
    """The keys to offer, in order: certificates, the configured files, each by the agent where it holds it, then the
    agent's others.

    Configured ones come first, as sshd counts what it is offered (MaxAuthTries). remarks: what kept a file from use.
    certified: whether a certificate was offered.
    """

    def __init__(self, library: t.Any, target: Target, left: t.Callable[[], float]) -> None:
        self._library = library
        self._target = target
        self._agent: t.Any = None
        self._loaded: dict[str, paramiko.PKey | None] = {}
        self.remarks: list[str] = []
        self.certified = False
        if target.agent:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(left())
                connection.connect(target.agent)
                self._agent = library.agent.AgentSSH()
                self._agent._connect(connection)
            except Exception as error:
                self._agent = None
                connection.close()
                self.remarks.append(f"the agent at {target.agent} does not answer ({error})")

    def offers(self) -> t.Iterator[tuple[str, paramiko.PKey]]:
        """What to say of a key, and the key."""
        # By its own blob: paramiko takes a certificate of the agent for the key that it is for.
        held = {key.blob: key for key in self._agent.get_keys()} if self._agent is not None else {}
        yield from self._certificates(held)
        for file in self._target.identity_files:
            blob = public_blob(file)
            if blob in held:
                yield f"{file} (by the agent)", held.pop(blob)
                continue
            if os.path.exists(file) or file == self._target.identity_files[0]:
                key = self._load(file)
                if key is not None:
                    yield f"{file} ({key.get_name()} {known_hosts.fingerprint(key.asbytes())})", key
        if self._target.agent_offers_all:
            for blob, key in held.items():
                yield f"the agent's {key.get_name()} {known_hosts.fingerprint(blob)}", key

    def _certificates(self, held: dict[bytes, t.Any]) -> t.Iterator[tuple[str, paramiko.PKey]]:
        """The certificates that are configured, and those of the agent, which are taken out of what it holds."""
        by_agent = {}
        for blob in list(held):
            certificate = ssh_certificate.from_blob(blob)
            if certificate is not None:
                by_agent[certificate] = held.pop(blob)
        named = self._target.certificate_files
        beside = tuple(file + "-cert.pub" for file in self._target.identity_files)
        seen: set[Certificate] = set()
        for file in dict.fromkeys(named + beside):
            text = read_text(file)
            if not text and file in beside:
                continue
            certificate = ssh_certificate.from_line(text)
            problem = "is no certificate of an ed25519, ecdsa or rsa key, or cannot be read"
            if certificate is not None:
                if certificate in seen:
                    continue
                seen.add(certificate)
                problem = certificate.useless(time.time())
            key = None
            if certificate is not None and not problem:
                key = by_agent.get(certificate) or held.get(certificate.key) or self._private_half(certificate)
                problem = "is for a key that is in no identity file, and not in the agent"
            if certificate is None or key is None:
                self.remarks.append(f"{file} {problem}")
                continue
            yield f"{file} ({certificate})", self._with(key, certificate)
        if self._target.agent_offers_all:
            now = time.time()
            for certificate, key in by_agent.items():
                if certificate not in seen and not certificate.useless(now):
                    yield f"the agent's {certificate}", self._with(key, certificate)

    def _private_half(self, certificate: Certificate) -> paramiko.PKey | None:
        """The key that a certificate is for, from the identity files."""
        for file in self._target.identity_files:
            blob = public_blob(file)
            if blob == certificate.key or blob is None and os.path.exists(file):
                key = self._load(file)
                if key is not None and key.asbytes() == certificate.key:
                    return key
        return None

    def _with(self, key: t.Any, certificate: Certificate) -> paramiko.PKey:
        """The key, to be offered with its certificate."""
        # copy.copy asks paramiko's keys of an agent for methods, endlessly.
        twin = key.__class__.__new__(key.__class__)
        vars(twin).update(vars(key))
        twin.public_blob = self._library.pkey.PublicBlob(certificate.type, certificate.blob)
        if getattr(twin, "inner_key", None) is not None and twin.blob == certificate.blob:
            # The agent knows this private key under its certificate.
            twin.inner_key = None
        self.certified = True
        return t.cast("paramiko.PKey", twin)

    def close(self) -> None:
        """Ends the connection to the agent."""
        if self._agent is not None:
            self._agent._close()

    def _load(self, file: str) -> paramiko.PKey | None:
        """The key in a file, which is read once."""
        if file not in self._loaded:
            self._loaded[file] = self._read(file)
        return self._loaded[file]

    def _read(self, file: str) -> paramiko.PKey | None:
        library = self._library
        problem = ""
        kind = public_type(file)
        if kind.startswith("sk-"):
            self.remarks.append(
                f"{file} is a key of a security key ({kind}), which is not used here but by an agent: ssh-add it, or "
                "use another key"
            )
            return None
        for reader in (library.Ed25519Key, library.ECDSAKey, library.RSAKey):
            try:
                return t.cast("paramiko.PKey", reader.from_private_key_file(file))
            except library.PasswordRequiredException:
                problem = "has a passphrase; put it into an agent (ssh-add), or use a key without"
                break
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
                break
            except Exception:  # paramiko and cryptography raise many kinds for a file of another type
                problem = "is no private key that paramiko reads (ed25519, ecdsa, rsa)"
        self.remarks.append(f"{file} {problem}")
        return None


def public_blob(file: str) -> bytes | None:
    """The public half that belongs to a private key's file; None if it is not to be had without the passphrase."""
    key = known_hosts.key_from_line(read_text(file + ".pub"), file)
    if key is not None:
        return key.blob
    body = "".join(line for line in read_text(file).splitlines() if not line.startswith("-----"))
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
    magic = b"openssh-key-v1\0"
    if not data.startswith(magic):
        return None
    # PROTOCOL.key of OpenSSH: cipher, kdf, its options, the number of keys, the public one.
    position = len(magic)
    for _field in range(3):
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    position += 4
    size = int.from_bytes(data[position : position + 4], "big")
    return data[position + 4 : position + 4 + size]


def public_type(file: str) -> str:
    """The type of a private key's file, "" if it is not to be had."""
    blob = public_blob(file) or b""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("utf-8", "replace")


def read_text(file: str) -> str:
    """A file's text; empty where there is none that can be read."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""
