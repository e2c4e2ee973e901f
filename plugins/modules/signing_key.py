#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: signing_key
short_description: Create, read or remove a key pair with which Nix signs store paths
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Makes a Nix signing key on the host that uses it, and writes its public key beside it. The secret key never leaves
    the host; neither the result nor the diff holds it.
  - The files are those of C(nix-store --generate-binary-cache-key). The secret file belongs into Nix's setting
    C(secret-key-files), the public key into C(trusted-public-keys) of those who are to believe it.
  - A missing or wrong public file is written again from the secret one.
extends_documentation_fragment:
  - ansible.builtin.files
  - nixfleet.builders.nix
  - nixfleet.builders.nix.wrapper
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  path:
    description:
      - The file of the secret key. It has its O(mode) from its first byte.
      - Its directory must exist.
    type: path
    required: true
  public_path:
    description: The file of the public key, mode C(0644). By default O(path) with C(.pub) at its end.
    type: path
  name:
    description:
      - The key's name, by which everybody knows whose signature it is. By custom it ends with a number, so that the
        next key can have another one, as in C(builder1-1).
      - It cannot hold a colon, a blank or a C(#).
      - Required with O(state=present).
    type: str
  state:
    description: Whether the two files exist.
    type: str
    choices: [present, absent]
    default: present
  regenerate:
    description:
      - When an existing key is replaced.
      - With V(never) it is kept, whatever its name. The task fails if it cannot be read as a key.
      - With V(fail) the task fails as well if its name is not O(name).
      - With V(always) each run makes a new key. Paths signed with the old one keep that signature.
    type: str
    choices: [never, fail, always]
    default: never
  mode:
    default: "0600"
attributes:
  idempotent:
    support: partial
    details: Not with O(regenerate=always).
requirements:
  - Nix, or the Python package cryptography, on the host, to make a key. To read one, neither is needed.
"""

EXAMPLES = r"""
- name: A key for what this builder builds
  nixfleet.builders.signing_key:
    path: /etc/nix/nixfleet-signing-key
    name: "{{ inventory_hostname }}-1"
  register: signing_key

- name: What the clients have to trust
  ansible.builtin.debug:
    var: signing_key.public_key

- name: Remove it
  nixfleet.builders.signing_key:
    path: /etc/nix/nixfleet-signing-key
    state: absent
"""

RETURN = r"""
public_key:
  description:
    - The public key, as C(trusted-public-keys) takes it.
    - Null in check mode when a key would be made, and with O(state=absent).
  returned: success
  type: str
  sample: builder1-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk=
name:
  description: The name of the key that is there, or would be. Null with O(state=absent).
  returned: success
  type: str
  sample: builder1-1
path:
  description: The file of the secret key.
  returned: success
  type: str
  sample: /etc/nix/nixfleet-signing-key
public_path:
  description: The file of the public key.
  returned: success
  type: str
  sample: /etc/nix/nixfleet-signing-key.pub
"""

import os
import shutil
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files, signing
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import NixError, of_module


def existing(path: str, text: str) -> signing.SecretKey:
    """The key in a file's text; SigningError that names the file."""
    try:
        secret = signing.parse_secret(text)
        if signing.has_cryptography() and signing.generate(secret.name, secret.seed) != secret:
            raise signing.SigningError("the secret key is corrupt: its public half does not belong to it")
    except signing.SigningError as error:
        raise signing.SigningError(
            f"{path}: {error}; put the right file back, or remove it, or set regenerate=always to make a new key"
        ) from error
    return secret


def generate(module: AnsibleModule) -> signing.SecretKey:
    """A new key, made by the package cryptography or else by Nix, which writes it into a private directory."""
    name = module.params["name"]
    if signing.has_cryptography():
        return signing.generate(name, os.urandom(signing.SEED_BYTES))
    nix = of_module(module)
    # Another account than root cannot reach Ansible's own directory. It may see the key, which is to be its own.
    directory = tempfile.mkdtemp(dir=None if nix.user else module.tmpdir)
    try:
        if nix.user:
            os.chown(directory, nix.user.pw_uid, nix.user.pw_gid)
        secret, public = os.path.join(directory, "secret"), os.path.join(directory, "public")
        nix.run("nix-store", "--generate-binary-cache-key", name, secret, public)
        return signing.parse_secret(files.read_text(secret) or "")
    finally:
        shutil.rmtree(directory)


def shown(path: str, before: str | None, after: str | None) -> dict[str, str]:
    """The diff of the public file. What was in it and is no public key may be anything, so it is not shown."""
    if before is not None:
        try:
            before = f"{signing.parse_public(before)}\n"
        except signing.SigningError:
            before = "(no public key)\n"
    return files.diff(path, before, after and f"{after}\n")


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings the key pair to the wanted state; the module's result."""
    params = module.params
    path = params["path"]
    public_path = params["public_path"] or f"{path}.pub"
    if os.path.abspath(path) == os.path.abspath(public_path):
        module.fail_json(msg=f"path and public_path are the same file, {path}")
    secret_file = files.OwnedFile(module, path, 0o600)
    public_file = files.OwnedFile(module, public_path, 0o644, params={**params, "mode": "0644"})
    result: dict[str, t.Any] = {"path": path, "public_path": public_path, "public_key": None, "name": None}
    if params["state"] == "absent":
        secret_file.remove()
        public_file.remove()
        result["changed"] = secret_file.changed or public_file.changed
        result["diff"] = shown(public_path, public_file.before, None)
        return result

    name = signing.check_name(params["name"])
    if name.startswith("-"):
        module.fail_json(msg=f"name is {name!r}; a name that begins with '-' would be an option to Nix's programs")
    text = secret_file.before if params["regenerate"] != "always" else None
    if text is not None:
        secret = existing(path, text)
        if params["regenerate"] == "fail" and secret.name != name:
            module.fail_json(
                msg=f"the key in {path} is called {secret.name!r}, not {name!r}; set name to that, or regenerate to "
                "'never' to keep the key or to 'always' to make a new one"
            )
        if os.stat(path).st_mode & 0o004:
            module.warn(f"{path} was readable for everybody, so the secret key may be known; think of replacing it")
    elif module.check_mode:
        result.update(changed=True, name=name, diff=shown(public_path, public_file.before, f"{name}: (a new key)"))
        return result
    else:
        for directory in (os.path.dirname(os.path.abspath(file)) for file in (path, public_path)):
            if not os.path.isdir(directory):
                module.fail_json(msg=f"the directory {directory} does not exist; make it before the key")
        secret = generate(module)
    secret_file.put(secret.text() if text is None else text)
    public = str(secret.public)
    if public_file.before != f"{public}\n":
        public_file.put(public)
    result.update(changed=secret_file.changed or public_file.changed, name=secret.name, public_key=public)
    result["diff"] = shown(public_path, public_file.before, public)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "public_path": {"type": "path"},
            "name": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "regenerate": {"type": "str", "choices": ["never", "fail", "always"], "default": "never"},
            "nix_bin_dir": {"type": "path"},
            "nix_user": {"type": "str"},
            "nix_wrapper": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "raw", "default": "0600"},
        },
        required_if=[("state", "present", ["name"])],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (signing.SigningError, files.FileError, NixError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
