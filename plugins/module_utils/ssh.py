# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections to builders over ssh, and channels on them, by paramiko.

A builder has one connection with a channel per slot; where its sshd allows no more sessions, a further connection is
made. Host keys are checked in memory and never trusted on first use; accounts are proved by keys only.

Threads: an SshHost may be used by any; a channel by one at a time (channel.py). paramiko has one thread per connection.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
import typing as t
import warnings

from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts, revoked_keys
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import (
    STDERR_TAIL,
    Buffer,
    Channel,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_keys import Keys, read_text
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import (
    WINDOW,
    ProxyCommand,
    SshError,
    SshTimeout,
    Tunnel,
    Wire,
    open_tcp,
)

if t.TYPE_CHECKING:
    import paramiko

__all__ = [
    "CONNECT_TIMEOUT",
    "ParamikoMissing",
    "SshChannel",
    "SshError",
    "SshHost",
    "SshTimeout",
    "Way",
    "load_early",
    "paramiko_library",
]

#: Seconds for a connection in all: name, TCP or proxy, banner, keys, account, first session.
CONNECT_TIMEOUT = 20.0
#: The largest packet that we take; OpenSSH sends what it reads at once, at most 256 KiB.
MAX_PACKET = 1 << 20
#: Bytes that a builder may send while it takes none from us, beyond its window; see SshChannel._send.
EARLY_MAX = 16 << 20
#: Bytes after which new keys are exchanged. RFC 4344, 3.2: at most 2^32 blocks of 16 bytes.
REKEY_BYTES = 1 << 35
#: Seconds between looks at what a blocked call cannot see: stderr, abort(), idle_timeout.
LOOK = 0.5
#: Seconds that a connection may take to accept a goodbye.
GOODBYE = 2.0
#: How often a connection is tried that sshd drops before its banner (MaxStartups), and the first pause, in seconds.
DROPPED_TRIES = 6
DROPPED_PAUSE = 0.2

#: Fastest first, as measured; what this paramiko does not have is left out.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_MSG_GLOBAL_REQUEST = b"\x50"


class ParamikoMissing(Exception):
    """paramiko cannot be imported on this host. reason: why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the Python library paramiko is needed for builders over ssh: {reason}")
        self.reason = reason


class SshHost:
    """All connections to one builder.

    connect_timeout: seconds, for every open(); a lower ConnectTimeout of ssh_config counts.
    """

    def __init__(self, target: Target, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        self.target = target
        self.connect_timeout = min(connect_timeout, target.connect_timeout or connect_timeout)
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._closed = threading.Event()

    def open(self, command: str, idle_timeout: float | None = None) -> SshChannel:
        """A channel to the command, started on the builder; connects where there is no connection with room.

        Raises SshError, SshTimeout, ParamikoMissing.
        """
        deadline = time.monotonic() + self.connect_timeout
        while True:
            connection = self._with_room(deadline)
            try:
                session = connection.open_session(command, deadline)
            except _Full:
                continue
            return SshChannel(connection, session, command, idle_timeout)

    def ask(self, command: str, seconds: float, most: int) -> bytes:
        """What a command prints that is soon done, on a connection that is up: none is made for it.

        Empty where it fails, says more than C(most) bytes, or does not end within C(seconds). Raises SshError where
        there is no connection with room.
        """
        deadline = time.monotonic() + seconds
        connection = next((each for each in list(self._connections) if each.ready and each.reserve()), None)
        if connection is None:
            raise SshError(self.target, "no connection has room for a further session")
        try:
            session = connection.open_session(command, deadline)
        except _Full:
            raise SshError(self.target, "no connection has room for a further session") from None
        try:
            return _answer(session, deadline, most)
        finally:
            with contextlib.suppress(Exception):
                session.close()
            connection.release()

    @property
    def connections(self) -> int:
        """How many connections are up."""
        return sum(connection.alive for connection in list(self._connections))

    def close(self) -> None:
        """Ends all connections; calls that are under way fail."""
        self._closed.set()
        for connection in list(self._connections):
            connection.close("closed by us")

    def _with_room(self, deadline: float) -> _Connection:
        """A connection on which a session is reserved. One thread connects; the others wait for it."""
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SshTimeout(self.target, f"no connection within {self.connect_timeout:g} s")
        try:
            self._connections = [connection for connection in self._connections if connection.alive]
            for connection in self._connections:
                if connection.reserve():
                    return connection
            attempt = 0
            while True:
                attempt += 1
                if self._closed.is_set():
                    raise SshError(self.target, "closed by us")
                connection = _Connection(self.target, deadline, self.connect_timeout)
                self._connections.append(connection)
                try:
                    connection.connect()
                except _Dropped as error:
                    self._connections.remove(connection)
                    pause = DROPPED_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                    if attempt == DROPPED_TRIES or time.monotonic() + pause > deadline:
                        raise SshError(
                            self.target,
                            f"sshd drops the connection before it says anything ({error}), {attempt} times; it has too "
                            "many unfinished logins (raise MaxStartups) or refuses this address (PerSourcePenalties)",
                        ) from None
                    self._closed.wait(pause)
                except BaseException:
                    self._connections.remove(connection)
                    raise
                else:
                    connection.reserve()
                    return connection
        finally:
            self._lock.release()


class SshChannel(Channel):
    """A channel to a command on a builder."""

    def __init__(
        self, connection: _Connection, session: paramiko.Channel, command: str, idle_timeout: float | None
    ) -> None:
        super().__init__(str(connection.target), idle_timeout)
        self.command = command
        self._connection = connection
        self._session = session
        self._session.settimeout(LOOK)
        self._early: list[bytes] = []
        self._stderr = b""
        self._aborted = False
        self._closing = threading.Lock()
        self._goodbye: threading.Thread | None = None

    def _receive(self) -> Buffer:
        if self._early:
            return self._early.pop(0)
        moved = time.monotonic()
        while True:
            self._look()
            try:
                data: bytes = self._session.recv(WINDOW)
            except socket.timeout:
                if self._drain_stderr():
                    moved = time.monotonic()
                self._check_idle(moved, "nothing was received")
                if not self._connection.alive:
                    raise self._lost() from None
                continue
            except Exception as error:
                raise self._lost(error) from error
            if not data:
                raise self._why_ended()
            return data

    def _ready(self) -> bool:
        return bool(self._early) or self._session.recv_ready() or self._session.closed or not self._connection.alive

    def _send(self, buffers: list[Buffer]) -> None:
        # What paramiko puts into one packet (Channel._wait_for_send_window); 64 bytes more would go out alone.
        size = self._session.out_max_packet_size - 64
        for packet in _packets(buffers, size):
            rest = packet
            moved = time.monotonic()
            while rest:
                try:
                    sent = self._session.send(rest)
                except socket.timeout:
                    self._look()
                    if self._drain_stderr() or self._receive_early():
                        moved = time.monotonic()
                    self._check_idle(moved, "nothing was taken")
                    if not self._connection.alive:
                        raise self._lost() from None
                    continue
                except Exception as error:
                    self._look()
                    if self._session.closed or self._session.eof_received:
                        raise self._why_ended() from error
                    raise self._lost(error) from error
                if not sent:
                    raise self._why_ended()
                rest = rest[sent:]
                moved = time.monotonic()

    def abort(self) -> None:
        self._aborted = True
        t.cast(_Inbox, self._session.in_buffer).close()
        self._say_goodbye()

    def close(self) -> None:
        goodbye = self._say_goodbye()
        goodbye.join(GOODBYE)
        if goodbye.is_alive():
            # The connection takes no bytes, so it is of no use to the other channels either.
            self._connection.close("it took no more bytes")

    def stderr_tail(self) -> str:
        self._drain_stderr()
        return self._stderr.decode("utf-8", "replace")

    def _say_goodbye(self) -> threading.Thread:
        """Closes the session in a thread of its own, as paramiko waits until the message is sent. Once."""
        with self._closing:
            if self._goodbye is None:
                self._goodbye = threading.Thread(target=self._close_session, name="ssh-goodbye", daemon=True)
                self._goodbye.start()
            return self._goodbye

    def _close_session(self) -> None:
        with contextlib.suppress(Exception):
            self._session.close()
        self._connection.release()

    def _look(self) -> None:
        if self._aborted:
            raise ChannelClosed(self.name, "aborted")
        self._drain_stderr()

    def _drain_stderr(self) -> bool:
        """Takes what is there of stderr: its bytes use up the window too, and a full one stops the builder."""
        drained = False
        with contextlib.suppress(Exception):
            while self._session.recv_stderr_ready():
                self._stderr = (self._stderr + self._session.recv_stderr(WINDOW))[-STDERR_TAIL:]
                drained = True
        return drained

    def _receive_early(self) -> bool:
        """While the builder takes nothing: takes what it writes, as it may not read before it has written."""
        if not self._session.recv_ready() or sum(map(len, self._early)) > EARLY_MAX:
            return False
        data = self._session.recv(WINDOW)
        if data:
            self._early.append(data)
        return bool(data)

    def _check_idle(self, since: float, what: str) -> None:
        if self.idle_timeout is not None and time.monotonic() - since > self.idle_timeout:
            raise ChannelTimeout(self.name, f"{what} for {self.idle_timeout:g} s{self._last_words()}")

    def _lost(self, error: BaseException | None = None) -> ChannelError:
        if self._aborted:
            return ChannelClosed(self.name, "aborted")
        return SshError(self._connection.target, f"the connection is lost: {self._connection.why_lost(error)}")

    def _why_ended(self) -> ChannelError:
        """Why there is nothing more to read."""
        if self._aborted:
            return ChannelClosed(self.name, "aborted")
        patience = time.monotonic() + GOODBYE
        while self._connection.alive and not self._session.exit_status_ready() and time.monotonic() < patience:
            time.sleep(0.01)
        if not self._connection.alive:
            return self._lost()
        status = self._session.exit_status
        program = self.command.split(" ", 1)[0]
        self._drain_stderr()
        if status == 127 and "/" in program:
            return ChannelClosed(
                self.name, f"there is no {program}{self._last_words()}; correct the machine's remote-program"
            )
        if status == 127:
            return ChannelClosed(
                self.name,
                f"the login shell there finds no {program}{self._last_words()}; sshd's PATH for commands does not have "
                "it: let the role nix_builder set it (SetEnv PATH=… in sshd_config), or name the program in the "
                "machine's URI (?remote-program=/nix/var/nix/profiles/default/bin/nix-daemon)",
            )
        if status == 126:
            return ChannelClosed(self.name, f"{program} cannot be executed there{self._last_words()}")
        if status < 0:
            return ChannelClosed(self.name, f"{self.command} was killed there{self._last_words()}")
        return ChannelClosed(self.name, f"{self.command} ended with exit status {status}{self._last_words()}")


# ---------------------------------------------------------------------------------------------------- one connection


class _Inbox:
    """What a session has received and nobody has read: a list of paramiko's packets, as they are.

    Stands in for paramiko's BufferedPipe, which copies each byte twice; a third less CPU for a download.
    """

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self._closed = False
        self._waiting = False
        self._changed = threading.Condition(threading.Lock())

    def feed(self, data: bytes) -> None:
        with self._changed:
            self._packets.append(data)
            if self._waiting:
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read_ready(self) -> bool:
        return bool(self._packets)

    def read(self, _size: int, timeout: float | None = None) -> bytes:
        """All that is there, waiting for it; empty at the end. Raises socket.timeout."""
        with self._changed:
            self._waiting = True
            self._changed.wait_for(lambda: self._packets or self._closed, timeout)
            self._waiting = False
            packets, self._packets = self._packets, []
            if not packets and not self._closed:
                raise socket.timeout
        return packets[0] if len(packets) == 1 else b"".join(packets)

    def __len__(self) -> int:
        return sum(map(len, self._packets))


class _Full(Exception):
    """sshd gives this connection no further session."""


class _Dropped(Exception):
    """The other end closed the connection before its banner."""


class _Connection:
    """One authenticated ssh connection, with the jump hosts before it."""

    def __init__(self, target: Target, deadline: float, timeout: float) -> None:
        self.target = target
        self._deadline = deadline
        self._timeout = timeout
        self._lock = threading.Lock()
        self._sessions = 0
        self._limit: int | None = None
        self._wire: Wire | None = None
        self._transport: paramiko.Transport | None = None
        self._hop: _Connection | None = None
        self._proxy: ProxyCommand | None = None
        self._closed = ""

    # sessions

    @property
    def alive(self) -> bool:
        """Whether it is up, or not yet known not to be."""
        transport = self._transport
        return not self._closed and (transport is None or transport.is_active() and transport.is_alive())

    @property
    def ready(self) -> bool:
        """Whether the account is proved."""
        return self.alive and self._transport is not None and self._transport.is_authenticated()

    def reserve(self) -> bool:
        """Takes a place for a session, if sshd is not known to refuse it."""
        with self._lock:
            if not self.alive or self._limit is not None and self._sessions >= self._limit:
                return False
            self._sessions += 1
            return True

    def release(self) -> None:
        """Gives the place back."""
        with self._lock:
            self._sessions -= 1

    def open_session(self, command: str, deadline: float) -> paramiko.Channel:
        """Starts a command in the place that was reserved. Raises _Full, SshError; the place is then given back."""
        library = paramiko_library()
        transport = t.cast("paramiko.Transport", self._transport)
        session = None
        try:
            session = transport.open_session(WINDOW, MAX_PACKET, timeout=max(0.1, deadline - time.monotonic()))
            # Before the command starts, so that nothing has come yet.
            session.in_buffer = _Inbox()  # type: ignore[assignment]
            session.exec_command(command)
            return session
        except BaseException as error:
            self.release()
            if session is not None:
                session.close()
            # paramiko loses the reason where two sessions are refused at once, so any will do.
            if session is None and isinstance(error, library.SSHException) and transport.is_active():
                raise self._refused(error, deadline) from error
            if not isinstance(error, Exception):
                raise
            raise SshError(self.target, f"{command!r} could not be started: {self.why_lost(error)}") from error

    def _refused(self, error: Exception, deadline: float) -> Exception:
        """Why there is no further session."""
        if time.monotonic() >= deadline:
            return SshTimeout(self.target, f"no session within {self._timeout:g} s")
        with self._lock:
            if self._sessions:
                # MaxSessions: no need to ask this connection for more than it gave.
                self._limit = self._sessions
                return _Full()
        return SshError(
            self.target, f"sshd allows no session ({error}); look at MaxSessions and its log", permanent=True
        )

    def why_lost(self, error: BaseException | None = None) -> str:
        """In words, for messages."""
        if self._closed:
            return self._closed
        if self._wire is not None and self._wire.lost:
            return self._wire.lost
        found = (self._transport.saved_exception if self._transport is not None else None) or error
        return str(found) or type(found).__name__ if found else "the other end closed it"

    def close(self, reason: str) -> None:
        """Ends it, from any thread; whoever waits on it gets the reason. Does not wait for the other end."""
        self._closed = self._closed or reason
        if self._wire is not None:
            self._wire.close()
        if self._transport is not None:
            self._transport.close()
            if self._transport.is_alive() and self._transport is not threading.current_thread():
                self._transport.join(GOODBYE)
        if self._proxy is not None:
            self._proxy.close()
        if self._hop is not None:
            self._hop.close(reason)

    # connecting

    def connect(self) -> None:
        """Raises _Dropped, SshError, SshTimeout. Then nothing of it is left."""
        try:
            self._connect()
        except BaseException:
            self.close("it was not made")
            raise

    def _connect(self) -> None:
        library = paramiko_library()
        known = self._known_keys()
        wire = self.open_wire()
        if self._closed:
            raise SshError(self.target, self._closed)
        transport = self._transport = library.Transport(t.cast(t.Any, wire))
        transport.daemon = True
        security = transport.get_security_options()
        security.ciphers = tuple(cipher for cipher in CIPHERS if cipher in security.ciphers)
        if known.keys:
            wanted = [
                algorithm
                for kind in known.types()
                for algorithm in (("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,))
                if algorithm in security.key_types
            ]
            if not wanted:
                raise SshError(
                    self.target,
                    f"its known host keys ({', '.join(known.types())}) are of no type that paramiko can check; make "
                    "its ed25519 key known",
                    permanent=True,
                )
            # Only these, or a server with several keys would show one that is not known.
            security.key_types = tuple(wanted)
        transport.packetizer.REKEY_BYTES = REKEY_BYTES
        self._exchange_keys(transport, known)
        self._check_host_key(transport, known)
        wire.watch(self.target)
        transport.packetizer.set_keepalive(wire.alive_interval, lambda: _ask_for_life(library, transport, wire))
        self._authenticate(transport)

    def _known_keys(self) -> known_hosts.KnownKeys:
        target = self.target
        if target.public_host_key:
            key = known_hosts.key_from_line(target.public_host_key, "the machine's public_host_key")
            if key is None:
                raise SshError(target, "the machine's public_host_key is no public key line", permanent=True)
            return known_hosts.KnownKeys((key,))
        texts = [(file, read_text(file)) for file in target.known_hosts]
        names = [target.known_as]
        if target.checks_bare_name:
            names.append(target.address.lower())
        known = known_hosts.KnownKeys()
        for name in names:
            for file, text in texts:
                known += known_hosts.known_keys(text, name, file)
            if known.keys:
                break
        return known

    def open_wire(self) -> Wire:
        """What the connection runs on, not spoken to yet."""
        self._wire = self._make_wire()
        return self._wire

    def _make_wire(self) -> Wire:
        target = self.target
        if target.jump is not None:
            self._hop = _Connection(target.jump, self._deadline, self._timeout)
            self._hop.connect()
            return Wire(Tunnel(self._hop.open_tunnel(target)))
        if target.proxy_command:
            self._proxy = ProxyCommand(target.proxy_command)
            return Wire(self._proxy.socket)
        return Wire(open_tcp(target, self._deadline, self._timeout))

    def open_tunnel(self, target: Target) -> paramiko.Channel:
        """A stream from this host to another's sshd."""
        transport = t.cast("paramiko.Transport", self._transport)
        try:
            return transport.open_channel(
                "direct-tcpip", (target.address, target.port), ("127.0.0.1", 0), WINDOW, MAX_PACKET, self._left()
            )
        except Exception as error:
            if time.monotonic() >= self._deadline:
                raise self._too_late(f"the jump host {self.target} did not connect to it") from error
            raise SshError(target, f"the jump host {self.target} does not connect to it: {error}") from error

    def _exchange_keys(self, transport: paramiko.Transport, known: known_hosts.KnownKeys) -> None:
        # The thread that reads ends itself when these are over; the wait here is what counts.
        transport.banner_timeout = transport.handshake_timeout = self._left()
        done = threading.Event()
        transport.start_client(event=done)
        # paramiko does not set it where the connection is closed from here.
        while not done.wait(0.1) and transport.is_active() and time.monotonic() < self._deadline:
            pass
        if self._closed:
            raise SshError(self.target, self._closed)
        if not done.is_set() and transport.is_active():
            what = "did not finish the key exchange" if transport.remote_version else "said nothing"
            raise self._too_late(f"sshd {what}")
        if transport.is_active():
            return
        error = transport.saved_exception
        if time.monotonic() >= self._deadline:
            raise self._too_late("sshd did not finish the key exchange") from error
        reason = str(error) or type(error).__name__
        if not transport.remote_version:
            if self._proxy is not None:
                raise SshError(
                    self.target, f"its ProxyCommand ended before sshd answered: {self._proxy.last_words() or reason}"
                ) from error
            raise _Dropped(reason) from error
        if "host key" in reason and known.keys:
            listed = ", ".join(f"{key.type} ({key.where})" for key in known.keys)
            reason = f"it has no host key of the known types: {listed}"
        raise SshError(self.target, f"the key exchange failed: {reason}") from error

    def _check_host_key(self, transport: paramiko.Transport, known: known_hosts.KnownKeys) -> None:
        key = transport.get_remote_server_key()
        target = self.target
        refused = known_hosts.refusal(known, key.get_name(), key.asbytes(), target.known_as, target.known_hosts)
        if refused and target.known_hosts_command and not known.keys:
            refused += ". Its KnownHostsCommand in ssh_config is not supported"
        if not refused and target.revoked_host_keys:
            refused = revoked_keys.refusal(target.revoked_host_keys, key.get_name(), key.asbytes())
        if refused:
            raise SshError(target, refused, permanent=True)

    def _authenticate(self, transport: paramiko.Transport) -> None:
        library = paramiko_library()
        tried: list[str] = []
        with contextlib.closing(Keys(library, self.target, self._left)) as keys:
            for label, key in keys.offers():
                transport.auth_timeout = self._left()
                try:
                    transport.auth_publickey(self.target.user, key)
                except library.BadAuthenticationType as error:
                    raise SshError(
                        self.target,
                        f"sshd takes no keys for user {self.target.user}, only {', '.join(error.allowed_types)}",
                        permanent=True,
                    ) from error
                except library.AuthenticationException as error:
                    if time.monotonic() >= self._deadline:
                        raise self._too_late(f"sshd did not answer the key {label}") from error
                    tried.append(label)
                    if transport.is_active():
                        continue
                    keys.remarks.append("sshd then hung up (MaxAuthTries?)")
                    break
                except Exception as error:
                    if time.monotonic() >= self._deadline:
                        raise self._too_late(f"sshd did not answer the key {label}") from error
                    raise SshError(self.target, f"the login failed: {self.why_lost(error)}") from error
                if transport.is_authenticated():
                    return
                tried.append(f"{label} (accepted, but sshd wants more)")
        user = self.target.user
        refused = f"user {user} is refused with {', '.join(tried)}" if tried else "there is no key to log in with"
        advice = f"the public half must be in the authorized_keys of {user} there"
        if keys.certified:
            advice += ", or sshd must trust who signed the certificate (TrustedUserCAKeys) and let one of its names in"
        raise SshError(self.target, "; ".join((refused, *keys.remarks, advice)), permanent=True)

    def _left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def _too_late(self, what: str) -> SshTimeout:
        return SshTimeout(self.target, f"{what} within {self._timeout:g} s")


class Way:
    """What leads to a host's sshd, for who speaks to it himself: TCP, through the jump hosts and proxies on the way.

    Opened by the constructor. deadline: of time.monotonic(). timeout: the seconds that were given, for errors. Raises
    SshError, SshTimeout.
    """

    def __init__(self, target: Target, deadline: float, timeout: float) -> None:
        self._connection = _Connection(target, deadline, timeout)
        try:
            self.wire = self._connection.open_wire()
        except BaseException as error:
            self._connection.close("it was not made")
            if isinstance(error, _Dropped):
                raise SshError(target, f"the jump host {target.jump} drops the connection ({error})") from None
            raise

    def close(self) -> None:
        """Ends all of it."""
        self._connection.close("closed by us")


def _ask_for_life(library: t.Any, transport: paramiko.Transport, wire: Wire) -> None:
    """A request that every server answers, be it with a refusal (RFC 4254, 4); paramiko's own wants no answer."""
    wire.asked()
    message = library.Message()
    message.add_byte(_MSG_GLOBAL_REQUEST)
    message.add_string("keepalive@openssh.com")
    message.add_boolean(True)
    transport._send_user_message(message)  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------- small things


def _packets(buffers: t.Iterable[Buffer], size: int) -> t.Iterator[bytes]:
    """The buffers' bytes in pieces of at most C(size); small ones together, large ones copied once."""
    pending = bytearray()
    for buffer in buffers:
        view = memoryview(buffer)
        if len(pending) + len(view) <= size:
            pending += view
            continue
        start = 0
        if pending:
            start = size - len(pending)
            yield bytes(pending + view[:start])
            pending.clear()
        while len(view) - start > size:
            yield bytes(view[start : start + size])
            start += size
        pending += view[start:]
    if pending:
        yield bytes(pending)


def _answer(session: paramiko.Channel, deadline: float, most: int) -> bytes:
    """What a command prints; empty where it does anything else than to succeed in time."""
    answer = b""
    try:
        session.shutdown_write()
        while len(answer) <= most:
            session.settimeout(max(0.01, deadline - time.monotonic()))
            data = session.recv(most)
            if not data:
                session.status_event.wait(max(0.01, deadline - time.monotonic()))
                return answer if session.exit_status == 0 else b""
            answer += data
    except Exception:  # paramiko raises what it likes; a lost connection is told where it is used
        return b""
    return b""


_import_lock = threading.Lock()


def load_early() -> None:
    """Loads paramiko in a thread, which takes longer than to make a connection: while others are waited for."""

    def load() -> None:
        # Where it is missing, that is told when it is used.
        with contextlib.suppress(ParamikoMissing):
            paramiko_library()

    threading.Thread(target=load, name="paramiko", daemon=True).start()


def paramiko_library() -> t.Any:
    """The module paramiko, quiet on stderr. Raises ParamikoMissing."""
    with _import_lock:
        try:
            with warnings.catch_warnings():
                # Old ones warn about ciphers that the newer cryptography is about to drop.
                warnings.simplefilter("ignore")
                import paramiko
        except Exception as error:  # a broken installation raises anything
            raise ParamikoMissing(str(error) or type(error).__name__) from error
        log = logging.getLogger("paramiko")
        if not log.handlers:
            log.addHandler(logging.NullHandler())
        return paramiko
