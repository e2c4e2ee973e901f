#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: sshd_account
short_description: Restrict one account in sshd, and prove the effect
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Owns one drop-in file of sshd's configuration, with a C(Match User) block for one account and, where wanted, global
    settings before it.
  - Before anything is replaced, sshd itself reads the whole configuration as it will be (C(sshd -T -C user=…)). A
    setting that sshd does not know, that would change something for another account, or that another line overrides
    is refused with its name or that line, and nothing is changed.
  - Afterwards the effect on the account is read back from sshd, and all files are put back where it is not there.
  - The service is not reloaded; let the task notify a handler.
extends_documentation_fragment:
  - nixfleet.builders.attributes
  - nixfleet.builders.attributes.actiongroup_builders
options:
  user:
    description: The account.
    type: str
    required: true
  path:
    description:
      - The drop-in file.
      - In sshd's configuration the first value counts, so its name should sort early.
    type: path
    default: /etc/ssh/sshd_config.d/10-nixfleet.conf
  settings:
    description:
      - Settings for the account alone, by sshd's keyword, such as C(MaxSessions).
      - A list is written as words with a blank between them. C(SetEnv) takes all its variables in one list, as sshd
        reads only the first C(SetEnv).
      - Required with O(state=present).
    type: dict
  keys_file:
    description:
      - A file of keys that may log in to the account besides its own. C(AuthorizedKeysFile) becomes what it is for the
        account without O(path), and this one.
    type: path
  global_settings:
    description: Settings for the whole of sshd, written before the block. Only these may change for other accounts.
    type: dict
    default: {}
  state:
    description:
      - Whether the drop-in exists.
      - V(absent) also takes away the C(Include) line that O(include=mend) had added.
    type: str
    choices: [present, absent]
    default: present
  include:
    description:
      - What to do where O(config) does not include O(path), or includes it only after a C(Match) line, where it counts
        for some logins only.
      - V(mend) adds one C(Include) line for the drop-in at the beginning of O(config). V(report) fails.
      - Where O(path) is included after a C(Match) line, V(mend) writes the drop-in beside O(config) instead, as sshd
        accepts no global setting under a C(Match).
    type: str
    choices: [mend, report]
    default: mend
  config:
    description:
      - sshd's main configuration.
      - Where V(/etc/ssh/sshd_config) does not exist and C(/usr/etc/ssh/sshd_config) does, as on openSUSE, that one is
        read, and never written.
    type: path
    default: /etc/ssh/sshd_config
  sshd:
    description: The program sshd. Searched in the usual directories when not set.
    type: path
  pending:
    description:
      - A marker file that is created before a file is replaced. While it exists the task reports a change, so that a
        handler is notified again after a run that died before its handlers.
      - The handler has to remove it, once it has reloaded sshd. Put it under C(/run), where it does not outlive the
        service.
    type: path
"""

EXAMPLES = r"""
- name: Nobody gets a terminal or a forwarded port as nixremote
  nixfleet.builders.sshd_account:
    user: nixremote
    settings:
      AuthenticationMethods: publickey
      PermitTTY: false
      DisableForwarding: true
      SetEnv:
        - PATH=/nix/var/nix/profiles/default/bin:/usr/bin:/bin
    global_settings:
      MaxStartups: "100:30:300"
  notify: Reload sshd

- name: Take it back
  nixfleet.builders.sshd_account:
    user: nixremote
    state: absent
  notify: Reload sshd
"""

RETURN = r"""
path:
  description: The drop-in file, as it was written; see O(include).
  returned: success
  type: str
  sample: /etc/ssh/sshd_config.d/10-nixfleet.conf
include:
  description: The main configuration's C(Include) for it, V(present), V(added) or V(removed).
  returned: success
  type: str
  sample: present
effective:
  description: What sshd has in force for the account, by lower-case keyword, for all keywords given.
  returned: success, except in check mode when there is a change
  type: dict
  sample: {"permittty": "no", "disableforwarding": "yes", "maxstartups": "100:30:300"}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_account import SshdAccount, Texts
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_config import SshdConfigError, render


def run(module: AnsibleModule) -> dict[str, object]:
    """Brings the drop-in to the wanted state; the module's result."""
    params = module.params
    present = params["state"] == "present"
    settings = (params["settings"] or {}) if present else {}
    global_settings = params["global_settings"] if present else {}
    account = SshdAccount(
        module, user=params["user"], path=params["path"], config=params["config"], sshd=params["sshd"]
    )
    if present and params["keys_file"]:
        settings = {**settings, "AuthorizedKeysFile": account.keys_files_without() + [params["keys_file"]]}
    text = render(params["user"], settings, global_settings, files.HEADER) if present else None
    main = account.main_with_include(params["include"]) if present else account.main_without_include()
    wanted: Texts = {account.path: text, account.config: main, account.aside: None}
    texts = {path: new for path, new in wanted.items() if new != files.read_text(path)}
    pending = files.Pending(module, params["pending"])
    if text is not None and texts:
        account.rehearse(text, main, settings, global_settings)
    include = "present" if main == account.main else ("added" if present else "removed")
    result: dict[str, object] = {
        "changed": bool(texts) or pending.waiting,
        "path": account.path,
        "include": include,
        "diff": [files.diff(path, files.read_text(path), new) for path, new in texts.items()],
    }
    if module.check_mode and texts:
        return result
    effective = account.place(texts, text, settings, global_settings, pending)
    keywords = [keyword.lower() for keyword in (*settings, *global_settings)]
    result["effective"] = {keyword: effective.get(keyword) for keyword in keywords}
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "path": {"type": "path", "default": "/etc/ssh/sshd_config.d/10-nixfleet.conf"},
            "settings": {"type": "dict"},
            "keys_file": {"type": "path", "no_log": False},
            "global_settings": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "include": {"type": "str", "choices": ["mend", "report"], "default": "mend"},
            "config": {"type": "path", "default": "/etc/ssh/sshd_config"},
            "sshd": {"type": "path"},
            "pending": {"type": "path"},
        },
        required_if=[("state", "present", ["settings"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (SshdConfigError, files.FileError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
