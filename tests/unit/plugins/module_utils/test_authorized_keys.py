# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of a builder's authorized_keys."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.authorized_keys import (
    KeyLineError,
    foreign_lines,
    has_command,
    own_lines,
    render,
)
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


def test_command_of_all_lines() -> None:
    lines = own_lines(
        {"c1": "ssh-ed25519 AAAAc1"}, ['from="a\\"b,command=x" ssh-rsa AAAAr me', "ssh-rsa AAAAs"], "/gate"
    )
    assert lines == [
        'restrict,command="/gate" ssh-ed25519 AAAAc1 nixfleet:c1',
        'restrict,command="/gate",from="a\\"b,command=x" ssh-rsa AAAAr me nixfleet:+',
        'restrict,command="/gate" ssh-rsa AAAAs nixfleet:+',
    ]
    # Also what was written before there was a gate is known as ours, and what has it.
    assert foreign_lines(["\n".join(lines)], own_lines({}, [])) == []


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("ssh-ed25519 AAAAk command=x", False),
        ('from="command=x" ssh-ed25519 AAAAk', False),
        ('from="a b",environment="command=x, y" ssh-ed25519 AAAAk', False),
        ('command="x" ssh-ed25519 AAAAk', True),
        ('pty,COMMAND="x y" ssh-ed25519 AAAAk', True),
        ('from="a\\"b",command="x" ssh-ed25519 AAAAk', True),
    ],
)
def test_command_of_a_line(line: str, has: bool) -> None:
    assert has_command(line) is has
    if has:
        with pytest.raises(KeyLineError, match="a command of its own"):
            own_lines({}, [line], "/gate")


@pytest.mark.parametrize("command", ['/gate "x"', "/gate\\", "/gate\nssh-ed25519 AAAA"])
def test_command_that_cannot_be_written(command: str) -> None:
    with pytest.raises(KeyLineError, match="has a quote, a backslash or a control character"):
        own_lines({}, [], command)
