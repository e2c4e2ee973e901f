# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Host keys that are revoked, in a file of ssh_config's RevokedHostKeys: a list of keys, or OpenSSH's KRL format.

The latter is read by OpenSSH's own ssh-keygen.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile

from ansible_collections.nixfleet.builders.plugins.module_utils.known_hosts import fingerprint, key_from_line

#: Seconds that ssh-keygen may take.
TIMEOUT = 20.0
#: How a KRL begins (PROTOCOL.krl of OpenSSH).
_KRL = b"SSHKRL\n\0"


class _UnreadableError(Exception):
    """What is revoked is not known. The text says why."""


def refusal(file: str, type_: str, blob: bytes) -> str | None:
    """Why a host key is refused, and what to do; None: it is not revoked. An unreadable file refuses all, as in ssh."""
    try:
        revoked = _revoked(file, type_, blob)
    except (OSError, _UnreadableError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return (
            f"it cannot be looked up whether its host key is revoked ({reason}); correct RevokedHostKeys {file} in "
            "ssh_config"
        )
    return f"its host key {type_} {fingerprint(blob)} is revoked (RevokedHostKeys {file})" if revoked else None


def _revoked(file: str, type_: str, blob: bytes) -> bool:
    with open(file, "rb") as stream:
        data = stream.read()
    if data.startswith(_KRL):
        return _in_krl(file, f"{type_} {base64.b64encode(blob).decode()}\n")
    keys = (key_from_line(line, file) for line in data.decode("utf-8", "surrogateescape").splitlines())
    return any(key is not None and key.blob == blob for key in keys)


def _in_krl(file: str, line: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as key:
        key.write(line)
        key.flush()
        try:
            done = subprocess.run(  # pylint: disable=ansible-bad-function
                ["ssh-keygen", "-Q", "-f", file, key.name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise _UnreadableError(f"ssh-keygen took more than {TIMEOUT:g} s") from error
    if done.returncode == 0:
        return False
    if done.returncode == 1 and "REVOKED" in done.stdout:
        return True
    raise _UnreadableError(" / ".join(done.stderr.split("\n")).strip(" /") or f"exit status {done.returncode}")
