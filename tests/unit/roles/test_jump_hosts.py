# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way that a client's ssh is told to take, rendered for several clients; the scenario bastion takes one."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.nixfleet.builders.tests.support.simulated_play import COLLECTIONS, Host, Played, play

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPK7XD52mnzLl1o8Yj7DgPKUQ4NVNM/hyQZRXEVS8BZP"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX"
PLATFORM = {"ansible_distribution": "Debian", "ansible_os_family": "Debian", "ansible_local": {}}
OUTSIDE = {"address": "gw.example", "port": 2222, "user": "me", "ssh_key": "/root/.ssh/gw", "host_keys": [OTHER_KEY]}


def known(*jumps: str) -> dict[str, t.Any]:
    """What a builder publishes, as far as ssh's configuration needs it."""
    return {
        "address": "10.0.0.7",
        "port": 22,
        "machine": {"user": "nixremote"},
        "host_keys": [KEY],
        "proxy_jump": [*jumps],
    }


BUILDERS = {"b1": known("bastion"), "b2": known("gw", "bastion"), "b3": {**known(), "host_keys": [KEY, OTHER_KEY]}}
FACTS = {
    "ansible_ssh_host_key_ed25519_public": KEY.split()[1],
    "ansible_ssh_host_key_ed25519_public_keytype": "ssh-ed25519",
}


def client(**variables: t.Any) -> Host:
    fact = {"next_ssh_public_key": "", "jump_hosts": {}}
    return Host(PLATFORM, {"nix_client_fact": fact, "nix_client_jump_hosts": {"gw": OUTSIDE}, **variables})


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    builders = {
        name: Host(PLATFORM, {"nix_builder_fact": fact, "nix_builder_proxy_jump": fact["proxy_jump"]})
        for name, fact in BUILDERS.items()
    }
    hosts = {
        **builders,
        "far": client(),
        "inside": client(nix_client_proxy_jump={"*": []}),
        "beside": client(nix_client_proxy_jump={"b2": ["bastion"]}),
        # A client itself, and one of the jump hosts.
        "bastion": Host(
            {**PLATFORM, **FACTS}, {**client().variables, "ansible_host": "192.0.2.1", "ansible_port": 2200}
        ),
        "rotating": client(nix_client_fact={"next_ssh_public_key": OTHER_KEY, "jump_hosts": {}}),
        "lost": client(nix_client_proxy_jump={"b1": ["nowhere"]}),
        "wrong": client(
            nix_client_jump_hosts={"gw": {"address": "a b", "host_keys": ["ssh-ed25519"], "colour": "red"}}
        ),
        "short": client(nix_client_jump_hosts={"gw": {"user": "me"}}),
    }
    clients = ["far", "inside", "beside", "bastion", "rotating", "lost", "wrong", "short"]
    templates = f"{COLLECTIONS}/ansible_collections/nixfleet/builders/roles/nix_client/templates"
    shown = {
        "config": f"lookup('ansible.builtin.template', '{templates}/ssh_config.j2')",
        "pins": f"lookup('ansible.builtin.template', '{templates}/known_hosts.j2')",
        "logins": "_nix_client_logins",
        "changing": "_nix_client_changing",
    }
    groups = {"nix_builders": list(BUILDERS), "nix_clients": clients}
    return play(tmp_path_factory.mktemp("jumps"), "nix_client", hosts, shown, groups, "nix_clients")


def blocks(played: Played, client: str) -> dict[str, dict[str, str]]:
    """The Host blocks, each with its keywords."""
    found = {}
    for block in played.shown[client]["config"].split("\nHost ")[1:]:
        name, *lines = block.splitlines()
        settings = (line.split(None, 1) for line in lines if re.match(" +[A-Z]", line))
        found[name] = dict(settings)
    return found


def ways(played: Played, client: str) -> dict[str, str | None]:
    return {name: block.get("ProxyJump") for name, block in blocks(played, client).items()}


def test_as_the_builders_say(played: Played) -> None:
    assert ways(played, "far") == {
        "b1": "nixfleet-jump-bastion",
        "b2": "nixfleet-jump-gw,nixfleet-jump-bastion",
        "b3": None,
        "nixfleet-jump-bastion": None,
        "nixfleet-jump-gw": None,
    }


def test_another_way_from_a_client(played: Played) -> None:
    assert ways(played, "inside") == {"b1": None, "b2": None, "b3": None}
    assert ways(played, "beside")["b2"] == "nixfleet-jump-bastion"
    assert "nixfleet-jump-gw" not in ways(played, "beside")


def test_a_jump_host_begins_after_itself(played: Played) -> None:
    assert ways(played, "bastion") == {"b1": None, "b2": None, "b3": None}


def test_jump_hosts_of_the_inventory_and_others(played: Played) -> None:
    found = blocks(played, "far")
    bastion, gw = found["nixfleet-jump-bastion"], found["nixfleet-jump-gw"]
    assert [bastion[word] for word in ("HostName", "Port", "User", "IdentityFile")] == [
        "192.0.2.1",
        "2200",
        "nixjump",
        "/root/.ssh/nixremote",
    ]
    assert [gw[word] for word in ("HostName", "Port", "User", "IdentityFile")] == [
        "gw.example",
        "2222",
        "me",
        "/root/.ssh/gw",
    ]
    for block in (bastion, gw):
        assert [block[word] for word in ("StrictHostKeyChecking", "BatchMode", "IdentitiesOnly")] == ["yes"] * 3
    lines = played.shown["far"]["pins"].splitlines()
    assert f"nixfleet-jump-bastion {KEY}" in lines
    assert f"nixfleet-jump-gw {OTHER_KEY}" in lines


def test_a_new_key_is_proved_on_jump_hosts_that_take_the_clients_own(played: Played) -> None:
    assert played.shown["rotating"]["logins"] == ["b1", "b2", "b3", "nixfleet-jump-bastion"]
    config = played.shown["rotating"]["config"]
    assert config.count("IdentityFile /root/.ssh/nixremote.next") == 4
    assert "/root/.ssh/gw.next" not in config


def test_a_builder_that_changes_its_host_keys_is_connected_to_again(played: Played) -> None:
    commands = {name: block.get("ProxyCommand") for name, block in blocks(played, "far").items()}
    assert commands.pop("b3") == "/usr/bin/python3 /root/.ssh/nixfleet/connect.py %h %p"
    assert set(commands.values()) == {None}
    assert played.shown["far"]["changing"] == ["b3"]


def test_refused_before_anything_is_changed(played: Played) -> None:
    assert "lost: no host of the inventory, and none of nix_client_jump_hosts, is called nowhere" in played.said
    assert "wrong: nix_client_jump_hosts cannot be used: colour, ssh-ed25519, a b;" in played.said
    assert "short: nix_client_jump_hosts cannot be used:" in played.said
    assert not {"lost", "wrong", "short"} & set(played.shown)
