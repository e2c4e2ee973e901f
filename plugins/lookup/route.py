# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup C(route)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: route
short_description: Which machines would build a derivation, and why the others would not
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Applies Nix's rule of who may build what, without Nix and without a connection to any machine.
  - A machine takes a derivation when its systems have the derivation's, every required feature is supported or
    mandatory there, every mandatory feature is required, and C(max_jobs) is not 0.
  - Only the derivation itself is judged; what it needs are derivations of their own.
options:
  _terms:
    description:
      - Paths of C(.drv) files that the controller can read, or dicts that say what is required.
      - A dict has the key C(system) and can have C(features), a list.
    type: list
    elements: raw
    required: true
  machines:
    description:
      - The machines, as dicts like those of the option O(nixfleet.builders.machines_file#module:machines).
      - By default those of the inventory's builders, as P(nixfleet.builders.machines#lookup) gives them.
    type: list
    elements: dict
  system:
    description:
      - The system of the client that sends the builds, for example V(x86_64-linux).
      - A machine without C(systems) builds for it; without this option such a machine takes nothing.
    type: str
    default: ''
seealso:
  - plugin: nixfleet.builders.machines
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Stop before a build that no builder would take
  ansible.builtin.assert:
    that: route.machines | length > 0
    fail_msg: "{{ route.message }}"
  vars:
    route: "{{ lookup('nixfleet.builders.route', '/nix/store/3axkybw5y3pnq9yw2ybv49h6xalvv2wb-train.drv') }}"

- name: Where virtual machine tests would run
  ansible.builtin.debug:
    msg: "{{ query('nixfleet.builders.route', required)[0].machines | map(attribute='uri') }}"
  vars:
    required:
      system: x86_64-linux
      features: [kvm, nixos-test]
"""

RETURN = r"""
_raw:
  description: What was found, one dict for each term.
  type: list
  elements: dict
  contains:
    name:
      description: The derivation's name; empty for a term that is a dict.
      type: str
      sample: train
    system:
      description: The system that is required.
      type: str
      sample: x86_64-linux
    features:
      description: The features that are required, sorted.
      type: list
      elements: str
      sample: [kvm]
    machines:
      description:
        - The machines that would take it, as dicts, in the order in which Nix 2.20 and newer chooses among idle ones.
        - Faster ones stand before slower ones, and equals in the order in which they were given.
      type: list
      elements: dict
    refused:
      description: The other machines, in the order in which they were given.
      type: list
      elements: dict
      contains:
        uri:
          description: The machine's URI.
          type: str
          sample: ssh-ng://nixremote@builder1
        reasons:
          description: Every reason why it would not take it.
          type: list
          elements: dict
          contains:
            reason:
              description: Which part, V(system), V(missing_features), V(mandatory_features) or V(no_jobs).
              type: str
              sample: missing_features
            text:
              description: The reason in words, and what to change.
              type: str
              sample: "lacks feature kvm: if the host has it, add it to nix_builder_supported_features"
    message:
      description: A table of all machines and their reasons when none takes it, else empty.
      type: str
"""

import typing as t
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import (
    DerivationError,
    Requirements,
    parse,
    requirements,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.route import route, unroutable
from ansible_collections.nixfleet.builders.plugins.plugin_utils.inventory_machines import (
    InventoryError,
    inventory_machines,
)


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        given = self.get_option("machines")
        try:
            if given is None:
                machines = inventory_machines(self, variables)
            else:
                machines = [Machine.from_dict(machine, number) for number, machine in enumerate(given, 1)]
            return [self._routed(*_required(term), machines) for term in terms]
        except (InventoryError, MachinesError, DerivationError) as error:
            raise AnsibleError(f"nixfleet.builders.route: {error}") from None

    def _routed(self, name: str, required: Requirements, machines: list[Machine]) -> dict[str, t.Any]:
        system = self.get_option("system")
        found = route(machines, required, system)
        return {
            "name": name,
            "system": required.system,
            "features": sorted(required.features),
            "machines": [machine.to_dict() for machine in found.takers],
            "refused": [
                {"uri": machine.uri, "reasons": [reason._asdict() for reason in reasons]}
                for machine, reasons in found.refused
            ],
            "message": unroutable([(name or "this", required)], machines, system),
        }


def _required(term: t.Any) -> tuple[str, Requirements]:
    """The name and what is required, of one term."""
    if isinstance(term, str):
        try:
            drv = parse(term, Path(term).read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AnsibleError(
                f"nixfleet.builders.route: {shown(term)} cannot be read on the controller: {reason}; name a .drv file "
                "that is there, or a dict with system and features"
            ) from None
        return drv.name, requirements(drv)
    system = term.get("system") if isinstance(term, dict) else None
    features = term.get("features") or [] if isinstance(term, dict) else []
    if (
        not isinstance(system, str)
        or set(term) - {"system", "features"}
        or not isinstance(features, list)
        or not all(isinstance(feature, str) for feature in features)
    ):
        raise AnsibleError(
            f"nixfleet.builders.route: {shown(term)} is no term; name a .drv file, or write a dict with the keys "
            "system (text) and features (list of texts)"
        )
    return "", Requirements(str(system), frozenset(map(str, features)))
