#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the account of clients may do on a builder, proved from outside."""

from __future__ import annotations

DOCUMENTATION = r"""
module: login_probe
short_description: Proves from outside what a login to a builder may do and may not
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Logs in to a builder with a client's key, asks for all that the account is to be refused, and for the one thing that
    it is for, and says of each what the server did.
  - Where sshd lets through what is asked, it is tried whether it works; a refusal that cannot be told from a mere
    failure does not count as one.
  - It runs where the client's key is. Nothing is installed, and nothing remains on the builder but lines in its log.
  - It takes three connections, of which two are refused on purpose. OpenSSH 9.8 and newer keep a penalty of five
    seconds for each of these against the client's address (C(PerSourcePenalties)), and refuse it when fifteen have
    gathered. So the task ends only when these have passed, ten seconds after it began. Without the check V(other_user)
    there are no penalties and no wait.
options:
  host:
    description: The builder's name or address. SSH's configuration is not read for it.
    type: str
    required: true
  port:
    description: The port of the builder's sshd.
    type: int
    default: 22
  user:
    description: The account.
    type: str
    default: nixremote
  ssh_key:
    description: The path of the private key that is let in. It must have no passphrase.
    type: path
    required: true
  public_host_key:
    description: The public key line of the host key that the builder must show.
    type: str
    required: true
  checks:
    description:
      - What to prove. V(host_key) is always proved, as nothing is said to a host that has another one.
      - V(methods), sshd offers public keys and no other proof; V(password), V(keyboard_interactive) and V(wrong_key),
        it refuses these.
      - V(protocol), Nix's worker protocol answers.
      - V(shell), V(command), V(sftp) and V(scp) are refused, where V(command) is several, among them Nix's own with
        more behind it.
      - V(pty), V(agent), V(x11), V(tcp_forwarding), V(socket_forwarding) and V(tunnel) are refused, forwarding in both
        directions.
      - V(environment), variables of the client, like C(PATH) and C(LD_PRELOAD), are refused and have no effect.
      - V(other_user), the key opens neither root's account nor one that does not exist.
    type: list
    elements: str
    choices:
      - host_key
      - methods
      - password
      - keyboard_interactive
      - wrong_key
      - protocol
      - shell
      - command
      - sftp
      - scp
      - pty
      - agent
      - x11
      - tcp_forwarding
      - socket_forwarding
      - tunnel
      - environment
      - other_user
    default:
      - host_key
      - methods
      - password
      - keyboard_interactive
      - wrong_key
      - protocol
      - shell
      - command
      - sftp
      - scp
      - pty
      - agent
      - x11
      - tcp_forwarding
      - socket_forwarding
      - tunnel
      - environment
      - other_user
  proxy_jump:
    description:
      - The jump hosts on the way, as in C(ProxyJump) of SSH's configuration, which is read for them.
      - Their accounts are only passed through. Penalties then count against the last of them.
    type: str
  connect_timeout:
    description: How many seconds a connection, and each answer on it, may take.
    type: int
    default: 10
  fail:
    description:
      - Whether the task fails when a check did not pass.
      - With V(false) the task succeeds and RV(passed) tells.
    type: bool
    default: true
extends_documentation_fragment:
  - nixfleet.builders.attributes.info
  - nixfleet.builders.attributes.actiongroup_builders
requirements:
  - The Python library paramiko
notes:
  - A refusal that sshd gives because it could not do what it would have done, like X11 without C(xauth), does not pass.
seealso:
  - module: nixfleet.builders.sshd_account
  - module: nixfleet.builders.store_info
"""

EXAMPLES = r"""
- name: Prove that a client's key opens nothing but Nix
  nixfleet.builders.login_probe:
    host: 192.0.2.7
    user: nixremote
    ssh_key: /root/.ssh/nixremote
    public_host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPK7XD52mnzLl1o8Yj7DgPKUQ4NVNM/hyQZRXEVS8BZP
  become: true

- name: Prove it of a builder behind a jump host
  nixfleet.builders.login_probe:
    host: 192.0.2.7
    ssh_key: /root/.ssh/nixremote
    public_host_key: "{{ hostvars.b1.nix_builder_fact.machine.public_host_key }}"
    proxy_jump: nixfleet-jump-bastion
  become: true

- name: Look at two things only, and go on
  nixfleet.builders.login_probe:
    host: b1
    ssh_key: /root/.ssh/nixremote
    public_host_key: "{{ hostvars.b1.nix_builder_fact.machine.public_host_key }}"
    checks: [methods, tcp_forwarding]
    fail: false
  become: true
  register: proof
"""

RETURN = r"""
passed:
  description: Whether every check passed.
  returned: always
  type: bool
  sample: false
checks:
  description: What was found, in the order of the list of all checks.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The check, as in O(checks).
      type: str
      sample: tcp_forwarding
    verdict:
      description:
        - V(passed), V(failed), or V(skipped) where it could not be tried because of another one, which failed.
      type: str
      sample: failed
    evidence:
      description: What was asked and what the server said or did.
      type: str
      sample: "direct-tcpip to 127.0.0.1:22 was opened and answers SSH-2.0-OpenSSH_10.0p2 Debian-7"
  sample:
    - name: password
      verdict: passed
      evidence: "sshd does not take this method (it goes on with: publickey)"
    - name: tcp_forwarding
      verdict: failed
      evidence: "direct-tcpip to 127.0.0.1:22 was opened and answers SSH-2.0-OpenSSH_10.0p2 Debian-7"
server:
  description: How sshd named itself; empty where it was not reached.
  returned: always
  type: str
  sample: SSH-2.0-OpenSSH_10.0p2 Debian-7
seconds:
  description: How long it took, with the time in which penalties passed.
  returned: always
  type: float
  sample: 10.1
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.nixfleet.builders.plugins.module_utils import login_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError, jump_of


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 22},
            "user": {"type": "str", "default": "nixremote"},
            "ssh_key": {"type": "path", "required": True, "no_log": False},
            "public_host_key": {"type": "str", "required": True, "no_log": False},
            "checks": {
                "type": "list",
                "elements": "str",
                "choices": list(login_probe.CHECKS),
                "default": list(login_probe.CHECKS),
            },
            "proxy_jump": {"type": "str"},
            "connect_timeout": {"type": "int", "default": 10},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    for option, least, most in (("connect_timeout", 1, 3600), ("port", 1, 65535)):
        if not least <= params[option] <= most:
            module.fail_json(msg=f"{option} is {params[option]}, it has to be from {least} to {most}")
    try:
        account = login_probe.account(
            params["host"],
            params["port"],
            params["user"],
            params["ssh_key"],
            params["public_host_key"],
            jump_of(params["proxy_jump"]) if params["proxy_jump"] else None,
        )
        found = login_probe.probe(account, params["checks"], params["connect_timeout"])
    except ParamikoMissing as error:
        module.fail_json(msg=missing_required_lib("paramiko", reason="to log in as asked"), exception=error.reason)
    except (SshConfigError, ValueError) as error:
        module.fail_json(msg=str(error))
    result = found.as_dict()
    if params["fail"] and not found.passed:
        module.fail_json(msg=found.complaint(), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
