# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Against an sshd that paramiko plays; the real ones are tried by the scenario probed."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import login_session
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.login_session import Dropped, Login, WrongHost
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_wire import SshError
from ansible_collections.nixfleet.builders.plugins.module_utils.store import Store
from ansible_collections.nixfleet.builders.tests.support.key_files import write_key
from ansible_collections.nixfleet.builders.tests.support.played_login import HOST_LINE, OTHER_LINE, REFUSAL, PlayedLogin


@pytest.fixture
def played() -> Iterator[PlayedLogin]:
    played = PlayedLogin()
    yield played
    played.close()


@pytest.fixture
def target(played: PlayedLogin) -> Target:
    return Target(name="b1", address="127.0.0.1", port=played.port, user="me", public_host_key=HOST_LINE)


@pytest.fixture
def login(played: PlayedLogin, target: Target, tmp_path: Path) -> Iterator[Login]:
    """One that is in."""
    played.keys["me"] = {write_key(tmp_path / "key")}
    login = Login(target, 5)
    login.connect()
    key = paramiko.Ed25519Key(filename=str(tmp_path / "key"))
    assert login.attempt(lambda transport: transport.auth_publickey("me", key)).outcome == "in"
    yield login
    login.close()


def test_connects_and_names_key_and_server(target: Target) -> None:
    login = Login(target, 5)
    assert login.connect().startswith("ecdsa-sha2-nistp256 SHA256:")
    assert login.server == "SSH-2.0-OpenSSH_9.2p1 Played"
    assert login.alive
    assert not login.logged_in
    login.close()
    assert not login.alive


def test_goes_the_way_that_ssh_config_says(played: PlayedLogin, target: Target) -> None:
    relay = f"""{sys.executable} -c 'import socket, sys, threading, os
s = socket.create_connection(("127.0.0.1", {target.port}))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)'"""
    login = Login(replace(target, address="no.such", port=1, proxy_command=relay), 10)
    assert login.connect().startswith("ecdsa-sha2-nistp256 SHA256:")
    login.close()
    assert not login.alive


def test_a_jump_host_that_is_not_there(target: Target) -> None:
    jump = Target(name="h1", address="127.0.0.1", port=1, user="me")
    with pytest.raises(SshError, match="no connection") as caught:
        Login(replace(target, jump=jump), 5).connect()
    assert not isinstance(caught.value, Dropped)


def test_a_jump_host_that_drops(played: PlayedLogin, target: Target) -> None:
    played.drops = 1
    jump = replace(target, name="h1")
    with pytest.raises(SshError, match=r"the jump host me@h1 .*drops the connection"):
        Login(replace(target, jump=jump), 5).connect()


def test_another_host_key(target: Target) -> None:
    with pytest.raises(WrongHost, match="it shows ecdsa-sha2-nistp256 SHA256:.*, pinned is ecdsa.* SHA256:"):
        Login(replace(target, public_host_key=OTHER_LINE), 5).connect()
    ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPK7XD52mnzLl1o8Yj7DgPKUQ4NVNM/hyQZRXEVS8BZP"
    with pytest.raises(WrongHost, match="no host key of the pinned type ssh-ed25519"):
        Login(replace(target, public_host_key=ed25519), 5).connect()
    with pytest.raises(ValueError, match="no public key line"):
        Login(replace(target, public_host_key="what"), 5).connect()


def test_dropped_with_its_last_words(played: PlayedLogin, target: Target) -> None:
    played.drops = 1
    with pytest.raises(Dropped, match="Not allowed at this time"):
        Login(target, 5).connect()


def test_nobody_there(target: Target) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(SshError, match="no connection"):
            Login(replace(target, port=free.getsockname()[1]), 5).connect()


def test_attempts_on_one_connection(played: PlayedLogin, target: Target, tmp_path: Path) -> None:
    played.methods = ["publickey", "password"]
    write_key(tmp_path / "key")
    key = paramiko.Ed25519Key(filename=str(tmp_path / "key"))
    login = Login(target, 5)
    login.connect()
    none = login.attempt(lambda transport: transport.auth_none("me"))
    assert (none.outcome, none.methods) == ("disabled", ("publickey", "password"))
    assert login.attempt(lambda transport: transport.auth_password("me", "x", fallback=False)).outcome == "denied"
    assert login.attempt(lambda transport: transport.auth_publickey("me", key)).outcome == "denied"
    assert login.alive
    assert played.connections == 1
    played.tries = 3
    assert login.attempt(lambda transport: transport.auth_publickey("me", key)).outcome == "lost"
    login.close()


@pytest.mark.parametrize("kind", ["direct-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com"])
def test_channels_of_all_kinds(played: PlayedLogin, login: Login, kind: str) -> None:
    fields: tuple[login_session.Field, ...] = (
        ("127.0.0.1", 22, "127.0.0.1", 0) if kind == "direct-tcpip" else ("/x", "", 0)
    )
    refused = login.open(kind, *fields)
    assert refused.channel is None
    assert refused.code == login_session.PROHIBITED
    assert "prohibited" in refused.said.lower()
    played.allow.add(kind)
    opened = login.open(kind, *fields)
    assert opened.channel is not None
    opened.channel.close()
    assert login.granted("env", "A", "b") == (False, "")


def test_requests(played: PlayedLogin, login: Login) -> None:
    assert login.granted("pty-req", "xterm", 80, 24, 0, 0, b"\0") == (False, "")
    played.allow |= {"pty-req", "x11-req", "env"}
    assert login.granted("pty-req", "xterm", 80, 24, 0, 0, b"\0")[0]
    assert login.granted("x11-req", False, "MIT-MAGIC-COOKIE-1", "00", 0)[0]
    assert login.granted("env", "A", "b")[0]
    assert not login.ask_globally("streamlocal-forward@openssh.com", "/tmp/x")
    played.allow.add("streamlocal-forward@openssh.com")
    assert login.ask_globally("streamlocal-forward@openssh.com", "/tmp/x")


def test_programs(played: PlayedLogin, login: Login) -> None:
    played.answers["date"] = (b"now\n", b"late\n", 3)
    assert login.run("exec", "date -u") == (True, 3, b"now\n", b"late\n", True)
    assert login.run("exec", "other", stdin=b"x") == (True, 126, b"", REFUSAL, True)
    assert login.run("shell", stdin=b"x").status == 126
    assert login.run("subsystem", "sftp", stdin=b"x", answer=5).status == 126


def test_a_program_that_does_not_end(played: PlayedLogin, login: Login) -> None:
    played.silent = True
    login.timeout = 0.3
    start = time.monotonic()
    ended = login.run("exec", "sleep")
    assert (ended.granted, ended.over, ended.status) == (True, False, None)
    assert time.monotonic() - start < 3


def test_no_answer_at_all(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = login.session()
    monkeypatch.setattr(login._transport, "_send_user_message", lambda _message: None)
    login.timeout = 0.1
    with pytest.raises(SshError, match="no answer within 0.1 s"):
        login.ask(channel, "env", "A", "b")
    assert not login.alive


def test_a_store(played: PlayedLogin, login: Login) -> None:
    channel = login.stream("nix-daemon --stdio", {"PATH": "/nonexistent"})
    store = Store(channel, 5)
    assert (store.nix_version, store.trusted) == ("2.99", True)
    assert store.is_valid_path("/nix/store/" + "0" * 32 + "-x") is False
    store.close()


def test_a_command_instead_of_a_store(played: PlayedLogin, login: Login) -> None:
    played.store = None
    with pytest.raises(ChannelError, match="ended with exit status 126: nixfleet-gate: refused"):
        Store(login.stream("nix-daemon --stdio", {}), 5)
