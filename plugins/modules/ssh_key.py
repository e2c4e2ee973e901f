#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_key
short_description: A user's ssh key without a passphrase
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Makes an ed25519 key where there is none, whole or not at all, and returns its public half. The secret half never
    leaves the host.
  - A key that is there is left as it is, whoever made it. One with a passphrase is refused, as Nix's daemon has nobody
    to ask for it.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  path:
    description:
      - The file of the secret half. That of the public half has C(.pub) at its end.
      - Its directory is made where it is missing, and belongs to the user alone.
    type: path
    required: true
  user:
    description: Whose key it is.
    type: str
    required: true
  comment:
    description: What a new key has behind its public half.
    type: str
    default: ""
seealso:
  - module: nixfleet.builders.ssh_config
"""

EXAMPLES = r"""
- name: Make the key with which root logs in to builders
  nixfleet.builders.ssh_key:
    path: /root/.ssh/nixremote
    user: root
    comment: nixfleet:client1
  register: key
"""

RETURN = r"""
public_key:
  description: Type and base64 text of the public half. Null in check mode when there is no key yet.
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
comment:
  description: What stands behind it, as the secret half has it.
  returned: success
  type: str
  sample: nixfleet:client1
path:
  description: The file of the secret half.
  returned: success
  type: str
  sample: /root/.ssh/nixremote
"""

import os
import pwd
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.owned_tree import OwnedTree


class KeyProblem(Exception):
    """There is no usable key; the text says why and what to do."""


def make(module: AnsibleModule, tree: OwnedTree) -> None:
    """A new key. The secret half comes last: as long as it is not there, there is no key."""
    path = module.params["path"]
    if module.check_mode:
        tree.note(files.diff(f"{path}.pub", None, "(a new key)\n"))
        return
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as directory:
        made = os.path.join(directory, "key")
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", module.params["comment"], "-f", made]
        rc, out, err = module.run_command(argv)
        if rc:
            raise KeyProblem(f"ssh-keygen failed with status {rc}: {(err or out).strip()}")
        tree.file(f"{path}.pub", files.read_text(f"{made}.pub") or "", 0o644)
        tree.file(path, files.read_text(made) or "", 0o600, secret=True)


def read(module: AnsibleModule) -> tuple[str, str]:
    """(public half, comment) of the key that is there, as the secret half has them; KeyProblem."""
    path = module.params["path"]
    rc, out, err = module.run_command(["ssh-keygen", "-y", "-P", "", "-f", path])
    if rc:
        said = "; ".join(line.strip() for line in err.splitlines() if line.strip())
        raise KeyProblem(
            f"the ssh key {path} cannot be used: {said}. Nix's daemon has nobody to ask for a passphrase: take it away "
            f"(ssh-keygen -p -N '' -f {path}). If the file is damaged, put a good one there, or remove it: the next "
            "run makes a new key"
        )
    words = out.split(None, 2)
    return " ".join(words[:2]), words[2].strip() if len(words) > 2 else ""


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings the key to be there; the module's result."""
    path, user = module.params["path"], module.params["user"]
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise KeyProblem(f"there is no user {user} on this host; make the account first") from None
    tree = OwnedTree(module, account.pw_uid, account.pw_gid)
    tree.directory(os.path.dirname(path), 0o700)
    if not os.path.exists(path):
        make(module, tree)
    public_key, comment = read(module) if os.path.exists(path) else (None, module.params["comment"])
    return {"changed": tree.changed, "diff": tree.diff, "path": path, "public_key": public_key, "comment": comment}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "comment": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if not os.path.isabs(module.params["path"]):
        module.fail_json(msg=f"path must be an absolute path, not {module.params['path']!r}")
    try:
        module.exit_json(**run(module))
    except (KeyProblem, files.FileError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
