#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: machines_file
short_description: Write the file that lists Nix's remote builders
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Renders, checks and replaces a machines file, the file that Nix's setting C(builders) names (C(@/etc/nix/machines)).
  - One line that Nix cannot read disables all machines of the file, so nothing is written that Nix would refuse or read
    differently than it is meant. The error names the machine and the key, and the old file stays as it is.
  - What is written is read again by the collection's own parser, which is held against the build hooks of real Nix
    versions, before it replaces the old file in one step.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
  - nixfleet.builders.nix
  - ansible.builtin.files
options:
  machines:
    description:
      - The machines, as the lookup P(nixfleet.builders.machines#lookup) or the module
        M(nixfleet.builders.builder_info) give them.
      - Between machines that are equally fast and loaded, Nix takes the first one in this order.
      - Required with O(state=present), and with O(state=absent) where O(exclusive=false).
    type: list
    elements: dict
    suboptions:
      uri:
        description:
          - The store URI, for example V(ssh-ng://nixremote@builder1). Without a scheme it is V(ssh://).
          - Give either this or O(machines[].host) and its companions.
        type: str
      protocol:
        description: The URI's scheme, where O(machines[].host) is given. The default is V(ssh-ng).
        type: str
      user:
        description: The login on the builder, where O(machines[].host) is given.
        type: str
      host:
        description: The builder's name in the client's ssh configuration, or its address.
        type: str
      port:
        description:
          - The port of the builder's sshd, where O(machines[].host) is given.
          - Nix before 2.31 cannot read it, and it is refused there. C(Port) in the ssh configuration serves all
            versions.
        type: raw
      systems:
        description: What the machine builds for, for example V(x86_64-linux). Without any, the client's own system.
        type: list
        elements: str
      ssh_key:
        description: The path of the private key on the client. It must be readable for the Nix daemon.
        type: str
      max_jobs:
        description:
          - How many builds the machine gets at a time from this client, as a whole number.
          - The default is V(1), V(0) gives it none.
        type: raw
      speed_factor:
        description:
          - How fast it is in comparison with the others, as a number. The default is V(1).
          - Nix before 2.20 reads whole numbers only.
        type: raw
      supported_features:
        description: The system features that it offers.
        type: list
        elements: str
      mandatory_features:
        description: The system features, one of its offers too, without which a derivation is not sent there.
        type: list
        elements: str
      public_host_key:
        description:
          - The builder's ssh host key, as one line of its C(/etc/ssh/ssh_host_*_key.pub). It is encoded by this module.
          - Nix pins it for the URI's host name without port.
        type: str
  path:
    description: The file. Its directory must exist.
    type: path
    default: /etc/nix/machines
  exclusive:
    description:
      - Whether the file holds O(machines) and nothing else.
      - With V(false), comments, includes and machines that are not named stay as they are. A machine with the URI of
        one that is named is replaced where it stands, and left letter for letter where it says the same already.
      - A file with a line that Nix would refuse is then refused too, as its machines do not work.
    type: bool
    default: true
  state:
    description:
      - V(absent) removes the file. With O(exclusive=false) it removes only O(machines) from it, and the file where
        nothing else was in it.
    type: str
    choices: [present, absent]
    default: present
  nix_version:
    description:
      - The version of the Nix that reads the file, for example V(2.26.3).
      - Without it the version of the host's Nix counts. On a host without Nix the rules of the oldest supported version
        hold, which is the strictest.
    type: str
  mode:
    description:
      - The permissions the resulting file should have.
      - Every user whose Nix starts the build hook itself must be able to read it.
      - The default is V(0644).
    type: raw
notes:
  - The host itself is refused as one of its machines over ssh, by its names and addresses, as each such build would
    wait for a lock that its own client holds (L(NixOS issue 2029, https://github.com/NixOS/nix/issues/2029)).
seealso:
  - plugin: nixfleet.builders.machines
    plugin_type: lookup
  - module: nixfleet.builders.builder_info
  - module: nixfleet.builders.store_info
"""

EXAMPLES = r"""
- name: All builders of the inventory
  nixfleet.builders.machines_file:
    machines: "{{ query('nixfleet.builders.machines', ssh_key=key, exclude=[inventory_hostname]) }}"
  vars:
    key: /root/.ssh/nix_builder

- name: One more machine, and nothing else touched
  nixfleet.builders.machines_file:
    exclusive: false
    machines:
      - host: builder4
        user: nixremote
        systems: [aarch64-linux]
        ssh_key: /root/.ssh/nix_builder
        max_jobs: 8
        speed_factor: 2
        supported_features: [big-parallel, kvm]

- name: A machine taken out again
  nixfleet.builders.machines_file:
    exclusive: false
    state: absent
    machines:
      - uri: ssh-ng://nixremote@builder4

- name: No remote builders any more
  nixfleet.builders.machines_file:
    state: absent
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /etc/nix/machines
machines:
  description:
    - All machines that Nix reads out of the file now, in its order, with those that were kept or included.
    - In check mode, those that it would read.
  returned: success
  type: list
  elements: dict
  sample:
    - uri: ssh-ng://nixremote@builder1
      systems: [x86_64-linux]
      ssh_key: /root/.ssh/nix_builder
      max_jobs: 4
      speed_factor: 1.0
      supported_features: [benchmark, big-parallel]
      mandatory_features: []
      public_host_key: ""
lines:
  description: The same machines, as the lines that this module writes for them.
  returned: success
  type: list
  elements: str
  sample:
    - ssh-ng://nixremote@builder1 x86_64-linux /root/.ssh/nix_builder 4 1 benchmark,big-parallel - -
"""

import os
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files, machines
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError, NixNotFound
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import (
    OLDEST,
    NixVersionError,
    Version,
    parse_version,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import identity

#: The numbers are raw: the error of machine.py names the machine whose number is none, AnsibleModule's does not.
MACHINE_SPEC: dict[str, t.Any] = {
    "uri": {"type": "str"},
    "protocol": {"type": "str"},
    "user": {"type": "str"},
    "host": {"type": "str"},
    "port": {"type": "raw"},
    "systems": {"type": "list", "elements": "str"},
    "ssh_key": {"type": "str", "no_log": False},
    "max_jobs": {"type": "raw"},
    "speed_factor": {"type": "raw"},
    "supported_features": {"type": "list", "elements": "str"},
    "mandatory_features": {"type": "list", "elements": "str"},
    "public_host_key": {"type": "str", "no_log": False},
}


def reading_version(module: AnsibleModule) -> Version:
    """The version whose rules hold for the file."""
    if module.params["nix_version"]:
        return parse_version(module.params["nix_version"])
    try:
        return Nix(module.run_command, module.params["nix_bin_dir"]).machines_version
    except NixNotFound:
        if module.params["nix_bin_dir"]:
            raise
        return OLDEST


def is_own_address(address: str) -> bool:
    """Whether an IP address is one of this host's: then the kernel sends from it to it. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]) == address
    except (OSError, ValueError):
        return False


def own_names(hosts: t.Iterable[str]) -> set[str]:
    """This host's names, and those of C(hosts) that are its addresses or resolve to one.

    Only names whose first label is the host's own are resolved, so that no name server is asked about each builder.
    """
    hostname = socket.gethostname().lower()
    short = hostname.partition(".")[0]
    own = {hostname, short}
    for host in hosts:
        if host.lower().partition(".")[0] == short and host.lower() not in own:
            try:
                found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)}
            except OSError:
                continue
            if any(map(is_own_address, found)):
                own.add(host)
        elif (":" in host or host.replace(".", "").isdigit()) and is_own_address(host):
            own.add(host)
    return own


def read_included(path: str) -> str | None:
    """See machines.Read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def wanted_text(
    given: list[Machine] | None,
    before: str | None,
    params: dict[str, t.Any],
    version: Version,
) -> str | None:
    """What the file shall hold; None for no file."""
    path: str = params["path"]
    remove = params["state"] == "absent"
    own = None if remove else own_names(machine.parts.host for machine in given or [])
    if params["exclusive"] or not (before or "").strip():
        return None if remove else machines.render_file(given or [], version, own, files.HEADER)
    if not remove:
        machines.check(given or [], version, own)
    text = machines.merge(before or "", given or [], remove, path, version, read_included)
    if remove and not text.replace(f"# {files.HEADER}", "").strip():
        return None
    return text


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Judges all, then replaces or removes the file; the module's result."""
    params = module.params
    path = params["path"]
    if not os.path.isabs(path):
        raise MachinesError(f"{path} is no absolute path", "Nix's hook runs in /, so write it in full", key="path")
    given = None
    if params["machines"] is not None:
        given = [Machine.from_dict(entry, number) for number, entry in enumerate(params["machines"], 1)]
    version = reading_version(module)
    target = files.OwnedFile(module, path, 0o644)
    text = wanted_text(given, target.before, params, version)
    result: list[Machine] = []
    if text is None:
        target.remove()
    else:
        result = machines.parse(text, path, version, read_included)
        verify(given or [], result, params)
        if not (module.check_mode or os.path.isdir(os.path.dirname(target.path))):
            raise files.FileError(f"cannot write {path}: there is no such directory; install Nix first, or make it")
        target.put(text)
    return {
        "path": path,
        "machines": [machine.to_dict() for machine in result],
        "lines": [machine.line for machine in result],
        "changed": target.changed,
        "diff": target.diff,
    }


def verify(given: list[Machine], result: list[Machine], params: dict[str, t.Any]) -> None:
    """Refuses to write what is not read as it was meant, which only a mistake in this collection can bring about."""
    named = {identity(machine.uri): machine for machine in given}
    ours = [machine for machine in result if identity(machine.uri) in named]
    if params["state"] == "present":
        good = result == given if params["exclusive"] else sorted(ours, key=repr) == sorted(given, key=repr)
    else:
        good = not ours
    if not good:
        raise MachinesError(
            "the file would not be read as it was written, so it was not", "report this as a bug", file=params["path"]
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "machines": {"type": "list", "elements": "dict", "options": MACHINE_SPEC},
            "path": {"type": "path", "default": "/etc/nix/machines"},
            "exclusive": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "nix_version": {"type": "str"},
            "nix_bin_dir": {"type": "path"},
        },
        required_if=[("state", "present", ["machines"]), ("exclusive", False, ["machines"])],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (MachinesError, NixVersionError, files.FileError, NixError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
