# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of a builder's authorized_keys."""

from __future__ import annotations

from ansible_collections.nixfleet.builders.plugins.module_utils.authorized_keys import foreign_lines, own_lines, render
from ansible_collections.nixfleet.builders.plugins.module_utils.files import HEADER


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
    present = render([*own, *gone, "ssh-ed25519 AAAAh somebody"])
    assert foreign_lines(["\n".join(former), present], own) == [
        "ssh-ed25519 AAAAh somebody",
        "restrict ssh-rsa AAAAs nixfleet:not this",
        "ssh-ed25519 AAAAo nixfleet:of-another-fleet",
        "ssh-ed25519 AAAAc1x longer",
    ]


def test_render() -> None:
    assert render([]) == f"# {HEADER}\n"
    assert render(["a", "b"]) == f"# {HEADER}\na\nb\n"
