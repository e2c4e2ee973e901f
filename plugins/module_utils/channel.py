# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stream of bytes to a store, both ways. Here: to the local one, by the daemon's socket or a process.

A channel belongs to one thread at a time; only abort() may be called from any thread.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import fcntl
import os
import select
import socket
import subprocess
import threading
import time
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import store_owner

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
        self._position = self._end = 0
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
        start = self._position
        end = start + size
        if end <= self._end:
            self._position = end
            return self._chunk[start:end].tobytes()
        parts: list[Buffer] = []
        while size:
            part = self.read_some(size)
            size -= len(part)
            parts.append(bytes(part))
        return b"".join(parts)

    def read_some(self, limit: int) -> memoryview:
        """At least 1 and at most C(limit) bytes, valid until the next call of read or read_some. Raises as read."""
        if self._position == self._end:
            self._chunk = memoryview(self._receive())
            self._position = 0
            self._end = len(self._chunk)
            if not self._end:
                raise ChannelClosed(self.name, "the other end closed the connection" + self._last_words())
            self.bytes_in += self._end
        start = self._position
        self._position = min(start + limit, self._end)
        return self._chunk[start : self._position]

    def readable(self) -> bool:
        """Whether read_some would return at once."""
        return self._position < self._end or self._ready()

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


class FileChannel(Channel):
    """A channel over file descriptors: a socket, or the pipes of a process.

    read_end, write_end: may be the same. stderr: read whenever we wait, or None. All are owned from here on.
    """

    #: What one system call reads at most.
    _READ = 1 << 20
    #: How much may come in while we send, before we let the other end wait.
    _EARLY = 64 << 20

    def __init__(
        self, name: str, read_end: int, write_end: int, stderr: int | None, idle_timeout: float | None = None
    ) -> None:
        super().__init__(name, idle_timeout)
        self._read_end = read_end
        self._write_end = write_end
        self._stderr = stderr
        self._tail = b""
        self._buffer = bytearray(self._READ)
        self._early: collections.deque[bytes] = collections.deque()
        self._early_size = 0
        self._at_end = False
        self._aborted = False
        self._closed = False
        self._wake_read, self._wake_write = os.pipe()
        # Between close() and an abort() of another thread, for which the descriptor may be another file's by then.
        self._ending = threading.Lock()
        for descriptor in (
            read_end,
            write_end,
            self._wake_read,
            self._wake_write,
            *([] if stderr is None else [stderr]),
        ):
            os.set_blocking(descriptor, False)

    def _receive(self) -> Buffer:
        if self._early:
            data = self._early.popleft()
            self._early_size -= len(data)
            return data
        view = memoryview(self._buffer)
        while not self._at_end:
            try:
                return view[: os.readv(self._read_end, [view])]
            except BlockingIOError:
                self._wait(reading=True, writing=False)
            except ConnectionResetError:
                self._at_end = True
            except OSError as error:
                raise ChannelError(self.name, f"cannot read: {error.strerror}{self._last_words()}") from error
        return b""

    def _ready(self) -> bool:
        return bool(self._early) or self._at_end or bool(self._poll(True, False, 0.0))

    def _send(self, buffers: list[Buffer]) -> None:
        views = collections.deque(memoryview(buffer).cast("B") for buffer in buffers)
        while views:
            try:
                sent = os.writev(self._write_end, [views[each] for each in range(min(len(views), 64))])
            except BlockingIOError:
                self._wait(reading=self._early_size < self._EARLY and not self._at_end, writing=True)
                self._receive_early()
                continue
            except BrokenPipeError:
                # What the other end said before it closed is worth more than this: _receive meets the end.
                return
            except OSError as error:
                raise ChannelError(self.name, f"cannot write: {error.strerror}{self._last_words()}") from error
            while sent:
                if sent < len(views[0]):
                    views[0] = views[0][sent:]
                    break
                sent -= len(views.popleft())
            while views and not len(views[0]):
                views.popleft()

    def _receive_early(self) -> None:
        """Takes what has come in while we send."""
        if self._early_size >= self._EARLY or self._at_end:
            return
        try:
            data = os.read(self._read_end, self._READ)
        except OSError:
            # Nothing there, or an error that _receive will meet again.
            return
        if data:
            self._early.append(data)
            self._early_size += len(data)
        else:
            self._at_end = True

    def _wait(self, reading: bool, writing: bool) -> None:
        """Waits until one of them is possible. stderr alone is no sign of life."""
        limit = None if self.idle_timeout is None else time.monotonic() + self.idle_timeout
        while True:
            rest = None if limit is None else limit - time.monotonic()
            if rest is not None and rest <= 0:
                raise ChannelTimeout(
                    self.name, f"the other end was silent for {self.idle_timeout:g} s" + self._last_words()
                )
            if self._poll(reading, writing, rest):
                return

    def _poll(self, reading: bool, writing: bool, seconds: float | None) -> bool:
        """Whether within this time reading or writing is possible; collects stderr. Raises ChannelClosed."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._stderr is not None:
            poll.register(self._stderr, select.POLLIN)
        wanted: dict[int, int] = {}
        if reading:
            wanted[self._read_end] = select.POLLIN
        if writing:
            wanted[self._write_end] = wanted.get(self._write_end, 0) | select.POLLOUT
        for descriptor, mask in wanted.items():
            poll.register(descriptor, mask)
        # Rounded up: a timeout of half a millisecond is not "at once".
        found = {descriptor for descriptor, _mask in poll.poll(None if seconds is None else -int(-seconds * 1000 // 1))}
        if self._aborted:
            raise ChannelClosed(self.name, "the connection was given up")
        if self._stderr in found:
            self._read_stderr()
        return bool(found & wanted.keys())

    def _read_stderr(self) -> None:
        if self._stderr is None:
            return
        try:
            while True:
                data = os.read(self._stderr, 1 << 16)
                if not data:
                    os.close(self._stderr)
                    self._stderr = None
                    return
                self._tail = (self._tail + data)[-STDERR_TAIL:]
        except BlockingIOError:
            return

    def stderr_tail(self) -> str:
        if not self._closed:
            self._read_stderr()
        return self._tail.decode("utf-8", "replace")

    def abort(self) -> None:
        with self._ending:
            if not self._aborted:
                self._aborted = True
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        if self._closed:
            return
        self._read_stderr()
        descriptors = {self._read_end, self._write_end, self._wake_read, self._wake_write}
        if self._stderr is not None:
            descriptors.add(self._stderr)
        with self._ending:
            self._closed = self._aborted = True
            for descriptor in descriptors:
                os.close(descriptor)


class ProcessChannel(FileChannel):
    """A channel to a process that this starts, like nix-daemon --stdio."""

    #: Seconds between asking a process to end and ending it.
    _GRACE = 5.0
    #: Capacity of a pipe, if the system lets us have it; Linux gives 64 KiB.
    _PIPE = 1 << 20

    def __init__(
        self,
        name: str,
        argv: t.Sequence[str],
        idle_timeout: float | None = None,
        env: t.Mapping[str, str] | None = None,
    ) -> None:
        """C(env): the whole environment, or None for ours. Raises ChannelError where it cannot be started."""
        try:
            self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise ChannelError(name, f"cannot start {argv[0]}: {error.strerror}") from error
        ends = []
        for pipe in (self._process.stdout, self._process.stdin, self._process.stderr):
            if pipe is None:
                raise ChannelError(name, "no pipe")
            ends.append(os.dup(pipe.fileno()))
            pipe.close()
        for end in ends[:2]:
            with contextlib.suppress(OSError):
                fcntl.fcntl(end, _SET_PIPE_SIZE, self._PIPE)
        super().__init__(name, ends[0], ends[1], ends[2], idle_timeout)

    def close(self) -> None:
        """Also ends the process: its input ends, so that Nix stops what it builds for us."""
        super().close()
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


#: fcntl.F_SETPIPE_SZ, which Python has since 3.10.
_SET_PIPE_SIZE = 1031


def open_socket(path: str, connect_timeout: float, idle_timeout: float | None = None) -> Channel:
    """The daemon behind a socket. Raises ChannelError."""
    name = f"nix-daemon at {path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(connect_timeout)
        sock.connect(path)
        # Both help NARs, neither is needed.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    except OSError as error:
        sock.close()
        raise ChannelError(name, f"cannot connect: {error.strerror or error}") from error
    descriptor = sock.detach()
    return FileChannel(name, descriptor, descriptor, None, idle_timeout)


def daemon_socket(env: t.Mapping[str, str]) -> str:
    """Where the daemon's socket is (globals.cc)."""
    state = env.get("NIX_STATE_DIR", "/nix/var/nix")
    return env.get("NIX_DAEMON_SOCKET_PATH") or f"{state}/daemon-socket/socket"


def open_local(
    store: str = "auto",
    nix_daemon: str = "nix-daemon",
    connect_timeout: float = 10.0,
    idle_timeout: float | None = None,
) -> Channel:
    """The store of this host. Raises ChannelError.

    C(store): "auto": the daemon where its socket answers, else the store itself without a daemon for who may write it:
    root, or who owns a single-user installation, and there root is refused. "daemon": the daemon. Any other store URI:
    C(nix_daemon --stdio) opens it ("local", a path).
    """
    path = daemon_socket(os.environ)
    if store in ("daemon", "unix"):
        return open_socket(path, connect_timeout, idle_timeout)
    if store.startswith("unix://"):
        return open_socket(store[len("unix://") :], connect_timeout, idle_timeout)
    if store == "auto":
        owner = store_owner(os.path.join(os.environ.get("NIX_STATE_DIR", "/nix/var/nix"), "db"))
        if owner and os.geteuid() == 0:
            # Files of root's in it would keep its owner out.
            raise ChannelError(
                "the local store",
                f"it belongs to {owner.pw_name} (a single-user installation), and root must not write it; "
                f"do this as {owner.pw_name} (become_user: {owner.pw_name})",
            )
        if not owner or owner.pw_uid != os.geteuid():
            try:
                return open_socket(path, connect_timeout, idle_timeout)
            except ChannelError:
                if os.geteuid() != 0:
                    raise
        store = "local"
    return ProcessChannel(f"nix-daemon --stdio of {store}", [nix_daemon, "--stdio", "--store", store], idle_timeout)
