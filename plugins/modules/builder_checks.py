#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a client finds out about its builders, check by check."""

from __future__ import annotations

DOCUMENTATION = r"""
module: builder_checks
short_description: Checks from a client whether it can build on its builders, and says what mends it if not
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Makes for each builder the checks that O(checks) names, in the order in which things break. A check that stands on
    a failed one is skipped, and says because of which.
  - All builders are tried at the same time, up to eight, and all of them before the task fails. Each gets one
    connection for all questions, and one for the build.
  - Goes the way that builds go on this host, through Nix's own command line and the ssh configuration of the user, so
    run it as root. Nobody is asked for a passphrase or to trust a key.
options:
  builders:
    description:
      - The builders to try, by the names that messages shall use, each as what the role
        P(nixfleet.builders.nix_builder#role) publishes of it.
      - C(machine), as M(nixfleet.builders.machines_file) takes it, and C(signing_public_key), like C(name:base64), are
        what counts. What is built is for the first system of the machine.
      - An empty one is a builder of which the client knows nothing.
    type: dict
    required: true
  offers:
    description:
      - What M(nixfleet.builders.builder_info) has returned on each builder, by name. Without it the checks
        V(features), V(disk) and V(clock) are skipped, and a login that is refused is not explained.
      - With V(unreachable) in it, C(msg) is said to be why nothing is known.
    type: dict
    default: {}
  ssh_key:
    description: The path of the private key to log in with, where the machine itself has none.
    type: path
  signing_public_key:
    description: The public half of the key with which this client signs, for builders that trust no user.
    type: str
  checks:
    description:
      - What is checked. V(known) is whether Nix has the builder in its machines; V(name) whether its name is
        resolved; V(tcp) whether something listens; V(host_key) whether that is the builder; V(login) whether the key
        opens the account; V(path) whether Nix is found there; V(protocol) whether it speaks; V(daemon) whether its
        daemon takes the account; V(trust) whether it trusts the client; V(features) whether it has the systems and
        features that the machine promises; V(build) whether it builds; V(signature) whether what comes back is
        signed, by a key that the client trusts; V(disk) whether its store has room; V(clock) whether its clock agrees
        with this host's.
      - A failed check on which one of these stands is returned as well.
    type: list
    elements: str
    choices:
      - known
      - name
      - tcp
      - host_key
      - login
      - path
      - protocol
      - daemon
      - trust
      - features
      - build
      - signature
      - lockdown
      - disk
      - clock
    default:
      - name
      - tcp
      - host_key
      - login
      - path
      - protocol
      - daemon
      - trust
      - build
      - signature
  timeout:
    description: After how many seconds asking a store is given up, and within how many ssh has to connect for a build.
    type: int
    default: 15
  build_timeout:
    description: After how many seconds a build is given up, which may have to wait for a slot that another one holds.
    type: int
    default: 1800
  min_free:
    description: How many bytes have to be free in a builder's store.
    type: int
    default: 1073741824
  max_clock_skew:
    description: By how many seconds clocks may differ.
    type: float
    default: 30
  reference_time:
    description:
      - As for M(nixfleet.builders.builder_info), by the same clock. Without it the check V(clock) is skipped.
    type: float
  fail:
    description:
      - Whether the task fails when a check has failed.
      - With V(false) the task succeeds and RV(passed) tells.
    type: bool
    default: true
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
attributes:
  check_mode:
    description: In check mode nothing is built, and the checks V(build) and V(signature) are skipped.
    support: full
  diff_mode:
    support: N/A
    details: It changes no file, and leaves small store paths behind, which Nix's garbage collector takes.
seealso:
  - module: nixfleet.builders.store_info
  - module: nixfleet.builders.builder_info
"""

EXAMPLES = r"""
- name: Prove that this client can build on two builders
  nixfleet.builders.builder_checks:
    builders:
      builder1: "{{ hostvars.builder1.nix_builder_fact }}"
      builder2:
        machine:
          uri: ssh-ng://nixremote@builder2
          systems: [x86_64-linux]
        signing_public_key: builder2-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk=
    ssh_key: /root/.ssh/nixremote
  become: true

- name: Only ask whether it can be reached
  nixfleet.builders.builder_checks:
    builders:
      builder1: "{{ hostvars.builder1.nix_builder_fact }}"
    checks: [name, tcp, host_key, login]
    fail: false
  become: true
  register: reached
"""

RETURN = r"""
passed:
  description: Whether no check has failed.
  returned: always
  type: bool
builders:
  description: What was found out about each builder, in the order of O(builders).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The builder's name.
      type: str
      sample: builder1
    output:
      description: The path that it has built. V(null) when it has not.
      type: str
      sample: /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-nixfleet-proof-builder1-9f86d081884c7d65
    checks:
      description: One for each check that was asked for, in order.
      type: list
      elements: dict
      contains:
        check:
          description: Its name.
          type: str
          sample: login
        verdict:
          description: What became of it.
          type: str
          choices: [passed, failed, skipped]
          sample: failed
        reason:
          description: Why it failed, as one word, V(null) if it has not. The words are listed in docs/verify.md.
          type: str
          sample: key_not_authorized
        message:
          description: What was seen, V(null) where there is nothing to tell.
          type: str
          sample: "nixremote@builder1: Permission denied (publickey)."
        remedy:
          description: The command or the variable that mends it, V(null) if it has not failed.
          type: str
        because:
          description: Why it was skipped, V(null) if it was not.
          type: str
          sample: "login failed: key_not_authorized"
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import checks
from ansible_collections.nixfleet.builders.plugins.module_utils.builder_checks import (
    Builder,
    BuilderChecks,
    Client,
    Limits,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError


def read_builder(name: str, fact: t.Any, ssh_key: str | None, offer: dict[str, t.Any] | None) -> Builder:
    """One builder of the option; MachinesError that names it when something is missing."""
    known: dict[str, t.Any] = {"offer": offer}
    if offer is not None and "system_features" not in offer:
        how = "did not reach the builder" if offer.get("unreachable") else "did not get to know the builder"
        known = {"no_offer": f"Ansible {how}: {str(offer.get('msg') or 'no result').strip()}"}
    if not fact:
        return Builder(name, None, **known)
    if not isinstance(fact, dict) or not isinstance(fact.get("machine"), dict):
        raise MachinesError("there is no machine", "run role nixfleet.builders.nix_builder on it", machine=name)
    machine = Machine.from_dict({"ssh_key": ssh_key, **fact["machine"]})
    # A Machine sorts its systems. Nix takes a machine without any to be of this host's own.
    system = next(iter(fact["machine"].get("systems") or []), "")
    signed = fact.get("trust") == "signed"
    known["owner"] = fact.get("owner") or ""
    return Builder(name, machine, system, fact.get("signing_public_key") or "", signed, **known)


def main() -> None:
    """Entry point."""
    started = time.time()
    module = AnsibleModule(
        argument_spec={
            "builders": {"type": "dict", "required": True},
            "offers": {"type": "dict", "default": {}},
            "ssh_key": {"type": "path", "no_log": False},
            "signing_public_key": {"type": "str", "no_log": False},
            "checks": {
                "type": "list",
                "elements": "str",
                "choices": list(checks.NAMES),
                "default": list(checks.WAY_TO_A_BUILD),
            },
            "timeout": {"type": "int", "default": 15},
            "build_timeout": {"type": "int", "default": 1800},
            "min_free": {"type": "int", "default": 1 << 30},
            "max_clock_skew": {"type": "float", "default": 30},
            "reference_time": {"type": "float"},
            "fail": {"type": "bool", "default": True},
            "nix_bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    for name in ("timeout", "build_timeout"):
        if options[name] < 1:
            module.fail_json(msg=f"{name} is {options[name]}, it has to be at least 1 second")
    reference = options["reference_time"]
    client = Client(None if reference is None else started - reference, options["signing_public_key"])
    limits = Limits(options["timeout"], options["build_timeout"], options["min_free"], options["max_clock_skew"])
    try:
        builders = [
            read_builder(name, fact, options["ssh_key"], options["offers"].get(name))
            for name, fact in options["builders"].items()
        ]
        nix = Nix(module.run_command, options["nix_bin_dir"])
        found = BuilderChecks(nix, options["checks"], limits, client, module.check_mode).try_all(builders)
    except (MachinesError, NixError) as error:
        module.fail_json(msg=str(error))
    lists = {it["name"]: checks.complaints(it["checks"]) for it in found}
    failing = {name: texts for name, texts in lists.items() if texts}
    result = {"changed": False, "passed": not failing, "builders": found}
    if failing and options["fail"]:
        module.fail_json(msg=checks.complaint(failing, len(found)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
