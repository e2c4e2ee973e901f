# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which check a failure belongs to, what is skipped because of it, and that every reason has a remedy."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import checks, store_probe
from ansible_collections.nixfleet.builders.plugins.module_utils.checks import FAILED, PASSED, SKIPPED, Finding

ACCOUNT: dict[str, t.Any] = {
    "user": "nixremote",
    "refused": None,
    "authorized_keys": ["ssh-ed25519 AAAAtheirs"],
    "authorized_keys_files": ["/var/lib/nixremote/.ssh/authorized_keys"],
}
OFFER: dict[str, t.Any] = {
    "systems": ["x86_64-linux", "i686-linux"],
    "system_features": ["benchmark", "kvm"],
    "unbacked_reasons": {"kvm": "there is no /dev/kvm"},
}


def test_every_check_stands_on_earlier_ones() -> None:
    seen: set[str] = set()
    for check in checks.CHECKS:
        assert seen.issuperset(check.stands_on), check
        seen.add(check.name)
    assert set(checks.WAY_TO_A_BUILD) < seen
    assert len(seen) == len(checks.CHECKS)


def test_every_reason_of_a_store_has_its_check() -> None:
    assert set(checks.CHECK_OF_REASON) == set(store_probe.REASONS)
    assert set(checks.CHECK_OF_REASON.values()) == set(checks.BY_STORE)
    assert not set(checks.REMEDIES) & set(store_probe.REASONS)


@pytest.mark.parametrize("reason", sorted(checks.REMEDIES))
def test_every_remedy_can_be_told(reason: str) -> None:
    finding = checks.failed(reason, "seen", user="nixremote", path="/authorized_keys")
    assert finding.remedy and "{" not in finding.remedy
    assert (finding.verdict, finding.reason, finding.message) == (FAILED, reason, "seen")


# ---------------------------------------------------------------------------------------------------- settle


def well(*names: str) -> dict[str, Finding]:
    return {name: checks.passed() for name in names or checks.NAMES}


def verdicts(results: list[dict[str, t.Any]]) -> dict[str, str]:
    return {it["check"]: it["verdict"] for it in results}


def test_all_is_well() -> None:
    assert verdicts(checks.settle(well(), checks.NAMES)) == dict.fromkeys(checks.NAMES, PASSED)


@pytest.mark.parametrize(
    ("failing", "skipped"),
    [
        (
            "login",
            "path protocol daemon trust build signature lockdown",
        ),
        ("known", "name tcp host_key login path protocol daemon trust features build signature lockdown"),
        ("trust", "build signature"),
        ("build", "signature"),
        ("daemon", "trust build signature lockdown"),
        ("features", ""),
        ("disk", ""),
        ("lockdown", ""),
    ],
)
def test_what_stands_on_a_failed_check_is_skipped(failing: str, skipped: str) -> None:
    findings = {**well(), failing: checks.failed("disk_low", "seen")}
    results = checks.settle(findings, checks.NAMES)
    found = verdicts(results)
    assert found.pop(failing) == FAILED
    assert [name for name, verdict in found.items() if verdict == SKIPPED] == skipped.split()
    because = {it["because"] for it in results if it["verdict"] == SKIPPED}
    assert because <= {f"{failing} failed: disk_low"}


def test_a_skipped_check_stops_nothing() -> None:
    findings = {**well(), "trust": checks.skipped("it does not tell")}
    assert verdicts(checks.settle(findings, ["trust", "build"])) == {"trust": SKIPPED, "build": PASSED}


def test_what_was_not_asked_for_is_told_when_it_fails() -> None:
    findings = {**well(), "tcp": checks.failed("no_answer", "seen")}
    assert verdicts(checks.settle(findings, ["build"])) == {"tcp": FAILED, "build": SKIPPED}
    assert verdicts(checks.settle(findings, ["disk"])) == {"disk": PASSED}
    assert verdicts(checks.settle(well(), ["build"])) == {"build": PASSED}


def test_nothing_known() -> None:
    assert verdicts(checks.settle({}, ["disk"])) == {"disk": SKIPPED}


# ---------------------------------------------------------------------------------------------------- the store


@pytest.mark.parametrize(
    ("reason", "said", "check", "becomes"),
    [
        ("name_resolution", "ssh: Could not resolve hostname b: Name or service not known", "name", None),
        ("connection_refused", "ssh: connect to host b port 22: Connection refused", "tcp", None),
        (
            "connection_refused",
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 1.2.3.4 port 22",
            "tcp",
            None,
        ),
        ("connection_refused", "Connection closed by 1.2.3.4 port 22", "login", "connection_closed"),
        (
            "timeout",
            "Connection timed out during banner exchange\nConnection to b port 22 timed out",
            "tcp",
            "no_answer",
        ),
        ("timeout", "ssh: connect to host b port 22: Connection timed out", "tcp", None),
        ("no_nix", "sh: 1: nix-daemon: not found", "path", None),
        ("other", "what?", "protocol", None),
    ],
)
def test_place(reason: str, said: str, check: str, becomes: str | None) -> None:
    found, finding = checks.place(store_probe.Failure(reason, said, "mend it"))
    assert (found, finding.reason, finding.message) == (check, becomes or reason, said)
    assert becomes or finding.remedy == "mend it"


def test_up_to() -> None:
    found = checks.up_to("login", checks.failed("disk_low", "seen"))
    assert {name: it.verdict for name, it in found.items()} == {
        "name": PASSED,
        "tcp": PASSED,
        "host_key": PASSED,
        "login": FAILED,
    }


# ---------------------------------------------------------------------------------------------------- judging


@pytest.mark.parametrize(
    ("account", "keys", "reason"),
    [
        ({}, ["ssh-ed25519 AAAAours"], "key_not_authorized"),
        ({}, ["ssh-ed25519 AAAAours", "ssh-ed25519 AAAAtheirs"], None),
        ({}, [], None),
        ({"authorized_keys": None}, ["ssh-ed25519 AAAAours"], None),
        ({"refused": {"reason": "account_expired", "message": "it expired"}}, [], "account_expired"),
    ],
)
def test_login(account: dict[str, t.Any], keys: list[str], reason: str | None) -> None:
    finding = checks.judge_login("Permission denied (publickey).", {**ACCOUNT, **account}, keys)
    assert (finding and finding.reason) == reason
    assert finding is None or "Permission denied" in str(finding.message)


@pytest.mark.parametrize(
    "said",
    [
        "Warning: Identity file /k not accessible: No such file or directory.\nPermission denied (publickey).",
        'Load key "/k": bad permissions\nPermission denied (publickey).',
    ],
)
def test_login_without_a_usable_key(said: str) -> None:
    finding = checks.judge_login(said, {}, [])
    assert finding and finding.reason == "key_unusable"


def test_nothing_known_of_the_account() -> None:
    assert checks.judge_login("Permission denied (publickey).", {}, ["ssh-ed25519 AAAAours"]) is None


@pytest.mark.parametrize(
    ("told", "account", "verdict"),
    [
        (True, None, PASSED),
        (False, {"trusted": True}, FAILED),
        (None, {"trusted": True}, PASSED),
        (None, {"trusted": False}, FAILED),
        (None, {}, SKIPPED),
        (None, None, SKIPPED),
    ],
)
def test_trust(told: bool | None, account: dict[str, t.Any] | None, verdict: str) -> None:
    assert checks.judge_trust(told, account, "nixremote", "2.8.0").verdict == verdict


@pytest.mark.parametrize(
    ("key", "offer", "verdict"),
    [
        ("c-1:k", {"trusted_public_keys": ["a:b", "c-1:k"]}, PASSED),
        ("c-1:k", {"trusted_public_keys": ["a:b"]}, FAILED),
        ("c-1:k", None, SKIPPED),
        (None, {"trusted_public_keys": []}, FAILED),
        ("", None, FAILED),
    ],
)
def test_signer(key: str | None, offer: dict[str, t.Any] | None, verdict: str) -> None:
    assert checks.judge_signer(key, offer).verdict == verdict


@pytest.mark.parametrize(
    ("machine", "reason", "says"),
    [
        ({"systems": ["i686-linux"], "supported_features": ["benchmark"]}, None, "i686-linux, benchmark"),
        ({}, None, None),
        ({"systems": ["x86_64-linux", "aarch64-linux"]}, "system_missing", "promises aarch64-linux,"),
        ({"supported_features": ["gpu"], "mandatory_features": ["gpu"]}, "feature_missing", "promises gpu,"),
        ({"mandatory_features": ["kvm"]}, "feature_unusable", "kvm: there is no /dev/kvm"),
    ],
)
def test_features(machine: dict[str, t.Any], reason: str | None, says: str | None) -> None:
    finding = checks.judge_features(machine, OFFER)
    assert finding.reason == reason
    assert says in finding.message if says and finding.message else finding.message == says


def test_disk() -> None:
    assert checks.judge_disk(2**30, 2**40, 2**30) == checks.passed("1.0 GiB of 1.0 TiB are free in the builder's store")
    finding = checks.judge_disk(2**30 - 1, 2**40, 2**30)
    assert (finding.reason, finding.verdict) == ("disk_low", FAILED)
    assert checks.judge_disk(5, 2000, 1).message == "5 B of 2.0 KiB are free in the builder's store"


@pytest.mark.parametrize(
    ("builder", "client", "says"),
    [
        (1.5, 0.2, None),
        (-20, 9, None),
        (3600, 1, "3599 s ahead of the client's, 30 s are allowed"),
        (-3600, 1, "3601 s behind the client's"),
    ],
)
def test_clock(builder: float, client: float, says: str | None) -> None:
    finding = checks.judge_clock(builder, client, 30)
    assert finding.reason == ("clock_skew" if says else None)
    assert says is None or says in str(finding.message)


@pytest.mark.parametrize(
    ("rc", "said", "reason"),
    [
        (None, "waiting for a machine", "build_timeout"),
        (None, "waiting for lock on '/nix/store/x'", "build_circle"),
        # 2.8 and 2.34.
        (1, "error: unable to start any build; either increase '--max-jobs' or enable remote builds.", "takes_nothing"),
        (1, "Reason: local builds are disabled (max-jobs = 0)", "takes_nothing"),
        (1, "error: you are not privileged to build input-addressed derivations", "not_trusted"),
        (1, "error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key", "not_trusted"),
        (1, "error: opening file '/etc/nix/nixfleet-signing-key': No such file or directory", "no_signing_key"),
        (100, "error: out of memory", "build_failed"),
    ],
)
def test_build(rc: int | None, said: str, reason: str) -> None:
    finding = checks.judge_build(rc, said, 5, user="nixremote")
    assert (finding.reason, said in str(finding.message)) == (reason, True)


# ---------------------------------------------------------------------------------------------------- telling


def test_complaint() -> None:
    results = checks.settle({**well(), "disk": checks.failed("disk_low", "all is full")}, ["login", "disk"])
    texts = checks.complaints(results)
    assert len(texts) == 1 and texts[0].startswith("disk failed (disk_low): all is full\nTo mend it: free space")
    assert checks.complaint({"b2": texts}, 3) == f"1 of 3 builders failed\nb2: {texts[0]}"
