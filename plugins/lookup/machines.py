# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup C(machines)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: machines
short_description: The inventory's builders, as machines for Nix
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Gives one machine for each builder, out of the facts that the role P(nixfleet.builders.nix_builder#role) publishes.
  - A builder's fact is taken from its variable C(nix_builder_fact), which the role sets in the same run; else from its
    local fact C(nix_builder) (C(/etc/ansible/facts.d/nix_builder.fact)), where facts of it were gathered; else from
    O(remembered); else it is what the inventory P(nixfleet.builders.machines#inventory) has read
    (C(nix_builder_machine)).
options:
  _terms:
    description:
      - Names of hosts or groups, or patterns of them, as in C(hosts) of a play.
      - By default the group that the variable C(nix_builders_group) names, else C(nix_builders).
    type: list
    elements: str
  format:
    description:
      - V(dicts) gives what the option O(nixfleet.builders.machines_file#module:machines) takes.
      - V(lines) gives lines of a machines file.
    type: str
    choices: [dicts, lines]
    default: dicts
  ssh_key:
    description: The path of the client's private key, set for every machine.
    type: str
  protocol:
    description: The URI scheme for every machine that is reached over ssh, V(ssh-ng) or V(ssh), in place of its own.
    type: str
  exclude:
    description: Inventory names that are left out, such as the client itself.
    type: list
    elements: str
    default: []
  remembered:
    description:
      - Published facts by inventory name, for builders of which this run knows none, for example unreachable ones.
      - The role P(nixfleet.builders.nix_client#role) keeps them on each client.
    type: dict
    default: {}
  missing:
    description: What to do about a builder of which no fact is known, V(warn) and V(skip) leave it out.
    type: str
    choices: [error, warn, skip]
    default: error
  nix_version:
    description:
      - The version of the Nix that reads the lines, with O(format=lines), for example V(2.26.3).
      - Without it they suit every supported version.
    type: str
seealso:
  - module: nixfleet.builders.machines_file
  - plugin: nixfleet.builders.machines
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: A client's machines file
  nixfleet.builders.machines_file:
    machines: "{{ query('nixfleet.builders.machines', ssh_key=key, exclude=[inventory_hostname]) }}"
  vars:
    key: /root/.ssh/nix_builder

- name: The lines for two builders, over the older protocol
  ansible.builtin.debug:
    msg: "{{ query('nixfleet.builders.machines', 'builder1', 'builder2', protocol='ssh', format='lines') }}"
"""

RETURN = r"""
_raw:
  description: The machines, in the order of the terms, and within a term in that of the inventory.
  type: list
  elements: raw
  sample:
    - uri: ssh-ng://nixremote@builder1
      systems: [x86_64-linux]
      ssh_key: /root/.ssh/nix_builder
      max_jobs: 4
      speed_factor: 1.0
      supported_features: [benchmark, big-parallel]
      mandatory_features: []
      public_host_key: ""
"""

import dataclasses
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import (
    OLDEST,
    NixVersionError,
    parse_version,
)
from ansible_collections.nixfleet.builders.plugins.plugin_utils.inventory_machines import (
    InventoryError,
    inventory_machines,
)

display = Display()


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[t.Any]:
        self.set_options(var_options=variables, direct=kwargs)
        unknown: dict[str, t.Callable[[str], None] | None] = {
            "error": None,
            "warn": lambda text: display.warning(f"{text}; it is left out"),
            "skip": lambda text: None,
        }
        try:
            found = inventory_machines(
                self,
                variables,
                [str(term) for term in terms],
                self.get_option("exclude"),
                self.get_option("remembered"),
                unknown[self.get_option("missing")],
            )
            machines = [self._changed(machine) for machine in found]
            if self.get_option("format") == "dicts":
                return [machine.to_dict() for machine in machines]
            version = self.get_option("nix_version")
            reading = parse_version(version) if version else OLDEST
            return [machine.render(reading) for machine in machines]
        except (InventoryError, MachinesError, NixVersionError) as error:
            raise AnsibleError(f"nixfleet.builders.machines: {error}") from None

    def _changed(self, machine: Machine) -> Machine:
        ssh_key, protocol = self.get_option("ssh_key"), self.get_option("protocol")
        if ssh_key:
            machine = dataclasses.replace(machine, ssh_key=ssh_key)
        return machine.with_protocol(protocol) if protocol else machine
