# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One ssh connection on which anything may be asked of sshd, and what it answers; by paramiko.

ssh.py is for work: it asks for nothing that it does not need. This one asks for what is to be refused, so it speaks the
requests of RFC 4254 and of OpenSSH's PROTOCOL one by one, and tells a refusal from a failure.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import (
    STDERR_TAIL,
    Buffer,
    Channel,
    ChannelClosed,
    ChannelTimeout,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import Way, paramiko_library
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import SshError

if t.TYPE_CHECKING:
    import paramiko

#: Bytes of a program's output that are looked at.
OUTPUT_MAX = 16 << 10
#: Reason codes of a channel that is not opened (RFC 4254, 5.1).
PROHIBITED = 1

_MSG_CHANNEL_REQUEST = b"\x62"
_LOOK = 0.02
_WINDOW = 1 << 20
_PACKET = 1 << 15
_LOG = "nixfleet.login_probe"

#: A field of a request: text and bytes as a string, numbers as uint32, and truth as a byte (RFC 4251, 5).
Field = t.Union[str, bytes, int, bool]


class Dropped(SshError):
    """sshd closed the connection before its own line: too many logins, or a penalty."""


class WrongHost(SshError):
    """The host shows another key than the pinned one, or none of that type."""


class Attempt(t.NamedTuple):
    """How a try to prove who we are ended.

    outcome: "in"; "denied", the method is there and the proof was no good; "disabled", the method is not taken; "more",
    another proof is wanted too; "lost", the connection ended. methods: what sshd goes on with, where it said so.
    """

    outcome: str
    methods: tuple[str, ...]
    said: str


class Opened(t.NamedTuple):
    """What became of a channel. code: why it was not opened. said: in sshd's words. notes: what it said beside that."""

    channel: paramiko.Channel | None
    code: int
    said: str
    notes: str


class Ended(t.NamedTuple):
    """What became of a program. granted: sshd started something. status: None where none was told. over: it ended."""

    granted: bool
    status: int | None
    stdout: bytes
    stderr: bytes
    over: bool


class Login:
    """A connection to an account; connect() first, then attempts until one lets in, then requests.

    timeout: seconds for the connection, and for each answer: an overdue one ends the connection, which raises SshError.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self.server = ""
        self._log = _Log()
        self._transport: t.Any = None
        self._way: Way | None = None
        self._overdue = False

    # ------------------------------------------------------------------------------------------ connecting

    def connect(self) -> str:
        """Up to the host key, which is checked; says which one it is. Raises Dropped, WrongHost, SshError."""
        library = paramiko_library()
        pinned = known_hosts.key_from_line(self.target.public_host_key, "public_host_key")
        if pinned is None:
            raise ValueError(f"public_host_key is no public key line: {self.target.public_host_key[:60]!r}")
        deadline = time.monotonic() + self.timeout
        self._way = Way(self.target, deadline, self.timeout)
        transport = self._transport = _transport_class(library)(self._way.wire)
        transport.daemon = True
        # One for each login: there may be several at the same time.
        channel = f"{_LOG}.{id(self)}"
        logger = logging.getLogger(channel)
        logger.propagate = False
        logger.setLevel(logging.DEBUG)
        logger.handlers = [self._log]
        transport.set_log_channel(channel)
        transport.auth_timeout = transport.banner_timeout = transport.handshake_timeout = self.timeout
        security = transport.get_security_options()
        kinds = ("rsa-sha2-512", "rsa-sha2-256") if pinned.type == "ssh-rsa" else (pinned.type,)
        security.key_types = tuple(kind for kind in kinds if kind in security.key_types)
        try:
            transport.start_client(timeout=self.timeout)
            key = transport.get_remote_server_key()
        except Exception as error:
            self.server = transport.remote_version
            if not self.server:
                raise Dropped(self.target, self._log.last("Banner: ") or _words(error)) from error
            if "host key" in str(error):
                raise WrongHost(self.target, f"it has no host key of the pinned type {pinned.type}") from error
            raise SshError(self.target, f"the key exchange failed: {_words(error)}") from error
        self.server = transport.remote_version
        shown = f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
        if key.asbytes() != pinned.blob:
            raise WrongHost(self.target, f"it shows {shown}, pinned is {pinned.type} {pinned.fingerprint}")
        return shown

    def close(self) -> None:
        """Ends it. Never raises."""
        if self._way is not None:
            self._way.wire.close()
        if self._transport is not None:
            with contextlib.suppress(Exception):
                self._transport.close()
        if self._way is not None:
            self._way.close()

    @property
    def alive(self) -> bool:
        """Whether it is up."""
        return self._transport is not None and self._transport.is_active()

    @property
    def logged_in(self) -> bool:
        """Whether an attempt has let in."""
        return self.alive and self._transport.is_authenticated()

    # ------------------------------------------------------------------------------------------ proofs

    def attempt(self, prove: t.Callable[[t.Any], object]) -> Attempt:
        """Tries one proof; C(prove) gets paramiko's transport."""
        library = paramiko_library()
        transport = self._transport
        self._log.clear()
        try:
            with self._in_time():
                prove(transport)
        except library.BadAuthenticationType as error:
            return Attempt("disabled", tuple(error.allowed_types), "")
        except library.AuthenticationException as error:
            # Also what paramiko raises where the connection ended.
            if transport.is_active():
                return Attempt("denied", (), _words(error))
            return Attempt("lost", (), self._why_lost(error))
        except Exception as error:
            return Attempt("lost", (), self._why_lost(error))
        return Attempt("in" if transport.is_authenticated() else "more", (), "")

    # ------------------------------------------------------------------------------------------ requests

    def open(self, kind: str, *fields: Field) -> Opened:
        """Opens a channel of any kind; it is the caller's to close. Raises SshError where the connection is lost."""
        library = paramiko_library()
        transport = self._transport
        self._log.clear()
        # paramiko adds the fields of this kind itself.
        places = {"dest_addr": fields[:2], "src_addr": fields[2:]} if kind == "direct-tcpip" else {}
        transport.open_with = b"" if places else _message(library, fields)
        try:
            with self._in_time():
                channel = transport.open_channel(
                    kind, window_size=_WINDOW, max_packet_size=_PACKET, timeout=self.timeout, **places
                )
        except library.ChannelException as error:
            said = self._log.last(" open FAILED: ") or _words(error)
            return Opened(None, error.code, said, self._log.last("Debug msg: "))
        except Exception as error:
            raise self._lost(error) from error
        finally:
            transport.open_with = b""
        channel.settimeout(self.timeout)
        return Opened(channel, 0, "", "")

    def session(self) -> paramiko.Channel:
        """A new session. Raises SshError where there is none."""
        for pause in (0.05, 0.2, 0.5, None):
            opened = self.open("session")
            if opened.channel is not None:
                return opened.channel
            if pause is None:
                break
            # MaxSessions: the one before may not be cleared away yet.
            time.sleep(pause)
        raise SshError(self.target, f"sshd gives no session: {opened.said} (MaxSessions?)")

    def ask(self, channel: paramiko.Channel, kind: str, *fields: Field) -> bool:
        """Whether sshd grants a request on a channel. A refusal ends the channel. Raises SshError."""
        library = paramiko_library()
        message = library.Message()
        message.add_byte(_MSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string(kind)
        message.add_boolean(True)
        message.add_bytes(_message(library, fields))
        private = t.cast(t.Any, channel)
        private._event_pending()
        try:
            with self._in_time():
                self._transport._send_user_message(message)
                private._wait_for_event()
        except Exception as error:
            if not self.alive or not isinstance(error, library.SSHException):
                raise self._lost(error) from error
            return False
        return True

    def granted(self, kind: str, *fields: Field) -> tuple[bool, str]:
        """Whether sshd grants a request on a session of its own, and what it said beside that."""
        channel = self.session()
        try:
            return self.ask(channel, kind, *fields), "; ".join(self._log.all("Debug msg: "))
        finally:
            channel.close()

    def run(self, kind: str, *fields: Field, stdin: bytes = b"", answer: int = 0) -> Ended:
        """Starts a program (C(exec), C(shell), C(subsystem)), gives it its input, and looks what becomes of it.

        answer: so many bytes of output are enough, and its input does not end before.
        """
        channel = self.session()
        try:
            if not self.ask(channel, kind, *fields):
                return Ended(False, None, b"", b"", True)
            with contextlib.suppress(OSError):
                # What ends at once does not take it.
                channel.sendall(stdin)
                if not answer:
                    channel.shutdown_write()
            return self._watch(channel, answer)
        finally:
            channel.close()

    def _watch(self, channel: paramiko.Channel, answer: int) -> Ended:
        stdout = stderr = b""
        deadline = time.monotonic() + self.timeout
        while True:
            # Asked before reading, so that nothing is missed.
            over = channel.closed or not self.alive
            while channel.recv_ready():
                stdout = (stdout + channel.recv(OUTPUT_MAX))[:OUTPUT_MAX]
            while channel.recv_stderr_ready():
                stderr = (stderr + channel.recv_stderr(OUTPUT_MAX))[:OUTPUT_MAX]
            if over or 0 < answer <= len(stdout) or time.monotonic() >= deadline:
                status = channel.exit_status if channel.exit_status_ready() else None
                return Ended(True, None if status == -1 else status, stdout, stderr, over)
            time.sleep(_LOOK)

    def ask_globally(self, kind: str, *fields: Field) -> bool:
        """Whether sshd grants a request that is for no channel. Raises SshError."""
        with self._in_time():
            answer = self._transport.global_request(kind, fields, wait=True)
        if answer is None and not self.alive:
            raise self._lost(None)
        return answer is not None

    def stream(self, command: str, variables: t.Mapping[str, str]) -> LoginChannel:
        """A channel to a command, after variables were sent for which no answer is wanted. Raises SshError."""
        channel = self.session()
        for name, value in variables.items():
            channel.set_environment_variable(name, value)
        if not self.ask(channel, "exec", command):
            raise SshError(self.target, f"sshd refuses to start {command!r}")
        return LoginChannel(str(self.target), channel, self.timeout)

    # ------------------------------------------------------------------------------------------ failures

    @contextlib.contextmanager
    def _in_time(self) -> t.Iterator[None]:
        """paramiko waits for some answers for ever; this ends the connection then."""

        def give_up() -> None:
            self._overdue = True
            self.close()

        # Longer than the timeouts that paramiko has itself, which say more.
        timer = threading.Timer(self.timeout + 1, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _why_lost(self, error: BaseException | None) -> str:
        if self._overdue:
            return f"no answer within {self.timeout:g} s"
        return self._log.last("Disconnect ") or (_words(error) if error else "the other end closed it")

    def _lost(self, error: BaseException | None) -> SshError:
        return SshError(self.target, f"the connection is lost: {self._why_lost(error)}")


class LoginChannel(Channel):
    """A started command as a stream for a Store; one thread, few bytes."""

    def __init__(self, name: str, session: paramiko.Channel, timeout: float) -> None:
        super().__init__(name, timeout)
        self._session = session
        self._stderr = b""

    def _receive(self) -> Buffer:
        self._session.settimeout(self.idle_timeout)
        try:
            data: bytes = self._session.recv(OUTPUT_MAX)
        except socket.timeout:
            raise ChannelTimeout(self.name, f"nothing was received for {self.idle_timeout:g} s") from None
        if not data:
            deadline = time.monotonic() + 1
            while not self._session.exit_status_ready() and time.monotonic() < deadline:
                time.sleep(_LOOK)
            status = f" with exit status {self._session.exit_status}" if self._session.exit_status_ready() else ""
            raise ChannelClosed(self.name, f"the command ended{status}{self._last_words()}")
        return data

    def _ready(self) -> bool:
        return self._session.recv_ready() or self._session.closed

    def _send(self, buffers: list[Buffer]) -> None:
        try:
            self._session.sendall(b"".join(map(bytes, buffers)))
        except socket.timeout:
            raise ChannelTimeout(self.name, f"nothing was taken for {self.idle_timeout:g} s") from None
        except OSError:
            # What the command said before it ended is worth more: _receive meets the end.
            return

    def abort(self) -> None:
        self._session.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._session.close()

    def stderr_tail(self) -> str:
        with contextlib.suppress(Exception):
            while self._session.recv_stderr_ready():
                self._stderr = (self._stderr + self._session.recv_stderr(OUTPUT_MAX))[-STDERR_TAIL:]
        return self._stderr.decode("utf-8", "replace")


class _Log(logging.Handler):
    """Keeps what paramiko logs: only there are sshd's own words on a refusal."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def clear(self) -> None:
        self._lines.clear()

    def all(self, mark: str) -> list[str]:
        """What follows the mark in each line that has it."""
        found = [line.partition(mark)[2].strip() for line in self._lines if mark in line]
        # paramiko shows some texts as Python's bytes.
        return [text[2:-1] if re.fullmatch(r"b(['\"]).*\1", text, re.DOTALL) else text for text in found]

    def last(self, mark: str) -> str:
        """The same of the last such line; "" where there is none."""
        return ([""] + self.all(mark))[-1]


def _transport_class(library: t.Any) -> t.Any:
    """paramiko's Transport, which can open kinds of channels that it does not know."""

    class Transport(library.Transport):  # type: ignore[misc]
        open_with = b""

        def _send_user_message(self, data: t.Any) -> None:
            if self.open_with:
                data.add_bytes(self.open_with)
                self.open_with = b""
            super()._send_user_message(data)

    return Transport


def _message(library: t.Any, fields: t.Iterable[Field]) -> bytes:
    message = library.Message()
    for field in fields:
        if isinstance(field, bool):
            message.add_boolean(field)
        elif isinstance(field, int):
            message.add_int(field)
        else:
            message.add_string(field)
    return t.cast(bytes, message.asbytes())


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
