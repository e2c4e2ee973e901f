# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import known_hosts
from hypothesis import given
from hypothesis import strategies as st


def key_line(kind: str = "ssh-ed25519", secret: bytes = b"k") -> str:
    blob = len(kind).to_bytes(4, "big") + kind.encode() + secret
    return f"{kind} {base64.b64encode(blob).decode()}"


def blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


def hashed(host: str, salt: bytes = b"0123456789abcdefghij") -> str:
    digest = hmac.new(salt, host.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


GOOD, OTHER = key_line(), key_line(secret=b"other")


@pytest.mark.parametrize(
    ("names", "host", "found"),
    [
        ("b1", "b1", True),
        ("B1,10.0.0.1", "b1", True),
        ("b1,10.0.0.1", "10.0.0.1", True),
        ("b11", "b1", False),
        ("[b1]:2222", "[b1]:2222", True),
        ("[b1]:2222", "b1", False),
        ("b1", "[b1]:2222", False),
        ("*.example,!bad.example", "good.example", True),
        ("*.example,!bad.example", "bad.example", False),
        ("!bad.example,*.example", "bad.example", False),
        ("b?", "b1", True),
        ("[b*]:2222", "[b1]:2222", True),
        ("[ab]1", "a1", False),
        (hashed("b1"), "b1", True),
        (hashed("b1"), "b2", False),
        ("|1|no base64|x", "b1", False),
    ],
)
def test_names(names: str, host: str, found: bool) -> None:
    known = known_hosts.known_keys(f"{names} {GOOD}\n", host, "f")
    assert bool(known.keys) is found


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789.-[]:", min_size=1), st.binary(min_size=1, max_size=30))
def test_a_hashed_name_is_found_by_itself_only(host: str, salt: bytes) -> None:
    text = f"{hashed(host, salt)} {GOOD}"
    assert known_hosts.known_keys(text, host, "f").keys
    assert not known_hosts.known_keys(text, host + "x", "f").keys


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    known_hosts.known_keys(text, "b1", "f")
    known_hosts.key_from_line(text, "f")


def test_lines_markers_and_places() -> None:
    text = (
        f"# comment\n\nb1 {GOOD} comment\nb1 {OTHER}\n@revoked b1 {key_line(secret=b'r')}\n"
        f"@cert-authority *.x,b1 {key_line(secret=b'ca')}\n@unknown b1 {GOOD}\nb1 ssh-ed25519\n"
        f"b1 ssh-rsa {GOOD.split()[1]}\n"
    )
    known = known_hosts.known_keys(text, "b1", "/kh")
    assert [key.where for key in known.keys] == ["/kh:3", "/kh:4"]
    assert [key.where for key in known.revoked] == ["/kh:5"]
    assert known.authorities == ("/kh:6",)
    assert known.types() == ("ssh-ed25519",)


def test_refusals() -> None:
    def ask(text: str, line: str = GOOD) -> str | None:
        known = known_hosts.known_keys(text, "b1", "/kh")
        return known_hosts.refusal(known, line.split()[0], blob(line), "b1", ["/kh", "/kh2"])

    assert ask(f"b1 {OTHER}\nb1 {GOOD}") is None
    print_of_good = known_hosts.fingerprint(blob(GOOD))
    changed = ask(f"b1 {OTHER}")
    assert changed and "has changed" in changed and "/kh:1" in changed and print_of_good in changed
    unknown = ask(f"b2 {GOOD}")
    assert unknown and "not known as b1" in unknown and "/kh, /kh2" in unknown and print_of_good in unknown
    # A revoked key stays so, wherever else it stands.
    assert "revoked (/kh:2)" in (ask(f"b1 {GOOD}\n@revoked * {GOOD}") or "")
    assert "certificate authority (/kh:1)" in (ask(f"@cert-authority b1 {OTHER}") or "")


def test_fingerprint_is_that_of_ssh_keygen() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0SxxOk5gUIoiYfSkNMJECH7DnEyl42AlJbmz7JT0tP"
    assert known_hosts.fingerprint(blob(line)) == "SHA256:KRzkOhvvIprUnnHtS+vs1EiKcti33uzg6a083DjcPZk"
