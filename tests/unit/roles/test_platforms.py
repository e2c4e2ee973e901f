# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles on platforms that are not here: simulated facts, the real preflight, and what follows, rendered."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.tests.support.simulated_play import Host, Played, play

#: distribution, os_family; as ansible-core names them.
PLATFORMS = {
    "debian": ("Debian", "Debian"),
    "fedora": ("Fedora", "RedHat"),
    "arch": ("Archlinux", "Archlinux"),
    "suse": ("openSUSE Tumbleweed", "Suse"),
    "alpine": ("Alpine", "Alpine"),
    "macos": ("MacOSX", "Darwin"),
    "nixos": ("NixOS", "NixOS"),
    "gentoo": ("Gentoo", "Gentoo"),
    "likearch": ("Gentoo", "Gentoo"),
    "guarded": ("Alpine", "Alpine"),
}
VARIABLES: dict[str, dict[str, t.Any]] = {
    "likearch": {"nix_builder_platform": "Archlinux", "nix_client_platform": "Archlinux"},
    "guarded": {"nix_builder_disk_guard": True},
}

#: The roles' variables that differ.
SHOWN = {
    "nix_builder": (
        "_nix_builder_platform",
        "_nix_builder_pending_sshd",
        "_nix_builder_pending_nix",
        "_nix_builder_nix_settings",
    ),
    "nix_client": ("_nix_client_platform", "_nix_client_pending_nix", "nix_client_ssh_key"),
}


def play_all(directory: Path, role: str) -> Played:
    hosts = {
        host: Host(
            {"ansible_distribution": distribution, "ansible_os_family": family, "ansible_local": {}},
            VARIABLES.get(host, {}),
        )
        for host, (distribution, family) in PLATFORMS.items()
    }
    return play(directory, role, hosts, {name: name for name in SHOWN[role]})


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play_all(tmp_path_factory.mktemp("builder"), "nix_builder")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play_all(tmp_path_factory.mktemp("client"), "nix_client")


def test_builder_platforms(builder: Played) -> None:
    systemd = {"sshd": "sshd", "services": "systemd", "accounts": "passwd", "root_group": "root", "run": "/run"}
    platforms = {
        host: {name: value for name, value in shown["_nix_builder_platform"].items() if name in systemd}
        for host, shown in builder.shown.items()
    }
    assert platforms == {
        "debian": {**systemd, "sshd": "ssh"},
        "fedora": systemd,
        "arch": systemd,
        "suse": systemd,
        "nixos": systemd,
        "likearch": systemd,
        "alpine": {**systemd, "services": "openrc"},
        "macos": {
            **systemd,
            "services": "launchd",
            "accounts": "dscl",
            "root_group": "wheel",
            "run": "/var/run",
        },
    }


def test_builder_files(builder: Played) -> None:
    assert builder.shown["macos"]["_nix_builder_pending_sshd"] == "/var/run/nixfleet/reload-sshd"
    assert builder.shown["fedora"]["_nix_builder_pending_nix"] == "/run/nixfleet/restart-nix-daemon-builder"
    allowed = {
        host: shown["_nix_builder_nix_settings"].get("extra-allowed-users") for host, shown in builder.shown.items()
    }
    assert {host: users for host, users in allowed.items() if users} == {"alpine": ["nixremote"]}


@pytest.mark.parametrize("role", ["builder", "client"])
def test_an_unknown_platform_is_refused_by_name(role: str, request: pytest.FixtureRequest) -> None:
    said = request.getfixturevalue(role).said
    assert "gentoo: the role does not know the platform Gentoo (os_family Gentoo)" in said
    assert "It knows Alpine, Archlinux, Darwin, Debian, NixOS, RedHat, Suse." in said
    assert f"nix_{role}_platform" in said
    assert "how nix-daemon is restarted" in said
    assert "gentoo" not in request.getfixturevalue(role).shown


def test_timers_need_systemd(builder: Played) -> None:
    assert (
        "guarded: nix_builder_disk_guard and nix_builder_metrics are timers of systemd, which Alpine does"
        in builder.said
    )


def test_client_platforms(client: Played) -> None:
    keys = {host: shown["nix_client_ssh_key"] for host, shown in client.shown.items()}
    assert keys.pop("macos") == "/var/root/.ssh/nixremote"
    assert set(keys.values()) == {"/root/.ssh/nixremote"}
    assert client.shown["macos"]["_nix_client_pending_nix"] == "/var/run/nixfleet/restart-nix-daemon-client"
    assert client.shown["alpine"]["_nix_client_platform"]["services"] == "openrc"


def test_both_roles_say_the_same(builder: Played, client: Played) -> None:
    for host, shown in builder.shown.items():
        there = client.shown[host]["_nix_client_platform"]
        assert there == {name: shown["_nix_builder_platform"][name] for name in there}
