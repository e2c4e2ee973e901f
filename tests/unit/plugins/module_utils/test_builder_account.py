# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be changed of an account, and the lines of its authorized_keys."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.builder_account import (
    COMMENT,
    Account,
    foreign_lines,
    options,
    own_lines,
    text,
    wanted,
)
from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER

GOOD = Account(990, "nixremote", frozenset({"nix-users"}), "*", "/bin/sh", "/var/lib/nixremote", COMMENT)


def changes(now: Account | None, uid: int | None = None, groups: t.Iterable[str] = ("nix-users",)) -> list[str]:
    return options(now, wanted(now, name="nixremote", uid=uid, home="/var/lib/nixremote", groups=groups))


def test_new_account() -> None:
    without_uid = [
        *("--gid", "nixremote", "--password", "*", "--shell", "/bin/sh"),
        *("--home-dir", "/var/lib/nixremote", "--comment", COMMENT),
    ]
    assert changes(None, groups=()) == without_uid
    assert changes(None, uid=700) == ["--uid", "700", *without_uid, "--groups", "nix-users"]


def test_good_account() -> None:
    assert changes(GOOD) == []
    assert changes(GOOD, uid=990) == []
    assert changes(GOOD, groups=()) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("uid", 991, ["--uid", "990"]),
        ("group", "nogroup", ["--gid", "nixremote"]),
        ("groups", frozenset(), ["--append", "--groups", "nix-users"]),
        ("groups", frozenset({"kvm"}), ["--append", "--groups", "nix-users"]),
        ("password", "!", ["--password", "*"]),
        ("password", "", ["--password", "*"]),
        ("shell", "/usr/sbin/nologin", ["--shell", "/bin/sh"]),
        ("home", "/home/nixremote", ["--home", "/var/lib/nixremote"]),
        ("comment", "", ["--comment", COMMENT]),
    ],
)
def test_each_difference_is_mended_alone(field: str, value: t.Any, words: list[str]) -> None:
    assert changes(GOOD._replace(**{field: value}), uid=990) == words


def test_own_lines() -> None:
    clients = {"zeta": "ssh-ed25519 AAAAz old comment", "Alpha": "ssh-ed25519 AAAAa"}
    keys = [" ssh-rsa AAAAr me ", 'from="192.0.2.1" ssh-ed25519 AAAAf', "sk-ssh-ed25519@openssh.com AAAAs"]
    assert own_lines(clients, keys) == [
        "restrict ssh-ed25519 AAAAa nixfleet:Alpha",
        "restrict ssh-ed25519 AAAAz nixfleet:zeta",
        "restrict ssh-rsa AAAAr me nixfleet:+",
        'restrict,from="192.0.2.1" ssh-ed25519 AAAAf nixfleet:+',
        "restrict sk-ssh-ed25519@openssh.com AAAAs nixfleet:+",
    ]


def test_foreign_lines() -> None:
    own = own_lines({"c1": "ssh-ed25519 AAAAc1"}, ["ssh-rsa AAAAr me"])
    by_hand = [
        "# by hand",
        "",
        "  ssh-ed25519 AAAAh somebody ",
        "restrict ssh-rsa AAAAs nixfleet:not this",
        "ssh-ed25519 AAAAo nixfleet:of-another-fleet",
    ]
    former = [*by_hand, "ssh-ed25519 AAAAc1 root@c1", 'from="192.0.2.1" ssh-rsa AAAAr me', "ssh-ed25519 AAAAc1x longer"]
    gone = own_lines({"gone": "ssh-ed25519 AAAAg"}, ["ssh-ed25519 AAAAm no longer given"])
    present = text([*own, *gone, "ssh-ed25519 AAAAh somebody"])
    assert foreign_lines(["\n".join(former), present], own) == [
        "ssh-ed25519 AAAAh somebody",
        "restrict ssh-rsa AAAAs nixfleet:not this",
        "ssh-ed25519 AAAAo nixfleet:of-another-fleet",
        "ssh-ed25519 AAAAc1x longer",
    ]


def test_text() -> None:
    assert text([]) == f"# {HEADER}\n"
    assert text(["a", "b"]) == f"# {HEADER}\na\nb\n"
