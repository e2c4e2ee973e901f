# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keys that an account is proved with: from files and from the client's ssh agent."""

from __future__ import annotations

import base64
import binascii
import os
import socket
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target

if t.TYPE_CHECKING:
    import paramiko


class Keys:
    """The keys to offer, in order: the configured files, each by the agent where it holds it, then the agent's others.

    Configured ones come first, as sshd counts what it is offered (MaxAuthTries). remarks: what kept a file from use.
    """

    def __init__(self, library: t.Any, target: Target, left: t.Callable[[], float]) -> None:
        self._library = library
        self._target = target
        self._agent: t.Any = None
        self.remarks: list[str] = []
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
        held = {key.asbytes(): key for key in self._agent.get_keys()} if self._agent is not None else {}
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

    def close(self) -> None:
        """Ends the connection to the agent."""
        if self._agent is not None:
            self._agent._close()

    def _load(self, file: str) -> paramiko.PKey | None:
        library = self._library
        problem = ""
        for kind in (library.Ed25519Key, library.ECDSAKey, library.RSAKey):
            try:
                return t.cast("paramiko.PKey", kind.from_private_key_file(file))
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


def read_text(file: str) -> str:
    """A file's text; empty where there is none that can be read."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""
