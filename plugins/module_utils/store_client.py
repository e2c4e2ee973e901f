# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks a store whether it is there, as Nix's daemon would: with Nix's own command line and ssh. Needs no Ansible."""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import store_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.limited_run import run_limited
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix

#: What only a person at a terminal has: Nix's daemon logs in without them.
PERSONAL = ("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_AUTH_SOCK", "DISPLAY", "NIX_CONFIG", "NIX_REMOTE")


def clean_environment(environment: t.Mapping[str, str], timeout: float) -> dict[str, str]:
    """The environment in which Nix asks: no questions to a person, no agent, messages in English, ssh in a hurry."""
    options = f"-oBatchMode=yes -oConnectTimeout={max(1, int(timeout))}"
    kept = {name: value for name, value in environment.items() if name not in PERSONAL}
    # ssh takes the first value that it is given for an option.
    return {**kept, "LC_ALL": "C", "NIX_SSHOPTS": f"{options} {kept.get('NIX_SSHOPTS', '')}".strip()}


def missing_path(uri: str) -> str | None:
    """The path of a store that is a plain path and is not there; Nix would make a new store of it."""
    path = uri.partition("?")[0]
    return path if path.startswith("/") and not os.path.isdir(path) else None


def ask(nix: Nix, uri: str, timeout: float) -> dict[str, t.Any]:
    """What the module store_info returns of a store: reachable, version, trusted, latency_ms, or why it is not."""
    result: dict[str, t.Any] = {
        "uri": uri,
        **dict.fromkeys(("version", "trusted", "latency_ms", "reason", "message", "suggestion")),
    }
    path = missing_path(uri)
    if path:
        mend = f"correct the path, or make the store: 'nix-store --store {path} --init'"
        failure = store_probe.Failure("bad_uri", f"there is no directory {path}", mend)
        return {**result, "reachable": False, **failure._asdict()}
    argv = nix.argv(*store_probe.question(nix.version, uri))
    start = time.monotonic()
    rc, out, err = run_limited(argv, clean_environment(os.environ, timeout), timeout)
    if rc is not None and store_probe.answered(rc, err):
        latency = round((time.monotonic() - start) * 1000)
        return {**result, "reachable": True, "latency_ms": latency, **store_probe.read_answer(out, err)._asdict()}
    failure = store_probe.timed_out(err, uri, timeout) if rc is None else store_probe.classify(err, uri)
    return {**result, "reachable": False, **failure._asdict()}


def complaint(answer: t.Mapping[str, t.Any]) -> str:
    """Why a store is not reachable and what mends it, of what C(ask) returned."""
    return (
        f"the store {answer['uri']} is not reachable ({answer['reason']}): {answer['message']}\n"
        f"To mend it: {answer['suggestion']}"
    )
