#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies paths between two stores in few round trips."""

from __future__ import annotations

DOCUMENTATION = r"""
module: store_copy
short_description: Copies store paths between any two Nix stores, in few round trips
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Copies paths, or closures, between the store of this host and those of builders, or from builder to builder through
    this host.
  - The destination is asked once what it has, and takes the rest as one stream. C(nix copy) with C(ssh-ng://) asks
    again for each path.
  - Nothing is kept whole in memory or on this host's disk. A path arrives whole, with its hash checked by the
    destination, or not at all.
  - While it runs, the paths are protected from the garbage collectors of both stores. Afterwards they are not; make a
    root for what has to stay.
options:
  paths:
    description:
      - The store paths.
      - Where O(from) is this host's own store, links to them and paths within them will do.
    type: list
    elements: str
    required: true
  from:
    description:
      - The store that has the paths, as a URI or as a machine.
      - V(auto) is this host's store, through its daemon where there is one. V(daemon) is the daemon. V(local) and a
        path are stores that Nix opens here without the daemon.
      - V(ssh-ng://nixremote@b1) is a builder. V(ssh://) is taken for V(ssh-ng://).
      - A machine is a dict as in the other modules. Only its C(uri), or C(protocol), C(user), C(host) and C(port), its
        C(ssh_key) and C(public_host_key) count.
      - How a builder is reached is taken from the ssh configuration of the user that runs the module, as far as this
        does not say it. Its host key must be known or be in C(public_host_key).
    type: raw
    default: auto
  to:
    description: The store that is to have the paths, as for O(from).
    type: raw
    default: auto
  closure:
    description:
      - Whether to copy also all that the paths refer to.
      - With V(false) the module fails if something that they refer to is not there.
    type: bool
    default: true
  check_signatures:
    description:
      - Whether the destination takes only paths that have a signature by a key which it trusts, or whose name follows
        from their content.
      - V(false) has no effect where the destination does not trust the account, see C(trusted-users) in nix.conf.
    type: bool
    default: true
  substitute_on_destination:
    description: Whether the destination first tries to fetch the paths from its own substituters.
    type: bool
    default: false
  connect_timeout:
    description: After how many seconds the attempt to connect to a store is given up.
    type: int
    default: 20
  timeout:
    description: After how many seconds in which nothing moves the copy is given up.
    type: int
    default: 600
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
requirements:
  - The Python library paramiko, and OpenSSH's client, for builders over ssh
attributes:
  check_mode:
    details: >-
      With O(substitute_on_destination) the destination asks its substituters what they have, and fetches nothing.
seealso:
  - module: nixfleet.builders.store_info
  - module: nixfleet.builders.store_sign
"""

EXAMPLES = r"""
- name: Fetch a result from a builder
  nixfleet.builders.store_copy:
    paths: /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello
    from: ssh-ng://nixremote@b1
    check_signatures: false
  become: true

- name: Give a builder what another one has
  nixfleet.builders.store_copy:
    paths:
      - /nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello
    from: ssh-ng://nixremote@b1
    to:
      uri: ssh-ng://nixremote@198.18.0.12
      ssh_key: /etc/nix/builder_ed25519
      public_host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
    substitute_on_destination: true
    check_signatures: false
  become: true

- name: Fill the store of an image
  nixfleet.builders.store_copy:
    paths: /nix/var/nix/profiles/default
    to: /srv/image
  become: true
"""

RETURN = r"""
copied:
  description: How many paths were copied, or would be. On failure, those that had arrived before.
  returned: success or failure
  type: int
  sample: 41
bytes:
  description: The size of what was copied, as NARs.
  returned: success or failure
  type: int
  sample: 193812
present:
  description:
    - How many paths the destination had.
    - Of a path in O(paths) that it has the closure is not counted, as it has all of it.
  returned: success
  type: int
  sample: 3
substituted:
  description:
    - How many paths the destination fetched from its substituters, or would.
    - What these refer to is not counted.
  returned: success
  type: int
  sample: 0
paths:
  description: The paths that were copied, or would be, each behind those that it refers to.
  returned: success or failure, when they are at most 100
  type: list
  elements: str
  sample: ["/nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello"]
seconds:
  description: How long it took, with the connections.
  returned: success or failure
  type: float
  sample: 0.61
"""

import os
import re
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.nixfleet.builders.plugins.module_utils import store_client, stores, transfer
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError, NixNotFound
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import PathInfo, RemoteError, VersionError
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import OWN_STORES, identity
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError

FEW = 100

_STORE_PATH = re.compile(r"(/.*/[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+._?=-]+)(/.*)?")


class Refusal(Exception):
    """What the user gave cannot be used."""


ERRORS = (
    Refusal,
    transfer.TransferError,
    ChannelError,
    SshConfigError,
    VersionError,
    ProtocolError,
    RemoteError,
    NixError,
)


def machine_of(given: object, option: str) -> Machine:
    """The machine of a URI or a dict. Raises Refusal."""
    if isinstance(given, str):
        if not given or re.search(r"\s", given):
            raise Refusal(f"{option} is {given!r}, which is no store's URI")
        return Machine(given)
    if not isinstance(given, dict):
        raise Refusal(f"{option} is {given!r}, but a store is a URI or a machine's dict")
    try:
        return Machine.from_dict(given)
    except MachinesError as error:
        raise Refusal(f"{option}: {error}") from error


def store_paths(given: t.Iterable[str], own: bool) -> list[str]:
    """The store paths meant, each once; C(own): the store is this host's, so links lead to it. Raises Refusal."""
    found = []
    for path in given:
        match = _STORE_PATH.fullmatch(os.path.realpath(path) if own and os.path.lexists(path) else path)
        if not match or (match.group(2) and not own):
            raise Refusal(f"{path!r} in paths is no store path" + (", nor does it lead to one" if own else ""))
        found.append(match.group(1))
    return sorted(set(found))


def nix_daemon(module: AnsibleModule) -> str:
    """The program that opens a store without the daemon's socket; where there is none, others may still be open."""
    try:
        return Nix(module.run_command, module.params["nix_bin_dir"]).argv("nix-daemon")[0]
    except NixNotFound:
        if module.params["nix_bin_dir"]:
            raise
        return "nix-daemon"


def summary(moved: t.Sequence[PathInfo]) -> dict[str, t.Any]:
    """What the result tells of the paths that moved."""
    result: dict[str, t.Any] = {
        "changed": bool(moved),
        "copied": len(moved),
        "bytes": sum(info.nar_size for info in moved),
    }
    if len(moved) <= FEW:
        result["paths"] = [info.path for info in moved]
    return result


def run(module: AnsibleModule, arrived: list[PathInfo]) -> dict[str, t.Any]:
    """Copies, or says what would be copied; C(arrived) grows on the way. The module's result."""
    params = module.params
    origin, target = machine_of(params["from"], "from"), machine_of(params["to"], "to")
    if identity(origin.uri) == identity(target.uri):
        raise Refusal(f"from and to are the same store, {origin.uri}")
    for machine in (origin, target):
        if store_client.missing_path(machine.uri):
            raise Refusal(f"there is no directory {machine.uri}; correct the path, or make the directory for the store")
    paths = store_paths(params["paths"], origin.uri in OWN_STORES)
    options = {
        "nix_daemon": nix_daemon(module),
        "connect_timeout": params["connect_timeout"],
        "timeout": params["timeout"],
        "patience": params["timeout"],
    }
    substitute = params["substitute_on_destination"]
    with stores.open_stores((origin, target), **options) as (source, destination):
        make = transfer.plan_closure if params["closure"] else transfer.plan
        plan = make(source, destination, paths, substitute=substitute and not module.check_mode)
        if module.check_mode:
            if substitute:
                plan = transfer.foresee_substitution(destination, plan)
            arrived += plan.order
        else:
            by_path = {info.path: info for info in plan.order}
            transfer.carry(
                source,
                destination,
                plan.order,
                check_signatures=params["check_signatures"],
                on_arrived=lambda paths: arrived.extend(by_path[path] for path in paths),
            )
    result = summary(arrived)
    result.update(present=len(plan.present), substituted=len(plan.substituted))
    result["changed"] = bool(plan.order or plan.substituted)
    if result["changed"]:
        lines = [info.path for info in plan.order[:FEW]] + [f"({len(plan.order)} paths)"]
        if plan.substituted:
            lines.append(f"({len(plan.substituted)} paths from its substituters)")
        header = {"before_header": target.uri, "after_header": target.uri}
        result["diff"] = {**header, "before": "", "after": "\n".join(lines) + "\n"}
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "str", "required": True},
            "from": {"type": "raw", "default": "auto"},
            "to": {"type": "raw", "default": "auto"},
            "closure": {"type": "bool", "default": True},
            "check_signatures": {"type": "bool", "default": True},
            "substitute_on_destination": {"type": "bool", "default": False},
            "connect_timeout": {"type": "int", "default": 20},
            "timeout": {"type": "int", "default": 600},
            "nix_bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    for option in ("connect_timeout", "timeout"):
        if module.params[option] < 1:
            module.fail_json(msg=f"{option} is {module.params[option]}, it has to be at least 1 second")
    start = time.monotonic()
    arrived: list[PathInfo] = []
    try:
        result = run(module, arrived)
    except ParamikoMissing as error:
        module.fail_json(
            msg=missing_required_lib("paramiko", reason="to reach stores over ssh"), exception=error.reason
        )
    except ERRORS as error:
        seconds = round(time.monotonic() - start, 3)
        module.fail_json(msg=str(error), seconds=seconds, **summary(arrived))
    module.exit_json(seconds=round(time.monotonic() - start, 3), **result)


if __name__ == "__main__":
    main()
