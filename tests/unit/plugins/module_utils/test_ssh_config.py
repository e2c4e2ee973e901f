# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import ssh_config
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError, target_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0SxxOk5gUIoiYfSkNMJECH7DnEyl42AlJbmz7JT0tP"
needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this host")


class FakeSsh:
    """Plays ssh -G; settings are per host."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = hosts
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.calls.append(list(arguments))
        host = arguments[-1]
        assert arguments[-2] == "-G"
        return f"host {host}\nuser me\nhostname {host}\nport 22\n" + self.hosts.get(host, "")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("NIX_SSHOPTS", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_machine_says_becomes_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_SSHOPTS", "-F '/a b' -o Port=3")
    ssh = FakeSsh()
    target = target_of(Machine("ssh-ng://u@b1:2222?compress=true", ssh_key="/k", public_host_key=KEY), ssh)
    assert ssh.calls == [["-F", "/a b", "-o", "Port=3", "-l", "u", "-p", "2222", "-i", "/k", "-G", "b1"]]
    assert target.public_host_key == KEY
    assert target.identity_files == ("/k",)


def test_keys_in_the_uri() -> None:
    encoded = base64.b64encode(KEY.encode()).decode()
    target = target_of(Machine(f"ssh-ng://b1?ssh-key=/k&base64-ssh-public-host-key={encoded}"), FakeSsh())
    assert (target.identity_files, target.public_host_key) == (("/k",), KEY)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/keys")
    text = (
        "hostname 10.0.0.1\nport 2222\nuser u\nidentityfile ~/.ssh/%r@%n\nidentityfile ${WHERE}/100%%\n"
        "identityfile none\nidentitiesonly yes\nidentityagent %d/agent\n"
        "certificatefile ~/.ssh/ci-cert.pub\nrevokedhostkeys ~/.ssh/revoked\nknownhostscommand /bin/known %H\n"
        "userknownhostsfile ~/.ssh/kh /a b/kh2\nglobalknownhostsfile none\n"
        "proxycommand nc %h %p\nconnecttimeout 7\nserveraliveinterval 5\nserveralivecountmax 2\naddressfamily inet\n"
    )
    target = ssh_config.target_from_settings("b1", ssh_config.parse_settings(text))
    assert target == ssh_config.Target(
        name="b1",
        address="10.0.0.1",
        port=2222,
        user="u",
        family="inet",
        known_as="[10.0.0.1]:2222",
        checks_bare_name=True,
        known_hosts=("/home/me/.ssh/kh", "/a b/kh2"),
        known_hosts_command=True,
        revoked_host_keys="/home/me/.ssh/revoked",
        identity_files=("/home/me/.ssh/u@b1", "/keys/100%"),
        certificate_files=("/home/me/.ssh/ci-cert.pub",),
        agent="/home/me/agent",
        agent_offers_all=False,
        proxy_command="nc 10.0.0.1 2222",
        connect_timeout=7,
        alive_interval=5,
        alive_count=2,
    )


@pytest.mark.parametrize(
    ("line", "agent"),
    [("", "/sock"), ("identityagent none", ""), ("identityagent SSH_AUTH_SOCK", "/sock"), ("identityagent $X", "/x")],
)
def test_agent(monkeypatch: pytest.MonkeyPatch, line: str, agent: str) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/sock")
    monkeypatch.setenv("X", "/x")
    assert ssh_config.target_from_settings("b1", ssh_config.parse_settings(line)).agent == agent


def test_an_alias_is_looked_up_as_it_is() -> None:
    target = ssh_config.target_from_settings("b1", ssh_config.parse_settings("hostkeyalias Foo\nport 2222"))
    assert (target.known_as, target.checks_bare_name) == ("foo", False)


def test_jump_hosts_each_with_its_own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_SSHOPTS", "-F/c -oPort=3")
    ssh = FakeSsh(b1="proxyjump h1,u@[::2]:2222\n", **{"::2": "proxyjump h1\n"})
    target = target_of(Machine("ssh-ng://b1"), ssh)
    assert target.jump is not None and target.jump.jump is not None
    assert [target.name, target.jump.name, target.jump.jump.name] == ["b1", "::2", "h1"]
    assert ssh.calls[1:] == [
        ["-F/c", "-J", "h1", "-l", "u", "-p", "2222", "-G", "::2"],
        ["-F/c", "-G", "h1"],
    ]


def test_a_way_alone() -> None:
    ssh = FakeSsh()
    jump = ssh_config.jump_of("h1,u@h2:2222", ssh)
    assert (jump.name, jump.jump) == ("h2", None)
    assert ssh.calls == [["-J", "h1", "-l", "u", "-p", "2222", "-G", "h2"]]


@pytest.mark.parametrize(
    ("text", "reason"), [("", "names no jump host"), ("none", "names no"), ("a@b@:c", "cannot be read")]
)
def test_no_way(text: str, reason: str) -> None:
    with pytest.raises(SshConfigError, match=reason):
        ssh_config.jump_of(text, FakeSsh())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("proxyjump b1\n", "circle of ProxyJump"),
        ("proxyjump a@b@:c\n", "cannot be read"),
        ("proxyusefdpass yes\n", "ProxyUseFdpass"),
        ("identityfile %C\n", "'%C'|%C in"),
        ("identityfile ${NO_SUCH_VARIABLE}\n", "NO_SUCH_VARIABLE is not set"),
        ("connecttimeout soon\n", "is no number"),
    ],
)
def test_refused(settings: str, reason: str) -> None:
    with pytest.raises(SshConfigError, match=reason):
        target_of(Machine("ssh-ng://b1"), FakeSsh(b1=settings))


def test_what_is_not_reached_by_ssh() -> None:
    with pytest.raises(SshConfigError, match="not one of ssh"):
        target_of(Machine("https://cache"), FakeSsh())


def test_a_broken_nix_sshopts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_SSHOPTS", "-F 'x")
    with pytest.raises(SshConfigError, match="NIX_SSHOPTS"):
        target_of(Machine("ssh-ng://b1"), FakeSsh())


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("ssh-ng://b1", "nix-daemon --stdio"),
        ("ssh-ng://b1?remote-program=/n/nix-daemon", "/n/nix-daemon --stdio"),
        ("ssh-ng://b1?remote-program=sudo%20nix-daemon", "sudo nix-daemon --stdio"),
        ("ssh-ng://b1?remote-store=/s%20x", "nix-daemon --stdio --store '/s x'"),
    ],
)
def test_command(uri: str, command: str) -> None:
    assert ssh_config.remote_command(Machine(uri)) == command


@needs_ssh
def test_the_real_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").write_text("Host b1\n  HostName 198.18.0.1\n  IdentityFile /first\n")
    config = tmp_path / "config"
    config.write_text(
        f"Include {tmp_path}/more\nMatch host 198.18.0.1\n  Port 2222\nHost b1\n  IdentityFile /second\n"
        "  ProxyJump me@h1:2200,h2\n  ConnectTimeout 9\nHost h2\n  User other\n"
    )
    monkeypatch.setenv("NIX_SSHOPTS", f"-F {config}")
    target = target_of(Machine("ssh-ng://u@b1"))
    assert (target.address, target.port, target.user, target.connect_timeout) == ("198.18.0.1", 2222, "u", 9)
    assert target.identity_files == ("/first", "/second")
    assert target.jump is not None and (target.jump.name, target.jump.user) == ("h2", "other")
    first = target.jump.jump
    assert first is not None and (first.name, first.user, first.port, first.jump) == ("h1", "me", 2200, None)


@needs_ssh
def test_the_real_ssh_with_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("NoSuchKeyword x\n")
    monkeypatch.setenv("NIX_SSHOPTS", f"-F {config}")
    with pytest.raises(SshConfigError, match="(?s)cannot read its configuration.*line 1"):
        target_of(Machine("ssh-ng://b1"))


def test_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SshConfigError, match="install the OpenSSH client"):
        target_of(Machine("ssh-ng://b1"))
