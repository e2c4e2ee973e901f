# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checks of one builder by one client: their order, what stands on what, and what mends what failed.

Pure: what was found out is handed in. The reasons for which a store is not reachable, and what mends them, are those of
store_probe.py.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import store_probe

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Check(t.NamedTuple):
    """One check: its name, and those without which it says nothing."""

    name: str
    stands_on: tuple[str, ...] = ()


#: In the order in which things break.
CHECKS = (
    Check("known"),
    Check("name", ("known",)),
    Check("tcp", ("name",)),
    Check("host_key", ("tcp",)),
    Check("login", ("host_key",)),
    Check("path", ("login",)),
    Check("protocol", ("path",)),
    Check("daemon", ("protocol",)),
    Check("trust", ("daemon",)),
    Check("features", ("known",)),
    Check("build", ("trust",)),
    Check("signature", ("build",)),
    Check("lockdown", ("daemon",)),
    Check("disk"),
    Check("clock"),
)
NAMES = tuple(check.name for check in CHECKS)

#: What has to be well for a build: that is what playbook fleet asks for.
WAY_TO_A_BUILD = ("name", "tcp", "host_key", "login", "path", "protocol", "daemon", "trust", "build", "signature")

#: What one question to the store answers, in this order.
BY_STORE = ("name", "tcp", "host_key", "login", "path", "protocol", "daemon")

#: At which check a store is not reachable that is not for a reason of store_probe.REASONS.
CHECK_OF_REASON = {
    "bad_uri": "name",
    "name_resolution": "name",
    "connection_refused": "tcp",
    "no_route": "tcp",
    "timeout": "tcp",
    "host_key_unknown": "host_key",
    "host_key_changed": "host_key",
    "permission_denied": "login",
    "no_nix": "path",
    "command_refused": "path",
    "protocol_mismatch": "protocol",
    "unsupported": "protocol",
    "other": "protocol",
    "daemon_socket_permission": "daemon",
    "daemon_unavailable": "daemon",
}

_AGAIN = "run playbook nixfleet.builders.fleet with this client and this builder"

#: What mends the reasons that store_probe.py does not have. {user} is the account, {path} where its
#: keys are.
REMEDIES = {
    "unknown_to_client": f"{_AGAIN}, which makes them known to each other",
    "no_machine": "run role nixfleet.builders.nix_client on this client, which writes the machines file that Nix reads;"
    " 'nix show-config | grep ^builders' shows where Nix looks",
    "connection_closed": "see sshd's log on the builder ('journalctl -u ssh'): it ended the connection after the "
    "host key was shown, for an expired account, a penalty of this host, or a shell that does"
    " not start",
    "no_answer": "something listens there, but it is no sshd that answers: see whether sshd hangs or another program "
    "has the port ('ss -ltnp' on the builder); nix_builder_port is what clients connect to",
    "shell_hangs": "the login succeeds and then nothing comes: take out of the start-up files of the account's shell "
    "what waits, or give the account the shell /bin/sh (role nixfleet.builders.nix_builder does)",
    "account_missing": "run role nixfleet.builders.nix_builder on the builder, which makes the account {user}",
    "account_locked": "run role nixfleet.builders.nix_builder on the builder, which unlocks the account without"
    " giving it a password ('usermod -p \"*\" {user}')",
    "account_expired": "let the account live on: 'chage -E -1 -M -1 {user}' on the builder",
    "account_shell": "give the account a shell that exists: run role nixfleet.builders.nix_builder on the builder",
    "key_not_authorized": f"{_AGAIN}, which lets the client's key in; it is not in the builder's {{path}}",
    "key_unusable": "run role nixfleet.builders.nix_client on this client, which makes the key "
    "(nix_client_ssh_key); ssh takes only one without a passphrase that nobody else can read",
    "not_trusted": "run role nixfleet.builders.nix_builder on the builder, which makes {user} one of Nix's "
    "extra-trusted-users; 'nix show-config | grep ^trusted-users' there shows who is",
    "no_client_key": f"{_AGAIN}, which makes the client a signing key",
    "client_key_not_trusted": f"{_AGAIN}, which has the builder trust what the client signs",
    "system_missing": "take the system out of nix_builder_systems, or let the builder's Nix build for it "
    "(extra-platforms in nix_builder_settings); then run playbook nixfleet.builders.fleet",
    "feature_missing": "take the feature out of nix_builder_supported_features, or let the builder's Nix have it "
    "(system-features); then run playbook nixfleet.builders.fleet",
    "feature_unusable": "make it work on the builder, or take the feature out of nix_builder_supported_features "
    "and run playbook nixfleet.builders.fleet",
    "takes_nothing": "let it build: nix_builder_max_jobs above 0, then run playbook nixfleet.builders.fleet",
    "build_circle": f"{_AGAIN}: a builder that is a client as well builds what comes in itself then (units "
    "nixfleet-daemon), and does not hand it back to this client",
    "build_timeout": "see what holds the builder's slots ('ps -ef | grep nixbld' there), or raise nix_builder_max_jobs",
    "build_failed": "see what 'nix-build' says with '--builders' and this builder, and the log of nix-daemon there",
    "no_signing_key": "run role nixfleet.builders.nix_builder on the builder, which makes a signing key, and "
    "then playbook nixfleet.builders.fleet, which has the clients trust it",
    "not_signed": "run role nixfleet.builders.nix_builder on the builder, which has Nix sign what it builds "
    "(nix_builder_signing_key)",
    "key_not_trusted": "run role nixfleet.builders.nix_client on this client, which adds the builder's key to Nix's "
    "extra-trusted-public-keys",
    "not_locked_down": "run role nixfleet.builders.nix_builder on the builder, which restricts the account in sshd",
    "disk_low": "free space in the builder's store ('nix-collect-garbage -d' there), give it a larger disk, or lower "
    "nix_verify_min_free",
    "clock_skew": "have both hosts keep time ('timedatectl set-ntp true'); nix_verify_max_clock_skew is "
    "what is allowed",
}

#: Every reason for which a check fails.
REASONS = (*(reason for reason in store_probe.REASONS), *REMEDIES)


class Finding(t.NamedTuple):
    """What was found out by one check.

    C(message) is what was seen, also where all is well; C(because) is why the check was not made.
    """

    verdict: str
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    because: str | None = None


def passed(message: str | None = None) -> Finding:
    """All is well."""
    return Finding(PASSED, message=message)


def failed(reason: str, message: str, **words: str) -> Finding:
    """What is wrong; C(words) are those of the remedy."""
    return Finding(FAILED, reason, message, REMEDIES[reason].format(**words))


def skipped(because: str) -> Finding:
    """It was not made."""
    return Finding(SKIPPED, because=because)


def place(failure: store_probe.Failure) -> tuple[str, Finding]:
    """The check at which a store is not reachable, and what is found there."""
    said = failure.message
    closed = re.search(r"^Connection (closed|reset) by ", said, re.MULTILINE)
    if failure.reason == "connection_refused" and closed and "kex_exchange" not in said:
        # The other refusals come before a host key is shown.
        return "login", failed("connection_closed", said)
    if failure.reason == "timeout" and "banner exchange" in said:
        return "tcp", failed("no_answer", said)
    return CHECK_OF_REASON[failure.reason], Finding(FAILED, failure.reason, said, failure.suggestion)


def up_to(check: str, finding: Finding) -> dict[str, Finding]:
    """The findings of a store that is not reachable: what comes before the check that failed is well."""
    well = BY_STORE[: BY_STORE.index(check)]
    return {**{name: passed() for name in well}, check: finding}


def settle(findings: t.Mapping[str, Finding], wanted: t.Collection[str]) -> list[dict[str, t.Any]]:
    """The results of the wanted checks, in order, each a dict with the check's name.

    One that stands on a failed one is skipped. A failed one that a wanted one stands on is in the list as well.
    """
    settled: dict[str, Finding] = {}
    roots: dict[str, str] = {}
    for check in CHECKS:
        root = next((roots[name] for name in check.stands_on if name in roots), None)
        finding = findings.get(check.name)
        if root is not None and (finding is None or finding.verdict != FAILED):
            finding = skipped(f"{root} failed: {settled[root].reason}")
            roots[check.name] = root
        elif finding is None:
            finding = skipped("nothing was found out about it")
        elif finding.verdict == FAILED:
            roots[check.name] = check.name
        settled[check.name] = finding
    needed = with_foundations(wanted)
    return [
        {"check": name, **finding._asdict()}
        for name, finding in settled.items()
        if name in wanted or (name in needed and finding.verdict == FAILED)
    ]


def with_foundations(wanted: t.Collection[str]) -> set[str]:
    """The wanted checks, and all on which they stand."""
    needed = set(wanted)
    for check in reversed(CHECKS):
        if check.name in needed:
            needed.update(check.stands_on)
    return needed


# ---------------------------------------------------------------------------------------------------- judging


def judge_login(said: str, account: t.Mapping[str, t.Any], ssh_keys: t.Collection[str]) -> Finding | None:
    """Why a login is refused, by what the builder says of its account (builder_info); None where it is not clear.

    C(said) is what the client saw, C(ssh_keys) the type and base64 text of each public key that it has for it.
    """
    words = {"user": str(account.get("user")), "path": " ".join(account.get("authorized_keys_files") or []) or "files"}
    unusable = re.search("bad permissions|invalid format|no such identity|Identity file .* not accessible", said)
    if unusable:
        return failed("key_unusable", said)
    refused = account.get("refused")
    if refused:
        return failed(refused["reason"], f"{refused['message']}: {said}", **words)
    allowed = account.get("authorized_keys")
    if allowed is None or not ssh_keys or any(key in allowed for key in ssh_keys):
        return None
    shown = ", ".join(f"{key.split()[0]} …{key[-12:]}" for key in ssh_keys)
    return failed("key_not_authorized", f"{said}; the builder does not let the client's key in ({shown})", **words)


def judge_trust(told: bool | None, account: t.Mapping[str, t.Any] | None, user: str, version: str | None) -> Finding:
    """Whether the builder's Nix trusts the client: what the store told, or else what the builder's settings say."""
    if told is None and account is not None and account.get("trusted") is not None:
        told = bool(account["trusted"])
    if told is None:
        return skipped(f"Nix {version or 'there'} does not tell, and the builder's settings are not known")
    if told:
        return passed(f"{user} is one of the builder's trusted users")
    return failed(
        "not_trusted", f"the builder's Nix does not trust {user}, so it takes nothing from it unsigned", user=user
    )


def judge_signer(client_key: str | None, offer: t.Mapping[str, t.Any] | None) -> Finding:
    """Whether a builder that trusts no user trusts what the client signs."""
    if not client_key:
        return failed("no_client_key", "the builder trusts no user, and the client has no key to sign with")
    if offer is None:
        return skipped("which keys the builder trusts is not known")
    if client_key in offer.get("trusted_public_keys", []):
        return passed(f"the builder trusts the client's key {client_key.partition(':')[0]}")
    return failed("client_key_not_trusted", f"the builder does not trust the client's key {client_key}")


def judge_features(machine: t.Mapping[str, t.Any], offer: t.Mapping[str, t.Any]) -> Finding:
    """Whether a machine promises what the builder really offers (module builder_info)."""
    systems = [system for system in machine.get("systems") or [] if system not in offer["systems"]]
    if systems:
        there = ", ".join(offer["systems"])
        return failed(
            "system_missing", f"the machine promises {', '.join(systems)}, the builder's Nix builds for {there}"
        )
    claimed = list(
        dict.fromkeys([*(machine.get("supported_features") or []), *(machine.get("mandatory_features") or [])])
    )
    missing = [feature for feature in claimed if feature not in offer["system_features"]]
    if missing:
        there = ", ".join(offer["system_features"]) or "none"
        return failed(
            "feature_missing", f"the machine promises {', '.join(missing)}, the builder's Nix has the features {there}"
        )
    unusable = [feature for feature in claimed if feature in offer["unbacked_reasons"]]
    if unusable:
        why = "; ".join(f"{feature}: {offer['unbacked_reasons'][feature]}" for feature in unusable)
        return failed("feature_unusable", f"the machine promises what does not work on the builder: {why}")
    return passed(", ".join([*(machine.get("systems") or []), *claimed]) or None)


def judge_disk(free: int, total: int, least: int) -> Finding:
    """Whether the builder's store has room, in bytes."""
    shown = f"{_size(free)} of {_size(total)} are free in the builder's store"
    return passed(shown) if free >= least else failed("disk_low", f"{shown}, less than {_size(least)}")


def judge_clock(builder: float, client: float, most: float) -> Finding:
    """Whether two clocks agree: by how many seconds each is ahead of the controller's."""
    ahead = builder - client
    if abs(ahead) <= most:
        return passed(f"the clocks differ by less than {abs(ahead) + 1:.0f} s")
    how = "ahead of" if ahead > 0 else "behind"
    return failed("clock_skew", f"the builder's clock is {abs(ahead):.0f} s {how} the client's, {most:g} s are allowed")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


#: What Nix says while another build of the same is running (libstore, derivation-building-goal.cc; 2.8 to 2.34).
CIRCLE = "waiting for lock on"

#: The first text that is found in what a failed build said decides; without one it is build_failed.
BUILD_RULES = (
    ("not_trusted", ("not privileged to build", "lacks a valid signature", "lacks a signature by a trusted key")),
    ("no_signing_key", ("signing-key",)),
    (
        "takes_nothing",
        (
            "unable to start any build",
            "try enabling remote builds",
            "Failed to find a machine",
            "local builds are disabled",
        ),
    ),
)


def judge_build(rc: int | None, said: str, seconds: float, *, user: str) -> Finding:
    """Why a build came to nothing; C(rc) is None when the time was up."""
    if rc is None and CIRCLE in said:
        message = f"the builder waits for the lock of the very build that it was given, so it has passed it on: {said}"
        return failed("build_circle", message)
    if rc is None:
        return failed("build_timeout", f"no result within {seconds:g} seconds: {said}")
    message = f"nix-build failed with status {rc}: {said}"
    for reason, texts in BUILD_RULES:
        if any(text.lower() in said.lower() for text in texts):
            return failed(reason, message, user=user)
    return failed("build_failed", message)


# ---------------------------------------------------------------------------------------------------- telling


def complaints(results: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """What failed of the checks of one builder, and what mends it."""
    return [
        f"{it['check']} failed ({it['reason']}): {it['message']}\nTo mend it: {it['remedy']}"
        for it in results
        if it["verdict"] == FAILED
    ]


def complaint(found: t.Mapping[str, t.Sequence[str]], count: int, what: str = "builders") -> str:
    """One message about all builders (or clients) that fail, by their names."""
    texts = [f"{name}: {text}" for name, each in found.items() for text in each]
    return "\n".join([f"{len(found)} of {count} {what} failed", *texts])
