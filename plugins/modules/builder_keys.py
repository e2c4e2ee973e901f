#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: builder_keys
short_description: The keys that may log in to a builder's account
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Owns the C(authorized_keys) of a builder's account, with exactly the keys that are given, each with C(restrict) and
    a mark that says whose it is.
  - The file is root's and is replaced in one step; the account, as which sshd reads it, cannot write it.
extends_documentation_fragment:
  - ansible.builtin.files
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  path:
    description: The file, in a directory that exists.
    type: path
    required: true
  clients:
    description: The public keys of clients by the clients' names, which are noted beside them.
    type: dict
    default: {}
  keys:
    description: More public key lines. Options in front of a key stay.
    type: list
    elements: str
    default: []
  exclusive:
    description:
      - Whether other keys are removed.
      - With V(false) the lines of others stay. A line of theirs with one of the keys that are given is replaced.
    type: bool
    default: true
  command:
    description:
      - The forced command of all keys that are given, such as the script of M(nixfleet.builders.builder_gate). Nothing
        else is run for a login with one of them.
      - A line of O(keys) with a C(command=) of its own is refused then, as sshd takes no line with two.
    type: str
  purge_login_files:
    description:
      - Whether the files beside O(path) and in the directory above it are removed that sshd, PAM or a shell would read
        at a login, such as C(.ssh/rc), C(.ssh/environment) and C(.bashrc). With O(exclusive=true) that is also
        C(.ssh/authorized_keys2).
      - For a home that was the account's own before it became root's.
    type: bool
    default: false
  account:
    description:
      - An account whose present home may have such a file too. With O(exclusive=false) the lines of others in it are
        kept as well, so run this before the account gets another home.
    type: str
  mode:
    default: "0444"
seealso:
  - module: nixfleet.builders.builder_gate
  - module: nixfleet.builders.sshd_account
"""

EXAMPLES = r"""
- name: Let two clients in
  nixfleet.builders.builder_keys:
    path: /var/lib/nixremote/.ssh/authorized_keys
    clients:
      client1: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
      client2: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC1hL0Yz0rmHjRTfl0nYn0iJkMTYs0bBZTDNpjWNJWAB
    command: /usr/local/libexec/nixfleet-gate
    owner: root
    group: root
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /var/lib/nixremote/.ssh/authorized_keys
kept:
  description: How many lines of others were kept.
  returned: success
  type: int
  sample: 0
removed:
  description: The files that O(purge_login_files) removed, or would.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/nixremote/.ssh/rc]
"""

import os
import pwd
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import authorized_keys, files

#: What sshd reads beside authorized_keys (sshd(8), FILES).
SSH_FILES = ("rc", "environment")
#: What PAM or a shell reads in the home.
HOME_FILES = (
    ".pam_environment",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".profile",
    ".shrc",
    ".kshrc",
    ".zshenv",
    ".zshrc",
    ".zprofile",
    ".zlogin",
)


def former_path(account: str | None) -> list[str]:
    """The authorized_keys in the home that an account has now; none without an account."""
    try:
        return [os.path.join(pwd.getpwnam(account).pw_dir, ".ssh", "authorized_keys")] if account else []
    except KeyError:
        return []


def login_files(path: str, exclusive: bool) -> list[str]:
    """What there is beside authorized_keys, or in the directory above, that a login would read; links to it as well."""
    directory, home = os.path.dirname(path), os.path.dirname(os.path.dirname(path))
    names = [os.path.join(directory, name) for name in (*SSH_FILES, *(("authorized_keys2",) if exclusive else ()))]
    names += [os.path.join(home, name) for name in HOME_FILES]
    return [name for name in names if os.path.lexists(name) and (os.path.islink(name) or not os.path.isdir(name))]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "clients": {"type": "dict", "default": {}},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "exclusive": {"type": "bool", "default": True},
            "command": {"type": "str"},
            "purge_login_files": {"type": "bool", "default": False},
            "account": {"type": "str"},
            "mode": {"type": "raw", "default": "0444"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = module.params["path"]
    removed: list[str] = []
    try:
        lines = authorized_keys.own_lines(module.params["clients"], module.params["keys"], module.params["command"])
        kept: list[str] = []
        if not module.params["exclusive"]:
            texts = [files.read_text(each) or "" for each in (*former_path(module.params["account"]), path)]
            kept = authorized_keys.foreign_lines(texts, lines)
        target = files.OwnedFile(module, path, mode=0o444)
        target.put(authorized_keys.render([*lines, *kept]))
        if module.params["purge_login_files"]:
            removed = login_files(path, module.params["exclusive"])
        if not module.check_mode:
            for name in removed:
                files.remove(name)
    except (files.FileError, authorized_keys.KeyLineError) as error:
        module.fail_json(msg=str(error))
    diffs: list[dict[str, t.Any]] = [target.diff, *(files.diff(name, "(not shown)\n", None) for name in removed)]
    module.exit_json(
        changed=target.changed or bool(removed),
        diff=diffs if removed else target.diff,
        path=path,
        kept=len(kept),
        removed=removed,
    )


if __name__ == "__main__":
    main()
