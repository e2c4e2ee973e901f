# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of Nix for each builder, and what its answers are taken for. Nix's programs are small shell scripts."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import builder_checks, checks
from ansible_collections.nixfleet.builders.plugins.module_utils.builder_checks import (
    Builder,
    BuilderChecks,
    Client,
    Limits,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import Target

LIMITS = Limits(timeout=5)
CLIENT = Client()
INFO = """case "$*" in
  *"store info"*) echo '{"version": "2.34.8", "trusted": true}' ;;
  *"store verify"*) echo "$*" >"$(dirname "$0")/verified" ;;
esac"""
BUILD = 'printf "%s\\n" "$@" >"$(dirname "$0")/built"; echo /nix/store/x-proof'
MACHINES = "ssh-ng://nixremote@b1 x86_64-linux - 2 1 benchmark,kvm -\nssh://other@elsewhere\n"
OFFER: dict[str, t.Any] = {
    "systems": ["x86_64-linux", "i686-linux"],
    "system_features": ["benchmark", "kvm"],
    "unbacked_reasons": {},
    "account": {"user": "nixremote", "refused": None, "authorized_keys": [], "trusted": True},
    "trusted_public_keys": ["c-1:key"],
    "store_bytes_free": 2**34,
    "store_bytes_total": 2**40,
    "clock_offset": 1.0,
}


def host(directory: Path, *, nix: str = INFO, nix_build: str = BUILD, machines: str = MACHINES) -> Nix:
    """A host with these programs and machines."""
    (directory / "nix-store").touch()
    (directory / "machines").write_text(machines)
    for name, script in (("nix", nix), ("nix-build", nix_build)):
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    settings = {"builders": f"@{directory}/machines", "trusted-public-keys": ["b1-1:key", "other:key"]}

    def run(args: list[str], data: t.Any = None, environ_update: t.Any = None) -> tuple[int, str, str]:
        if "--version" in args:
            return 0, "nix (Nix) 2.26.3\n", ""
        return 0, json.dumps({name: {"value": value} for name, value in settings.items()}), ""

    return Nix(run, str(directory))


def builder(name: str = "b1", system: str = "x86_64-linux", **machine: t.Any) -> Builder:
    given = {"uri": f"ssh-ng://nixremote@{name}", "systems": ["i686-linux", "x86_64-linux"], **machine}
    return Builder(name, Machine.from_dict(given), system, f"{name}-1:key")


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ssh is asked for its configuration, and no login is probed."""
    monkeypatch.setattr(
        builder_checks, "target_of", lambda machine: Target("b1", "192.0.2.1", 22, "nixremote", identity_files=("/k",))
    )


def tried(
    directory: Path,
    given: Builder | None = None,
    wanted: t.Collection[str] = checks.WAY_TO_A_BUILD,
    limits: Limits = LIMITS,
    client: Client = CLIENT,
    dry: bool = False,
    **programs: str,
) -> dict[str, t.Any]:
    return BuilderChecks(host(directory, **programs), wanted, limits, client, dry).try_all([given or builder()])[0]


def failures(result: dict[str, t.Any]) -> dict[str, str]:
    return {it["check"]: it["reason"] for it in result["checks"] if it["verdict"] == "failed"}


def of(result: dict[str, t.Any], check: str) -> dict[str, t.Any]:
    return next(it for it in result["checks"] if it["check"] == check)


def built(directory: Path) -> dict[str, str]:
    """The options that nix-build was given."""
    words = (directory / "built").read_text().split("\n")
    options = {name: words[words.index(name) + 1] for name in ("--max-jobs", "--builders")}
    for index, word in enumerate(words):
        if word == "--argstr":
            options[words[index + 1]] = words[index + 2]
    return options


# ---------------------------------------------------------------------------------------------------- builds


def test_all_is_well(tmp_path: Path) -> None:
    result = tried(tmp_path, builder(mandatory_features=["gpu"], speed_factor=1.5, ssh_key="/k"))
    assert (result["name"], result["output"], failures(result)) == ("b1", "/nix/store/x-proof", {})
    assert [it["check"] for it in result["checks"]] == list(checks.WAY_TO_A_BUILD)
    assert {it["verdict"] for it in result["checks"]} == {"passed"}
    assert str(of(result, "protocol")["message"]).startswith("Nix 2.34.8, after ")
    assert of(result, "tcp")["message"] == "port 22"
    options = built(tmp_path)
    assert re.fullmatch("nixfleet-proof-b1-[0-9a-f]{16}", options.pop("name"))
    assert options == {
        "--max-jobs": "0",
        # This host's Nix reads a fractional speed.
        "--builders": "ssh-ng://nixremote@b1 i686-linux,x86_64-linux /k 1 1.5 - gpu -",
        "system": "x86_64-linux",
        "features": '["gpu"]',
    }
    verified = (tmp_path / "verified").read_text()
    assert "--sigs-needed 1 --option trusted-public-keys b1-1:key /nix/store/x-proof" in verified


def test_machine_without_system(tmp_path: Path) -> None:
    assert not failures(tried(tmp_path, builder(system="")))
    assert "system" not in built(tmp_path)


def test_unreachable_builder_is_not_asked_to_build(tmp_path: Path) -> None:
    result = tried(tmp_path, nix="echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1")
    assert failures(result) == {"login": "permission_denied"}
    assert of(result, "login")["message"] == "nixremote@b1: Permission denied (publickey)."
    assert of(result, "tcp")["verdict"] == "passed"
    assert of(result, "build")["because"] == "login failed: permission_denied"
    assert result["output"] is None
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'error: unable to start any build' >&2; exit 100", "takes_nothing"),
        ("for n in 1 2 3; do echo 'waiting for a machine' >&2; done; sleep 60", "build_timeout"),
        ("echo \"waiting for lock on '/nix/store/x'\" >&2; sleep 60", "build_circle"),
        ("echo 'error: oh' >&2; exit 1", "build_failed"),
    ],
)
def test_build_fails(tmp_path: Path, script: str, reason: str) -> None:
    result = tried(tmp_path, nix_build=script, limits=Limits(timeout=5, build_timeout=1))
    assert failures(result) == {"build": reason}
    assert str(of(result, "build")["message"]).count("waiting") <= 1
    assert of(result, "signature")["verdict"] == "skipped"


def test_machine_that_takes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    assert failures(tried(tmp_path, builder(max_jobs=0))) == {"build": "takes_nothing"}
    assert not (tmp_path / "built").exists()


def test_nothing_is_built_in_check_mode(tmp_path: Path) -> None:
    result = tried(tmp_path, dry=True)
    assert of(result, "build")["because"] == of(result, "signature")["because"] == "nothing is built in check mode"
    assert not (tmp_path / "built").exists()


def test_output_is_not_signed(tmp_path: Path) -> None:
    nix = f'{INFO}\n[ "$4" != verify ] || {{ echo "path is untrusted" >&2; exit 2; }}'
    result = tried(tmp_path, nix=nix)
    assert failures(result) == {"signature": "not_signed"}
    assert "has no signature of its key b1-1:key: path is untrusted" in str(of(result, "signature")["message"])
    assert result["output"] == "/nix/store/x-proof"


def test_signing_key_that_is_not_known(tmp_path: Path) -> None:
    assert failures(tried(tmp_path, builder("b2"))) == {"signature": "key_not_trusted"}
    assert failures(tried(tmp_path, builder()._replace(signing_public_key=""))) == {"signature": "not_signed"}


def test_only_what_is_wanted(tmp_path: Path) -> None:
    result = tried(tmp_path, wanted=["login"])
    assert [it["check"] for it in result["checks"]] == ["login"]
    assert not (tmp_path / "built").exists()
    result = tried(tmp_path, builder()._replace(offer=OFFER), wanted=["disk"], nix="exit 1")
    assert [(it["check"], it["verdict"]) for it in result["checks"]] == [("disk", "passed")]


def test_all_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    start = time.monotonic()
    builders = [builder(f"b{number}") for number in range(builder_checks.AT_A_TIME)]
    found = BuilderChecks(host(tmp_path, nix_build="sleep 1; echo /nix/store/x"), ["build"], LIMITS, CLIENT).try_all(
        builders
    )
    assert [(it["name"], failures(it)) for it in found] == [(it.name, {}) for it in builders]
    assert time.monotonic() - start < 6


@pytest.mark.parametrize("name", ["b1", "b 1", "ü", "b@[::1]", "x" * 300])
def test_fresh_name_is_a_valid_one_each_time(name: str) -> None:
    names = {builder_checks.fresh_name(name) for _time in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch("[A-Za-z0-9+._?=-]{1,180}", it) for it in names)


# ---------------------------------------------------------------------------------------------------- machines


def test_builder_of_which_nothing_is_known(tmp_path: Path) -> None:
    result = tried(tmp_path, Builder("b7", None), checks.NAMES)
    assert failures(result) == {"known": "unknown_to_client"}
    assert of(result, "build")["because"] == "known failed: unknown_to_client"
    assert of(result, "disk")["because"] == "the builder was not looked at"


@pytest.mark.parametrize(
    ("machines", "says"),
    [
        ("ssh-ng://nixremote@b2\n", "have none on b1"),
        ("", "have none on b1"),
        ("ssh-ng://nixremote@b1 x86_64-linux - many\n", "Nix reads no machines: .*many"),
    ],
)
def test_builder_that_nix_does_not_know(tmp_path: Path, machines: str, says: str) -> None:
    result = tried(tmp_path, wanted=["known", "login"], machines=machines)
    assert failures(result) == {"known": "no_machine"}
    assert re.search(says, str(of(result, "known")["message"]))


def test_features_are_those_of_the_machines_file(tmp_path: Path) -> None:
    wanted = ["known", "features"]
    found = tried(tmp_path, builder()._replace(offer=OFFER), wanted)
    assert of(found, "features")["message"] == "x86_64-linux, benchmark, kvm"
    offer = {**OFFER, "unbacked_reasons": {"kvm": "there is no /dev/kvm"}}
    assert failures(tried(tmp_path, builder()._replace(offer=offer), wanted)) == {"features": "feature_unusable"}
    result = tried(tmp_path, builder()._replace(no_offer="it is far away"), wanted)
    assert of(result, "features")["because"] == "it is far away"


# ---------------------------------------------------------------------------------------------------- the rest


def test_trust(tmp_path: Path) -> None:
    silent = INFO.replace(', "trusted": true', "")
    assert of(tried(tmp_path, wanted=["trust"], nix=silent), "trust")["verdict"] == "skipped"
    offer = {**OFFER, "account": {"trusted": False}}
    result = tried(tmp_path, builder()._replace(offer=offer), wanted=["trust", "build"], nix=silent)
    assert failures(result) == {"trust": "not_trusted"}
    assert not (tmp_path / "built").exists()
    signed = builder()._replace(signed=True, offer=OFFER)
    assert failures(tried(tmp_path, signed, client=Client(signing_public_key="c-1:key"))) == {}
    assert failures(tried(tmp_path, signed)) == {"trust": "no_client_key"}


def test_disk_and_clock(tmp_path: Path) -> None:
    wanted = ["disk", "clock"]
    given = builder()._replace(offer=OFFER)
    assert failures(tried(tmp_path, given, wanted, client=Client(2.0))) == {}
    assert failures(tried(tmp_path, given, wanted, client=Client(99.0))) == {"clock": "clock_skew"}
    assert of(tried(tmp_path, given, wanted), "clock")["because"] == "it was not measured"
    assert failures(tried(tmp_path, given, wanted, Limits(min_free=2**35), Client(2.0))) == {"disk": "disk_low"}


def test_login_that_the_builder_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAAours client1\n")
    monkeypatch.setattr(
        builder_checks,
        "target_of",
        lambda machine: Target("b1", "192.0.2.1", 22, "n", identity_files=(f"{tmp_path}/k", "/nonexistent")),
    )
    said = "echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1"
    given = builder()._replace(offer=OFFER)
    assert failures(tried(tmp_path, given, nix=said)) == {"login": "key_not_authorized"}


# ---------------------------------------------------------------------------------------------------- silence


class Listener:
    """A port that says something, or nothing, to whoever connects."""

    def __init__(self, words: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._words = words
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _address = self._socket.accept()
        self._kept.append(connection)
        if self._words:
            connection.sendall(self._words)


OTHERWISE = checks.place(checks.store_probe.timed_out("", "ssh-ng://b1", 1))[1]


@pytest.mark.parametrize(
    ("words", "check", "reason"),
    [
        (b"", "tcp", "no_answer"),
        (b"220 mail\r\n", "tcp", "no_answer"),
        (b"SSH-2.0-OpenSSH_10.0\r\n", "protocol", "shell_hangs"),
    ],
)
def test_silence(words: bytes, check: str, reason: str) -> None:
    listener = Listener(words)
    found, finding = builder_checks.locate_silence(Target("b1", "127.0.0.1", listener.port, "n"), 1, OTHERWISE)
    assert (found, finding.reason) == (check, reason)


def test_silence_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    here = Target("b1", "127.0.0.1", port, "n")
    assert builder_checks.locate_silence(here, 1, OTHERWISE) == ("tcp", OTHERWISE)
    proxied = Target("b1", "127.0.0.1", port, "n", proxy_command="nc x y")
    assert builder_checks.locate_silence(proxied, 1, OTHERWISE) == ("tcp", OTHERWISE)
    unknown = Target("b1", "nosuch.invalid", 22, "n")
    assert builder_checks.locate_silence(unknown, 1, OTHERWISE) == ("name", OTHERWISE)


# ---------------------------------------------------------------------------------------------------- lock-down


class Probed:
    """What login_probe finds."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed
        self.checks = ("one", "two")

    def complaint(self) -> str:
        return "pty: sshd grants pty-req"


def test_lockdown_of_a_builder_that_is_not_reached(tmp_path: Path) -> None:
    said = "echo 'nixremote@b1: Permission denied (publickey).' >&2; exit 1"
    result = tried(tmp_path, wanted=checks.NAMES, nix=said)
    assert failures(result) == {"login": "permission_denied"}
    assert of(result, "lockdown")["because"] == "login failed: permission_denied"


@pytest.mark.parametrize(
    ("found", "verdict", "says"),
    [
        (Probed(True), "passed", "2 checks of login_probe"),
        (Probed(False), "failed", "pty: sshd grants pty-req"),
        (builder_checks.ParamikoMissing("gone"), "skipped", "python3-paramiko"),
        (ValueError("no key"), "skipped", "no key"),
    ],
)
def test_lockdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: t.Any, verdict: str, says: str) -> None:
    def probe(*_args: t.Any) -> t.Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(builder_checks.login_probe, "probe", probe)
    check = of(tried(tmp_path, wanted=["lockdown"]), "lockdown")
    assert check["verdict"] == verdict
    assert says in (check["message"] or check["because"])
