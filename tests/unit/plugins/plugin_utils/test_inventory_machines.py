# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which builders of an inventory, and what is known of them; the lookups' own options are tested with them."""

from __future__ import annotations

import types
import typing as t

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.plugin_utils.inventory_machines import (
    InventoryError,
    inventory_machines,
)

try:
    from ansible.template import trust_as_template as template
except ImportError:  # ansible-core before 2.19 trusts every text
    template = str

GROUPS = {
    "all": ["b1", "b2", "b3", "c1"],
    "ungrouped": [],
    "nix_builders": ["b2", "b1", "b3"],
    "fast": ["b3", "c1"],
    "empty": [],
}


def fact(host: str) -> dict[str, t.Any]:
    return {"machine": {"host": host, "max_jobs": 2}, "nix_version": "2.26.3"}


def published(host: str) -> dict[str, t.Any]:
    """What a play knows after it has gathered facts."""
    return {"ansible_facts": {"ansible_local": {"nix_builder": fact(host)}}}


HOSTVARS: dict[str, dict[str, t.Any]] = {name: published(name) for name in ("b1", "b2", "b3")} | {"c1": {}}


def ask(
    *terms: str, hostvars: dict[str, dict[str, t.Any]] | None = None, group: str | None = None, **options: t.Any
) -> list[str]:
    """The hosts of the machines."""
    variables: dict[str, t.Any] = {"groups": GROUPS, "hostvars": {**HOSTVARS, **(hostvars or {})}, "chosen": "fast"}
    if group is not None:
        variables["nix_builders_group"] = group
    loader = DataLoader()
    lookup = types.SimpleNamespace(_loader=loader, _templar=Templar(loader, variables=variables))
    machines = inventory_machines(lookup, variables, terms, **options)
    assert all(isinstance(machine, Machine) for machine in machines)
    return [machine.parts.host for machine in machines]


@pytest.mark.parametrize(
    ("terms", "hosts"),
    [
        ((), ["b2", "b1", "b3"]),
        (("b3", "b1", "b3"), ["b3", "b1"]),
        (("nix_builders",), ["b2", "b1", "b3"]),
        (("nix_builders", "!fast"), ["b2", "b1"]),
        (("nix_builders", "&fast"), ["b3"]),
        (("nix_builders", "&b9", "!b8"), []),
        (("b1", "fast", "!c1"), ["b1", "b3"]),
        (("~b[13]",), ["b1", "b3"]),
        (("empty",), []),
    ],
)
def test_which_builders(terms: tuple[str, ...], hosts: list[str]) -> None:
    assert ask(*terms) == hosts


def test_the_group_of_builders_is_a_variable() -> None:
    """Which may be a template, as variables that nobody asked for are not expanded yet."""
    assert ask(group="fast", exclude=["c1"]) == ["b3"]
    assert ask(group=template("{{ chosen }}"), exclude=["c1"]) == ["b3"]
    assert ask(group="not_there") == []


@pytest.mark.parametrize("term", ["b9", "b*x", "~c[2-9]"])
def test_a_term_that_fits_nobody(term: str) -> None:
    with pytest.raises(InventoryError, match="no host or group of the inventory fits") as caught:
        ask("b1", term)
    assert repr(term) in str(caught.value)


def test_who_is_excluded_need_not_be_known() -> None:
    assert ask("fast", "b1", exclude=["c1", "b1"]) == ["b3"]


def test_the_newest_that_is_known_counts() -> None:
    """This run's, then the gathered one under either name, then what is remembered."""
    remembered = {"b1": fact("remembered")}
    local = {"ansible_facts": {"local": {"nix_builder": fact("local")}}}
    both = {"nix_builder_fact": fact("set"), **published("gathered")}
    for known, host in ((both, "set"), (published("gathered"), "gathered"), (local, "local"), ({}, "remembered")):
        assert ask("b1", hostvars={"b1": known}, remembered=remembered) == [host]
    assert ask("b1", hostvars={"b1": {"ansible_facts": None}}, remembered=remembered) == ["remembered"]


def test_a_builder_of_which_nothing_is_known() -> None:
    with pytest.raises(InventoryError, match=r"builder c1 has published nothing that this run knows; run nixfleet\."):
        ask("b1", "c1", "b2")
    texts: list[str] = []
    assert ask("b1", "c1", "b2", unknown=texts.append) == ["b1", "b2"]
    assert len(texts) == 1 and texts[0].startswith("builder c1 has published nothing")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"nix_version": "2.8"}, "there is no machine in it"),
        ({"machine": {"host": "b1", "max_jobs": "many"}}, "max_jobs"),
        ({"machine": {}}, "host"),
        ("error loading facts as JSON", ""),
        (["b1"], ""),
    ],
)
def test_a_damaged_fact(broken: t.Any, reason: str) -> None:
    """Is an error also where unknown builders are left out."""
    with pytest.raises(InventoryError, match=f"what builder b1 has published is damaged: .*{reason}.*; run the role"):
        ask("b1", hostvars={"b1": {"nix_builder_fact": broken}}, unknown=lambda text: None)


def test_the_inventorys_own_machine_is_what_is_left() -> None:
    """As the inventory plugin machines gives it; what was published goes before."""
    read = {"nix_builder_machine": {"host": "from-the-file"}}
    assert ask("b1", hostvars={"b1": read}) == ["from-the-file"]
    assert ask("b1", hostvars={"b1": read}, remembered={"b1": fact("then")}) == ["then"]
    assert ask("b1", hostvars={"b1": {**published("now"), **read}}) == ["now"]
