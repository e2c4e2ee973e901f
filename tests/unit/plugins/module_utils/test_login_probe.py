# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts, and whole probes of an sshd that paramiko plays; the real ones are tried by the scenario probed."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import login_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.login_probe import FAILED, PASSED, SKIPPED, Findings
from ansible_collections.nixfleet.builders.plugins.module_utils.login_session import Attempt, Ended, Opened
from ansible_collections.nixfleet.builders.tests.support.key_files import write_key
from ansible_collections.nixfleet.builders.tests.support.played_login import HOST_LINE, OTHER_LINE, PlayedLogin

Probe = Callable[..., Findings]


class Clock:
    """Stands still but for sleep. slept: for how long, each time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def played() -> Iterator[PlayedLogin]:
    played = PlayedLogin()
    yield played
    played.close()


@pytest.fixture
def probe(played: PlayedLogin, clock: Clock, tmp_path: Path) -> Probe:
    """probe(checks..., pin=host key line)"""
    played.keys["me"] = {write_key(tmp_path / "key")}

    def run(*checks: str, pin: str = HOST_LINE) -> Findings:
        target = login_probe.account("127.0.0.1", played.port, "me", str(tmp_path / "key"), pin)
        return login_probe.probe(target, checks or login_probe.CHECKS, 5, clock, clock.sleep)

    return run


def failed(found: Findings) -> dict[str, str]:
    return {check.name: check.evidence for check in found.checks if check.verdict == FAILED}


# ---------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("name", "attempt", "verdict"),
    [
        ("methods", Attempt("disabled", ("publickey",), ""), PASSED),
        ("methods", Attempt("disabled", ("publickey", "password"), ""), FAILED),
        ("methods", Attempt("disabled", ("keyboard-interactive",), ""), FAILED),
        ("methods", Attempt("disabled", (), ""), FAILED),
        ("methods", Attempt("lost", (), "gone"), FAILED),
        ("methods", Attempt("in", (), ""), FAILED),
        ("password", Attempt("disabled", ("publickey",), ""), PASSED),
        ("password", Attempt("denied", (), ""), FAILED),
        ("password", Attempt("lost", (), "gone"), PASSED),
        ("password", Attempt("in", (), ""), FAILED),
        ("password", Attempt("more", (), ""), FAILED),
        ("keyboard_interactive", Attempt("denied", (), ""), FAILED),
        ("keyboard_interactive", Attempt("disabled", ("publickey",), ""), PASSED),
        ("wrong_key", Attempt("denied", (), ""), PASSED),
        ("wrong_key", Attempt("in", (), ""), FAILED),
        ("wrong_key", Attempt("more", (), ""), FAILED),
        ("wrong_key", Attempt("lost", (), "gone"), FAILED),
        ("wrong_key", Attempt("lost", (), "(code 2): Too many authentication failures"), PASSED),
    ],
)
def test_proofs(name: str, attempt: Attempt, verdict: str) -> None:
    assert login_probe.login_verdict(name, attempt, ("publickey",), "me")[0] == verdict


def test_a_hang_up_counts_only_where_the_method_is_not_offered() -> None:
    lost = Attempt("lost", (), "gone")
    for offered in ((), ("publickey", "password")):
        assert login_probe.login_verdict("password", lost, offered, "me")[0] == FAILED


@pytest.mark.parametrize(
    ("ended", "ran", "told", "verdict"),
    [
        (Ended(False, None, b"", b"", True), False, True, PASSED),
        (Ended(True, 126, b"", b"nixfleet-gate: refused: x", True), False, True, PASSED),
        (Ended(True, 1, b"", b"This account is currently not available.", True), False, True, PASSED),
        (Ended(True, 0, b"", b"", True), False, True, PASSED),
        (Ended(True, 0, b"", b"", True), False, False, FAILED),
        (Ended(True, 126, b"42", b"", True), True, True, FAILED),
        (Ended(True, 127, b"", b"sh: scp: not found", True), False, False, FAILED),
        (Ended(True, None, b"", b"", False), False, True, FAILED),
    ],
)
def test_programs(ended: Ended, ran: bool, told: bool, verdict: str) -> None:
    assert login_probe.program_verdict(ended, ran, told)[0] == verdict


def test_forwarded_connections() -> None:
    assert login_probe.opened_verdict(Opened(None, 1, "open failed", ""))[0] == PASSED
    verdict, evidence = login_probe.opened_verdict(Opened(None, 2, "Connection refused", ""))
    assert verdict == FAILED
    assert "sshd tried to connect: Connection refused" in evidence


def test_evidence_is_one_line() -> None:
    ended = Ended(True, 126, b"a\nb", b"\xff" * 1000, True)
    assert login_probe.shown(ended).startswith("exit status 126, stdout 'a\\nb', stderr '")
    assert len(login_probe.shown(ended)) < 400
    assert login_probe.shown(Ended(True, None, b"", b"", False)) == "no exit status"


@pytest.mark.parametrize(
    ("server", "counts"),
    [
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10", False),
        ("SSH-2.0-OpenSSH_9.7p1", False),
        ("SSH-2.0-OpenSSH_9.8p1", True),
        ("SSH-2.0-OpenSSH_10.0p2 Debian-7", True),
        ("SSH-2.0-dropbear_2025.88", False),
        ("", False),
    ],
)
def test_penalties(server: str, counts: bool) -> None:
    assert login_probe.has_penalties(server) is counts


# ---------------------------------------------------------------------------------------------------- probes


def test_a_locked_account(played: PlayedLogin, probe: Probe, clock: Clock) -> None:
    played.version = "SSH-2.0-OpenSSH_10.0p2 Played"
    found = probe()
    # paramiko's own server does not say that a tunnel is forbidden, but that is its reason code.
    assert found.passed, failed(found)
    assert [check.name for check in found.checks] == list(login_probe.CHECKS)
    assert found.server == "SSH-2.0-OpenSSH_10.0p2 Played"
    assert played.connections == 3
    # The second refused login waits for the end of the first's penalty, and the probe's end for that of its own.
    assert clock.slept == [login_probe.PENALTY] * 2
    shown = found.as_dict()
    assert (shown["passed"], shown["seconds"]) == (True, 2 * login_probe.PENALTY)
    assert shown["checks"][0].keys() == {"name", "verdict", "evidence"}


def test_proofs_alone_end_in_a_login_too(played: PlayedLogin, probe: Probe, clock: Clock) -> None:
    played.version = "SSH-2.0-OpenSSH_10.0p2 Played"
    assert probe("wrong_key").passed
    assert played.connections == 1
    assert clock.slept == []


def test_a_lost_connection_is_no_refusal(played: PlayedLogin, probe: Probe) -> None:
    played.tries = 1
    assert failed(probe("other_user"))["other_user"].startswith("the connection was lost before an answer for root")


def test_no_penalties_where_none_are_counted(probe: Probe, clock: Clock) -> None:
    assert probe().passed
    assert clock.slept == []


def test_an_open_account(played: PlayedLogin, probe: Probe, tmp_path: Path) -> None:
    played.methods = ["publickey", "password", "keyboard-interactive"]
    played.any_key = True
    played.allow = {
        "pty-req",
        "auth-agent-req@openssh.com",
        "x11-req",
        "direct-tcpip",
        "direct-streamlocal@openssh.com",
        "tun@openssh.com",
        "env",
    }
    played.answers = {
        "": (b"", b"", 73),
        "nix-daemon": (b"", b"", 73),
        "sftp": (b"\0\0\0\5\2\0\0\0\3", b"", 0),
        "scp -f": (b"C0644 1 passwd\n", b"", 0),
    }
    found = failed(probe())
    assert found.keys() == set(login_probe.CHECKS) - {"host_key", "protocol"}
    assert found["methods"] == "sshd offers publickey, password, keyboard-interactive"
    assert found["wrong_key"] == "sshd lets me in with a key made just now"
    assert found["environment"].startswith("sshd takes PATH, LD_PRELOAD")
    assert found["other_user"].startswith("the key opens root; the key opens nixfleet-nobody-")


def test_the_other_directions(played: PlayedLogin, probe: Probe) -> None:
    played.allow = {"tcpip-forward", "streamlocal-forward@openssh.com"}
    found = failed(probe("tcp_forwarding", "socket_forwarding"))
    assert "tcpip-forward of a port" in found["tcp_forwarding"]
    assert "streamlocal-forward of /tmp/nixfleet-probe-" in found["socket_forwarding"]


def test_no_proof_at_all(played: PlayedLogin, probe: Probe) -> None:
    played.open_door = True
    assert failed(probe("methods", "password")) == {"methods": "sshd lets me in without any proof"}


def test_the_product_gives_a_command_away(played: PlayedLogin, probe: Probe, monkeypatch: t.Any) -> None:
    monkeypatch.setattr(login_probe, "_riddle", lambda: ("4711", "expr 1 '*' 4711; exit 73"))
    played.answers = {"nix-daemon --stdio; expr": (b"", b"4711\n", 0)}
    found = failed(probe("command", "shell"))
    assert found.keys() == {"command"}
    assert found["command"].startswith("\"nix-daemon --stdio; expr 1 '*' 4711; exit 73\": it was run: exit status 0")


def test_another_host_key_and_no_more_is_said(played: PlayedLogin, probe: Probe) -> None:
    found = probe("password", "protocol", pin=OTHER_LINE)
    assert [(check.name, check.verdict) for check in found.checks] == [
        ("host_key", FAILED),
        ("password", SKIPPED),
        ("protocol", SKIPPED),
    ]
    assert not found.passed
    assert "pinned is ecdsa-sha2-nistp256" in found.complaint()
    assert played.connections == 1


def test_the_key_is_refused(played: PlayedLogin, probe: Probe) -> None:
    played.keys.clear()
    found = probe("wrong_key", "protocol", "pty")
    assert failed(found) == {"protocol": "the key of the client does not open me: Authentication failed."}
    assert found.checks[-1] == ("pty", SKIPPED, "not tried, as protocol failed")


def test_no_nix_there(played: PlayedLogin, probe: Probe) -> None:
    played.store = None
    found = failed(probe("protocol", "pty"))
    assert found.keys() == {"protocol"}
    assert "exit status 126: nixfleet-gate: refused" in found["protocol"]


@pytest.mark.parametrize("tries", [2, 3])
def test_few_tries(played: PlayedLogin, probe: Probe, tries: int) -> None:
    """MaxAuthTries: further connections are made for what is left."""
    played.tries = tries
    played.methods = ["publickey", "password"]
    found = failed(probe(*login_probe.PROOFS, "protocol"))
    assert found.keys() == {"methods", "password"}


def test_dropped_at_first(played: PlayedLogin, probe: Probe, clock: Clock) -> None:
    played.drops = 2
    assert probe("methods").passed
    assert clock.slept == [1.0, 2.0]


def test_dropped_for_ever(played: PlayedLogin, probe: Probe, clock: Clock) -> None:
    played.drops = 100
    found = probe("methods")
    assert "Not allowed at this time" in failed(found)["host_key"]
    assert found.checks[-1] == ("methods", SKIPPED, "not tried, as host_key failed")
    assert clock.slept == list(login_probe.PAUSES)


def test_bad_arguments(probe: Probe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no check telnet"):
        probe("telnet")
    with pytest.raises(ValueError, match="no public key line"):
        login_probe.account("b1", 22, "me", str(tmp_path / "key"), "nothing")
    with pytest.raises(ValueError, match="the key /none cannot be read: No such file"):
        login_probe.account("b1", 22, "me", "/none", HOST_LINE)
    (tmp_path / "key").write_text("no key\n")
    with pytest.raises(ValueError, match="is no private key that paramiko reads"):
        probe("methods")
