# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stream of bytes to a store, both ways. Here: to the local one, by the daemon's socket or a process.

A channel belongs to one thread at a time; only abort() may be called from any thread.
"""

from __future__ import annotations

import abc
import collections
import fcntl
import os
import select
import socket
import subprocess
import threading
import time
import typing as t

#: What a channel writes: bytes, or a view of them that stays as it is until flush() returns.
Buffer = t.Union[bytes, bytearray, memoryview]

#: Bytes of stderr that are kept, the newest.
STDERR_TAIL = 8 << 10


class ChannelError(Exception):
    """The connection failed; it is of no more use. channel: its name, kept in the message."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(f"{channel}: {reason}")
        self.channel = channel
        self.reason = reason


class ChannelClosed(ChannelError):
    """The other end closed the connection, or abort() was called."""


class ChannelTimeout(ChannelError):
    """Nothing moved for as long as idle_timeout allows."""


class Channel(abc.ABC):
    """Bytes to and from a store. Buffers both ways; what a kind of connection adds is _receive, _ready, _send.

    name: for messages. idle_timeout: seconds that may pass while we wait and no byte moves, None for no limit; may be
    set at any time. bytes_in, bytes_out: moved until now.
    """

    def __init__(self, name: str, idle_timeout: float | None) -> None:
        self.name = name
        self.idle_timeout = idle_timeout
        self.bytes_in = 0
        self.bytes_out = 0
        self._chunk = memoryview(b"")
        self._position = 0
        self._queue: list[Buffer] = []

    # What a kind of connection implements.

    @abc.abstractmethod
    def _receive(self) -> Buffer:
        """Some bytes, waiting for them; empty at the end. They may be overwritten by the next call.

        Raises ChannelTimeout after idle_timeout without a byte, ChannelClosed after abort(), ChannelError.
        """

    @abc.abstractmethod
    def _ready(self) -> bool:
        """Whether _receive would return at once (with bytes, the end, or an error)."""

    @abc.abstractmethod
    def _send(self, buffers: list[Buffer]) -> None:
        """Sends all of it. Goes on receiving meanwhile (as far as memory is worth it), so that two ends that both
        write do not wait for each other for ever. Raises as _receive does.
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Ends the connection from any thread: its owner's calls raise ChannelClosed at once. The owner closes."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection and frees what it holds. Never raises, may be called again."""

    @abc.abstractmethod
    def stderr_tail(self) -> str:
        """The last STDERR_TAIL bytes that the other end wrote to its stderr, as text; "" where there is none."""

    # What a store uses.

    def read(self, size: int) -> bytes:
        """Exactly C(size) bytes. Raises ChannelClosed where the stream ends before, and what _receive raises."""
        end = self._position + size
        if end <= len(self._chunk):
            data = bytes(self._chunk[self._position : end])
            self._position = end
            return data
        parts: list[Buffer] = []
        while size:
            part = self.read_some(size)
            size -= len(part)
            parts.append(bytes(part))
        return b"".join(parts)

    def read_some(self, limit: int) -> memoryview:
        """At least 1 and at most C(limit) bytes, valid until the next call of read or read_some. Raises as read."""
        if self._position == len(self._chunk):
            self._chunk = memoryview(self._receive())
            self._position = 0
            if not self._chunk:
                raise ChannelClosed(self.name, "the other end closed the connection" + self._last_words())
            self.bytes_in += len(self._chunk)
        start = self._position
        self._position = min(start + limit, len(self._chunk))
        return self._chunk[start : self._position]

    def readable(self) -> bool:
        """Whether read_some would return at once."""
        return self._position < len(self._chunk) or self._ready()

    def write(self, *buffers: Buffer) -> None:
        """Queues bytes for the next flush, without copying them."""
        self._queue += buffers

    def flush(self) -> None:
        """Sends what is queued, in as few packets as it takes. Raises as _send."""
        if self._queue:
            queue, self._queue = self._queue, []
            self.bytes_out += sum(map(len, queue))
            self._send(queue)

    def _last_words(self) -> str:
        """What stderr said, for a message: empty or beginning with ": "."""
        tail = self.stderr_tail().strip()
        return f": {tail[-1000:]}" if tail else ""
