#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: builder_gate
short_description: The one program that a builder's account may run
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Installs a POSIX shell script as the forced command of a builder's account. It starts Nix for C(nix-daemon --stdio)
    and, where wanted, C(nix-store --serve --write), by absolute path, and answers C(nixfleet-load) with the host's load
    as one line of JSON. Whatever else a client sends ends with a line on stderr, status 126 and an entry in the log.
  - The client's command is compared as a whole; no part of it is ever split, expanded or run.
  - The script is proved before it is installed. The shell reads it (C(sh -n)), it answers C(nixfleet-load), and it
    refuses something else, which makes one entry in the host's log.
  - Let C(command=) of M(nixfleet.builders.builder_keys) and C(ForceCommand) of M(nixfleet.builders.sshd_account) name
    it, after it is there, and no longer, before it is removed.
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  path:
    description:
      - The script. It belongs to root, and so must its directory, which is made where it is missing.
    type: path
    default: /usr/local/libexec/nixfleet-gate
  serve:
    description: Whether C(nix-store --serve --write) is let through, which clients with C(ssh://) URIs send.
    type: bool
    default: false
  wrapper:
    description:
      - Words that are put in front of Nix's command, for a Nix that only another program can start, such as one under
        nix-user-chroot or PRoot. The first is an absolute path. No shell reads them.
      - Then O(nix_bin_dir) is where that program shows Nix, and nobody looks whether it is there.
    type: list
    elements: str
    default: []
  own_settings:
    description:
      - Whether C(nix.conf) in the account's home counts. It should for an account that owns its Nix, and for no other.
    type: bool
    default: false
  state:
    description: Whether the script exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    details: On a host without Nix, a directory of Nix's programs is assumed.
seealso:
  - module: nixfleet.builders.builder_keys
  - module: nixfleet.builders.sshd_account
"""

EXAMPLES = r"""
- name: Let clients run Nix and nothing else
  nixfleet.builders.builder_gate:

- name: A Nix that an unprivileged user has unpacked
  nixfleet.builders.builder_gate:
    wrapper: [/usr/local/bin/nix-user-chroot, /srv/nix]
    nix_bin_dir: /nix/var/nix/profiles/default/bin
"""

RETURN = r"""
path:
  description: The script.
  returned: success
  type: str
  sample: /usr/local/libexec/nixfleet-gate
commands:
  description: What it lets through. Empty with O(state=absent).
  returned: success
  type: list
  elements: str
  sample: ["nix-daemon --stdio", "nixfleet-load"]
nix_bin_dir:
  description: Where it starts Nix's programs. Null with O(state=absent).
  returned: success
  type: str
  sample: /usr/bin
"""

import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files, gate
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import (
    BIN_DIRS,
    Nix,
    NixError,
    NixNotFound,
    daemon_dir,
)

#: What no gate lets through.
PROBE = "nixfleet-self-test"


def find_nix(module: AnsibleModule) -> str:
    """The directory of Nix's programs."""
    given = module.params["nix_bin_dir"]
    if given and module.params["wrapper"]:
        return str(given)
    try:
        return Nix(module.run_command, given).bin_dir
    except NixNotFound:
        if not module.check_mode:
            raise
        return str(given or BIN_DIRS[0])


def prove(module: AnsibleModule, text: str) -> None:
    """Runs the script from a temporary file; GateError where it does not do what it should."""
    descriptor, path = tempfile.mkstemp(dir=module.tmpdir, prefix="gate.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)

    def run(*argv: str, command: str | None = None) -> tuple[int, str, str]:
        environment = None if command is None else {"SSH_ORIGINAL_COMMAND": command}
        rc, out, err = module.run_command(["/bin/sh", *argv, path], environ_update=environment)
        return int(rc), str(out), str(err)

    rc, _out, err = run("-n")
    if rc:
        raise gate.GateError(f"/bin/sh cannot read the gate: {err.strip()}")
    rc, out, err = run(command=gate.LOAD)
    if rc:
        raise gate.GateError(f"the gate's load probe ends with status {rc}: {err.strip()}")
    gate.parse_load(out)
    rc, out, err = run(command=PROBE)
    if rc != gate.REFUSED or out or not err.startswith(gate.REFUSAL):
        raise gate.GateError(f"the gate does not refuse '{PROBE}': status {rc}, {(out + err).strip()!r}")


def make_directory(path: str) -> None:
    """The script's directory, root's; GateError where somebody else could put another file there."""
    os.makedirs(path, mode=0o755, exist_ok=True)
    status = os.stat(path)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise gate.GateError(
            f"{path} is not root's alone (owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}), so others could "
            f"replace the gate; mend that: chown root {path} && chmod go-w {path}"
        )


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings the script to the wanted state; the module's result."""
    params = module.params
    path = params["path"]
    attributes = {**params, "owner": "root" if os.geteuid() == 0 else None, "group": None, "mode": "0755"}
    target = files.OwnedFile(module, path, 0o755, params=attributes)
    result: dict[str, t.Any] = {"path": path, "commands": [], "nix_bin_dir": None}
    if params["state"] == "absent":
        target.remove()
    else:
        nix_bin_dir = find_nix(module)
        text = gate.render(
            nix_bin_dir,
            serve=params["serve"],
            wrapper=params["wrapper"],
            daemon_bin=daemon_dir(nix_bin_dir),
            own_settings=params["own_settings"],
        )
        if text != target.before and not module.check_mode:
            make_directory(os.path.dirname(path))
            prove(module, text)
        target.put(text)
        result.update(commands=gate.allowed(params["serve"]), nix_bin_dir=nix_bin_dir)
    return {**result, "changed": target.changed, "diff": target.diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/usr/local/libexec/nixfleet-gate"},
            "serve": {"type": "bool", "default": False},
            "wrapper": {"type": "list", "elements": "str", "default": []},
            "own_settings": {"type": "bool", "default": False},
            "nix_bin_dir": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (gate.GateError, files.FileError, NixError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
