# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may build what: Nix's rule, the reasons in words, the order, the table."""

from __future__ import annotations

import time
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import route as room
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import Requirements
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.route import (
    LocalMachine,
    label,
    refusals,
    route,
    unroutable,
)
from hypothesis import given
from hypothesis import strategies as st

LINUX = "x86_64-linux"


def machine(name: str = "b1", **more: t.Any) -> Machine:
    return Machine(uri=f"ssh-ng://nix@{name}", **{"systems": (LINUX,), **more})


def needs(*features: str, system: str = LINUX, **more: t.Any) -> Requirements:
    return Requirements(system, frozenset(features), **more)


def reasons(candidate: room.Candidate, required: Requirements, own_system: str = "") -> list[str]:
    return [refusal.reason for refusal in refusals(candidate, required, own_system)]


# ---------------------------------------------------------------------------------------------------- rule

WORDS = st.sets(st.sampled_from(["kvm", "big-parallel", "benchmark", "ca-derivations"]))
SYSTEMS = ["x86_64-linux", "aarch64-linux", "i686-linux"]


@given(
    st.sets(st.sampled_from(SYSTEMS)),
    WORDS,
    WORDS,
    st.sampled_from([0, 1, 4]),
    st.sampled_from([*SYSTEMS, "builtin"]),
    WORDS,
    st.sampled_from(["", *SYSTEMS]),
)
def test_nix_s_rule_for_a_machine(
    systems: set[str],
    supported: set[str],
    mandatory: set[str],
    max_jobs: int,
    system: str,
    features: set[str],
    own_system: str,
) -> None:
    """machines.cc, said the other way round: systemSupported, allSupported, mandatoryMet."""
    one = machine(
        systems=tuple(systems),
        supported_features=tuple(supported),
        mandatory_features=tuple(mandatory),
        max_jobs=max_jobs,
    )
    system_supported = system == "builtin" or system in (systems or {own_system})
    all_supported = all(feature in supported or feature in mandatory for feature in features)
    mandatory_met = all(feature in features for feature in mandatory)
    found = reasons(one, Requirements(system, frozenset(features)), own_system)
    assert ("system" in found) == (not system_supported)
    assert ("missing_features" in found) == (not all_supported)
    assert ("mandatory_features" in found) == (not mandatory_met)
    assert ("no_jobs" in found) == (not max_jobs)
    assert len(found) == len(set(found)) <= 4


@pytest.mark.parametrize(
    ("local", "required", "expected"),
    [
        (LocalMachine(LINUX), needs(), []),
        (LocalMachine(LINUX), needs(system="i686-linux"), ["system"]),
        (LocalMachine(LINUX, frozenset({"i686-linux"})), needs(system="i686-linux"), []),
        (LocalMachine(LINUX), needs("kvm"), ["missing_features"]),
        (LocalMachine(LINUX, features=frozenset({"kvm", "x"})), needs("kvm"), []),
        (LocalMachine(LINUX, max_jobs=0), needs(), ["no_jobs"]),
        # Its builder is a part of Nix, which does not mind the system; the word alone is just another system.
        (LocalMachine(LINUX), needs(system="aarch64-darwin", builtin=True), []),
        (LocalMachine(LINUX), needs(system="builtin", builtin=True), []),
        (LocalMachine(LINUX), needs(system="builtin"), ["system"]),
    ],
)
def test_nix_s_rule_for_the_client_itself(local: LocalMachine, required: Requirements, expected: list[str]) -> None:
    assert reasons(local, required) == expected


def test_a_machine_cannot_use_the_client_s_builtin_builders_for_another_system() -> None:
    assert reasons(machine(), needs(system="aarch64-darwin", builtin=True)) == ["system"]


def test_a_machine_without_systems_builds_for_the_client_s_own() -> None:
    one = machine(systems=())
    assert reasons(one, needs(), LINUX) == []
    assert reasons(one, needs(), "aarch64-linux") == ["system"]
    assert refusals(one, needs())[0].text == (
        "builds for the client's own system, which is not known here: name its systems"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"system": LINUX}, LocalMachine(LINUX)),
        (
            {
                "system": LINUX,
                "extra-platforms": ["i686-linux"],
                "system-features": ["kvm"],
                "max-jobs": 4,
                "experimental-features": [0, 3],
            },
            LocalMachine(LINUX, frozenset({"i686-linux"}), frozenset({"kvm", "ca-derivations"}), 4),
        ),
        (
            {"system": LINUX, "max-jobs": 0, "experimental-features": ["nix-command", "recursive-nix"]},
            LocalMachine(LINUX, features=frozenset({"recursive-nix"}), max_jobs=0),
        ),
    ],
)
def test_the_client_out_of_its_settings(settings: dict[str, t.Any], expected: LocalMachine) -> None:
    assert LocalMachine.from_settings(settings) == expected
    assert LocalMachine.from_settings(settings, 7).max_jobs == 7


# ---------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("candidate", "required", "text"),
    [
        (
            machine(systems=("i686-linux", LINUX)),
            needs(system="aarch64-linux"),
            "builds for i686-linux, x86_64-linux, not for aarch64-linux: if the host can, add that to "
            "nix_builder_systems",
        ),
        (
            machine(),
            needs("kvm"),
            "lacks feature kvm: if the host has it, add it to nix_builder_supported_features",
        ),
        (
            machine(supported_features=("b",)),
            needs("c", "b", "a"),
            "lacks features a, c: if the host has them, add them to nix_builder_supported_features",
        ),
        (
            machine(),
            needs("ca-derivations"),
            "lacks feature ca-derivations: if the host has it, add it to nix_builder_supported_features "
            "(ca-derivations also has to be among the experimental-features of the Nix there)",
        ),
        (
            machine(mandatory_features=("benchmark",)),
            needs(),
            "takes only what requires benchmark, which this does not: let it, or take that out of "
            "nix_builder_mandatory_features",
        ),
        (machine(max_jobs=0), needs(), "takes no builds, as its max_jobs is 0: raise nix_builder_max_jobs"),
        (
            LocalMachine(LINUX, frozenset({"i686-linux"})),
            needs(system="aarch64-linux"),
            "builds for x86_64-linux, i686-linux, not for aarch64-linux: if it can, add that to its Nix's "
            "extra-platforms",
        ),
        (
            LocalMachine(LINUX),
            needs("kvm"),
            "lacks feature kvm: if the host has it, add it to system-features of its Nix",
        ),
        (
            LocalMachine(LINUX, max_jobs=0),
            needs(),
            "builds nothing, as it is allowed no jobs: raise local_jobs, or its max-jobs",
        ),
    ],
)
def test_each_reason_says_what_to_change(candidate: room.Candidate, required: Requirements, text: str) -> None:
    assert [refusal.text for refusal in refusals(candidate, required)] == [text]


@pytest.mark.parametrize(
    ("uri", "name"),
    [("ssh-ng://nix@b1", "b1"), ("ssh://[::1]:22", "::1"), ("/srv/store", "/srv/store"), ("daemon", "daemon")],
)
def test_machines_are_named_by_their_host(uri: str, name: str) -> None:
    assert label(Machine(uri=uri)) == name


# ---------------------------------------------------------------------------------------------------- order


def test_takers_stand_in_the_order_of_nix() -> None:
    local = LocalMachine(LINUX)
    slow, fast, same, refusing = machine("b1"), machine("b2", speed_factor=2), machine("b3"), machine("b4", max_jobs=0)
    found = route([local, slow, refusing, fast, same], needs())
    assert found.takers == [fast, slow, same, local]
    assert found.refused == [(refusing, refusals(refusing, needs()))]
    assert route([slow, local, fast], needs(prefer_local=True)).takers == [local, fast, slow]
    assert route([slow, LocalMachine(LINUX, max_jobs=0)], needs(prefer_local=True)).takers == [slow]


# ---------------------------------------------------------------------------------------------------- table


def test_what_no_machine_takes_as_a_table() -> None:
    machines = [
        machine("b1", supported_features=("kvm",)),
        machine("b2"),
        machine("b3"),
        machine("big", systems=("aarch64-linux",), mandatory_features=("kvm",), max_jobs=0),
    ]
    wanted = [
        ("fine-1", needs()),
        ("arm-1", needs("kvm", "gpu", system="aarch64-linux")),
        ("arm-2", needs("gpu", "kvm", system="aarch64-linux", prefer_local=True)),
        ("fine-2", needs("kvm")),
        ("mac", needs(system="aarch64-darwin")),
    ]
    assert unroutable(wanted, machines) == (
        "No machine takes arm-1, arm-2, which need system aarch64-linux and features gpu, kvm.\n"
        "  b1      builds for x86_64-linux, not for aarch64-linux: if the host can, add that to nix_builder_systems\n"
        "          lacks feature gpu: if the host has it, add it to nix_builder_supported_features\n"
        "  b2, b3  builds for x86_64-linux, not for aarch64-linux: if the host can, add that to nix_builder_systems\n"
        "          lacks features gpu, kvm: if the host has them, add them to nix_builder_supported_features\n"
        "  big     lacks feature gpu: if the host has it, add it to nix_builder_supported_features\n"
        "          takes no builds, as its max_jobs is 0: raise nix_builder_max_jobs\n"
        "\n"
        "No machine takes mac, which needs system aarch64-darwin.\n"
        "  b1, b2, b3  builds for x86_64-linux, not for aarch64-darwin: if the host can, add that to "
        "nix_builder_systems\n"
        "  big         builds for aarch64-linux, not for aarch64-darwin: if the host can, add that to "
        "nix_builder_systems\n"
        "              takes only what requires kvm, which this does not: let it, or take that out of "
        "nix_builder_mandatory_features\n"
        "              takes no builds, as its max_jobs is 0: raise nix_builder_max_jobs"
    )


def test_what_can_be_built_makes_no_table() -> None:
    assert unroutable([], []) == unroutable([("x", needs())], [machine()]) == ""
    assert unroutable([("x", needs(system="m"))], [machine(systems=())], "m") == ""


def test_without_any_machine() -> None:
    assert unroutable([("x", needs())], []) == (
        "No machine takes x, which needs system x86_64-linux.\n"
        "  There is no machine at all: name builders, or allow local jobs."
    )


def test_ten_thousand_derivations_over_a_thousand_machines_are_a_short_table() -> None:
    machines = [machine(f"b{number}") for number in range(1000)]
    wanted = [(f"drv-{number}", needs(f"f{number % 20}")) for number in range(10_000)]
    start = time.process_time()
    table = unroutable(wanted, machines)
    assert time.process_time() - start < 3
    assert table.count("\n") < 80
    assert "drv-0, drv-20, drv-40, drv-60, drv-80 and 495 more" in table
    assert "b0, b1, b2, b3, b4 and 995 more" in table
