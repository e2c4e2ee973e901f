# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NixOS modules: a real Nix evaluates them against the options of tests/support/nixos, and out comes what was meant."""

from __future__ import annotations

import json
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.nixfleet.builders.plugins.module_utils import gate, machines, nix_conf, nixos, sshd_config
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.tests.support.machine_samples import FRACTIONS, MACHINE_LISTS, key_line
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
SYSTEM = ROOT / "tests/support/nixos/system.nix"
KEY = key_line(comment="")
SIGNER = "builder1-1:MUZWSxmTpZLGCSj3CPcDIHiAyzIbeO7czXRxFhTtTE8="
FACT: dict[str, t.Any] = {
    "machine": {
        "uri": "ssh-ng://nixremote@builder1",
        "systems": ["x86_64-linux"],
        "max_jobs": 4,
        "supported_features": ["big-parallel", "gpu"],
        "mandatory_features": ["gpu"],
        "public_host_key": key_line(),
    },
    "address": "192.0.2.11",
    "port": 2222,
    "host_keys": [key_line(), key_line("ssh-rsa")],
    "signing_public_key": SIGNER,
}

needs_nix = pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="there is no Nix on this machine")


def evaluated(directory: Path, systems: t.Sequence[t.Sequence[str]], wanted: str = "files") -> list[t.Any]:
    """One part of each system that is made of some modules; one call of Nix for all."""
    texts = []
    for number, modules in enumerate(systems):
        paths = [directory / f"{number}-{place}.nix" for place in range(len(modules))]
        for path, module in zip(paths, modules):
            path.write_bytes(module.encode())
        texts.append(f"(import {SYSTEM} {{ modules = [ {' '.join(map(str, paths))} ]; }}).{wanted}")
    command = ["nix-instantiate", "--eval", "--strict", "--json", "-"]
    done = subprocess.run(command, input="[" + "\n".join(texts) + "]", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return t.cast("list[t.Any]", json.loads(done.stdout))


def error_of(directory: Path, modules: t.Sequence[str]) -> str:
    """Why Nix refuses a system."""
    with pytest.raises(AssertionError) as caught:
        evaluated(directory, [modules])
    return str(caught.value)


def refusal(call: t.Callable[[], object]) -> str:
    with pytest.raises(nixos.NixosError) as caught:
        call()
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- client


def meaning(machine: Machine) -> tuple[t.Any, ...]:
    """What Nix makes of a machine: mandatory features are offered ones, too."""
    offered = {*machine.supported_features, *machine.mandatory_features}
    return (*(value for value in machine.to_dict().values() if not isinstance(value, list)), machine.systems,
            tuple(sorted(offered)), machine.mandatory_features)  # fmt: skip


@needs_nix
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(lists=st.lists(MACHINE_LISTS | st.lists(FRACTIONS, max_size=1), min_size=1, max_size=12))
@example(
    lists=[[Machine("ssh-ng://u@h:2222?compress=true"), Machine("daemon"), Machine("ssh://[::1]", speed_factor=1.25)]]
)
@example(lists=[[Machine("ssh-ng://h", supported_features=("a",), mandatory_features=("b",)), Machine("ssh-ng://i")]])
@example(lists=[[Machine("ssh-ng://h", speed_factor=1e-30)], [Machine("ssh-ng://h", speed_factor=3e38)]])
def test_the_machines_are_those_of_the_machines_file(tmp_path: Path, lists: list[list[Machine]]) -> None:
    texts, expected = [], []
    for some in lists:
        given = {"machines": [machine.to_dict() for machine in some], "nix_version": "2.30.1"}
        try:
            machines.check(some, (2, 30, 1))
        except machines.MachinesError as error:
            assert refusal(lambda given=given: nixos.client(given)) == str(error)
            continue
        texts.append([nixos.client(given)])
        expected.append(machines.parse(machines.render_file(some, (2, 30, 1)), nix_version=(2, 30, 1)))
    for files, wanted in zip(evaluated(tmp_path, texts), expected):
        found = machines.parse(files.get("nix/machines", {"text": ""})["text"], nix_version=(2, 30, 1))
        assert list(map(meaning, found)) == list(map(meaning, wanted))
        assert "builders = \n" not in files["nix/nix.conf"]["text"]


def test_build_machines_is_what_is_said_wherever_it_can() -> None:
    plain = nixos.client({"machines": [{"uri": "ssh-ng://u@h:2222?a=b", "speed_factor": 1.5}], "nix_version": "2.34.8"})
    assert 'hostName = "ssh-ng://u@h:2222?a=b"' in plain and "protocol = null" in plain and "speedFactor = 1.5" in plain
    lines = nixos.client({"machines": [{"uri": "ssh://h"}, {"uri": "ssh://i", "mandatory_features": ["gpu"]}]})
    assert "buildMachines" not in lines and '"nix/machines"' in lines


@needs_nix
def test_a_client(tmp_path: Path) -> None:
    text = nixos.client(
        {
            "builders": {"builder1": FACT},
            "settings": {
                "builders": "@/etc/nix/machines",
                "builders-use-substitutes": True,
                "extra-trusted-public-keys": [SIGNER],
                "extra-substituters": ["ssh-ng://nixremote@builder1"],
                "max-jobs": 0,
            },
            "fact": {"builders": {"builder1": FACT}},
        }
    )
    own = '{ programs.ssh.extraConfig = "ServerAliveInterval 99"; nix.settings.trusted-public-keys = [ "own:x" ]; }'
    files = evaluated(tmp_path, [[own, text]])[0]
    (machine,) = machines.parse(files["nix/machines"]["text"])
    assert machine == Machine.from_dict({**FACT["machine"], "ssh_key": "/root/.ssh/nixremote"})
    conf = nix_conf.settings_of(files["nix/nix.conf"]["text"])
    assert conf["builders-use-substitutes"] == "true" and conf["max-jobs"] == "0" and "builders" not in conf
    assert conf["trusted-public-keys"].split()[1:] == ["own:x", SIGNER]
    assert conf["substituters"] == "ssh-ng://nixremote@builder1"
    assert json.loads(files["ansible/facts.d/nix_client.fact"]["text"]) == {"builders": {"builder1": FACT}}
    known = files["ssh/ssh_known_hosts"]["text"].splitlines()
    assert sorted(known) == sorted(f"builder1 {' '.join(line.split()[:2])}" for line in FACT["host_keys"])
    (tmp_path / "ssh_config").write_text(files["ssh/ssh_config"]["text"])
    for host, expected in {"builder1": "192.0.2.11", "elsewhere": "elsewhere"}.items():
        command = ["ssh", "-G", "-F", str(tmp_path / "ssh_config"), host]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        ours = host == "builder1"
        assert f"hostname {expected}" in said
        assert ("user nixremote" in said) == ("port 2222" in said) == ("hostkeyalias builder1" in said) == ours
        # What the administrator says further down holds for all other hosts.
        assert f"serveraliveinterval {15 if ours else 99}" in said


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"builder": {}}, "'builder' is nothing that a client has"),
        ({"machines": {}}, "machines of a client is .* wrong type"),
        ({"connect_timeout": True}, "wrong type"),
        ({"builders": {"b": {}}}, "there is no machine in one"),
        ({"builders": {"b": {**FACT, "port": "x"}}}, "the port of b is 'x'"),
        ({"builders": {"b": {**FACT, "address": "a\nProxyCommand evil"}}}, "the address of b"),
        ({"builders": {"b c": FACT}}, "the name of a builder"),
        ({"builders": {"b": {**FACT, "host_keys": ["x"]}}}, "a host key of b"),
        ({"ssh_key": "/root/a b"}, "ssh_key is"),
        ({"ssh_user": "a b"}, "ssh_user is"),
        ({"machines": [{"uri": "ssh://h", "speed_factor": 1.5}]}, "whole numbers only"),
        ({"machines": [{"host": "a"}, {"host": "a"}]}, "named twice"),
        ({"settings": {"access-tokens": "github.com=x"}}, "access-tokens is a secret"),
        ({"settings": {"substituters": ["https://u:secret@h/"]}}, "URL with a password"),
        ({"settings": {"a": "b\nc"}}, "holds a newline"),
        ({"settings": {"trusted-public-keys": ["x"]}}, "no public key"),
        ({"nix_version": "new"}, "no version"),
        ({"fact": {"a": "\udcff"}}, ""),
        ([], "no dict"),
    ],
)
def test_a_client_that_is_refused(given: t.Any, reason: str) -> None:
    if reason:
        with pytest.raises(nixos.NixosError, match=reason):
            nixos.client(given)
    else:
        refusal(lambda: nixos.client(given))


# ---------------------------------------------------------------------------------------------------- builder

BUILDER: dict[str, t.Any] = {
    "clients": {"client1": KEY, "Client0": key_line(body=b"z" * 32, comment="")},
    "keys": [f'from="192.0.2.0/24" {KEY} someone ${{HOME}} "quoted"'],
    "uid": 400,
    "settings": {
        "extra-trusted-users": ["nixremote"],
        "extra-secret-key-files": ["/var/lib/nixfleet/signing-key"],
        "max-jobs": "auto",
        "cores": 2,
        "extra-system-features": ["gpu"],
    },
    "fact": {"nix_version": "2.30.1"},
}


@needs_nix
def test_a_builder(tmp_path: Path) -> None:
    own = (
        '{ services.openssh = { settings.MaxStartups = "50"; extraConfig = "Banner none"; };'
        " nix.settings.max-jobs = 3; }"
    )
    wanted = "files", "users.nixremote", "groups", "tmpfiles"
    files, user, groups, rules = (evaluated(tmp_path, [[own, nixos.builder(BUILDER)]], part)[0] for part in wanted)
    assert {
        key: user[key] for key in ("uid", "group", "home", "hashedPassword", "shell", "isSystemUser", "createHome")
    } == {
        "uid": 400,
        "group": "nixremote",
        "home": "/var/lib/nixremote",
        "hashedPassword": "*",
        "shell": "/bin/sh",
        "isSystemUser": True,
        "createHome": False,
    }
    assert groups == {"nixremote": {"gid": None}} and rules == ["d /var/lib/nixremote 0555 root root - -"]
    keys = files["ssh/authorized_keys.d/nixremote"]
    prefix = 'restrict,command="/etc/nixfleet/gate"'
    assert keys["mode"] == "0444" and keys["text"].splitlines() == [
        f"{prefix} {BUILDER['clients']['Client0']} nixfleet:Client0",
        f"{prefix} {KEY} nixfleet:client1",
        f"{prefix},{BUILDER['keys'][0]} nixfleet:+",
    ]
    conf = nix_conf.settings_of(files["nix/nix.conf"]["text"])
    assert conf["trusted-users"] == "root nixremote" and conf["max-jobs"] == "3" and conf["cores"] == "2"
    assert conf["extra-secret-key-files"] == "/var/lib/nixfleet/signing-key" and conf["extra-system-features"] == "gpu"
    # What NixOS has by itself is still there.
    assert "kvm" in conf["system-features"]
    directives = sshd_config.parse(files["ssh/sshd_config"]["text"], "sshd_config")
    ours = {each.keyword: each.value for each in directives if each.match == "user nixremote"}
    assert (
        ours["forcecommand"] == "/etc/nixfleet/gate" and ours["authorizedkeysfile"] == "/etc/ssh/authorized_keys.d/%u"
    )
    others = {each.keyword: each.value for each in directives if not each.conditional}
    assert others == {"maxstartups": "50", "match": "all", "banner": "none"}
    script = files["nixfleet/gate"]
    assert script["mode"] == "0555" and "/run/current-system/sw/bin/nix-daemon --stdio" in script["text"]
    subprocess.run(["sh", "-n"], input=script["text"], text=True, check=True)
    assert json.loads(files["ansible/facts.d/nix_builder.fact"]["text"]) == BUILDER["fact"]


@needs_nix
def test_the_gate_is_the_one_of_other_systems(tmp_path: Path) -> None:
    choices = {"serve": True, "wrapper": ["/usr/bin/bwrap", "--bind", "a b'c", "$x"], "nix_bin_dir": "/nix/bin"}
    (files,) = evaluated(tmp_path, [[nixos.builder({"gate": choices})]])
    wanted = gate.render("/nix/bin", serve=True, wrapper=["/usr/bin/bwrap", "--bind", "a b'c", "$x"])
    assert files["nixfleet/gate"]["text"] == wanted
    (files,) = evaluated(tmp_path, [[nixos.builder({"gate": False, "clients": {"c": KEY}})]])
    assert "nixfleet/gate" not in files and "ForceCommand" not in files["ssh/sshd_config"]["text"]
    assert files["ssh/authorized_keys.d/nixremote"]["text"] == f"restrict {KEY} nixfleet:c\n"


@needs_nix
def test_certificates(tmp_path: Path) -> None:
    (files,) = evaluated(tmp_path, [[nixos.builder({"ca_keys": [KEY], "ca_principals": ["ci", "lab"]})]])
    assert files["ssh/nixfleet-ca.pub"]["text"] == f"{KEY}\n"
    prefix = 'restrict,command="/etc/nixfleet/gate"'
    assert files["ssh/nixfleet-principals"]["text"] == f"{prefix} ci\n{prefix} lab\n"
    assert "TrustedUserCAKeys /etc/ssh/nixfleet-ca.pub" in files["ssh/sshd_config"]["text"]


@needs_nix
def test_nobody_is_trusted_where_signatures_count(tmp_path: Path) -> None:
    signed = {"require-sigs": True, "extra-trusted-public-keys": [SIGNER]}
    (files,) = evaluated(tmp_path, [[nixos.builder({"settings": signed})]])
    conf = nix_conf.settings_of(files["nix/nix.conf"]["text"])
    assert conf["trusted-users"] == "root" and conf["require-sigs"] == "true"
    assert conf["trusted-public-keys"].split()[1:] == [SIGNER]


@needs_nix
def test_both_on_one_host_and_what_nixos_refuses(tmp_path: Path) -> None:
    settings = {"max-jobs": 2, "extra-secret-key-files": ["/var/lib/nixfleet/signing-key"]}
    both = [nixos.builder({"settings": settings}), nixos.client({"builders": {"builder1": FACT}, "settings": settings})]
    (files,) = evaluated(tmp_path, [[*both, nixos.absent()]])
    assert {"nix/machines", "nixfleet/gate"} <= set(files)
    assert "max-jobs" in error_of(tmp_path, [*both, "{ nix.settings.max-jobs = 3; }"])
    # The stand-in has teeth.
    assert "does not exist" in error_of(tmp_path, ["{ nix.buildMachine = [ ]; }"])
    assert "is no integer" in error_of(
        tmp_path, ['{ nix.buildMachines = [ { hostName = "a"; systems = [ "s" ]; maxJobs = "2"; } ]; }']
    )


def test_the_locks_are_those_of_other_systems() -> None:
    """Key for key, and value for value, apart from where things are."""
    text = (ROOT / "roles/nix_builder/vars/main.yml").read_text()
    role = yaml.safe_load(text)["_nix_builder_sshd_settings"]
    assert {
        key: value for key, value in role.items() if key not in ("AuthorizedKeysFile", "MaxSessions", "SetEnv")
    } == nixos.LOCKED


def test_digests() -> None:
    """What other hosts have published is remembered, and needs no rebuild by itself; all else does."""

    def digest(**more: t.Any) -> str:
        return nixos.builder({**BUILDER, **more}).splitlines()[2]

    assert digest() == digest(fact={"clients": {}}) and digest().startswith("# Module ")
    assert len({digest(), digest(uid=401), digest(settings={}), digest(sshd_settings={"MaxSessions": 3})}) == 4


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"users": "x"}, "'users' is nothing that a builder has"),
        ({"user": "root"}, "user is root"),
        ({"user": "a b"}, "user is 'a b'"),
        ({"home": "/a b"}, "home is"),
        ({"home": '/x"; evil = "'}, "home is"),
        ({"gate": {"nix": "/x"}}, "'nix' is nothing that the gate has"),
        ({"gate": {"nix_bin_dir": "bin"}}, "must be an absolute path"),
        ({"keys": [f'command="x" {KEY}']}, "a command of its own"),
        ({"sshd_settings": {"Banner": "$HOME"}}, "a shell expand"),
        ({"sshd_settings": {"Match": "all"}}, "not the name of a setting"),
        ({"ca_keys": ["a\nb"]}, "ca_keys has"),
        ({"settings": {"secret-key-files": "key"}}, "no absolute path"),
        ({"uid": "400"}, "wrong type"),
    ],
)
def test_a_builder_that_is_refused(given: dict[str, t.Any], reason: str) -> None:
    with pytest.raises(nixos.NixosError, match=reason):
        nixos.builder(given)
