#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""QEMU as the interpreter of other processors' programs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: emulation
short_description: Has Linux run programs of other processors through QEMU
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Registers a handler in the kernel's binfmt_misc for each processor, and writes a file for systemd's C(binfmt.d) from
    which C(systemd-binfmt.service) registers them again when the host boots.
  - The handlers have the flag F. The kernel opens QEMU once, when they are registered, so that it is there in every
    chroot, and so in the sandbox in which Nix builds. QEMU must be static for that.
  - It then runs a program of each system, and fails where that does not work.
  - Nix builds for these systems when they are in its setting C(extra-platforms).
  - Handlers of others are left alone. Those of this module have names that begin with C(nixfleet-).
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  systems:
    description:
      - The systems, as Nix calls them, such as V(aarch64-linux). Others that this module had set up are taken away.
      - Required with O(state=present).
    type: list
    elements: str
  path:
    description: The file for systemd's C(binfmt.d). Its directory is made where it is missing.
    type: path
    default: /etc/binfmt.d/nixfleet.conf
  state:
    description: V(absent) takes away the file and all handlers of this module.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    details: Where QEMU is yet to be installed, Debian's path of it is assumed.
seealso:
  - module: nixfleet.builders.builder_info
  - module: nixfleet.builders.nix_conf
"""

EXAMPLES = r"""
- name: Install QEMU
  ansible.builtin.apt:
    # qemu-user-static up to Debian 12
    name: qemu-user
    install_recommends: false
  become: true

- name: Run programs of aarch64
  nixfleet.builders.emulation:
    systems: [aarch64-linux]
  become: true
"""

RETURN = r"""
path:
  description: The file for systemd's C(binfmt.d).
  returned: success
  type: str
  sample: /etc/binfmt.d/nixfleet.conf
interpreters:
  description: The interpreter of each system.
  returned: success
  type: dict
  sample: {aarch64-linux: /usr/libexec/qemu-binfmt/aarch64-binfmt-P}
registered:
  description: The handlers that were registered, or would be.
  returned: success
  type: list
  elements: str
  sample: [nixfleet-aarch64]
removed:
  description: The handlers that were removed, or would be.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import binfmt, files, foreign

#: Enough of a program for its ELF header and the tables behind it.
HEADER_BYTES = 65536


def check(systems: list[str]) -> dict[str, binfmt.Processor]:
    """The processors of the systems. Raises BinfmtError."""
    own = binfmt.processor(f"{os.uname().machine}-linux")
    found = {}
    for system in systems:
        kind = binfmt.processor(system) if system in binfmt.emulable() else None
        if kind is None:
            raise binfmt.BinfmtError(f"{system} cannot be emulated; there are {', '.join(binfmt.emulable())}")
        if kind == own:
            raise binfmt.BinfmtError(f"{system} is the host's own system, which needs no emulation; take it out")
        found[system] = kind
    return found


def find_interpreter(kind: binfmt.Processor, assume: bool) -> str:
    """QEMU for a processor. Raises BinfmtError where it is missing or not static."""
    dynamic = ""
    for path in binfmt.candidates(kind):
        try:
            with open(path, "rb") as file:
                loader = binfmt.interpreter_of_elf(file.read(HEADER_BYTES))
        except FileNotFoundError:
            continue
        if loader is None:
            return path
        dynamic = f"{path} needs {loader}, which is not in Nix's sandbox"
    if assume:
        return binfmt.candidates(kind)[0]
    raise binfmt.BinfmtError(
        f"there is no static QEMU for {kind.qemu}: "
        f"{dynamic or 'none of ' + ', '.join(binfmt.candidates(kind)) + ' is there'}; "
        "install the package qemu-user-static (Debian up to 12) or qemu-user (from 13 on)"
    )


def up_to_date(handler: binfmt.Handler | None, kind: binfmt.Processor, interpreter: str) -> bool:
    """Whether a registered handler is what it should be."""
    return (
        handler is not None
        and handler.enabled
        and handler.interpreter == interpreter
        and set(handler.flags) >= set(binfmt.flags(interpreter))
        and (handler.magic, handler.mask, handler.offset) == (*binfmt.magic_and_mask(kind), 0)
    )


def write(name: str, text: str) -> None:
    """Tells binfmt_misc something. Raises BinfmtError."""
    path = os.path.join(foreign.BINFMT_MISC, name)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except FileNotFoundError as error:
        raise binfmt.BinfmtError(
            f"there is no {path}: binfmt_misc is not mounted; mount it (systemctl start proc-sys-fs-binfmt_misc.mount)"
            ". Most containers cannot: there, have the host of the container register the handlers"
        ) from error
    except OSError as error:
        raise binfmt.BinfmtError(f"{path} does not take {text[:40]!r}: {error.strerror}") from error


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings file and handlers to the wanted state; the module's result."""
    params = module.params
    present = params["state"] == "present"
    processors = check(params["systems"] or []) if present else {}
    kinds = list(dict.fromkeys(processors.values()))
    interpreters = {kind: find_interpreter(kind, module.check_mode) for kind in kinds}
    lines = {kind.handler: binfmt.line(kind, interpreters[kind]) for kind in kinds}

    there = {handler.name: handler for handler in foreign.read_handlers() if handler.name.startswith(binfmt.PREFIX)}
    stale = [kind for kind in kinds if not up_to_date(there.get(kind.handler), kind, interpreters[kind])]
    gone = sorted(there.keys() - lines.keys())
    if not module.check_mode:
        for name in [*gone, *(kind.handler for kind in stale if kind.handler in there)]:
            write(name, "-1")
        for kind in stale:
            write("register", lines[kind.handler])
        for system in processors:
            why = foreign.why_not_run(system)
            if why:
                raise binfmt.BinfmtError(f"{system} is not emulated, although its handler is registered: {why}")

    # Last, so that a host does not come up with what did not work.
    target = files.OwnedFile(module, params["path"], 0o644, params={"owner": None, "group": None, "mode": "0644"})
    if lines:
        text = "# Written by the Ansible collection nixfleet.builders. Changes made here are lost.\n"
        if not module.check_mode:
            os.makedirs(os.path.dirname(params["path"]), mode=0o755, exist_ok=True)
        target.put(text + "".join(f"{lines[name]}\n" for name in sorted(lines)))
    else:
        target.remove()
    return {
        "path": params["path"],
        "interpreters": {system: interpreters[kind] for system, kind in processors.items()},
        "registered": sorted(kind.handler for kind in stale),
        "removed": gone,
        "changed": bool(target.changed or stale or gone),
        "diff": target.diff,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "systems": {"type": "list", "elements": "str"},
            "path": {"type": "path", "default": "/etc/binfmt.d/nixfleet.conf"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["systems"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (binfmt.BinfmtError, files.FileError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
