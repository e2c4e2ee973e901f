#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: store_sign
short_description: Sign store paths that a key has not signed yet
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Adds a key's signature to paths of the host's Nix store which do not have it. Signatures of other keys stay.
  - What Nix builds after C(secret-key-files) was set it signs by itself. This is for what was there before.
  - Runs one Nix process for some thousands of paths.
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.nix.wrapper
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  key:
    description:
      - The file of the secret key, such as M(nixfleet.builders.signing_key) makes it.
      - In check mode it may be missing; then all paths count as not signed.
    type: path
    required: true
  paths:
    description: The store paths to sign, or links to them. All must be valid; otherwise none is signed.
    type: list
    elements: path
  all:
    description: Signs all valid paths of the store. Either this or O(paths) must be given.
    type: bool
    default: false
  recursive:
    description: Signs the closures of O(paths), not only the paths themselves.
    type: bool
    default: false
attributes:
  check_mode:
    details:
      - On a host without Nix nothing is counted.
      - Where the Python package cryptography is missing, a signature by the key's name counts as the key's. Without
        check mode Nix itself looks closer.
notes:
  - The user must be root, or trusted by Nix's daemon.
"""

EXAMPLES = r"""
- name: Sign what was built before there was a key
  nixfleet.builders.store_sign:
    key: /etc/nix/nixfleet-signing-key
    all: true

- name: Sign one closure
  nixfleet.builders.store_sign:
    key: /etc/nix/nixfleet-signing-key
    paths:
      - /nix/var/nix/profiles/default
    recursive: true
"""

RETURN = r"""
signed:
  description: How many paths were signed, or would be.
  returned: success
  type: int
  sample: 3
checked:
  description: How many paths were looked at.
  returned: success
  type: int
  sample: 4182
paths:
  description: The paths that were signed, or would be.
  returned: success, when they are known and at most 100
  type: list
  elements: str
  sample: ["/nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello"]
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files, signing
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import NixError, NixNotFound, of_module
from ansible_collections.nixfleet.builders.plugins.module_utils.store_signatures import StoreSignatures

FEW = 100


def public_key(path: str, may_be_missing: bool) -> signing.PublicKey | None:
    """The public key of a secret key file; SigningError that names the file."""
    text = files.read_text(path)
    if text is None:
        if may_be_missing:
            return None
        raise signing.SigningError(f"there is no key in {path}; make one with nixfleet.builders.signing_key")
    try:
        return signing.parse_secret(text).public
    except signing.SigningError as error:
        raise signing.SigningError(f"{path}: {error}") from error


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Signs what is not signed; the module's result."""
    params = module.params
    if params["all"] and params["paths"] is not None:
        module.fail_json(msg="paths and all=true are mutually exclusive")
    for path in params["paths"] or ():
        if not os.path.isabs(path):
            module.fail_json(msg=f"{path!r} in paths is not an absolute path")
    public = public_key(params["key"], module.check_mode)
    try:
        nix = of_module(module)
    except NixNotFound:
        if not module.check_mode:
            raise
        return {"changed": False, "signed": 0, "checked": 0, "paths": []}
    store = StoreSignatures(nix, params["key"], public)
    infos = store.all() if params["all"] else store.of(params["paths"], params["recursive"])
    missing, doubtful = store.unsigned(infos)
    signed = len(missing)
    if not module.check_mode:
        signed = store.sign(missing + doubtful)
    result: dict[str, t.Any] = {"changed": signed > 0, "signed": signed, "checked": len(infos)}
    if signed == len(missing) <= FEW:
        result["paths"] = missing
    if signed:
        what = f"paths that {public.name if public else 'the key'} has not signed"
        lines = [*missing[:FEW], f"({signed} paths)"]
        result["diff"] = {"before_header": what, "after_header": what, "before": "\n".join(lines) + "\n", "after": ""}
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "key": {"type": "path", "required": True, "no_log": False},
            "paths": {"type": "list", "elements": "path"},
            "all": {"type": "bool", "default": False},
            "recursive": {"type": "bool", "default": False},
            "nix_bin_dir": {"type": "path"},
            "nix_user": {"type": "str"},
            "nix_wrapper": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("all", False, ["paths"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (signing.SigningError, files.FileError, NixError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
