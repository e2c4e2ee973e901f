# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Against a server that paramiko plays in this process; the fleet's real sshd is tried by the scenarios."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import ssh
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelClosed, ChannelTimeout
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import SshError, SshHost, SshTimeout
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.tests.support.key_files import public_line, write_key
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

HOST_KEY = paramiko.ECDSAKey.generate()
OTHER_KEY = paramiko.ECDSAKey.generate()


class Server:
    """Plays sshd. sessions: allowed per connection. commands: what each does with its channel."""

    def __init__(self) -> None:
        self.accepts: set[bytes] = set()
        self.sessions = 100
        self.drops = 0
        self.silent = False
        self.commands: dict[str, Callable[[paramiko.Channel], None]] = {}
        self.transports: list[paramiko.Transport] = []
        self.offered: list[str] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.connections <= self.drops:
                connection.close()
                continue
            if self.silent:
                self._held.append(connection)
                continue
            transport = paramiko.Transport(connection)
            transport.daemon = True
            transport.add_server_key(HOST_KEY)
            self.transports.append(transport)
            transport.start_server(server=Door(self), event=threading.Event())

    def close(self) -> None:
        self._listener.close()
        for transport in self.transports:
            transport.close()
        for connection in self._held:
            connection.close()


class Door(paramiko.ServerInterface):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.open = 0

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.server.offered.append(key.get_name())
        good = username == "me" and key.asbytes() in self.server.accepts
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if self.open >= self.server.sessions:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        self.open += 1
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        action = self.server.commands.get(command.decode(), echo)
        threading.Thread(target=run, args=(action, channel), daemon=True).start()
        return True


def run(action: Callable[[paramiko.Channel], None], channel: paramiko.Channel) -> None:
    time.sleep(0.1)  # first the reply to exec
    with contextlib.suppress(OSError):
        action(channel)


def echo(channel: paramiko.Channel) -> None:
    while data := channel.recv(1 << 16):
        channel.sendall(data)


def ends(status: int, stderr: bytes = b"") -> Callable[[paramiko.Channel], None]:
    def action(channel: paramiko.Channel) -> None:
        channel.sendall_stderr(stderr)
        channel.send_exit_status(status)
        channel.close()

    return action


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def target(server: Server, tmp_path: Path) -> Target:
    server.accepts.add(write_key(tmp_path / "key"))
    return Target(
        name="b1",
        address="127.0.0.1",
        port=server.port,
        user="me",
        known_as=f"[127.0.0.1]:{server.port}",
        public_host_key=f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}",
        identity_files=(str(tmp_path / "key"),),
    )


@pytest.fixture
def host(target: Target) -> Iterator[SshHost]:
    host = SshHost(target, 10)
    yield host
    host.close()


def test_bytes_both_ways_and_nothing_left(server: Server, host: SshHost) -> None:
    before = threading.active_count()
    channel = host.open("cat", 10)
    channel.write(b"head", bytes(range(256)) * 4000, b"tail")
    channel.flush()
    assert channel.read(4 + 1024000 + 4) == b"head" + bytes(range(256)) * 4000 + b"tail"
    assert not channel.readable()
    channel.close()
    channel.close()
    host.close()
    server.close()
    patience = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(SshError, match="closed by us"):
        host.open("cat")


def test_many_channels_on_few_connections(server: Server, host: SshHost) -> None:
    server.sessions = 4
    channels: list[ssh.SshChannel] = []
    threads = [threading.Thread(target=lambda: channels.append(host.open("cat", 10))) for _unused in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(channels) == 10
    assert host.connections == 3
    for number, channel in enumerate(channels):
        channel.write(bytes([number]))
        channel.flush()
    assert [channel.read(1) for channel in channels] == [bytes([number]) for number in range(10)]


def test_no_session_at_all(server: Server, host: SshHost) -> None:
    server.sessions = 0
    with pytest.raises(SshError, match="MaxSessions") as caught:
        host.open("cat")
    assert caught.value.permanent


# ---------------------------------------------------------------------------------------------------- short commands


def says(text: bytes, status: int = 0, pause: float = 0.0) -> Callable[[paramiko.Channel], None]:
    def action(channel: paramiko.Channel) -> None:
        # It reads to the end first, as a shell may.
        while channel.recv(100):
            pass
        channel.sendall(text)
        time.sleep(pause)
        channel.send_exit_status(status)
        channel.close()

    return action


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (says(b"1 2"), b"1 2"),
        (says(b""), b""),
        (says(b"1 2", status=1), b""),
        (says(b"1" * 101), b""),
        (says(b"1" * (4 << 20)), b""),
        (says(b"1 2", pause=30), b""),
        (ends(127, b"not found"), b""),
        (lambda channel: channel.close(), b""),
    ],
)
def test_what_a_short_command_says(
    server: Server, host: SshHost, command: Callable[[paramiko.Channel], None], answer: bytes
) -> None:
    server.commands["short"] = command
    server.sessions = 3
    with pytest.raises(SshError, match="no connection has room"):
        host.ask("short", 1, 100)
    channel = host.open("cat", 10)
    start = time.monotonic()
    assert host.ask("short", 1, 100) == answer
    assert time.monotonic() - start < 3
    # The connection is as before.
    channel.write(b"a")
    channel.flush()
    assert channel.read(1) == b"a" and host.connections == 1


def test_a_short_command_makes_no_connection(server: Server, host: SshHost) -> None:
    server.sessions = 1
    host.open("cat", 10)
    for _each in range(2):
        with pytest.raises(SshError, match="no connection has room"):
            host.ask("short", 1, 100)
    assert host.connections == server.connections == 1


# ---------------------------------------------------------------------------------------------------- host keys


def test_host_key_from_known_hosts(server: Server, target: Target, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    known = replace(target, public_host_key="", known_hosts=(str(tmp_path / "none"), str(file)), checks_bare_name=True)
    line = f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}\n"
    for name in (target.known_as, "127.0.0.1"):
        file.write_text(f"{name} {line}")
        host = SshHost(known, 10)
        host.open("cat").close()
        host.close()
    file.write_text(f"other {line}")
    with pytest.raises(SshError, match=r"not known as \[127.0.0.1\]") as caught:
        SshHost(known, 10).open("cat")
    assert caught.value.permanent and "SHA256:" in str(caught.value) and str(file) in str(caught.value)
    file.write_text(f"{target.known_as} {line}@revoked * {line}")
    with pytest.raises(SshError, match="is revoked"):
        SshHost(known, 10).open("cat")
    assert server.offered.count("ssh-ed25519") == 2  # none was offered to a host that is not known


def test_revoked_host_keys(server: Server, target: Target, tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    file.write_text(f"{OTHER_KEY.get_name()} {OTHER_KEY.get_base64()}\n")
    revoking = replace(target, revoked_host_keys=str(file))
    host = SshHost(revoking, 10)
    host.open("cat").close()
    host.close()
    file.write_text(f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}\n")
    with pytest.raises(SshError, match=r"is revoked \(RevokedHostKeys ") as caught:
        SshHost(revoking, 10).open("cat")
    assert caught.value.permanent
    assert len(server.offered) == 1


def test_a_known_hosts_command_is_named_where_it_would_be_needed(target: Target) -> None:
    host = SshHost(replace(target, known_hosts_command=True), 10)
    host.open("cat").close()
    host.close()
    unknown = replace(target, public_host_key="", known_hosts_command=True)
    with pytest.raises(SshError, match="known_hosts. Its KnownHostsCommand in ssh_config is not supported$"):
        SshHost(unknown, 10).open("cat")


def test_changed_host_key(server: Server, target: Target) -> None:
    changed = replace(target, public_host_key=f"{OTHER_KEY.get_name()} {OTHER_KEY.get_base64()}")
    with pytest.raises(SshError, match="has changed") as caught:
        SshHost(changed, 10).open("cat")
    assert caught.value.permanent
    assert not server.offered


def test_only_known_types_are_asked_for(target: Target) -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0SxxOk5gUIoiYfSkNMJECH7DnEyl42AlJbmz7JT0tP"
    with pytest.raises(SshError, match="no host key of the known types: ssh-ed25519"):
        SshHost(replace(target, public_host_key=line), 10).open("cat")
    with pytest.raises(SshError, match="no public key line"):
        SshHost(replace(target, public_host_key="nonsense"), 10).open("cat")


# ---------------------------------------------------------------------------------------------------- logging in


def test_which_keys_were_tried(server: Server, target: Target, tmp_path: Path) -> None:
    write_key(tmp_path / "wrong")
    files = tuple(str(tmp_path / name) for name in ("missing", "wrong"))
    with pytest.raises(SshError) as caught:
        SshHost(replace(target, identity_files=files), 10).open("cat")
    text = str(caught.value)
    assert caught.value.permanent
    assert f"user me is refused with {tmp_path}/wrong (ssh-ed25519 SHA256:" in text
    assert f"{tmp_path}/missing cannot be read (No such file" in text
    assert server.offered == ["ssh-ed25519"]


def test_rsa_key(server: Server, target: Target, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    server.accepts = {write_key(tmp_path / "rsa", key=key)}
    host = SshHost(replace(target, identity_files=(str(tmp_path / "rsa"),)), 10)
    host.open("cat").close()
    host.close()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_certificate(server: Server, target: Target, tmp_path: Path) -> None:
    """sshd is asked for the certificate first; one that it does not take leads to advice about authorities."""
    write_key(tmp_path / "authority")
    (tmp_path / "authority").chmod(0o600)
    key = ed25519.Ed25519PrivateKey.generate()
    write_key(tmp_path / "key", key=key)
    (tmp_path / "key.pub").write_text(public_line(key) + "\n")
    subprocess.run(["ssh-keygen", "-q", "-s", "authority", "-I", "ci", "-n", "me", "key.pub"], cwd=tmp_path, check=True)
    server.accepts.clear()
    with pytest.raises(SshError) as caught:
        SshHost(target, 10).open("cat")
    text = str(caught.value)
    assert f"{tmp_path}/key-cert.pub (certificate 'ci' for me), {tmp_path}/key (ssh-ed25519 SHA256:" in text
    assert text.endswith(
        "or sshd must trust who signed the certificate (TrustedUserCAKeys) and let one of its names in"
    )


def test_no_key(target: Target) -> None:
    with pytest.raises(SshError, match="there is no key to log in with; the agent at /nonexistent does not answer"):
        SshHost(replace(target, identity_files=(), agent="/nonexistent"), 10).open("cat")


# ---------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (ends(127, b"sh: nix-daemon: not found\n"), "finds no nix-daemon: sh: nix-daemon: not found; sshd's PATH"),
        (ends(126), "cannot be executed"),
        (ends(3, b"boom"), "nix-daemon --stdio ended with exit status 3: boom"),
        (lambda channel: channel.close(), "was killed"),
    ],
)
def test_what_the_command_says_last(
    server: Server, host: SshHost, action: Callable[[paramiko.Channel], None], text: str
) -> None:
    server.commands["nix-daemon --stdio"] = action
    channel = host.open("nix-daemon --stdio", 10)
    with pytest.raises(ChannelClosed) as caught:
        channel.read(1)
    assert text in str(caught.value)
    channel.close()


def test_stderr_never_blocks(server: Server, host: SshHost) -> None:
    def action(channel: paramiko.Channel) -> None:
        for _unused in range(3):
            channel.sendall_stderr(b"e" * ssh.WINDOW)
        channel.sendall_stderr(b"end")
        channel.sendall(b"out")
        channel.recv(1)

    server.commands["loud"] = action
    channel = host.open("loud", 10)
    assert channel.read(3) == b"out"
    assert channel.stderr_tail() == "e" * (ssh.STDERR_TAIL - 3) + "end"
    channel.close()


def test_both_ends_write_first(server: Server, host: SshHost) -> None:
    size = ssh.WINDOW + (4 << 20)

    def action(channel: paramiko.Channel) -> None:
        channel.sendall(bytes(size))
        left = size
        while left:
            left -= len(channel.recv(1 << 20))
        channel.sendall(b"done")

    server.commands["stubborn"] = action
    channel = host.open("stubborn", 10)
    channel.write(bytes(size))
    channel.flush()
    while size:
        size -= len(channel.read_some(size))
    assert channel.read(4) == b"done"
    channel.close()


@pytest.mark.parametrize("writing", [False, True])
def test_idle_timeout(server: Server, host: SshHost, writing: bool) -> None:
    server.commands["sleep"] = lambda channel: time.sleep(3)
    channel = host.open("sleep", 0.6)
    start = time.monotonic()
    channel.write(bytes(4 << 20) if writing else b"")
    with pytest.raises(ChannelTimeout, match=r"for 0\.6 s"):
        channel.flush()
        channel.read(1)
    assert time.monotonic() - start < 2
    channel.close()


@pytest.mark.parametrize("writing", [False, True])
def test_abort_from_another_thread(server: Server, host: SshHost, writing: bool) -> None:
    server.commands["sleep"] = lambda channel: time.sleep(3)
    channel = host.open("sleep")
    threading.Timer(0.2, channel.abort).start()
    start = time.monotonic()
    channel.write(bytes(4 << 20) if writing else b"")
    with pytest.raises(ChannelClosed, match="aborted"):
        channel.flush()
        channel.read(1)
    assert time.monotonic() - start < 1.5
    channel.close()


def test_the_connection_is_lost(server: Server, host: SshHost) -> None:
    first, second = host.open("cat"), host.open("cat")
    threading.Timer(0.2, server.transports[0].close).start()
    for channel in (first, second):
        with pytest.raises(SshError, match="connection is lost") as caught:
            channel.read(1)
        assert not caught.value.permanent
        channel.close()
    host.open("cat").close()
    assert host.connections == 1


def test_silence_is_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = threading.Event()
    receive = ssh.Wire.recv

    def recv(wire: ssh.Wire, size: int) -> bytes:
        if stops.is_set():
            time.sleep(0.1)
            wire._check()
            raise socket.timeout
        return receive(wire, size)

    monkeypatch.setattr(ssh.Wire, "recv", recv)
    host = SshHost(replace(target, alive_interval=1, alive_count=1), 10)
    channel = host.open("cat")
    time.sleep(1.5)
    channel.write(b"a")
    channel.flush()
    assert channel.read(1) == b"a"  # a quiet connection lives on
    stops.set()
    start = time.monotonic()
    with pytest.raises(SshError, match="no sign of life"):
        channel.read(1)
    assert time.monotonic() - start < 4
    host.close()


# ---------------------------------------------------------------------------------------------------- connecting


def test_dropped_banners_are_tried_again(server: Server, host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "DROPPED_PAUSE", 0.01)
    server.drops = 3
    host.open("cat").close()
    assert server.connections == 4


def test_always_dropped(server: Server, host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "DROPPED_PAUSE", 0.001)
    server.drops = 100
    with pytest.raises(SshError, match="MaxStartups"):
        host.open("cat")
    assert server.connections == ssh.DROPPED_TRIES


def test_a_silent_server_costs_one_timeout_for_all(server: Server, target: Target) -> None:
    server.silent = True
    host = SshHost(target, 1)
    errors: list[SshError] = []

    def attempt() -> None:
        try:
            host.open("cat")
        except SshError as error:
            errors.append(error)

    start = time.monotonic()
    threads = [threading.Thread(target=attempt) for _unused in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 2.5
    assert [type(error) for error in errors] == [SshTimeout] * 4


def test_close_ends_a_connect(server: Server, target: Target) -> None:
    server.silent = True
    host = SshHost(target, 20)
    threading.Timer(0.3, host.close).start()
    start = time.monotonic()
    with pytest.raises(SshError):
        host.open("cat")
    assert time.monotonic() - start < 5


RELAY = """
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)
"""


def test_proxy_command(target: Target, tmp_path: Path) -> None:
    (tmp_path / "relay.py").write_text(RELAY)
    command = f"{sys.executable} {tmp_path}/relay.py 127.0.0.1 {target.port}"
    host = SshHost(replace(target, address="no.such", proxy_command=command), 10)
    channel = host.open("cat", 10)
    channel.write(b"abc")
    channel.flush()
    assert channel.read(3) == b"abc"
    process = host._connections[0]._proxy
    host.close()
    assert process is not None and process._process.poll() is not None
    with pytest.raises(SshError, match="ProxyCommand ended before sshd answered: no way"):
        SshHost(replace(target, proxy_command="sh -c 'echo no way >&2; exit 1'"), 10).open("cat")


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_packets(size: int) -> None:
    buffers = [b"", b"ab", b"c" * 25, memoryview(b"de"), b"f" * 10, bytearray(b"g")]
    packets = list(ssh._packets(buffers, size))
    assert b"".join(packets) == b"".join(map(bytes, buffers))
    assert all(len(packet) == size for packet in packets[:-1])
    assert 0 < len(packets[-1]) <= size


def test_paramiko_is_loaded_while_others_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()

    def missing() -> None:
        loaded.set()
        raise ssh.ParamikoMissing("No module named 'paramiko'")

    monkeypatch.setattr(ssh, "paramiko_library", missing)
    monkeypatch.setattr(threading, "excepthook", lambda told: pytest.fail(str(told)))
    ssh.load_early()
    assert loaded.wait(10)


def test_without_paramiko(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ssh.ParamikoMissing, match="paramiko is needed"):
        SshHost(target, 5).open("cat")


def test_quiet(server: Server, host: SshHost, capfd: pytest.CaptureFixture[str]) -> None:
    channel = host.open("cat")
    server.transports[0].close()
    with pytest.raises(SshError):
        channel.read(1)
    channel.close()
    assert capfd.readouterr().err == ""
