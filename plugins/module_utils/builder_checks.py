# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a client finds out about its builders: each one's store is asked, and each has to build something fresh.

All builders are tried at the same time, as nearly all of the time goes by in waiting for them. A builder gets one
connection for the question and one for the build, so that its sshd has no cause for a penalty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.nixfleet.builders.plugins.module_utils import (
    checks,
    login_probe,
    machines,
    store_client,
    store_probe,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.checks import Finding
from ansible_collections.nixfleet.builders.plugins.module_utils.limited_run import run_limited
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh import ParamikoMissing
from ansible_collections.nixfleet.builders.plugins.module_utils.ssh_config import SshConfigError, Target, target_of
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import normal_host

#: How many builders are tried at a time: each costs this host a Nix and an ssh.
AT_A_TIME = 8

#: Where ssh is, wherever Nix is.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: A derivation that Nix itself builds: it needs no shell and no input on the builder.
EXPRESSION = """
{ name, features, system ? builtins.currentSystem }: derivation {
  inherit name system;
  builder = "builtin:buildenv";
  derivations = "";
  manifest = name;
  requiredSystemFeatures = builtins.fromJSON features;
  allowSubstitutes = false;
}
"""


class Builder(t.NamedTuple):
    """One builder: its name, its machine (None when the client knows nothing of it), its own system ('' for this
    host's), the public half of its signing key.

    C(signed): it trusts signatures instead of users. C(offer): what module builder_info says of it, None where that is
    not known, and then C(no_offer) is why.
    """

    name: str
    machine: Machine | None
    system: str = ""
    signing_public_key: str = ""
    signed: bool = False
    offer: dict[str, t.Any] | None = None
    no_offer: str = "the builder was not looked at"


class Limits(t.NamedTuple):
    """C(timeout): seconds for asking a store, C(build_timeout) for a build, which may have to wait for a slot;
    C(min_free) bytes of a store; C(max_clock_skew) seconds.
    """

    timeout: float = 15
    build_timeout: float = 1800
    min_free: int = 1 << 30
    max_clock_skew: float = 30


class Client(t.NamedTuple):
    """This host: C(clock_offset) is what builder_info's is, C(signing_public_key) the key with which it signs."""

    clock_offset: float | None = None
    signing_public_key: str | None = None


def fresh_name(builder: str) -> str:
    """A derivation's name that no other has, with the builder's in it."""
    # What a store path's name may be (libstore/path.cc), and short enough to become a part of one.
    return f"nixfleet-proof-{re.sub('[^A-Za-z0-9+._?=-]', '-', builder)[:100]}-{secrets.token_hex(8)}"


class BuilderChecks:
    """How this host tries its builders. C(dry): nothing is built."""

    def __init__(self, nix: Nix, wanted: t.Collection[str], limits: Limits, client: Client, dry: bool = False) -> None:
        self._nix = nix
        self._wanted = wanted
        self._limits = limits
        self._client = client
        self._dry = dry
        self._environment = {
            **store_client.clean_environment(os.environ, limits.timeout),
            "PATH": f"{nix.bin_dir}:{PATH}",
        }
        # Asked once, before the threads.
        self._reading = nix.machines_version
        self._settings = nix.settings({"NIX_CONFIG": ""}) if {"known", "signature"} & set(wanted) else {}

    def try_all(self, builders: t.Sequence[Builder]) -> list[dict[str, t.Any]]:
        """For each builder, in their order: name, output (the path that it built), checks."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(self._try, builders))

    def _needs(self, *names: str) -> bool:
        return any(name in checks.with_foundations(self._wanted) for name in names)

    def _try(self, builder: Builder) -> dict[str, t.Any]:
        findings, machine = self._known(builder)
        output = target = None
        if machine is not None:
            with contextlib.suppress(SshConfigError):
                target = target_of(machine)
            if self._needs("name"):
                findings.update(self._reach(builder, machine, target))
            if self._needs("features"):
                findings["features"] = self._features(builder, machine)
            if self._needs("build"):
                built, output = self._build_and_verify(builder, machine, findings)
                findings.update(built)
            daemon = findings.get("daemon")
            if "lockdown" in self._wanted and daemon is not None and daemon.verdict == checks.PASSED:
                findings["lockdown"] = self._lockdown(target)
        findings.update(self._disk_and_clock(builder))
        return {"name": builder.name, "output": output, "checks": checks.settle(findings, self._wanted)}

    # ------------------------------------------------------------------------------------------------ what it promises

    def _known(self, builder: Builder) -> tuple[dict[str, Finding], Machine | None]:
        """What the client knows of it, and the machine as which Nix knows it."""
        if builder.machine is None:
            return {"known": checks.failed("unknown_to_client", f"this client knows nothing of {builder.name}")}, None
        if "known" not in self._wanted:
            return {"known": checks.passed()}, builder.machine
        setting = str(self._settings.get("builders", ""))
        try:
            # What one @ names is the whole list; see Read.
            there = machines.parse(setting.replace(";", "\n"), None, self._reading, _read)
        except MachinesError as error:
            return {"known": checks.failed("no_machine", f"Nix reads no machines: {error}")}, builder.machine
        host = normal_host(builder.machine.parts.host)
        for machine in there:
            if "://" in machine.uri and normal_host(machine.parts.host) == host:
                return {"known": checks.passed(machine.uri)}, machine
        message = f"the machines that Nix knows here (builders = {setting}) have none on {host}"
        return {"known": checks.failed("no_machine", message)}, builder.machine

    def _features(self, builder: Builder, machine: Machine) -> Finding:
        if builder.offer is None:
            return checks.skipped(builder.no_offer)
        return checks.judge_features(machine.to_dict(), builder.offer)

    def _disk_and_clock(self, builder: Builder) -> dict[str, Finding]:
        if builder.offer is None:
            return dict.fromkeys(("disk", "clock"), checks.skipped(builder.no_offer))
        free, total = builder.offer.get("store_bytes_free"), builder.offer.get("store_bytes_total")
        theirs, ours = builder.offer.get("clock_offset"), self._client.clock_offset
        unknown = checks.skipped("it was not measured")
        return {
            "disk": unknown if free is None or total is None else checks.judge_disk(free, total, self._limits.min_free),
            "clock": unknown
            if theirs is None or ours is None
            else checks.judge_clock(theirs, ours, self._limits.max_clock_skew),
        }

    # ------------------------------------------------------------------------------------------------ the store

    def _reach(self, builder: Builder, machine: Machine, target: Target | None) -> dict[str, Finding]:
        store = store_client.ask(self._nix, machine.uri, self._limits.timeout)
        if not store["reachable"]:
            return self._why_not(builder, store, target)
        found = {name: checks.passed() for name in checks.BY_STORE}
        if target is not None:
            found["name"] = checks.passed(target.address)
            found["tcp"] = checks.passed(f"port {target.port}")
            found["login"] = checks.passed(f"as {target.user}")
        version = f"Nix {store['version']}, " if store["version"] else ""
        found["protocol"] = checks.passed(f"{version}after {store['latency_ms']} ms")
        account = builder.offer.get("account") if builder.offer else None
        user = target.user if target else machine.parts.user or "the account"
        found["trust"] = (
            checks.judge_signer(self._client.signing_public_key, builder.offer)
            if builder.signed
            else checks.judge_trust(store["trusted"], account, user, store["version"])
        )
        return found

    def _why_not(self, builder: Builder, store: dict[str, t.Any], target: Target | None) -> dict[str, Finding]:
        failure = store_probe.Failure(store["reason"], store["message"], store["suggestion"])
        check, finding = checks.place(failure)
        if failure.reason == "timeout" and failure.message.startswith("no answer within") and target is not None:
            check, finding = locate_silence(target, self._limits.timeout, finding)
        if check == "login":
            account = builder.offer.get("account") if builder.offer else None
            keys = public_keys(target) if target is not None else []
            finding = checks.judge_login(failure.message, account or {}, keys) or finding
        return checks.up_to(check, finding)

    # ------------------------------------------------------------------------------------------------ the build

    def _run(self, program: str, *args: str, hopeless: str = "") -> tuple[int | None, str, str]:
        return run_limited(self._nix.argv(program, *args), self._environment, self._limits.build_timeout, hopeless)

    def _build_and_verify(
        self, builder: Builder, machine: Machine, findings: t.Mapping[str, Finding]
    ) -> tuple[dict[str, Finding], str | None]:
        if self._dry:
            return dict.fromkeys(("build", "signature"), checks.skipped("nothing is built in check mode")), None
        if any(finding.verdict == checks.FAILED for name, finding in findings.items() if name != "features"):
            return {}, None
        built, output = self._build(builder, machine)
        if output is None:
            return {"build": built}, None
        return {"build": built, "signature": self._signature(builder, output)}, output

    def _build(self, builder: Builder, machine: Machine) -> tuple[Finding, str | None]:
        user = machine.parts.user or "the account"
        if machine.max_jobs == 0:
            # Nix would wait for ever.
            return checks.failed("takes_nothing", f"the machine {machine.uri} takes 0 builds at a time"), None
        # No local build, and no other machine: whatever comes back, this builder has built it.
        options = ["--no-out-link", "--max-jobs", "0", "--builders", machine.render(self._reading)]
        arguments = {"name": fresh_name(builder.name), "features": json.dumps(machine.mandatory_features)}
        if builder.system:
            arguments["system"] = builder.system
        words = [word for name, value in arguments.items() for word in ("--argstr", name, value)]
        start = time.monotonic()
        # Nobody else builds what is that fresh: a lock on it is this build's own, which has come round.
        rc, out, err = self._run("nix-build", *options, *words, "-E", EXPRESSION, hopeless=checks.CIRCLE)
        if rc == 0:
            return checks.passed(f"{out.strip()} in {time.monotonic() - start:.1f} s"), out.strip()
        # What Nix says again and again while it waits is said once.
        said = "\n".join(dict.fromkeys(store_probe.clean(err).splitlines()))
        return checks.judge_build(rc, said, self._limits.build_timeout, user=user), None

    def _signature(self, builder: Builder, output: str) -> Finding:
        key = builder.signing_public_key
        if not key:
            return checks.failed("not_signed", "the builder has published no signing key")
        options = ["--no-contents", "--sigs-needed", "1", "--option", "trusted-public-keys", key]
        rc, _out, err = self._run("nix", "store", "verify", *options, output)
        if rc != 0:
            message = f"{output}, which it has built, has no signature of its key {key}: {store_probe.clean(err)}"
            return checks.failed("not_signed", message)
        if key not in self._settings.get("trusted-public-keys", []):
            return checks.failed("key_not_trusted", f"this client's Nix does not trust the builder's key {key}")
        return checks.passed(f"by {key.partition(':')[0]}, which the client trusts")

    # ------------------------------------------------------------------------------------------------ lock-down

    def _lockdown(self, target: Target | None) -> Finding:
        if target is None:
            return checks.skipped("ssh's configuration cannot be read")
        try:
            found = login_probe.probe(target, login_probe.CHECKS, self._limits.timeout)
        except ParamikoMissing as error:
            return checks.skipped(f"{error}; install python3-paramiko on the client")
        except ValueError as error:
            return checks.skipped(f"the login cannot be probed: {error}")
        if not found.passed:
            return checks.failed("not_locked_down", found.complaint())
        return checks.passed(f"{len(found.checks)} checks of login_probe")


# ---------------------------------------------------------------------------------------------------- looks of its own


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def public_keys(target: Target) -> list[str]:
    """The public halves of the keys with which ssh logs in, each as its type and base64 text."""
    found = []
    for path in target.identity_files:
        with contextlib.suppress(OSError, UnicodeDecodeError), open(f"{path}.pub", encoding="utf-8") as file:
            words = file.read().split()
            found.append(" ".join(words[:2]))
    return found


def locate_silence(target: Target, timeout: float, otherwise: Finding) -> tuple[str, Finding]:
    """At which check a connection ends of which nothing was heard until the time was up."""
    if target.jump is not None or target.proxy_command:
        return "tcp", otherwise
    where = f"{target.address} port {target.port}"
    try:
        connection = socket.create_connection((target.address, target.port), timeout)
    except socket.gaierror:
        return "name", otherwise
    except OSError:
        return "tcp", otherwise
    with connection:
        try:
            banner = connection.recv(64)
        except OSError as error:
            return "tcp", checks.failed("no_answer", f"{where} takes connections and says nothing ({error})")
    if not banner.startswith(b"SSH-"):
        return "tcp", checks.failed("no_answer", f"{where} is no sshd: it says {banner[:40]!r}")
    message = f"sshd answers on {where}, but after the login nothing came within {timeout:g} seconds"
    return "protocol", checks.failed("shell_hangs", message)
