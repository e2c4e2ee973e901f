# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines file through a real AnsibleModule, and what this machine's Nix reads in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import files, nix_cli
from ansible_collections.nixfleet.builders.plugins.modules import machines_file

HEADER = f"# {files.HEADER}"
Result = dict[str, t.Any]
B1 = {"host": "b1", "user": "nixremote", "systems": ["x86_64-linux"], "max_jobs": 4, "supported_features": ["kvm", "a"]}
B1_LINE = "ssh-ng://nixremote@b1 x86_64-linux - 4 1 a,kvm - -"
B2 = {"uri": "ssh://b2", "speed_factor": 2}
B2_LINE = "ssh://b2 - - 1 2 - - -"
BY_HAND = "# by hand\nssh://hand x86_64-linux # mine\n@/does/not/exist\nssh-ng://nixremote@b1 - - 1 # rack\n"


class Host:
    """A machines file in a directory, and the module run on it."""

    def __init__(self, path: Path, run: t.Callable[..., Result]) -> None:
        self.path = path
        self.run = run

    def __call__(self, *machines: t.Any, **options: t.Any) -> Result:
        if machines or options.get("state") != "absent":
            options["machines"] = list(machines)
        return self.run(machines_file, **{"path": str(self.path), "nix_version": "2.8.0", **options})

    def refused(self, *machines: t.Any, **options: t.Any) -> str:
        """The message of a failure, after which the file is untouched."""
        before = self.path.read_bytes() if self.path.exists() else None
        result = self(*machines, **options)
        assert result.get("failed"), result
        assert (self.path.read_bytes() if self.path.exists() else None) == before
        assert "Traceback" not in result["msg"]
        return str(result["msg"])


@pytest.fixture
def host(tmp_path: Path, run_module: t.Callable[..., Result]) -> Host:
    return Host(tmp_path / "machines", run_module)


def test_a_new_file_then_the_same_then_another(host: Host) -> None:
    result = host(B1, B2)
    text = f"{HEADER}\n{B1_LINE}\n{B2_LINE}\n"
    assert (result["changed"], result["path"], result["lines"]) == (True, str(host.path), [B1_LINE, B2_LINE])
    assert host.path.read_text() == text
    assert oct(host.path.stat().st_mode) == "0o100644"
    assert (result["diff"]["before"], result["diff"]["after"]) == ("", text)
    assert result["machines"][0] == {
        "uri": "ssh-ng://nixremote@b1",
        "systems": ["x86_64-linux"],
        "ssh_key": "",
        "max_jobs": 4,
        "speed_factor": 1.0,
        "supported_features": ["a", "kvm"],
        "mandatory_features": [],
        "public_host_key": "",
    }

    again = host(*result["machines"])
    assert (again["changed"], again["machines"], again["lines"]) == (False, result["machines"], result["lines"])

    last = host(B2)
    assert (last["changed"], last["lines"]) == (True, [B2_LINE])
    assert (last["diff"]["before"], last["diff"]["after"]) == (text, f"{HEADER}\n{B2_LINE}\n")


def test_no_machines_at_all(host: Host) -> None:
    assert host()["changed"]
    assert host.path.read_text() == HEADER + "\n"
    assert not host()["changed"]


def test_check_mode_only_tells(host: Host) -> None:
    result = host(B1, check=True)
    assert (result["changed"], result["lines"], host.path.exists()) == (True, [B1_LINE], False)
    host(B2)
    assert host(B1, check=True)["diff"]["after"] == f"{HEADER}\n{B1_LINE}\n"
    assert host(state="absent", check=True)["changed"]
    assert host.path.read_text() == f"{HEADER}\n{B2_LINE}\n"


def test_check_mode_on_a_bare_host(host: Host) -> None:
    host.path = host.path.parent / "no" / "such" / "machines"
    assert host(B1, check=True)["changed"]
    assert "no such directory" in host.refused(B1)


def test_mode_and_owner(host: Host) -> None:
    host(B1, mode="0640")
    assert oct(host.path.stat().st_mode) == "0o100640"
    assert not host(B1, mode="0640")["changed"]
    assert host(B1)["changed"]
    assert oct(host.path.stat().st_mode) == "0o100644"
    assert host(B1, mode="0600", check=True)["changed"]
    assert oct(host.path.stat().st_mode) == "0o100644"


def test_absent(host: Host) -> None:
    host(B1)
    result = host(state="absent")
    assert (result["changed"], result["machines"], host.path.exists()) == (True, [], False)
    assert (result["diff"]["before"], result["diff"]["after"]) == (f"{HEADER}\n{B1_LINE}\n", "")
    assert not host(state="absent")["changed"]


def test_a_link_is_replaced_not_followed(host: Host) -> None:
    elsewhere = host.path.parent / "elsewhere"
    elsewhere.write_text("# theirs\n")
    host.path.symlink_to(elsewhere)
    host(B1)
    assert (elsewhere.read_text(), host.path.is_symlink()) == ("# theirs\n", False)


# ---------------------------------------------------------------------------------------------------- not exclusive


def test_lines_that_are_not_named_stay(host: Host) -> None:
    host.path.write_text(BY_HAND)
    result = host(B1, B2, exclusive=False)
    assert host.path.read_text() == BY_HAND.replace("ssh-ng://nixremote@b1 - - 1", B1_LINE) + B2_LINE + "\n"
    assert [machine["uri"] for machine in result["machines"]] == ["ssh://hand", "ssh-ng://nixremote@b1", "ssh://b2"]
    assert not host(B1, B2, exclusive=False)["changed"]


def test_a_line_made_by_hand_that_says_the_same_is_adopted(host: Host) -> None:
    host.path.write_text("ssh-ng://nixremote@b1  x86_64-linux  -  4  -  kvm,a\n")
    assert not host(B1, exclusive=False)["changed"]


def test_a_new_file_without_exclusive(host: Host) -> None:
    host(B1, exclusive=False)
    assert host.path.read_text() == f"{HEADER}\n{B1_LINE}\n"


def test_single_machines_go(host: Host) -> None:
    host.path.write_text(BY_HAND)
    assert host(B1, B2, exclusive=False, state="absent")["changed"]
    assert host.path.read_text() == "# by hand\nssh://hand x86_64-linux # mine\n@/does/not/exist\n# rack\n"
    assert not host(B1, exclusive=False, state="absent")["changed"]


def test_the_file_goes_with_its_last_machine(host: Host) -> None:
    host(B1, B2)
    assert host({"uri": "ssh-ng://nixremote@b1"}, {"uri": "ssh://b2"}, exclusive=False, state="absent")["changed"]
    assert not host.path.exists()
    assert not host(B1, exclusive=False, state="absent")["changed"]


def test_absent_of_nothing_in_particular_is_refused(host: Host) -> None:
    assert "machines" in host.refused(state="absent", exclusive=False)


@pytest.mark.parametrize("state", ["present", "absent"])
def test_an_old_line_that_nix_would_refuse(host: Host, state: str) -> None:
    host.path.write_text("# fine\nssh://hand - - many\n")
    message = host.refused(B1, exclusive=False, state=state)
    assert (
        f"machines file {host.path}, line 2, machine ssh://hand, max_jobs, column 4: 'many' is no unsigned" in message
    )
    assert not host(B1).get("failed")


def test_a_machine_in_an_included_file(host: Host) -> None:
    more = host.path.parent / "more"
    more.write_text(f"@{more}2\nssh-ng://nixremote@B1\n")
    host.path.write_text(f"@{more}\n")
    message = host.refused(B1, exclusive=False)
    assert str(more) in message
    assert "line 1" in message
    assert [m["uri"] for m in host(B2, exclusive=False)["machines"]] == ["ssh-ng://nixremote@B1", "ssh://b2"]
    (host.path.parent / "more2").mkdir()
    assert "Is a directory" in host.refused(B2, exclusive=False)


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"max_jobs": "many"}, "max_jobs"),
        ({"max_jobs": -1}, "max_jobs"),
        ({"max_jobs": 1.5}, "max_jobs"),
        ({"speed_factor": "fast"}, "speed_factor"),
        ({"speed_factor": -2}, "speed_factor"),
        ({"speed_factor": 1.5}, "speed_factor"),
        ({"speed_factor": float("nan")}, "speed_factor"),
        ({"systems": ["x86_64 linux"]}, "systems"),
        ({"supported_features": ["a;b"]}, "supported_features"),
        ({"mandatory_features": ["-"]}, "mandatory_features"),
        ({"ssh_key": "/k#1"}, "ssh_key"),
        ({"public_host_key": "b1 ssh-ed25519 AAAA"}, "public_host_key"),
        ({"uri": "ssh-ng://nixremote@bad b1"}, "uri"),
        ({"uri": "ssh-ng://nixremote@bad:22"}, "port"),
    ],
)
def test_a_bad_value_names_the_machine_and_the_key(host: Host, changes: dict[str, t.Any], key: str) -> None:
    host.path.write_text("# the old file\n")
    message = host.refused(B2, {"uri": "ssh-ng://nixremote@bad", **changes})
    assert message.startswith("machine ssh-ng://nixremote@bad")
    assert f", {key}: " in message


def test_a_fraction_or_a_port_for_a_nix_that_reads_it(host: Host) -> None:
    assert host({**B1, "speed_factor": 1.5, "port": 2222}, nix_version="2.34.8")["lines"] == [
        "ssh-ng://nixremote@b1:2222 x86_64-linux - 4 1.5 a,kvm - -"
    ]


def test_what_else_is_refused(host: Host) -> None:
    assert "named twice" in host.refused(B1, {"uri": "ssh-ng://nixremote@B1"})
    assert "machine number 2" in host.refused(B1, {"max_jobs": 1})
    assert "maxJobs" in host.refused({"uri": "ssh://b", "maxJobs": 1})
    assert "2029" in host.refused({"host": socket.gethostname()})
    assert "2029" in host.refused({"host": "127.0.0.1"})
    assert "version of Nix" in host.refused(B1, nix_version="newest")
    assert "absolute" in host.refused(B1, path="machines")
    assert "machines" in host.run(machines_file, path=str(host.path))["msg"]
    assert "nix_bin_dir" in host.refused(B1, nix_version=None, nix_bin_dir="/does/not/exist")


def test_own_addresses_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machines_file.is_own_address("127.0.0.1")
    assert not machines_file.is_own_address("198.51.100.7")
    assert not machines_file.is_own_address("198.51.100.999")
    asked: list[str] = []

    def resolve(name: str, *_rest: object, **_more: object) -> list[t.Any]:
        asked.append(name)
        if name == "client.unknown":
            raise socket.gaierror(-2, "Name or service not known")
        address = "127.0.0.1" if name == "client.example.org" else "198.51.100.7"
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0))]

    monkeypatch.setattr(socket, "gethostname", lambda: "Client")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    names = ["client.example.org", "client.elsewhere.org", "client.unknown", "builder.example.org", "127.0.0.1", "::2"]
    assert machines_file.own_names(names) == {"client", "client.example.org", "127.0.0.1"}
    assert asked == names[:3]


# ---------------------------------------------------------------------------------------------------- which Nix


def fake_nix(directory: Path, version: str) -> str:
    directory.mkdir()
    for name in ("nix", "nix-store"):
        (directory / name).write_text(f"#!/bin/sh\necho '{version}'\n")
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    ("shown", "reads_fractions", "reads_ports"),
    [
        ("nix (Nix) 2.8.0", False, False),
        ("nix (Nix) 2.26.3", True, False),
        ("nix (Nix) 2.34.8", True, True),
        ("nix (Lix, like Nix) 2.93.0", True, False),
    ],
)
def test_the_hosts_nix_is_asked(host: Host, shown: str, reads_fractions: bool, reads_ports: bool) -> None:
    options = {"nix_version": None, "nix_bin_dir": fake_nix(host.path.parent / "bin", shown)}
    assert bool(host({**B2, "speed_factor": 1.5}, **options).get("failed")) != reads_fractions
    assert bool(host({**B1, "port": 2222}, **options).get("failed")) != reads_ports


def test_without_nix_the_oldest_rules_hold(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nix_cli, "BIN_DIRS", ("/does/not/exist",))
    assert "2.8" in host.refused({**B2, "speed_factor": 1.5}, nix_version=None)
    assert not host(B1, nix_version=None).get("failed")


@pytest.mark.skipif(not shutil.which("nix"), reason="needs Nix on this machine")
def test_the_nix_of_this_machine_reads_the_file(host: Host) -> None:
    result = host(B1, B2, {"host": "b3", "mandatory_features": ["gpu"]}, nix_version=None)
    script = Path(__file__).resolve().parents[3] / "support/nix_hook.py"
    shown = subprocess.run(
        [sys.executable, str(script)],
        stdin=host.path.open(),
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    for machine in result["machines"]:
        assert machine["uri"] in shown.stdout
