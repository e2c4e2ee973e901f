# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host can offer, out of settings and probes."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import builder_facts
from hypothesis import given
from hypothesis import strategies as st

OPTIONS = {
    "host": "b1",
    "user": "nixremote",
    "protocol": "ssh-ng",
    "port": None,
    "ssh_key": None,
    "systems": None,
    "max_jobs": None,
    "speed_factor": 1.0,
    "supported_features": None,
    "mandatory_features": None,
}
FOUND = {"systems": ["x86_64-linux"], "max_jobs": 4, "features": ["kvm"], "host_keys": ["ssh-ed25519 AAAA1"]}


@pytest.mark.parametrize(
    ("max_jobs", "cores", "cpus", "memory_mb", "jobs", "share"),
    [
        (1, 0, 64, 256_000, 8, 8),
        (1, 64, 64, 256_000, 8, 8),
        (0, 0, 16, 64_000, 4, 4),
        (1, 0, 16, 5_000, 2, 8),
        (1, 0, 16, 500, 1, 16),
        (1, 0, 2, 4_000, 1, 2),
        (16, 0, 16, 64_000, 16, 1),
        (99, 0, 16, 64_000, 16, 1),
        (3, 0, 16, 64_000, 3, 5),
        (8, 4, 16, 64_000, 4, 4),
        (2, 4, 16, 64_000, 2, 4),
        (0, 4, 16, 64_000, 4, 4),
        (1, 99, 16, 64_000, 4, 4),
    ],
)
def test_jobs(max_jobs: int, cores: int, cpus: int, memory_mb: int, jobs: int, share: int) -> None:
    assert builder_facts.pick_jobs(max_jobs, cores, cpus, memory_mb)[:2] == (jobs, share)


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 512), st.integers(0, 10**6))
def test_jobs_fit_and_stay(max_jobs: int, cores: int, cpus: int, memory_mb: int) -> None:
    """The product never exceeds the CPUs, and once written into nix.conf the pick is found again."""
    jobs, share, reason = builder_facts.pick_jobs(max_jobs, cores, cpus, memory_mb)
    assert jobs >= 1 and share >= 1 and reason
    assert jobs * share <= max(cpus, 1)
    assert builder_facts.pick_jobs(jobs, share, cpus, memory_mb)[:2] == (jobs, share)


def test_systems() -> None:
    settings = {"system": "x86_64-linux", "extra-platforms": ["i686-linux", "x86_64-linux"]}
    assert builder_facts.systems(settings) == ["x86_64-linux", "i686-linux"]
    assert builder_facts.hardware_systems("Linux", "x86_64") == ["x86_64-linux", "i686-linux"]
    assert builder_facts.hardware_systems("Darwin", "arm64") == ["aarch64-darwin"]


def test_features() -> None:
    probes = {"kvm": "there is no /dev/kvm", "apple-virt": "no"}
    settings = {"system-features": ["kvm", "big-parallel", "uid-range", "gpu"]}
    found = builder_facts.features(settings, probes)
    assert found.configured == ["big-parallel", "gpu", "kvm", "uid-range"]
    assert found.backed == ["big-parallel", "gpu"]
    assert list(found.unbacked) == ["kvm", "uid-range"]
    assert found.unbacked["kvm"] == "there is no /dev/kvm"
    assert builder_facts.features({**settings, "auto-allocate-uids": True}, {"kvm": ""}).unbacked == {}


@pytest.mark.parametrize("enabled", [["recursive-nix", "flakes"], [4, 2]])
def test_features_of_experiments(enabled: list[object]) -> None:
    """2.8 lists them as numbers."""
    settings = {"system-features": [], "experimental-features": enabled}
    assert builder_facts.features(settings, {}).backed == ["recursive-nix"]


def test_features_without_nix() -> None:
    found = builder_facts.hardware_features({"kvm": "", "apple-virt": "no"})
    assert found.backed == ["benchmark", "big-parallel", "kvm", "nixos-test"]


def test_host_keys() -> None:
    lines = [
        "ssh-rsa AAAAB3r  me",
        "junk",
        "",
        "ssh-ed25519-cert-v01@openssh.com AAAAc",
        "ssh-ed25519 AAAAC3",
        "ssh-rsa AAAAB3r",
    ]
    assert builder_facts.sort_keys(lines) == ["ssh-ed25519 AAAAC3", "ssh-rsa AAAAB3r"]


@pytest.mark.parametrize(
    ("effective", "ports"),
    [
        ({}, [22]),
        ({"port": "22 2222"}, [22, 2222]),
        ({"port": "22", "listenaddress": "[::]:2222 0.0.0.0:2222"}, [2222]),
    ],
)
def test_ports(effective: dict[str, str], ports: list[int]) -> None:
    assert builder_facts.ports(effective) == ports


def test_machine_as_found() -> None:
    assert builder_facts.machine(OPTIONS, **FOUND) == {
        "protocol": "ssh-ng",
        "user": "nixremote",
        "host": "b1",
        "systems": ["x86_64-linux"],
        "max_jobs": 4,
        "speed_factor": 1.0,
        "supported_features": ["kvm"],
        "mandatory_features": [],
        "public_host_key": "ssh-ed25519 AAAA1",
    }


def test_machine_as_told() -> None:
    told = {
        "port": 2222,
        "ssh_key": "/k",
        "systems": ["riscv64-linux"],
        "max_jobs": 9,
        "supported_features": ["a"],
        "mandatory_features": ["b"],
    }
    entry = builder_facts.machine({**OPTIONS, **told}, **{**FOUND, "host_keys": []})
    assert {key: entry[key] for key in told} == told
    assert "public_host_key" not in entry


def test_mandatory_features_are_supported_ones() -> None:
    entry = builder_facts.machine({**OPTIONS, "mandatory_features": ["b"]}, **FOUND)
    assert entry["supported_features"] == ["b", "kvm"]
