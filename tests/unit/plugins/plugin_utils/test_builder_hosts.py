# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as hosts: names, variables, groups, and what is left out."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import SSH_SCHEMES, is_loopback
from ansible_collections.nixfleet.builders.plugins.plugin_utils.builder_hosts import BuilderHost, builder_hosts
from hypothesis import given

from tests.support.machine_samples import FULL, MACHINE_LISTS


def hosts(*uris: str) -> tuple[dict[str, BuilderHost], list[str]]:
    found, remarks = builder_hosts([Machine(uri=uri) for uri in uris])
    return {host.name: host for host in found}, remarks


def test_all_that_a_machine_says() -> None:
    machine = Machine.from_dict({**FULL, "uri": "ssh-ng://nixremote@builder1:2222"})
    found, remarks = builder_hosts([machine])
    assert (remarks, [host.name for host in found]) == ([], ["builder1-2222"])
    assert found[0].variables == {
        "ansible_host": "builder1",
        "ansible_port": 2222,
        "nix_builder_address": "builder1",
        "nix_builder_port": 2222,
        "nix_builder_user": "nixremote",
        "nix_builder_protocol": "ssh-ng",
        "nix_builder_systems": ["i686-linux", "x86_64-linux"],
        "nix_builder_max_jobs": 8,
        "nix_builder_speed_factor": 2.0,
        "nix_builder_supported_features": ["big-parallel", "kvm"],
        "nix_builder_mandatory_features": ["gpu"],
        "nix_builder_machine": machine.to_dict(),
    }
    assert found[0].groups == (
        "nix_feature_big_parallel",
        "nix_feature_gpu",
        "nix_feature_kvm",
        "nix_mandatory_gpu",
        "nix_system_i686_linux",
        "nix_system_x86_64_linux",
    )


def test_what_a_machine_does_not_say_is_left_to_the_roles() -> None:
    found, remarks = hosts("b1")
    assert remarks == []
    assert set(found["b1"].variables) == {
        "ansible_host",
        "nix_builder_address",
        "nix_builder_protocol",
        "nix_builder_max_jobs",
        "nix_builder_speed_factor",
        "nix_builder_supported_features",
        "nix_builder_mandatory_features",
        "nix_builder_machine",
    }
    assert found["b1"].variables["nix_builder_protocol"] == "ssh"
    assert found["b1"].groups == ()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("auto", "no host"),
        ("daemon", "no host"),
        ("/srv/store", "no host"),
        ("?root=/x", "no host"),
        ("unix:///run/socket", "unix"),
        ("https://cache.example.org", "https"),
        ("ssh://", "names no host"),
        ("ssh://localhost", "itself"),
        ("ssh-ng://u@127.0.0.1:22", "itself"),
        ("ssh://[::1]", "itself"),
    ],
)
def test_what_is_no_host_is_left_out(uri: str, why: str) -> None:
    found, remarks = hosts("ssh://b1", uri)
    assert list(found) == ["b1"]
    assert len(remarks) == 1 and remarks[0].startswith(f"{uri} is left out: ") and why in remarks[0]


def test_a_virtual_machine_on_a_port_of_the_client() -> None:
    found, remarks = hosts("ssh-ng://builder@localhost:31022")
    assert remarks == []
    assert found["localhost-31022"].variables["ansible_host"] == "localhost"


def test_ports_make_hosts() -> None:
    """Whatever the order: a name must not change when a line is moved."""
    uris = ["ssh://u@gw:2201", "ssh://u@gw", "ssh://u@gw:2202", "ssh://u@other:22"]
    for order in (uris, uris[::-1]):
        found, remarks = hosts(*order)
        assert (set(found), remarks) == ({"gw-2201", "gw", "gw-2202", "other"}, [])
    assert found["other"].variables["ansible_port"] == 22


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ("ssh-ng://u@b1", "twice"),
        ("ssh-ng://u@B1.", "twice"),
        ("ssh://u@b1", "b1 is ssh-ng://u@b1 already"),
        ("ssh-ng://v@b1", "one builder of a host"),
        ("ssh-ng://u@b1:22", "one builder of a host"),
    ],
)
def test_the_first_of_two_machines_on_a_host_counts(second: str, why: str) -> None:
    found, remarks = hosts("ssh-ng://u@b1", second)
    assert [host.variables["nix_builder_machine"]["uri"] for host in found.values()] == ["ssh-ng://u@b1"]
    assert len(remarks) == 1 and remarks[0].startswith(f"{second} is left out: ") and why in remarks[0]


def test_a_host_whose_name_looks_like_another_ones_port() -> None:
    found, remarks = hosts("ssh://gw-2201", "ssh://gw:2201")
    assert list(found) == ["gw-2201"] and found["gw-2201"].variables["ansible_host"] == "gw-2201"
    assert "ssh://gw:2201 is left out: gw-2201 is ssh://gw-2201 already" in remarks[0]


def test_ipv6() -> None:
    found, remarks = hosts("ssh-ng://u@[fd00::12]", "ssh-ng://u@[fd00:0::12]", "ssh-ng://u@[fd00::13]:2222")
    assert list(found) == ["fd00::12", "fd00::13-2222"] and "twice" in remarks[0]
    assert found["fd00::12"].variables["ansible_host"] == "fd00::12"
    assert found["fd00::13-2222"].variables["nix_builder_signing_key_name"] == "fd00--13-2222-1"


@pytest.mark.parametrize("uri", ["ssh-ng://u@b1?compress=true&max-connections=2", "mounted-ssh-ng://u@b1"])
def test_what_the_roles_do_not_write_again_is_said(uri: str) -> None:
    found, remarks = hosts(uri)
    assert found["b1"].variables["nix_builder_machine"]["uri"] == uri
    assert len(remarks) == 1 and remarks[0].startswith(f"{uri}: ") and "nix_builder_machine" in remarks[0]


def as_the_role_writes_it(host: BuilderHost) -> Machine:
    """The machine of these variables: what builder_info is given (roles/nix_builder/tasks/publish.yml), and no more."""
    given: dict[str, t.Any] = {
        key: host.variables.get(f"nix_builder_{key}")
        for key in ("protocol", "user", "systems", "max_jobs", "speed_factor", "supported_features")
        + ("mandatory_features",)
    }
    return Machine.from_dict({**given, "host": host.name})


@given(MACHINE_LISTS)
def test_the_same_machines(machines: list[Machine]) -> None:
    """Every machine is a host or in a remark; a host has the machine, and the role's variables mean the same."""
    found, remarks = builder_hosts(machines)
    kept = {host.variables["nix_builder_machine"]["uri"]: host for host in found}
    assert [Machine.from_dict(host.variables["nix_builder_machine"]) for host in found] == [
        machine for machine in machines if machine.uri in kept
    ]
    left_out = [remark for remark in remarks if " is left out: " in remark]
    assert len(found) + len(left_out) == len(machines)
    for machine in machines:
        if machine.uri not in kept:
            continue
        parts = machine.parts
        assert parts.protocol in SSH_SCHEMES and not is_loopback(parts.host)
        if not parts.rest and not parts.host.startswith("~"):
            written = as_the_role_writes_it(kept[machine.uri]).to_dict()
            whole = machine.to_dict()
            assert written == {**whole, "ssh_key": "", "public_host_key": ""}
