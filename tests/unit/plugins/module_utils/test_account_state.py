# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps an account from being logged in to, and which keys open it."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import account_state

PAM = {"usepam": "yes"}
TODAY = 20000


def shadow(
    password: str = "*", changed: str = "19000", most: str = "99999", inactive: str = "", expires: str = ""
) -> str:
    return f"nixremote:{password}:{changed}:0:{most}:7:{inactive}:{expires}:"


@pytest.mark.parametrize(
    ("line", "sshd", "reason", "says"),
    [
        (shadow(), PAM, None, None),
        (shadow(), {}, None, None),
        (None, PAM, None, None),
        ("nixremote:*", PAM, None, None),
        # PAM looks at no password where a key is shown.
        (shadow("!*"), PAM, None, None),
        (shadow("!*"), {"usepam": "no"}, "account_locked", "is locked, and sshd runs without PAM"),
        (shadow(expires="1"), PAM, "account_expired", "expired 19999 days ago"),
        (shadow(expires="20000"), {}, "account_expired", "expired today"),
        (shadow(expires="20001"), PAM, None, None),
        (shadow(changed="0"), PAM, "account_expired", "must get a new password"),
        (shadow(changed="0"), {}, None, None),
        (shadow(changed="19990", most="9"), PAM, "account_expired", "password of account nixremote expired 1 day ago"),
        (shadow(changed="19990", most="10"), PAM, None, None),
        (shadow(changed="19990", most="5", inactive="2"), PAM, "account_expired", "inactive"),
        (shadow(changed="", most=""), PAM, None, None),
        (shadow(expires="-1"), PAM, None, None),
    ],
)
def test_refusal(line: str | None, sshd: dict[str, str], reason: str | None, says: str | None) -> None:
    found = account_state.refusal("nixremote", True, "/bin/sh", line, sshd, TODAY)
    assert (found and found["reason"]) == reason
    assert found is None or str(says) in found["message"]


def test_shell() -> None:
    found = account_state.refusal("nixremote", False, "/nonexistent", shadow(), PAM, TODAY)
    assert found == {
        "reason": "account_shell",
        "message": "the shell /nonexistent of account nixremote is no program, so sshd refuses it",
    }
    assert account_state.missing("nixremote")["reason"] == "account_missing"


@pytest.mark.parametrize(
    ("value", "files"),
    [
        (None, ["/home/n/.ssh/authorized_keys"]),
        (
            ".ssh/authorized_keys .ssh/authorized_keys2",
            ["/home/n/.ssh/authorized_keys", "/home/n/.ssh/authorized_keys2"],
        ),
        ("/etc/keys/%u %h/k%%", ["/etc/keys/n", "/home/n/k%"]),
        ("none", []),
    ],
)
def test_key_files(value: str | None, files: list[str]) -> None:
    effective = {} if value is None else {"authorizedkeysfile": value}
    assert account_state.key_files(effective, "n", "/home/n") == files


def test_keys() -> None:
    text = """# ssh-ed25519 AAAAcommented
restrict,command="/usr/local/libexec/gate" ssh-ed25519 AAAAC3Nz+/= nixfleet:client1
  ecdsa-sha2-nistp256 AAAAE2Vj
sk-ssh-ed25519@openssh.com AAAAGnNr somebody

no key at all
"""
    assert account_state.keys_of(text) == [
        "ssh-ed25519 AAAAC3Nz+/=",
        "ecdsa-sha2-nistp256 AAAAE2Vj",
        "sk-ssh-ed25519@openssh.com AAAAGnNr",
    ]


@pytest.mark.parametrize(
    ("users", "trusted"),
    [
        (["root"], False),
        (["root", "n"], True),
        (["@nixbld"], False),
        (["@nix-users"], True),
        (["*"], True),
        ([], False),
    ],
)
def test_trusted(users: list[str], trusted: bool) -> None:
    assert account_state.is_trusted("n", ["n", "nix-users"], users) is trusted
