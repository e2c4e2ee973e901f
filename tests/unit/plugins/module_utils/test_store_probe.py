# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Nix and ssh say, and what is made of it. The texts were recorded on real hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.nixfleet.builders.plugins.module_utils import store_probe

B1 = "ssh-ng://nixremote@b1"


@pytest.mark.parametrize(
    ("uri", "complete"),
    [
        (B1, f"{B1}?ssh-key=/k%20y&base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQT8%2BCg%3D%3D"),
        ("b1", "ssh://b1?ssh-key=/k%20y&base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQT8%2BCg%3D%3D"),
        (
            "ssh://b1?ssh-key=/old&compress=true",
            "ssh://b1?ssh-key=/k%20y&compress=true&base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQT8%2BCg%3D%3D",
        ),
        ("daemon", "daemon"),
        ("auto", "auto"),
        ("local?root=/x", "local?root=/x"),
        ("/tmp/store", "/tmp/store"),
        ("unix:///run/socket", "unix:///run/socket"),
        ("https://cache/a?priority=1", "https://cache/a?priority=1"),
    ],
)
def test_complete(uri: str, complete: str) -> None:
    assert store_probe.complete(uri, "/k y", "ssh-ed25519 AAAA?>") == complete


def test_complete_with_nothing() -> None:
    assert store_probe.complete(B1) == B1
    assert store_probe.complete("nixremote@b1") == "ssh://nixremote@b1"


def test_arguments() -> None:
    assert store_probe.question((2, 8, 0), B1) == ["nix", "store", "ping", "--store", B1]
    assert store_probe.question((2, 26, 3), B1) == ["nix", "store", "info", "--json", "--store", B1]
    assert store_probe.question((2, 26, 3), "ssh://b1")[:3] == ["nix-store", "--store", "ssh://b1"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "version", "trusted"),
    [
        ("", "Store URL: ssh-ng://b1\nVersion: 2.8.0\n", "2.8.0", None),
        ("Store URL: \x1b[1mssh-ng://b1\x1b[0m\nVersion: 2.18.1\nTrusted: 0\n", "", "2.18.1", False),
        ('{"trusted":1,"url":"ssh-ng://b1","version":"2.26.3"}', "", "2.26.3", True),
        ('{"trusted":false,"url":"ssh-ng://b1","version":"2.34.8"}', "", "2.34.8", False),
        ('{"url":"ssh://b1"}', "", None, None),
        ("", "", None, None),
    ],
)
def test_answer(stdout: str, stderr: str, version: str | None, trusted: bool | None) -> None:
    assert store_probe.read_answer(stdout, stderr) == (version, trusted)


def test_clean() -> None:
    said = "Store URL: x\n@@@@@@\n\x1b[31;1merror:\x1b[0m bad\n\nreceived daemon op 6\n"
    assert store_probe.clean(said) == "error: bad"


def test_every_reason_has_a_suggestion() -> None:
    assert set(store_probe.SUGGESTIONS) == set(store_probe.REASONS)
    assert {reason for reason, _pattern in store_probe.RULES} | {"other"} == set(store_probe.REASONS)
    for reason in store_probe.REASONS:
        assert "{" not in store_probe.suggest(reason, B1)


def test_silence() -> None:
    failure = store_probe.classify("Store URL: x\n", B1)
    assert failure[:2] == ("other", "Nix failed without a word")


def test_time_is_up() -> None:
    assert store_probe.timed_out("", B1, 2)[:2] == ("timeout", "no answer within 2 seconds")


RECORDED = yaml.safe_load((Path(__file__).parent / "store_errors.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("said", RECORDED, ids=lambda said: f"{said['nix']} {said['uri']} {said['name']}")
def test_recorded(said: dict[str, str]) -> None:
    """Every text that a real Nix wrote leads to the reason that was staged."""
    if said["reason"] == "ok":
        assert store_probe.answered(1 if said["uri"].startswith("ssh://") else 0, said["stderr"])
        answer = store_probe.read_answer(said["stdout"], said["stderr"])
        assert answer.version == (None if said["uri"].startswith("ssh://") else said["nix"])
        return
    assert not store_probe.answered(1, said["stderr"])
    assert store_probe.classify(said["stderr"], said["uri"]).reason == said["reason"]


def test_recordings_cover_the_reasons() -> None:
    assert {said["reason"] for said in RECORDED} - {"ok"} == set(store_probe.REASONS) - {"other"}
    assert len({said["nix"] for said in RECORDED}) == 3
