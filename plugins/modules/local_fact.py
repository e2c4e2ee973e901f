#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: local_fact
short_description: Publish a local fact of a host
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Writes a file from which M(ansible.builtin.setup) reads a local fact, C(ansible_facts.ansible_local.NAME), so that
    runs to come know it, and other hosts of the inventory, too.
  - Everybody on the host can read it, so put no secret into it.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  name:
    description: The fact's name.
    type: str
    required: true
  value:
    description: The fact. Required with O(state=present).
    type: dict
  directory:
    description: The directory of local facts. Made where it is missing.
    type: path
    default: /etc/ansible/facts.d
  state:
    description:
      - Whether there is the fact.
      - V(absent) also removes O(directory) and the one above it, as far as nothing else is in them.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Publish what clients need to know
  nixfleet.builders.local_fact:
    name: nix_builder
    value:
      signing_public_key: builder1-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk=

- name: Forget it
  nixfleet.builders.local_fact:
    name: nix_builder
    state: absent
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /etc/ansible/facts.d/nix_builder.fact
"""

import json
import os
import re
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.owned_tree import OwnedTree

ROOT = (0, 0)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings the fact to the wanted state; the module's result."""
    directory = os.path.normpath(module.params["directory"])
    path = os.path.join(directory, f"{module.params['name']}.fact")
    tree = OwnedTree(module, *ROOT)
    if module.params["state"] == "present":
        tree.directory(directory, 0o755)
        tree.file(path, f"{json.dumps(module.params['value'], indent=4, sort_keys=True)}\n", 0o644)
    else:
        tree.remove(path)
        tree.remove_empty(directory)
        tree.remove_empty(os.path.dirname(directory))
    return {"changed": tree.changed, "diff": tree.diff, "path": path}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "value": {"type": "dict"},
            "directory": {"type": "path", "default": "/etc/ansible/facts.d"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["value"])],
        supports_check_mode=True,
    )
    if not re.fullmatch(r"\w+", module.params["name"], re.ASCII):
        module.fail_json(msg=f"name {module.params['name']!r} must be letters, digits and underscores")
    try:
        module.exit_json(**run(module))
    except (files.FileError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
