# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory C(machines)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: machines
short_description: Builders out of existing machines files of Nix
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Makes a host of each machine that is reached by ssh, in the order of the files, with what the file says of it as
    variables.
  - With such an inventory the playbook C(nixfleet.builders.fleet) writes a machines file that means the same, with
    host keys, and keys of its own.
  - The source is a YAML file whose name ends in C(machines.yml) or C(machines.yaml). It is cheap to read, so nothing
    is cached.
  - A file that Nix would not read is refused as a whole, with file, line, column and reason. Ansible goes on without
    it, unless C(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED) is set.
notes:
  - The files are those of the machine that runs Ansible. Bring a client's file there first, for example with
    M(ansible.builtin.fetch). Files that it includes with C(@) are read from the same absolute paths here.
  - A host's name is that of the URI. With a port other than 22 it is C(host-port), as several hosts may stand behind
    one address.
  - Every host has C(ansible_host), C(nix_builder_address), C(nix_builder_protocol), C(nix_builder_max_jobs),
    C(nix_builder_speed_factor), C(nix_builder_supported_features) and C(nix_builder_mandatory_features). It has
    C(ansible_port) and C(nix_builder_port), C(nix_builder_user), and C(nix_builder_systems) where the file says them;
    elsewhere the defaults of the role P(nixfleet.builders.nix_builder#role) hold. An IPv6 address also gets a
    C(nix_builder_signing_key_name), as that must not have a colon.
  - C(nix_builder_machine) is the whole machine as a dict, with the ssh key, the public host key, and the URI to the
    letter. The lookups P(nixfleet.builders.machines#lookup) and P(nixfleet.builders.route#lookup) take it while a
    builder has published nothing.
  - Groups, apart from O(group), are C(nix_system_x86_64_linux) and the like for each system, C(nix_feature_kvm) for a
    feature that a machine supports or demands, C(nix_mandatory_gpu) for one that it demands. What is no letter or
    digit is C(_).
  - How Ansible logs in is not in the file, as a builder's account is good for nothing else. Set C(ansible_user)
    yourself. A name that only the client's ssh_config knows needs C(ansible_host) and C(nix_builder_address), from
    O(compose) or another inventory source that comes after this one.
  - Left out, with a warning, is what is no host (C(auto), C(daemon), a path, C(unix://)); the client itself
    (C(localhost) and its addresses, unless with another port, which is a virtual machine's); and a second machine on
    the same host and port, whatever its user and protocol, as a host is one builder.
  - Parameters of a URI and the protocol C(mounted-ssh-ng) are kept in C(nix_builder_machine) only, with a warning.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [nixfleet.builders.machines]
  files:
    description: Machines files. A relative path begins at the directory of the inventory source.
    type: list
    elements: str
    default: [/etc/nix/machines]
  nix_version:
    description:
      - The version of the Nix that reads the files, for example V(2.8.0). What a speed, a comment and a URI may be
        depends on it.
      - Without it they are read as the newest supported Nix does.
    type: str
  group:
    description: The group of all hosts. It must be what C(nix_builders_group) says, where that is set.
    type: str
    default: nix_builders
extends_documentation_fragment:
  - ansible.builtin.constructed
seealso:
  - plugin: nixfleet.builders.machines
    plugin_type: lookup
  - module: nixfleet.builders.machines_file
"""

EXAMPLES = r"""
# site.machines.yml: ansible-inventory -i site.machines.yml --graph
plugin: nixfleet.builders.machines
files: [/etc/nix/machines]

---
# Two clients' files, of different versions of Nix; further groups and variables.
plugin: nixfleet.builders.machines
files: [client1/machines, client2/machines]
nix_version: 2.8.0
strict: true
compose:
  ansible_user: "'admin'"
  ansible_host: inventory_hostname ~ '.example.org'
groups:
  fast: nix_builder_speed_factor >= 2
keyed_groups:
  - key: nix_builder_max_jobs
    prefix: jobs
"""

import os

from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.machines import parse
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import NixVersionError, parse_version
from ansible_collections.nixfleet.builders.plugins.plugin_utils.builder_hosts import builder_hosts

display = Display()

#: Reads all that an older one reads, but what stands after a ; in a comment, which hardly anybody means.
NEWEST = (2, 34)


class InventoryModule(BaseInventoryPlugin, Constructable):  # type: ignore[misc]
    """See DOCUMENTATION."""

    NAME = "nixfleet.builders.machines"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("machines.yml", "machines.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache=cache)
        self._read_config_data(path)
        try:
            version = self.get_option("nix_version")
            reading = parse_version(str(version)) if version else NEWEST
            directory = os.path.dirname(os.path.abspath(path))
            files = [os.path.join(directory, os.path.expanduser(file)) for file in self.get_option("files")]
            machines = [machine for file in files for machine in _read(file, reading)]
        except (MachinesError, NixVersionError, OSError) as error:
            raise AnsibleParserError(f"{path}: {_text(error)}") from None
        group = inventory.add_group(self.get_option("group"))
        hosts, remarks = builder_hosts(machines)
        for remark in remarks:
            display.warning(f"{path}: {remark}")
        strict = self.get_option("strict")
        for host in hosts:
            inventory.add_host(host.name, group=group)
            for name in host.groups:
                inventory.add_host(host.name, group=inventory.add_group(name))
            for key, value in host.variables.items():
                inventory.set_variable(host.name, key, value)
            variables = inventory.get_host(host.name).get_vars()
            self._set_composite_vars(self.get_option("compose"), variables, host.name, strict=strict)
            variables = inventory.get_host(host.name).get_vars()
            self._add_host_to_composed_groups(self.get_option("groups"), variables, host.name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host.name, strict=strict)


def _read(file: str, nix_version: tuple[int, ...]) -> list[Machine]:
    """The machines of a file, as bytes that are no UTF-8 stay as they are. MachinesError, or OSError."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        text = stream.read()
    return parse(text, file=os.path.abspath(file), nix_version=nix_version, read=_included)


def _included(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        # As to Nix; but here it may be that the file was left on the client.
        display.warning(f"the machines file {path} is included, and is not there: its machines are missing")
        return None


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"machines file {error.filename}: {error.strerror}; correct the path in files, or bring the file here"
    return str(error)
