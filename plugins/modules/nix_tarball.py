#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nix out of the binary tarball of a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_tarball
short_description: Takes Nix out of the binary tarball of a release
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - The part of the role P(nixfleet.builders.nix_install#role) that works under C(/nix). It makes the directories of a
    multi-user Nix, brings the tarball's paths into the store, registers them, and installs Nix into the default
    profile.
  - The group C(nixbld) must be there. Nix's daemon, its users and its configuration are the role's.
  - What an interrupted run has done, the next one finds done.
options:
  src:
    description:
      - The tarball on the host, C(nix-VERSION-SYSTEM.tar.xz). Required with O(state=present).
      - In check mode it may be missing.
    type: path
  checksum:
    description: The checksum that the tarball must have, C(sha256:) and hexadecimal digits.
    type: str
  state:
    description: V(absent) takes Nix out of the default profile. The store and everything else under C(/nix) stay.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
"""

EXAMPLES = r"""
- name: Take Nix out of a tarball that was copied to the host
  nixfleet.builders.nix_tarball:
    src: /var/cache/nix-2.34.8-x86_64-linux.tar.xz
    checksum: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  become: true
"""

RETURN = r"""
version:
  description: The version of Nix in the tarball.
  returned: when the tarball is there
  type: str
  sample: 2.34.8
store_path:
  description: Nix's path in the store.
  returned: when the tarball is there
  type: str
  sample: /nix/store/0123456789abcdfghijklmnpqrsvwxyz-nix-2.34.8
actions:
  description: What was done, or would be done in check mode.
  returned: always
  type: list
  elements: str
  sample: ["make /nix/store", "install nix-2.34.8 into the default profile"]
"""

import grp
import os
import platform
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import builder_facts, nix_tarball

ROOT = "/nix"
STORE = f"{ROOT}/store"
STAGING = f"{ROOT}/.nix_install"
PROFILE = f"{ROOT}/var/nix/profiles/default"

#: A profile is but links: nothing to look for elsewhere, nor to shut in.
LINKING = ("--option", "substitute", "false", "--option", "sandbox", "false")


class Installer:
    """Does what is missing, or in check mode only notes it, step by step."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.actions: list[str] = []

    def note(self, action: str) -> bool:
        """Notes a step and returns whether it is to be done."""
        self.actions.append(action)
        return not self._module.check_mode

    def run(self, argv: list[str], data: str | None = None) -> str:
        """stdout of a program of Nix that works on the store itself; fails the module with its stderr."""
        # A home of its own, as nix-env makes files there.
        environment = {"HOME": self._module.tmpdir, "NIX_REMOTE": "", "NIX_CONFIG": "", "USER": "root"}
        # Without binary_data a line end is put behind the data, which Nix takes for one more path.
        rc, out, err = self._module.run_command(argv, data=data, binary_data=True, environ_update=environment)
        if rc:
            self._module.fail_json(
                msg=f"{' '.join(argv[:3])} failed with status {rc}: {err.strip()}", actions=self.actions
            )
        return t.cast(str, out)

    def present(self, file: t.BinaryIO, name: str) -> dict[str, t.Any]:
        """Nix is in the store, registered, and in the default profile."""
        if self._module.check_mode:
            self.actions += [f"make {path}" for path in nix_tarball.missing_tree(ROOT)]
        else:
            made = nix_tarball.make_tree(ROOT, grp.getgrnam("nixbld").gr_gid)
            self.actions += [f"make {path}" for path in made]
        systems = builder_facts.hardware_systems(platform.system(), platform.machine())
        contents = nix_tarball.unpack(file, name, systems, STORE, STAGING, dry=self._module.check_mode)
        self.actions += [f"unpack {path}" for path in contents.missing]
        nix = f"{STORE}/{contents.nix}"
        self.register(nix, contents)
        self.install(nix, contents)
        return {"version": contents.version, "store_path": nix}

    def register(self, nix: str, contents: nix_tarball.Contents) -> None:
        """The paths are in Nix's database."""
        if not contents.missing:
            argv = [f"{nix}/bin/nix-store", "--check-validity", *(f"{STORE}/{path}" for path in contents.paths)]
            if self._module.run_command(argv, environ_update={"NIX_REMOTE": "", "NIX_CONFIG": ""})[0] == 0:
                return
        if self.note(f"register {len(contents.paths)} paths"):
            self.run([f"{nix}/bin/nix-store", "--load-db"], contents.reginfo)

    def install(self, nix: str, contents: nix_tarball.Contents) -> None:
        """The default profile has this Nix, and the certificates that it comes with."""
        if os.path.realpath(f"{PROFILE}/bin/nix-store") == os.path.realpath(f"{nix}/bin/nix-store"):
            return
        if self.note(f"install {contents.nix[33:]} into the default profile"):
            certificates = [f"{STORE}/{path}" for path in contents.paths if path[33:].startswith("nss-cacert-")]
            self.run([f"{nix}/bin/nix-env", "--profile", PROFILE, *LINKING, "--install", nix, *certificates])

    def absent(self) -> None:
        """The default profile has no Nix."""
        program = f"{PROFILE}/bin/nix-env"
        if os.path.exists(program) and self.note("take Nix out of the default profile"):
            self.run([program, "--profile", PROFILE, *LINKING, "--uninstall", "nix", "nss-cacert"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path"},
            "checksum": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("src",))],
        supports_check_mode=True,
    )
    installer = Installer(module)
    result: dict[str, t.Any] = {}
    source = module.params["src"]
    if module.params["state"] == "absent":
        installer.absent()
    elif module.check_mode and not os.path.exists(source):
        installer.note(f"take Nix out of {source}")
    else:
        try:
            with open(source, "rb") as file:
                if module.params["checksum"]:
                    nix_tarball.check_sum(file, source, module.params["checksum"])
                result = installer.present(file, source)
        except nix_tarball.TarballError as error:
            module.fail_json(msg=str(error), actions=installer.actions)
        except OSError as error:
            module.fail_json(msg=f"cannot install {source}: {error}", actions=installer.actions)
        except KeyError:
            module.fail_json(msg="there is no group nixbld, in which Nix's build users are")
    diff = {"before": "", "after": "".join(f"{action}\n" for action in installer.actions)}
    module.exit_json(changed=bool(installer.actions), actions=installer.actions, diff=diff, **result)


if __name__ == "__main__":
    main()
