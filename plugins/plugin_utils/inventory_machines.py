# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inventory's builders as machines, out of what they have published; for the plugins of the controller."""

from __future__ import annotations

import typing as t

from ansible.inventory.manager import InventoryManager
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError


class InventoryError(Exception):
    """A term that fits no host, or a builder of which nothing usable is known."""


def inventory_machines(
    lookup: t.Any,
    variables: t.Mapping[str, t.Any],
    terms: t.Sequence[str] = (),
    exclude: t.Collection[str] = (),
    remembered: t.Mapping[str, t.Any] | None = None,
    unknown: t.Callable[[str], None] | None = None,
) -> list[Machine]:
    """One machine for each builder that the terms name, in their order; without terms those of the group of builders.

    lookup: the plugin that asks, for its loader and templar. remembered: published facts by inventory name, where this
    run knows none. unknown: called with the text about a builder of which no fact is known, which is then left out.
    Raises InventoryError; also, without C(unknown), for a builder of which no fact is known.
    """
    group = lookup._templar.template(variables.get("nix_builders_group", "nix_builders"))
    found = []
    for name in _hosts(lookup._loader, terms, variables["groups"], group):
        if name in exclude:
            continue
        fact = _fact(name, variables["hostvars"], remembered or {})
        if fact:
            found.append(_machine(name, fact))
            continue
        text = (
            f"builder {name} has published nothing that this run knows; run nixfleet.builders.fleet, or the role "
            f"nixfleet.builders.nix_builder, on it first, and gather its facts in this run"
        )
        if unknown is None:
            raise InventoryError(text)
        unknown(text)
    return found


def _hosts(loader: t.Any, terms: t.Sequence[str], groups: t.Mapping[str, list[str]], default: str) -> list[str]:
    """The hosts of the patterns in their order. InventoryError for a term that fits none."""
    if not terms:
        return list(groups.get(default, []))
    if all(term in groups["all"] for term in terms):
        return list(dict.fromkeys(terms))  # names, which need no matching
    manager = InventoryManager(loader, parse=False)
    for group, names in groups.items():
        manager.add_group(group)
        for name in names:
            manager.add_host(name, group=group)
    for term in terms:
        if term[:1] not in "!&" and term not in groups and not manager.get_hosts(pattern=term):
            raise InventoryError(f"no host or group of the inventory fits {term!r}; correct the name")
    return [host.name for host in manager.get_hosts(pattern=list(terms))]


def _fact(name: str, hostvars: t.Mapping[str, t.Any], remembered: t.Mapping[str, t.Any]) -> t.Any:
    """What a builder publishes; None where nothing is known."""
    known = hostvars[name]
    gathered = known.get("ansible_facts") or {}
    # ansible-core 2.19 to 2.21 keep the prefix of this one fact (vars/clean.py, namespace_facts).
    local = gathered.get("ansible_local") or gathered.get("local") or {}
    fact = known.get("nix_builder_fact") or local.get("nix_builder") or remembered.get(name)
    if fact or not known.get("nix_builder_machine"):
        return fact
    return {"machine": known["nix_builder_machine"]}  # from the inventory nixfleet.builders.machines


def _machine(name: str, fact: t.Any) -> Machine:
    try:
        return Machine.from_dict(fact["machine"] if isinstance(fact, dict) else fact)
    except (MachinesError, KeyError) as error:
        reason = "there is no machine in it" if isinstance(error, KeyError) else str(error)
        raise InventoryError(
            f"what builder {name} has published is damaged: {reason}; run the role nixfleet.builders.nix_builder on it "
            "again"
        ) from None  # ansible-core would say the reason twice
