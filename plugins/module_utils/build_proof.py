# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether this host can build on its builders: each one's store is asked, and each has to build something fresh.

All builders are tried at the same time, as nearly all of the time goes by in waiting for them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.nixfleet.builders.plugins.module_utils import store_client, store_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.limited_run import run_limited
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

CHECKS = ("store", "build")

#: How many builders are tried at a time: each costs this host a Nix and an ssh.
AT_A_TIME = 8

#: A build may have to wait for a slot that another one holds.
BUILD_SECONDS = 1800

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
    """One builder: its name, its machine, its own system ('' for this host's), the public half of its signing key."""

    name: str
    machine: Machine
    system: str
    signing_public_key: str


class Verdict(t.NamedTuple):
    """What became of one builder. C(problem) is None when all is well; C(output) is the path that it built."""

    name: str
    store: dict[str, t.Any] | None
    output: str | None
    problem: str | None


def fresh_name(builder: str) -> str:
    """A derivation's name that no other has, with the builder's in it."""
    # What a store path's name may be (libstore/path.cc), and short enough to become a part of one.
    return f"nixfleet-proof-{re.sub('[^A-Za-z0-9+._?=-]', '-', builder)[:100]}-{secrets.token_hex(8)}"


class Proof:
    """How this host tries its builders. C(timeout) is for asking a store, in seconds."""

    def __init__(self, nix: Nix, checks: t.Collection[str], timeout: float) -> None:
        self._nix = nix
        self._checks = checks
        self._timeout = timeout
        self._environment = {
            **store_client.clean_environment(os.environ, timeout),
            "PATH": f"{nix.bin_dir}:{PATH}",
        }
        self._reading = nix.machines_version

    def try_all(self, builders: t.Sequence[Builder]) -> list[Verdict]:
        """A verdict for each builder, in their order."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(self._try, builders))

    def _try(self, builder: Builder) -> Verdict:
        store, output, problem = None, None, None
        if "store" in self._checks:
            store = store_client.ask(self._nix, builder.machine.uri, self._timeout)
            if not store["reachable"]:
                problem = store_client.complaint(store)
        if "build" in self._checks and not problem:
            output, problem = self._build(builder)
        if output and not problem:
            problem = self._unsigned(builder, output)
        return Verdict(builder.name, store, output, problem)

    def _run(self, program: str, *args: str) -> tuple[int | None, str, str]:
        return run_limited(self._nix.argv(program, *args), self._environment, BUILD_SECONDS)

    def _build(self, builder: Builder) -> tuple[str | None, str | None]:
        """(the path that was built, None) or (None, why there is none)."""
        # No local build, and no other machine: whatever comes back, this builder has built it.
        options = ["--no-out-link", "--max-jobs", "0", "--builders", builder.machine.render(self._reading)]
        arguments = {"name": fresh_name(builder.name), "features": json.dumps(builder.machine.mandatory_features)}
        if builder.system:
            arguments["system"] = builder.system
        words = [word for name, value in arguments.items() for word in ("--argstr", name, value)]
        rc, out, err = self._run("nix-build", *options, *words, "-E", EXPRESSION)
        if rc == 0:
            return out.strip(), None
        how = f"had no result within {BUILD_SECONDS} seconds" if rc is None else f"failed with status {rc}"
        return None, f"nix-build on {builder.machine.uri} {how}: {store_probe.clean(err)}"

    def _unsigned(self, builder: Builder, output: str) -> str | None:
        """Why a path does not count as signed by the builder."""
        key = builder.signing_public_key
        options = ["--no-contents", "--sigs-needed", "1", "--option", "trusted-public-keys", key]
        rc, _out, err = self._run("nix", "store", "verify", *options, output)
        if rc == 0:
            return None
        return (
            f"{output}, which it has built, does not carry a signature of its key {key}: {store_probe.clean(err)}\n"
            "To mend it: run role nixfleet.builders.nix_builder on it, which has Nix sign what it builds"
        )
