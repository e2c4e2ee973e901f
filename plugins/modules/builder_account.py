#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: builder_account
short_description: The account to which the clients of a builder log in
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - A system account with a group of its own, which no password opens, with C(/bin/sh) as its shell.
  - Its home and C(.ssh) are root's and cannot be written by the account, so it cannot change its own keys.
  - Its C(authorized_keys) is root's and holds exactly the keys that are given, each with C(restrict).
  - Where only a group may talk to Nix's daemon, as on Debian and Arch, the account becomes a member of it.
  - An account of that name which is there already is taken over. It stays in the groups that it is in.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
attributes:
  platform:
    platforms: linux
    details: It uses C(useradd) and its relatives of the package shadow.
options:
  name:
    description: The account and its group.
    type: str
    required: true
  uid:
    description: Its number. When it is not set, the system chooses one, and the account keeps the one that it has.
    type: int
  home:
    description:
      - Its home. A former home stays where it is.
      - O(state=absent) removes it.
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
      - With V(false) the lines of others stay, also those in the home that the account had before. A line with one of the
        keys that are given is replaced.
    type: bool
    default: true
  daemon_socket:
    description: The directory with the socket of Nix's daemon.
    type: path
    default: /nix/var/nix/daemon-socket
  state:
    description: Whether the account exists. With V(absent) its group and its home are removed as well.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: nixfleet.builders.sshd_account
"""

EXAMPLES = r"""
- name: Let two clients in
  nixfleet.builders.builder_account:
    name: nixremote
    home: /var/lib/nixremote
    clients:
      client1: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX
      client2: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC1hL0Yz0rmHjRTfl0nYn0iJkMTYs0bBZTDNpjWNJWAB

- name: Take the account away
  nixfleet.builders.builder_account:
    name: nixremote
    home: /var/lib/nixremote
    state: absent
"""

RETURN = r"""
uid:
  description: The account's number. Null when there is no account (yet).
  returned: success
  type: int
  sample: 996
authorized_keys:
  description: The file with its keys.
  returned: success
  type: str
  sample: /var/lib/nixremote/.ssh/authorized_keys
kept:
  description: How many lines of others were kept.
  returned: success
  type: int
  sample: 0
"""

import functools
import grp
import os
import pwd
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import builder_account, files
from ansible_collections.nixfleet.builders.plugins.module_utils.builder_account import Account
from ansible_collections.nixfleet.builders.plugins.module_utils.owned_tree import OwnedTree

SHADOW = "/etc/shadow"
ROOT = (0, 0)


class AccountError(Exception):
    """The account cannot be brought to the wanted state; the text says why."""


def password_field(name: str) -> str:
    """An account's field in /etc/shadow; '' where it has none there."""
    lines = (files.read_text(SHADOW) or "").split("\n")
    return next((line.split(":")[1] for line in lines if line.startswith(f"{name}:")), "")


def read_account(name: str) -> Account | None:
    """The account that is there; AccountError when it is root's."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        raise AccountError(f"{name} is root by another name; choose an account of its own")
    try:
        group = grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        group = str(entry.pw_gid)
    groups = frozenset(each.gr_name for each in grp.getgrall() if name in each.gr_mem)
    return Account(entry.pw_uid, group, groups, password_field(name), entry.pw_shell, entry.pw_dir, entry.pw_gecos)


def has_group(name: str) -> bool:
    """Whether there is a group of that name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def socket_group(directory: str) -> list[str]:
    """The group without which an account does not reach the socket, if there is one."""
    try:
        status = os.stat(directory)
    except OSError:
        return []
    return [] if status.st_mode & stat.S_IXOTH else [grp.getgrgid(status.st_gid).gr_name]


class Change(OwnedTree):
    """What is brought to the wanted state, one by one."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module, *ROOT)
        self._run = module.run_command
        self._path = functools.partial(module.get_bin_path, required=True)
        self._check_mode = module.check_mode

    def run(self, program: str, *args: str) -> None:
        """One of shadow's programs; AccountError with what it said."""
        self.note({"prepared": f"{' '.join((program, *args))}\n"})
        if self._check_mode:
            return
        rc, out, err = self._run([self._path(program), *args])
        if rc:
            raise AccountError(f"{program} failed with status {rc}: {(err or out).strip()}")


def make(module: AnsibleModule, change: Change) -> dict[str, t.Any]:
    """The account with its group, home and keys."""
    params = module.params
    name, home = params["name"], params["home"]
    now = read_account(name)
    then = builder_account.wanted(
        now, name=name, uid=params["uid"], home=home, groups=socket_group(params["daemon_socket"])
    )
    lines = builder_account.own_lines(params["clients"], params["keys"])
    path = os.path.join(home, ".ssh", "authorized_keys")
    kept: list[str] = []
    if not params["exclusive"]:
        former = os.path.join(now.home if now else home, ".ssh", "authorized_keys")
        texts = [files.read_text(file) or "" for file in dict.fromkeys((former, path))]
        kept = builder_account.foreign_lines(texts, lines)
    if not has_group(name):
        change.run("groupadd", "--system", name)
    # Keys first: once the account has its new home, nothing leads to the former one, whose keys may be kept.
    change.directory(home, 0o555)
    change.directory(os.path.dirname(path), 0o555)
    # sshd reads it as the account.
    change.file(path, builder_account.text([*lines, *kept]), 0o444)
    options = builder_account.options(now, then)
    if now is None:
        change.run("useradd", "--system", "--no-create-home", *options, name)
    elif options:
        change.run("usermod", *options, name)
    made = now if module.check_mode else read_account(name)
    return {"uid": made.uid if made else None, "kept": len(kept), "authorized_keys": path}


def unmake(module: AnsibleModule, change: Change) -> dict[str, t.Any]:
    """Removes the account, its group and its home."""
    name, home = module.params["name"], module.params["home"]
    if read_account(name):
        change.run("userdel", name)
    # userdel has removed the group as well, where login.defs says so and nobody else is in it.
    if has_group(name) and not (module.check_mode and change.changed):
        change.run("groupdel", name)
    change.remove(home)
    return {"uid": None, "kept": 0, "authorized_keys": os.path.join(home, ".ssh", "authorized_keys")}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uid": {"type": "int"},
            "home": {"type": "path", "required": True},
            "clients": {"type": "dict", "default": {}},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "exclusive": {"type": "bool", "default": True},
            "daemon_socket": {"type": "path", "default": "/nix/var/nix/daemon-socket"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    home = module.params["home"]
    if not os.path.isabs(home) or os.path.dirname(os.path.normpath(home)) == "/":
        module.fail_json(msg=f"home {home!r} must be an absolute path of the account's own, below another directory")
    change = Change(module)
    try:
        result = (make if module.params["state"] == "present" else unmake)(module, change)
    except (AccountError, files.FileError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=change.changed, diff=change.diff, **result)


if __name__ == "__main__":
    main()
