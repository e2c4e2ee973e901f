# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter C(to_nixos)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: to_nixos
short_description: A builder or a client as a NixOS module
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Gives the text of a NixOS module, a file for the C(imports) of a system's configuration, that makes the system a
    remote builder of Nix or has it build on remote builders. It says what the roles
    P(nixfleet.builders.nix_builder#role) and P(nixfleet.builders.nix_client#role) do on other systems, which on NixOS
    render such a module themselves.
  - No host is asked and nothing is changed.
  - The module has no secret in it. The keys that it names, of ssh and for signatures, have to be made on the host.
positional: _input, side
options:
  _input:
    description:
      - The builder or the client. Each key has a default.
      - "Of a builder: C(user) (V(nixremote)), C(uid), C(home), C(clients) (public keys by the clients' names), C(keys)
        (more lines of authorized_keys), C(gate) (V(true), V(false), or a dict of C(serve), C(wrapper) and
        C(nix_bin_dir)), C(ca_keys), C(ca_principals), C(sshd_settings) (for the account, by name), C(max_startups),
        C(settings) (of Nix, by name)."
      - "Of a client: C(builders) (what builders have published, C(nix_builder_fact), by their names), C(machines)
        (dicts like those of O(nixfleet.builders.machines_file#module:machines); without it, those of C(builders)),
        C(ssh_key), C(ssh_user) (V(root)), C(connect_timeout), C(settings) (of Nix, by name), C(nix_version) (of the
        client's Nix; without it, the machines suit every version)."
      - "Of both: C(fact), which is there as a local fact of Ansible where the module is in force."
    type: dict
    required: true
  side:
    description:
      - Which of the two it is. V(absent) gives a module that says nothing, in the place of one that is still imported.
    type: str
    choices: [builder, client, absent]
    required: true
notes:
  - Nix settings that are lists to which NixOS adds something, such as C(trusted-users), are given with
    or without C(extra-).
seealso:
  - plugin: nixfleet.builders.machines
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: A builder
  ansible.builtin.copy:
    dest: /tmp/builder.nix
    content: "{{ builder | nixfleet.builders.to_nixos('builder') }}"
    mode: "0644"
  vars:
    builder:
      clients:
        client1: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
      settings:
        trusted-users: [nixremote]
        secret-key-files: [/var/lib/nixfleet/signing-key]

- name: A client
  ansible.builtin.copy:
    dest: /tmp/client.nix
    content: "{{ client | nixfleet.builders.to_nixos('client') }}"
    mode: "0644"
  vars:
    client:
      builders:
        builder1:
          address: 192.0.2.11
          machine:
            uri: ssh-ng://nixremote@builder1
            systems: [x86_64-linux]
            max_jobs: 4
          host_keys:
            - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC1hL0Yz0rmHjRTfl0nYn0iJkMTYs0bBZTDNpjWNJWAB
          signing_public_key: builder1-1:MUZWSxmTpZLGCSj3CPcDIHiAyzIbeO7czXRxFhTtTE8=
      settings:
        max-jobs: 0
        builders-use-substitutes: true
"""

RETURN = r"""
_value:
  description: The text of the module.
  type: str
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.nixfleet.builders.plugins.module_utils import nixos

SIDES: dict[str, t.Callable[[t.Mapping[str, t.Any]], str]] = {
    "builder": nixos.builder,
    "client": nixos.client,
    "absent": lambda given: nixos.absent(),
}


def to_nixos(given: t.Any, side: str) -> str:
    """See DOCUMENTATION."""
    if side not in SIDES:
        raise AnsibleFilterError(f"nixfleet.builders.to_nixos: {side!r} is none of {', '.join(SIDES)}")
    try:
        return SIDES[side](given)
    except nixos.NixosError as error:
        raise AnsibleFilterError(f"nixfleet.builders.to_nixos: {error}") from None


class FilterModule:
    """See DOCUMENTATION."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        return {"to_nixos": to_nixos}
