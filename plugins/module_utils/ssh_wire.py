# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ssh connections run on: TCP, a ProxyCommand or a tunnel through a jump host; and how they fail."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target

if t.TYPE_CHECKING:
    import paramiko

#: Seconds of silence after which a sign of life is asked for, and how long it may take. Their sum (and a little) is
#: how long a builder that drops packets goes unnoticed. ServerAliveInterval and ServerAliveCountMax override them.
ALIVE_INTERVAL = 10.0
ALIVE_TIMEOUT = 15.0

#: Bytes that a builder may send before they are read; also what an unread channel may hold in memory.
WINDOW = 8 << 20


class SshError(ChannelError):
    """No connection, no session, or it is lost. permanent: it stays so until somebody changes something."""

    def __init__(self, target: object, reason: str, *, permanent: bool = False) -> None:
        super().__init__(f"ssh to {target}", reason)
        self.permanent = permanent


class SshTimeout(SshError):
    """The builder did not answer in time."""


class Wire:
    """What carries a connection: a socket, or a channel of the jump host, that notices when nobody is there.

    paramiko calls recv and send with a timeout of 0.1 s, so both look at the clock. lost: why it ended, "" before.
    """

    def __init__(self, stream: t.Any) -> None:
        self._stream = stream
        self._heard = self._squeezed = time.monotonic()
        self._asked: float | None = None
        self.alive_interval = ALIVE_INTERVAL
        self.alive_timeout = ALIVE_TIMEOUT
        self.lost = ""

    def watch(self, target: Target) -> None:
        """Takes what ssh_config says about signs of life."""
        if target.alive_interval:
            self.alive_interval = float(target.alive_interval)
            self.alive_timeout = float(target.alive_interval * (target.alive_count or 3))

    def asked(self) -> None:
        """A sign of life is being asked for."""
        if self._asked is None:
            self._asked = time.monotonic()

    def settimeout(self, timeout: float) -> None:
        self._stream.settimeout(timeout)

    def recv(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.recv(size)
        except socket.timeout:
            self._check()
            raise
        except OSError as error:
            self.lost = self.lost or error.strerror or str(error)
            raise self._error() from error
        self._heard = time.monotonic()
        self._asked = None
        if not data:
            self.lost = self.lost or "the other end closed it"
        return data

    def send(self, data: bytes) -> int:
        try:
            sent: int = self._stream.send(data)
        except socket.timeout:
            self._check()
            raise
        except OSError as error:
            self.lost = self.lost or error.strerror or str(error)
            raise self._error() from error
        if sent < len(data):
            # Its buffer was full and is no more: the other end takes something, if slowly.
            self._squeezed = time.monotonic()
        return sent

    @property
    def _closed(self) -> bool:
        """What paramiko asks of a socket before it waits for its own thread to end."""
        return bool(self.lost)

    def close(self) -> None:
        self.lost = self.lost or "closed by us"
        with contextlib.suppress(Exception):
            self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._stream.close()

    def _check(self) -> None:
        if self.lost:
            raise self._error()
        now = time.monotonic()
        if self._asked is not None and now - max(self._asked, self._squeezed) > self.alive_timeout:
            self.lost = f"no sign of life for {now - self._heard:.0f} s"
            raise self._error()

    def _error(self) -> OSError:
        """An error that paramiko takes for one of a socket, and not for a timeout."""
        return OSError(errno.ECONNABORTED, self.lost)


class Tunnel:
    """A channel of a jump host as a socket: read whole, as paramiko moves all that is left at every small read."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._data = b""
        self._position = 0
        self.settimeout = channel.settimeout
        self.send = channel.send
        self.shutdown = channel.shutdown
        self.close = channel.close

    def recv(self, size: int) -> bytes:
        if self._position == len(self._data):
            self._data = self._channel.recv(WINDOW)
            self._position = 0
        start = self._position
        self._position = min(start + size, len(self._data))
        return self._data[start : self._position]


class ProxyCommand:
    """A process whose stdin and stdout are one socket. It is a session of its own and ends as a whole."""

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 lives as long as the process
        with theirs:
            self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                ["/bin/sh", "-c", "exec " + command],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._stderr,
                start_new_session=True,
            )

    def last_words(self) -> str:
        """What it wrote to stderr, the end of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 1000))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def close(self) -> None:
        self.socket.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
                break


def open_tcp(target: Target, deadline: float, timeout: float) -> socket.socket:
    """A TCP connection to the first address that takes one."""
    addresses = _look_up(target, deadline, timeout)
    problems: list[str] = []
    for number, (family, kind, protocol, _name, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.1, (deadline - time.monotonic()) / (len(addresses) - number)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            reason = "no answer" if isinstance(error, socket.timeout) else error.strerror or str(error)
            problems.append(f"{address[0]} port {target.port}: {reason}")
    text = "; ".join(problems)
    if time.monotonic() >= deadline:
        raise SshTimeout(target, f"no connection within {timeout:g} s ({text})")
    raise SshError(target, f"no connection ({text})")


def _look_up(target: Target, deadline: float, timeout: float) -> list[t.Any]:
    """The addresses of a name. In a thread of its own, as the resolver knows no timeout."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(target.family, socket.AF_UNSPEC)
    results: queue.Queue[t.Any] = queue.Queue()

    def look_up() -> None:
        try:
            results.put(socket.getaddrinfo(target.address, target.port, family, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=look_up, name="ssh-lookup", daemon=True).start()
    try:
        found = results.get(timeout=max(0.1, deadline - time.monotonic()))
    except queue.Empty:
        raise SshTimeout(target, f"its name was not resolved within {timeout:g} s") from None
    if isinstance(found, Exception):
        reason = getattr(found, "strerror", None) or str(found)
        raise SshError(target, f"the name {target.address} cannot be resolved: {reason}") from found
    return t.cast("list[t.Any]", found)
