#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether one store is reachable, and if not, why."""

from __future__ import annotations

DOCUMENTATION = r"""
module: store_info
short_description: Asks a Nix store whether it is reachable, and says why it is not
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Opens a store as Nix itself does on this host, through Nix's own command line and ssh, and reports what answers.
  - When nothing does, it tells the reason as one word of a fixed list, what Nix and ssh said, and what mends it.
  - Run it as root to see what Nix's daemon will see, as it is the daemon that logs in to builders. Nobody is asked for
    a passphrase or to trust a key, and no ssh agent is used, because the daemon has none of these.
  - A store that is a path is not created.
options:
  uri:
    description:
      - The store, as in the machines file, like V(ssh-ng://nixremote@b1), V(ssh://b1), V(daemon), V(local) or the path
        of a store of its own.
      - A bare host means V(ssh://), as it does for Nix.
    type: str
    required: true
  ssh_key:
    description: The path of the private key to log in with. Only for V(ssh://) and V(ssh-ng://).
    type: path
  public_host_key:
    description:
      - The public key line of the host key that the builder must show. Only for V(ssh://) and V(ssh-ng://).
      - Nix's own behaviour is that keys in ssh's known hosts files are accepted as well.
    type: str
  timeout:
    description: After how many seconds the attempt is given up and all its processes are ended.
    type: int
    default: 15
  fail:
    description:
      - Whether the task fails when the store is not reachable.
      - With V(false) the task succeeds and RV(reachable) tells.
    type: bool
    default: true
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes.info
  - nixfleet.builders.attributes.actiongroup_builders
seealso:
  - module: nixfleet.builders.builder_info
"""

EXAMPLES = r"""
- name: Stop when the builder cannot be reached
  nixfleet.builders.store_info:
    uri: ssh-ng://nixremote@b1
  become: true

- name: Try a builder that ssh's configuration does not know
  nixfleet.builders.store_info:
    uri: ssh-ng://nixremote@198.18.0.11
    ssh_key: /etc/nix/builder_ed25519
    public_host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
    timeout: 5
    fail: false
  become: true
  register: store

- name: Tell what is wrong
  ansible.builtin.debug:
    msg: "{{ store.reason }}: {{ store.suggestion }}"
  when: not store.reachable
"""

RETURN = r"""
uri:
  description: The store's URI as it was asked for, with O(ssh_key) and O(public_host_key) in it.
  returned: always
  type: str
  sample: ssh-ng://nixremote@b1
reachable:
  description: Whether the store answered.
  returned: always
  type: bool
  sample: true
version:
  description: The version of Nix at the store, V(null) where it does not tell.
  returned: always
  type: str
  sample: 2.26.3
trusted:
  description:
    - Whether the store trusts this client.
    - V(null) where that is not known, as with V(ssh://) and with a Nix older than 2.15 on either side.
  returned: always
  type: bool
  sample: true
latency_ms:
  description: After how many milliseconds the store had answered, ssh's login included. V(null) if it did not.
  returned: always
  type: int
  sample: 240
reason:
  description: Why the store is not reachable, V(null) if it is.
  returned: always
  type: str
  choices:
    - name_resolution
    - connection_refused
    - no_route
    - timeout
    - host_key_unknown
    - host_key_changed
    - permission_denied
    - no_nix
    - command_refused
    - protocol_mismatch
    - daemon_socket_permission
    - daemon_unavailable
    - bad_uri
    - unsupported
    - other
  sample: permission_denied
message:
  description: What Nix and ssh said about it.
  returned: always
  type: str
  sample: "nixremote@b1: Permission denied (publickey)."
suggestion:
  description: The command or the variable that mends it.
  returned: always
  type: str
  sample: run playbook nixfleet.builders.fleet with this client and this builder, which lets the client's key in
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import store_client, store_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "uri": {"type": "str", "required": True},
            "ssh_key": {"type": "path", "no_log": False},
            "public_host_key": {"type": "str", "no_log": False},
            "timeout": {"type": "int", "default": 15},
            "fail": {"type": "bool", "default": True},
            "nix_bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if module.params["timeout"] < 1:
        module.fail_json(msg=f"timeout is {module.params['timeout']}, it has to be at least 1 second")
    if not module.params["uri"].strip() or re.search(r"\s", module.params["uri"]):
        module.fail_json(msg=f"uri {module.params['uri']!r} is blank or has a blank in it, so it is no store's URI")
    uri = store_probe.complete(module.params["uri"], module.params["ssh_key"], module.params["public_host_key"])
    try:
        result = store_client.ask(Nix(module.run_command, module.params["nix_bin_dir"]), uri, module.params["timeout"])
    except NixError as error:
        module.fail_json(msg=str(error))
    if module.params["fail"] and not result["reachable"]:
        module.fail_json(msg=store_client.complaint(result), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
