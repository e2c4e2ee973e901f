#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nix_conf
short_description: Own one drop-in file of Nix settings
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Owns one file of Nix settings, and the one line C(!include) for it at the end of Nix's main configuration.
    Everything else in the main configuration stays byte for byte as it is.
  - Before a file is replaced, Nix itself reads the whole configuration as it will be. A syntax error, a setting that it
    does not know, a value of the wrong type, and a setting that another line overrides are refused with their name,
    and nothing is changed.
  - The service is not restarted; let the task notify a handler. Nix's daemon reads its configuration only when it
    starts.
extends_documentation_fragment:
  - ansible.builtin.files
  - nixfleet.builders.nix
  - nixfleet.builders.nix.wrapper
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  path:
    description:
      - The drop-in file, such as C(/etc/nix/nix.conf.d/site.conf). Its directory is made where it is missing.
    type: path
    required: true
  settings:
    description:
      - All settings of the drop-in by their names. A value is a string, a number, a boolean, or a list of strings.
      - C(extra-NAME) appends to what is set before, for settings that are lists.
      - Refused is what the file cannot hold, as nothing can be quoted in it, such as a newline, a C(#), or a blank
        inside an item of a list.
      - The file is readable for everybody, as every user's Nix reads it. So C(access-tokens) and URLs with a password
        are refused. Put such a secret into C(~/.config/nix/nix.conf) of the user who needs it, or into the file that
        the setting C(netrc-file) names.
      - Required with O(state=present).
    type: dict
  state:
    description:
      - Whether the drop-in and its line exist.
      - V(absent) leaves the main configuration as it was before the module first changed it, and removes it where the
        module had made it. The drop-in's directory is removed when it is empty then.
    type: str
    choices: [present, absent]
    default: present
  main:
    description: Nix's main configuration. Made where it is missing.
    type: path
    default: /etc/nix/nix.conf
  pending:
    description:
      - A marker file that is made before a file is replaced. While it exists the task reports a change, so that a
        handler is notified again after a run that died before its handlers.
      - The handler has to remove it, once it has restarted Nix's daemon. Put it under C(/run), where it does not
        outlive the service.
    type: path
  mode:
    default: "0644"
notes:
  - In check mode on a host without Nix the settings are not checked; the result says so in RV(checked).
  - Root's own files C(/root/.config/nix/nix.conf) and C(/etc/xdg/nix/nix.conf), which Nix's daemon reads too, count as
    parts of the configuration when O(main) is its default. Where root calls Nix as another user, that user's files do.
  - When O(main) is C(~/.config/nix/nix.conf) of the user who runs the module, C(/etc/nix/nix.conf) counts as read
    before it.
"""

EXAMPLES = r"""
- name: Trust the builders' account, sign what is built
  nixfleet.builders.nix_conf:
    path: /etc/nix/nix.conf.d/nixfleet-builder.conf
    settings:
      extra-trusted-users: [nixremote]
      secret-key-files: [/etc/nix/nixfleet-signing-key]
      max-jobs: 8
      cores: 0
    pending: /run/nixfleet/nix-daemon
  notify: Restart nix-daemon

- name: Take it back
  nixfleet.builders.nix_conf:
    path: /etc/nix/nix.conf.d/nixfleet-builder.conf
    state: absent
  notify: Restart nix-daemon
"""

RETURN = r"""
path:
  description: The drop-in file.
  returned: success
  type: str
  sample: /etc/nix/nix.conf.d/nixfleet-builder.conf
effective:
  description:
    - The value that Nix has, or will have, in force for each of the settings, after all files.
    - Empty when RV(checked=false).
  returned: success
  type: dict
  sample: {"max-jobs": 8, "extra-trusted-users": ["root", "nixremote"]}
include_added:
  description: Whether the line that includes the drop-in was added to the main configuration.
  returned: success
  type: bool
  sample: true
checked:
  description: Whether Nix has read the configuration as it is to be.
  returned: success
  type: bool
  sample: true
nix_version:
  description: The host's Nix, null where none was asked.
  returned: success
  type: str
  sample: 2.26.3
"""

import os
import shutil
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files, nix_conf
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError, NixNotFound, of_module
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_conf_check import Candidate, Refused, Verdict
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import version_text

STORE = "/nix/store/"


def check(module: AnsibleModule, nix: Nix, main_text: str, text: str) -> Verdict:
    """Nix's verdict on the configuration as it will be; Refused."""
    main, path = module.params["main"], module.params["path"]
    # Where whoever calls Nix can read it, and where a wrapper shows it.
    parent = os.path.dirname(main) if nix.wrapper else None if nix.user else module.tmpdir
    directory = tempfile.mkdtemp(prefix="nixfleet-", dir=parent)
    try:
        return Candidate(nix, directory, main=main, main_text=main_text, path=path, text=text).check()
    finally:
        shutil.rmtree(directory)


def make_directory(path: str) -> None:
    """The directory of a file, and those above it, 0755 whatever the umask."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        make_directory(directory)
        os.mkdir(directory)
        os.chmod(directory, 0o755)


def remove_directory(path: str) -> None:
    """A directory, if it is there and empty."""
    if os.path.isdir(path) and not os.listdir(path):
        os.rmdir(path)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Brings the drop-in and its line to the wanted state; the module's result."""
    params = module.params
    for option in ("path", "main"):
        if not os.path.isabs(params[option]):
            module.fail_json(msg=f"{option} must be an absolute path, not {params[option]!r}")
        params[option] = nix_conf.normal(params[option])
    path, main = params["path"], params["main"]
    if path == main:
        module.fail_json(msg=f"path and main are the same file, {path}; the drop-in must be a file of its own")
    pending = files.Pending(module, params["pending"])
    drop_in = files.OwnedFile(module, path, 0o644, pending)
    main_file = files.OwnedFile(module, os.path.realpath(main), 0o644, pending)
    verdict, nix = Verdict({}, []), None
    if params["state"] == "present":
        text = render(module, params["settings"])
        main_text = nix_conf.with_include(main_file.before, main, path)
        try:
            nix = of_module(module)
        except NixNotFound:
            if not module.check_mode:
                raise
        if nix and nix.wrapper:
            if module.check_mode and not os.path.isdir(os.path.dirname(main)):
                nix = None
            elif not module.check_mode:
                make_directory(main_file.path)
        if nix:
            verdict = check(module, nix, main_text, text)
        if main_text != main_file.before and main_file.path.startswith(STORE):
            module.fail_json(
                msg=f"{main} is a link into the Nix store, so another tool writes it; let that tool add the line "
                f"'{nix_conf.include_line(path, main)}' at its end (NixOS: nix.extraOptions)"
            )
        if not module.check_mode:
            make_directory(path)
            make_directory(main_file.path)
        drop_in.put(text)
        main_file.put(main_text, attributes=False)
    else:
        remaining = nix_conf.without_include(main_file.before or "", main, path)
        if remaining is None:
            main_file.remove()
        elif main_file.before is not None:
            main_file.put(remaining, attributes=False)
        drop_in.remove()
        if not module.check_mode:
            if os.path.dirname(path) != os.path.dirname(main):
                remove_directory(os.path.dirname(path))
            if remaining is None:
                remove_directory(os.path.dirname(main))
    for warning in verdict.warnings:
        module.warn(warning)
    return {
        "changed": drop_in.changed or main_file.changed or pending.waiting,
        "path": path,
        "effective": {name: without_passwords(value) for name, value in verdict.effective.items()},
        "include_added": main_file.changed and params["state"] == "present",
        "checked": nix is not None,
        "nix_version": version_text(nix.version) if nix else None,
        "diff": [shown(file) for file in (main_file, drop_in) if file.before != file.after],
    }


def render(module: AnsibleModule, settings: dict[str, t.Any]) -> str:
    """The drop-in's text; fails for secrets, whose values then do not appear in the result."""
    for name, value in settings.items():
        secret = nix_conf.secret_in(str(name), str(value))
        if secret:
            module.no_log_values.update(map(str, value if isinstance(value, list) else [value]))
            module.fail_json(
                msg=f"{secret}, and {module.params['path']} is readable for everybody, as every user's Nix reads it; "
                "put it where only the user who needs it can read it (root, for the daemon): an access token into "
                "~/.config/nix/nix.conf, a password into the file that netrc-file names, mode 0600"
            )
    text = nix_conf.render(settings, files.HEADER)
    nix_conf.check_values(nix_conf.settings_of(text))
    return text


def without_passwords(value: t.Any) -> t.Any:
    """A value in force, of which parts may come from elsewhere, without the passwords in its URLs."""
    if isinstance(value, list):
        return [without_passwords(item) for item in value]
    return nix_conf.redact(value) if isinstance(value, str) else value


def shown(file: files.OwnedFile) -> dict[str, str]:
    """A file's diff without the secrets that were in it before."""
    texts = [None if text is None else nix_conf.redact(text) for text in (file.before, file.after)]
    return files.diff(file.path, texts[0], texts[1])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "settings": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "main": {"type": "path", "default": "/etc/nix/nix.conf"},
            "pending": {"type": "path"},
            "nix_bin_dir": {"type": "path"},
            "nix_user": {"type": "str"},
            "nix_wrapper": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "raw", "default": "0644"},
        },
        required_if=[("state", "present", ["settings"])],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (nix_conf.NixConfError, Refused, NixError, files.FileError, OSError) as error:
        module.fail_json(msg=nix_conf.redact(str(error)))


if __name__ == "__main__":
    main()
