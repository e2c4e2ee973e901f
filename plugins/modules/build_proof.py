#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a client can build on its builders."""

from __future__ import annotations

DOCUMENTATION = r"""
module: build_proof
short_description: Proves that a client can build on its builders
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Asks the store of each builder, then has each builder build a fresh derivation that no other machine may take, and
    checks that what comes back is signed by that builder.
  - All builders are tried at the same time, up to eight, and all of them before the task fails.
  - Goes the way that builds go on this host, through Nix's own command line and the ssh configuration of the user, so
    run it as root. Nobody is asked for a passphrase or to trust a key.
options:
  builders:
    description:
      - The builders to try, by the names that messages shall use, each as what the role
        P(nixfleet.builders.nix_builder#role) publishes of it.
      - C(machine), as M(nixfleet.builders.machines_file) takes it, and C(signing_public_key), like C(name:base64), are
        what counts. What is built is for the first system of the machine.
    type: dict
    required: true
  ssh_key:
    description: The path of the private key to log in with, where the machine itself has none.
    type: path
  checks:
    description:
      - What is checked. V(store) asks the store as M(nixfleet.builders.store_info) does, which finds out why a builder
        cannot be reached. V(build) builds, and checks the signature.
      - A builder whose store is not reachable is not asked to build.
    type: list
    elements: str
    choices: [store, build]
    default: [store, build]
  timeout:
    description: After how many seconds asking a store is given up, and within how many ssh has to connect for a build.
    type: int
    default: 15
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
attributes:
  check_mode:
    description: In check mode nothing is tried.
    support: none
  diff_mode:
    support: N/A
    details: It changes no file, and leaves small store paths behind, which Nix's garbage collector takes.
seealso:
  - module: nixfleet.builders.store_info
"""

EXAMPLES = r"""
- name: Prove that this client can build on two builders
  nixfleet.builders.build_proof:
    builders:
      builder1: "{{ hostvars.builder1.nix_builder_fact }}"
      builder2:
        machine:
          uri: ssh-ng://nixremote@builder2
          systems: [x86_64-linux]
        signing_public_key: builder2-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk=
    ssh_key: /root/.ssh/nixremote
  become: true
"""

RETURN = r"""
builders:
  description: What became of each builder, in the order of O(builders).
  returned: success or failed checks
  type: list
  elements: dict
  contains:
    name:
      description: The builder's name.
      type: str
      sample: builder1
    store:
      description: What M(nixfleet.builders.store_info) returns of its store. V(null) when it was not asked.
      type: dict
    output:
      description: The path that it has built. V(null) when it has not.
      type: str
      sample: /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-nixfleet-proof-builder1-9f86d081884c7d65
    problem:
      description: What is wrong, V(null) when all is well.
      type: str
      sample: null
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils.build_proof import CHECKS, Builder, Proof
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError


def read_builders(given: dict[str, t.Any], ssh_key: str | None) -> list[Builder]:
    """The builders of the option; MachinesError that names the one of which something is missing."""
    builders = []
    for name, fact in given.items():
        missing = [key for key in ("machine", "signing_public_key") if not isinstance(fact, dict) or not fact.get(key)]
        if missing:
            raise MachinesError(
                f"there is no {missing[0]}", "run role nixfleet.builders.nix_builder on it", machine=name
            )
        machine = Machine.from_dict({"ssh_key": ssh_key, **fact["machine"]})
        # A Machine sorts its systems. Nix takes a machine without any to be of this host's own.
        system = next(iter(fact["machine"].get("systems") or []), "")
        builders.append(Builder(name, machine, system, fact["signing_public_key"]))
    return builders


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "builders": {"type": "dict", "required": True},
            "ssh_key": {"type": "path", "no_log": False},
            "checks": {"type": "list", "elements": "str", "choices": list(CHECKS), "default": list(CHECKS)},
            "timeout": {"type": "int", "default": 15},
            "nix_bin_dir": {"type": "path"},
        },
    )
    if module.params["timeout"] < 1:
        module.fail_json(msg=f"timeout is {module.params['timeout']}, it has to be at least 1 second")
    try:
        builders = read_builders(module.params["builders"], module.params["ssh_key"])
        nix = Nix(module.run_command, module.params["nix_bin_dir"])
        verdicts = Proof(nix, module.params["checks"], module.params["timeout"]).try_all(builders)
    except (MachinesError, NixError) as error:
        module.fail_json(msg=str(error))
    result = {"changed": False, "builders": [verdict._asdict() for verdict in verdicts]}
    problems = [f"{verdict.name}: {verdict.problem}" for verdict in verdicts if verdict.problem]
    if problems:
        count = f"{len(problems)} of {len(verdicts)} builders"
        module.fail_json(msg="\n".join([f"this host cannot build on {count}", *problems]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
