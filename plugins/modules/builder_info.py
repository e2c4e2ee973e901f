#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host really offers as a builder."""

from __future__ import annotations

DOCUMENTATION = r"""
module: builder_info
short_description: Finds out what a host really offers as a Nix builder
version_added: 0.1.0
author:
  - nixfleet.builders contributors (@nixfleet)
description:
  - Asks Nix for its settings, the hardware for what it backs, and sshd for its host keys, and makes a machine out of it
    that M(nixfleet.builders.machines_file) takes as it is.
  - Nix never asks a builder what it can do, so a line in the machines file that promises too much fails in the middle
    of a build. This module promises what is there.
  - Run it as root, as only root reads what C(sshd -T) shows and what Nix's daemon may open.
options:
  host:
    description:
      - The address, or the alias of ssh's configuration, by which clients reach this host.
      - The host's own name when it is not set.
    type: str
  user:
    description:
      - The account to which clients log in.
      - On a host whose Nix an ordinary user owns, the default stands for that user.
    type: str
    default: nixremote
  protocol:
    description: The scheme of the store's URI.
    type: str
    default: ssh-ng
    choices: [ssh-ng, ssh]
  port:
    description:
      - The port in the store's URI, which Nix understands from 2.31 on.
      - Leave it out when ssh's configuration on the client has it.
    type: int
  ssh_key:
    description: The path of the private key on the client.
    type: path
  systems:
    description:
      - The systems for which the host builds.
      - When it is not set, Nix's C(system), and of its C(extra-platforms) those that run, see RV(unrunnable_reasons).
    type: list
    elements: str
  max_jobs:
    description:
      - How many builds the host takes at a time.
      - When it is not set, it is picked so that, multiplied with the C(cores) of each build, it is at most the number
        of CPUs.
      - With C(cores) set in Nix's configuration, Nix's C(max-jobs) counts, lowered where it is too much.
      - With C(cores) not set or V(0), so that each build may use all CPUs, a C(max-jobs) above V(1) counts, up to the
        number of CPUs. With C(max-jobs) V(1), which is Nix's default, or V(0), it is the square root of the number of
        CPUs, and at most one for each 2 GiB of memory.
      - RV(max_jobs_reason) says which of these it was and RV(build_cores) what C(cores) goes with it.
    type: int
  speed_factor:
    description: The speed of the host relative to the other builders.
    type: float
    default: 1.0
  supported_features:
    description:
      - The features that the host offers.
      - When it is not set, those of Nix's C(system-features) that are backed, see RV(backed_features), and
        O(mandatory_features).
    type: list
    elements: str
  mandatory_features:
    description: The features that a derivation must require, or it is not built on this host.
    type: list
    elements: str
  missing_ok:
    description:
      - On a host without Nix return what Nix's defaults would make of the hardware, instead of failing.
      - Meant for check mode on a host where Nix is yet to be installed.
    type: bool
    default: false
  reference_time:
    description:
      - What a clock that is to be compared with says, in seconds since 1970, like the controller's
        C(now().timestamp()). RV(clock_offset) is then the difference, to the few seconds that the way to
        the host takes.
    type: float
extends_documentation_fragment:
  - nixfleet.builders.nix
  - nixfleet.builders.nix.wrapper
  - nixfleet.builders.attributes.info
  - nixfleet.builders.attributes.actiongroup_builders
seealso:
  - module: nixfleet.builders.machines_file
  - module: nixfleet.builders.store_info
"""

EXAMPLES = r"""
- name: Find out what the host offers
  nixfleet.builders.builder_info:
    host: "{{ inventory_hostname }}"
  become: true
  register: offer

- name: Stop when Nix promises what the host cannot do
  ansible.builtin.assert:
    that: offer.unbacked_features | length == 0

- name: A builder for big builds only
  nixfleet.builders.builder_info:
    host: big-one
    max_jobs: 2
    speed_factor: 4
    mandatory_features:
      - big-parallel
  become: true
  register: big_one
"""

RETURN = r"""
nix_version:
  description: The version of Nix, V(null) without Nix.
  returned: always
  type: str
  sample: 2.26.3
installation:
  description:
    - V(multi-user) where Nix is root's and has a daemon, V(single-user) where an ordinary user owns it, V(wrapped) with
      O(nix_wrapper).
    - In a single-user installation C(nix-daemon --stdio) opens the store itself, as the account that logs in, and
      trusts whoever sent for it.
  returned: always
  type: str
  sample: multi-user
owner:
  description: The ordinary user who owns Nix, V(null) where it is root's.
  returned: always
  type: str
  sample: null
systems:
  description: Nix's C(system), then its C(extra-platforms).
  returned: always
  type: list
  elements: str
  sample: [x86_64-linux, i686-linux]
unrunnable_reasons:
  description:
    - Those of RV(systems) whose programs do not run here, and why. Each is asked by running one of its programs. Where
      a handler in C(/proc/sys/fs/binfmt_misc) runs it, its interpreter must also be found in Nix's sandbox.
    - What cannot be asked is taken to run, such as systems that are not Linux.
  returned: always
  type: dict
  sample: {aarch64-linux: neither the processor nor a handler in binfmt_misc runs its programs}
emulated_systems:
  description: Those of RV(systems) whose programs a handler in C(/proc/sys/fs/binfmt_misc) runs, and its interpreter.
  returned: always
  type: dict
  sample: {riscv64-linux: /usr/libexec/qemu-binfmt/riscv64-binfmt-P}
system_features:
  description: The features for which Nix is configured, sorted.
  returned: always
  type: list
  elements: str
  sample: [benchmark, big-parallel, kvm, nixos-test]
backed_features:
  description:
    - Those of RV(system_features) that work here.
    - C(kvm) needs a C(/dev/kvm) that answers, C(apple-virt) the virtualisation of macOS outside of a virtual machine,
      C(uid-range) the setting C(auto-allocate-uids). All others are policy and count as backed.
  returned: always
  type: list
  elements: str
  sample: [benchmark, big-parallel, nixos-test]
unbacked_features:
  description: Those of RV(system_features) that do not work here.
  returned: always
  type: list
  elements: str
  sample: [kvm]
unbacked_reasons:
  description: Why each of RV(unbacked_features) does not work here.
  returned: always
  type: dict
  sample: {kvm: there is no /dev/kvm}
cores:
  description: The number of CPUs.
  returned: always
  type: int
  sample: 16
memory_mb:
  description: The memory in MiB.
  returned: always
  type: int
  sample: 64000
max_jobs:
  description: How many builds at a time were found sensible, see O(max_jobs).
  returned: always
  type: int
  sample: 4
max_jobs_reason:
  description: How RV(max_jobs) was found.
  returned: always
  type: str
  sample: not chosen in Nix's settings; 16 CPUs and 64000 MB give 4 of 4 cores
build_cores:
  description: The value for Nix's C(cores) with which RV(max_jobs) builds use at most all CPUs.
  returned: always
  type: int
  sample: 4
host_keys:
  description: The public key lines of the host keys that sshd uses, ed25519 first.
  returned: always
  type: list
  elements: str
  sample: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX root@b1]
sshd_ports:
  description: The ports on which sshd listens.
  returned: always
  type: list
  elements: int
  sample: [22]
store_dir:
  description: The directory of the store, V(null) without Nix.
  returned: always
  type: str
  sample: /nix/store
trusted_users:
  description: Nix's C(trusted-users).
  returned: always
  type: list
  elements: str
  sample: [root, nixremote]
trusted_public_keys:
  description: Nix's C(trusted-public-keys).
  returned: always
  type: list
  elements: str
  sample: ["cache.example.org-1:jOprIrN8EUfPc3GX3zSN/4GvF3x3bnHzuiinqV/abqk="]
account:
  description: The account O(user), as sshd and Nix see it.
  returned: always
  type: dict
  contains:
    user:
      description: Its name.
      type: str
      sample: nixremote
    refused:
      description:
        - Why sshd lets nobody in as this account, as C(reason) (V(account_missing), V(account_locked),
          V(account_expired) or V(account_shell)) and C(message). V(null) where its keys open it.
      type: dict
      sample: null
    authorized_keys_files:
      description: Where sshd looks for its keys.
      type: list
      elements: str
      sample: [/var/lib/nixremote/.ssh/authorized_keys]
    authorized_keys:
      description: The keys that may log in, each as its type and base64 text. V(null) when there is no such account.
      type: list
      elements: str
    trusted:
      description: Whether it is one of RV(trusted_users), by its name or a group, or RV(owner).
      type: bool
      sample: true
store_bytes_free:
  description: How many bytes are free in the file system of the store, V(null) when there is none.
  returned: always
  type: int
  sample: 53687091200
store_bytes_total:
  description: How many bytes it has in all, V(null) when there is none.
  returned: always
  type: int
  sample: 107374182400
clock_offset:
  description: By how many seconds the host's clock is ahead of O(reference_time), V(null) without it.
  returned: always
  type: float
  sample: 0.8
machine:
  description:
    - The host as a machine, for M(nixfleet.builders.machines_file). Keys of which nothing is known are left out.
  returned: always
  type: dict
  sample:
    protocol: ssh-ng
    user: nixremote
    host: b1
    systems: [x86_64-linux, i686-linux]
    max_jobs: 4
    speed_factor: 1.0
    supported_features: [benchmark, big-parallel, nixos-test]
    mandatory_features: []
    public_host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJWzdQFj0jM2sdBoRzdpNStkVKnVQXHzbu1mXQpi9fzX root@b1
"""

import fcntl
import glob
import grp
import json
import os
import platform
import pwd
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import account_state, builder_facts, foreign
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import (
    Nix,
    NixError,
    NixNotFound,
    of_module,
    store_owner,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_config import parse_effective

#: ioctl KVM_GET_API_VERSION of linux/kvm.h; the answer has been 12 ever since Linux 2.6.22.
KVM_GET_API_VERSION = 0xAE00

#: A Match block in sshd_config makes some versions of sshd -T insist on a connection to test for.
SSHD_TEST = "user={user},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"


def why_no_kvm(device: str = "/dev/kvm") -> str:
    """Why builds cannot use KVM; '' if they can."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no {device}"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    try:
        fcntl.ioctl(descriptor, KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} does not answer: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""


def why_no_apple_virt(module: AnsibleModule) -> str:
    """Why builds cannot use macOS's virtualisation; '' if they can (libstore/globals.cc asks the same)."""
    answers = {}
    for name in ("kern.hv_support", "kern.hv_vmm_present"):
        answers[name] = module.run_command(["/usr/sbin/sysctl", "-n", name])[1].strip()
    if answers["kern.hv_support"] != "1":
        return "this Mac has no support for virtualisation"
    return "this is itself a virtual machine" if answers["kern.hv_vmm_present"] == "1" else ""


def probe_features(module: AnsibleModule, kernel: str) -> dict[str, str]:
    """For each feature that hardware has to back, why it does not."""
    darwin = kernel == "Darwin"
    return {
        "kvm": "KVM is a part of Linux" if darwin else why_no_kvm(),
        "apple-virt": why_no_apple_virt(module) if darwin else "apple-virt is a part of macOS",
    }


def cpu_count() -> int:
    """The CPUs on which this host's processes may run."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def read_public_key(module: AnsibleModule, path: str) -> str:
    """The public key line of one host key; '' when there is none.

    Asked from the private key, as sshd does not look at the C(.pub) file, which may be another key's.
    """
    if not path.endswith(".pub") and os.path.exists(path):
        rc, out, dummy = module.run_command(["ssh-keygen", "-y", "-P", "", "-f", path])
        if rc == 0:
            return t.cast(str, out).strip()
    try:
        with open(path if path.endswith(".pub") else f"{path}.pub", encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def ask_sshd(module: AnsibleModule, user: str) -> dict[str, str]:
    """What sshd has in force for a user, by its own word; nothing where it does not tell."""
    sshd = module.get_bin_path("sshd", opt_dirs=["/usr/sbin", "/usr/local/sbin", "/run/current-system/sw/bin"])
    if not sshd:
        return {}
    rc, out, dummy = module.run_command([sshd, "-T", "-C", SSHD_TEST.format(user=user)])
    return parse_effective(out) if rc == 0 else {}


def read_sshd(module: AnsibleModule) -> tuple[list[str], list[int]]:
    """(public key lines, ports) of sshd, by its own word, or out of the usual files where sshd does not tell."""
    effective = ask_sshd(module, "root")
    files = effective.get("hostkey", "").split() or sorted(glob.glob("/etc/ssh/ssh_host_*_key.pub"))
    lines = [read_public_key(module, path) for path in files]
    return builder_facts.sort_keys(lines), builder_facts.ports(effective)


def read_lines(path: str) -> list[str] | None:
    """The lines of a file; None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return None


def read_account(module: AnsibleModule, user: str, trusted_users: list[str]) -> dict[str, t.Any]:
    """The account to which clients log in."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        gone: dict[str, t.Any] = {
            "refused": account_state.missing(user),
            "authorized_keys_files": [],
            "authorized_keys": None,
        }
        return {"user": user, "trusted": False, **gone}
    effective = ask_sshd(module, user)
    shell = entry.pw_shell or "/bin/sh"
    shadow = next((line for line in read_lines("/etc/shadow") or [] if line.startswith(f"{user}:")), None)
    files = account_state.key_files(effective, user, entry.pw_dir)
    texts = [lines for lines in map(read_lines, files) if lines is not None]
    groups = [group.gr_name for group in grp.getgrall() if user in group.gr_mem or group.gr_gid == entry.pw_gid]
    return {
        "user": user,
        "refused": account_state.refusal(
            user, os.access(shell, os.X_OK), shell, shadow, effective, int(time.time() // 86400)
        ),
        "authorized_keys_files": files,
        "authorized_keys": [key for lines in texts for key in account_state.keys_of("\n".join(lines))],
        "trusted": account_state.is_trusted(user, groups, trusted_users),
    }


def read_space(store_dir: str | None) -> tuple[int | None, int | None]:
    """(free, all) bytes of the file system that has the store, as an account other than root's may use them."""
    try:
        found = os.statvfs(store_dir or "/nix")
    except OSError:
        return None, None
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def read_nix(nix: Nix, probes: dict[str, str], cpus: int, memory_mb: int) -> dict[str, t.Any]:
    """What Nix says of itself."""
    # The daemon's environment has no NIX_CONFIG, whatever that of this login has.
    settings = nix.settings({"NIX_CONFIG": ""})
    found = builder_facts.features(settings, probes)
    max_jobs, build_cores, reason = builder_facts.pick_jobs(
        int(settings["max-jobs"]), int(settings["cores"]), cpus, memory_mb
    )
    store_dir = json.loads(nix.run("nix-instantiate", "--eval", "--store", "dummy://", "-E", "builtins.storeDir"))
    return {
        "nix_version": ".".join(str(part) for part in nix.version),
        "systems": builder_facts.systems(settings),
        "unrunnable_reasons": foreign.unrunnable(
            settings.get("extra-platforms", []),
            settings.get("sandbox") not in (False, "false"),
            settings.get("sandbox-paths", []),
        ),
        "features": found,
        "max_jobs": max_jobs,
        "max_jobs_reason": reason,
        "build_cores": build_cores,
        "store_dir": store_dir,
        "trusted_users": list(settings["trusted-users"]),
        "trusted_public_keys": list(settings.get("trusted-public-keys", [])),
    }


def without_nix(probes: dict[str, str], cpus: int, memory_mb: int, kernel: str, processor: str) -> dict[str, t.Any]:
    """The same for a host on which Nix is yet to be installed."""
    max_jobs, build_cores, reason = builder_facts.pick_jobs(1, 0, cpus, memory_mb)
    return {
        "nix_version": None,
        "systems": builder_facts.hardware_systems(kernel, processor),
        "unrunnable_reasons": {},
        "features": builder_facts.hardware_features(probes),
        "max_jobs": max_jobs,
        "max_jobs_reason": reason,
        "build_cores": build_cores,
        "store_dir": None,
        "trusted_users": [],
        "trusted_public_keys": [],
    }


def inspect(module: AnsibleModule) -> dict[str, t.Any]:
    """The module's result."""
    now, reference = time.time(), module.params["reference_time"]
    options = {**module.params, "host": module.params["host"] or platform.node()}
    found_owner = store_owner()
    if options["nix_wrapper"]:
        installation, owner = "wrapped", options["nix_user"]
    else:
        installation, owner = ("single-user", found_owner.pw_name) if found_owner else ("multi-user", None)
    if owner and options["user"] == builder_facts.ACCOUNT:
        options["user"] = owner
    kernel, processor = platform.system(), platform.machine()
    probes = probe_features(module, kernel)
    cpus = cpu_count()
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    try:
        offer = read_nix(of_module(module), probes, cpus, memory_mb)
    except NixNotFound:
        if not options["missing_ok"]:
            raise
        offer = without_nix(probes, cpus, memory_mb, kernel, processor)
    found: builder_facts.Features = offer.pop("features")
    emulated = foreign.emulated(offer["systems"])
    host_keys, sshd_ports = read_sshd(module)
    free, total = read_space(offer["store_dir"])
    account = read_account(module, options["user"], offer["trusted_users"])
    if owner == options["user"]:
        account["trusted"] = True
    return {
        "installation": installation,
        "owner": owner,
        **offer,
        "emulated_systems": {system: handler.interpreter for system, handler in emulated.items()},
        "system_features": found.configured,
        "backed_features": found.backed,
        "unbacked_features": sorted(found.unbacked),
        "unbacked_reasons": found.unbacked,
        "cores": cpus,
        "memory_mb": memory_mb,
        "host_keys": host_keys,
        "sshd_ports": sshd_ports,
        "account": account,
        "store_bytes_free": free,
        "store_bytes_total": total,
        "clock_offset": None if reference is None else round(now - reference, 3),
        "machine": builder_facts.machine(
            options,
            systems=[system for system in offer["systems"] if system not in offer["unrunnable_reasons"]],
            max_jobs=offer["max_jobs"],
            features=found.backed,
            host_keys=host_keys,
        ),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str"},
            "user": {"type": "str", "default": builder_facts.ACCOUNT},
            "protocol": {"type": "str", "default": "ssh-ng", "choices": ["ssh-ng", "ssh"]},
            "port": {"type": "int"},
            "ssh_key": {"type": "path", "no_log": False},
            "systems": {"type": "list", "elements": "str"},
            "max_jobs": {"type": "int"},
            "speed_factor": {"type": "float", "default": 1.0},
            "supported_features": {"type": "list", "elements": "str"},
            "mandatory_features": {"type": "list", "elements": "str"},
            "missing_ok": {"type": "bool", "default": False},
            "reference_time": {"type": "float"},
            "nix_bin_dir": {"type": "path"},
            "nix_user": {"type": "str"},
            "nix_wrapper": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        result = inspect(module)
    except NixError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
