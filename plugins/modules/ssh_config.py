#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_config
short_description: Own one file of a user's ssh configuration
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Owns a directory with one file of ssh configuration and one of host keys, and the one line C(Include) for it at the
    beginning of the user's own configuration, where no C(Host) makes it conditional. Everything else in the user's own
    configuration stays as it is.
  - Before anything is replaced, ssh itself reads the new texts. What it does not take is refused.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  directory:
    description:
      - The directory for the files C(config) and C(known_hosts). It belongs to the user alone.
      - O(state=absent) removes it with all that is in it.
    type: path
    required: true
  user:
    description: Whose configuration it is.
    type: str
    required: true
  config:
    description: The text of C(config). Required with O(state=present).
    type: str
  known_hosts:
    description: The text of C(known_hosts), to which O(config) may point.
    type: str
    default: ""
  main:
    description:
      - The user's own configuration. Made where it is missing.
      - The file C(config) in the directory above O(directory) when it is not set.
    type: path
  state:
    description:
      - Whether the files and the line exist.
      - V(absent) also removes the user's own configuration when nothing else is in it.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: nixfleet.builders.ssh_key
"""

EXAMPLES = r"""
- name: Teach root's ssh where a builder is
  nixfleet.builders.ssh_config:
    directory: /root/.ssh/nixfleet
    user: root
    config: |
      Host builder1
          HostName 192.0.2.11
          User nixremote
          UserKnownHostsFile /root/.ssh/nixfleet/known_hosts
          StrictHostKeyChecking yes
    known_hosts: |
      builder1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX

- name: Take it back
  nixfleet.builders.ssh_config:
    directory: /root/.ssh/nixfleet
    user: root
    state: absent
"""

RETURN = r"""
path:
  description: The file that is included.
  returned: success
  type: str
  sample: /root/.ssh/nixfleet/config
main:
  description: The user's own configuration, which includes it.
  returned: success
  type: str
  sample: /root/.ssh/config
"""

import os
import pwd
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.owned_tree import OwnedTree

STORE = "/nix/store/"


class Refused(Exception):
    """ssh does not take a text, or there is no such user. Nothing was changed."""


def with_line(text: str, line: str) -> str:
    """The user's own configuration with the line for ours."""
    return text if line in text.split("\n") else f"{line}\n{text}"


def without_line(text: str, line: str) -> str:
    """The same without it."""
    return "".join(it for it in text.splitlines(True) if it.rstrip("\n") != line)


def check(module: AnsibleModule, text: str, path: str) -> None:
    """Refused with ssh's own words where it does not take the text."""
    with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        rc, _out, err = module.run_command(["ssh", "-G", "-F", file.name, "localhost"])
        if rc:
            raise Refused(f"ssh does not take what is meant for {path}: {err.replace(file.name, path).strip()}")


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings files and line to the wanted state; the module's result."""
    params = module.params
    directory = params["directory"]
    path = os.path.join(directory, "config")
    main = params["main"] or os.path.join(os.path.dirname(directory), "config")
    try:
        account = pwd.getpwnam(params["user"])
    except KeyError:
        raise Refused(f"there is no user {params['user']} on this host; make the account first") from None
    tree = OwnedTree(module, account.pw_uid, account.pw_gid)
    before = files.read_text(main)
    line = f"Include {path}"
    if params["state"] == "present":
        after = with_line(before or "", line)
        if params["config"] != files.read_text(path):
            check(module, params["config"], path)
        if after != before:
            check(module, after, main)
            if os.path.realpath(main).startswith(STORE):
                raise Refused(
                    f"{main} is a link into the Nix store, so another tool writes it; let that tool put the line "
                    f"'{line}' at its beginning"
                )
        tree.directory(directory, 0o700)
        # Before the text that points to it, and before the line that makes both count.
        tree.file(os.path.join(directory, "known_hosts"), params["known_hosts"], 0o600)
        tree.file(path, params["config"], 0o600)
        tree.edit(main, after, 0o600)
    else:
        after = without_line(before or "", line)
        if after or os.path.islink(main):
            tree.edit(main, after, 0o600)
        else:
            tree.remove(main)
        tree.remove(directory)
    return {"changed": tree.changed, "diff": tree.diff, "path": path, "main": main}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "config": {"type": "str"},
            "known_hosts": {"type": "str", "default": ""},
            "main": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["config"])],
        supports_check_mode=True,
    )
    for option in ("directory", "main"):
        if module.params[option] and not os.path.isabs(module.params[option]):
            module.fail_json(msg=f"{option} must be an absolute path, not {module.params[option]!r}")
    if module.params["directory"].rstrip("/").count("/") < 2:
        module.fail_json(msg=f"directory {module.params['directory']} must be one of its own, below another directory")
    module.params["directory"] = os.path.normpath(module.params["directory"])
    try:
        module.exit_json(**run(module))
    except (Refused, files.FileError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
