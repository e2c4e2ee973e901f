# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of Nix to sign paths, and what is made of its answers; the real one is in test_store_sign."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import signing, store_signatures
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.store_signatures import (
    PathInfo,
    StoreSignatures,
    batches,
    parse_path_info,
)

KEY = signing.generate("host-1", bytes(32))
HASH = "sha256-" + "A" * 43 + "="


def path(name: str) -> str:
    return f"/nix/store/{'0' * 32}-{name}"


def entry(name: str, *signatures: str, size: int = 1) -> dict[str, t.Any]:
    return {"narHash": HASH, "narSize": size, "references": [path("a")], "signatures": [*signatures]}


def info(name: str, *signatures: str) -> PathInfo:
    return PathInfo(path(name), HASH, 1, [path("a")], [*signatures])


def signature(name: str, key: signing.SecretKey = KEY) -> str:
    return str(signing.sign(key, signing.fingerprint(path(name), HASH, 1, [path("a")])))


class Host:
    """Answers Nix's programs and keeps what they were asked."""

    def __init__(
        self, version: str = "2.34.8", invalid: str = "", rc: int = 0, sign: str = "added 1 signatures"
    ) -> None:
        self.version = version
        self.invalid = invalid
        self.rc = rc
        self.sign = sign
        self.asked: list[str] = []
        self.known: dict[str, t.Any] = {}

    def __call__(self, args: list[str], **_options: t.Any) -> tuple[int, str, str]:
        if "--version" in args:
            return 0, self.version if "(" in self.version else f"nix (Nix) {self.version}\n", ""
        self.asked.append(" ".join(args[1:]).replace("--extra-experimental-features nix-command --offline ", ""))
        if args[0].endswith("nix-store"):
            return self.rc, self.invalid, "error: cannot"
        if "sign" in args:
            return self.rc, "", self.sign
        return 0, json.dumps(self.known), ""


@pytest.fixture
def open_store(tmp_path: t.Any) -> t.Callable[[Host], StoreSignatures]:
    (tmp_path / "nix-store").touch()
    return lambda host: StoreSignatures(Nix(host, str(tmp_path)), "/key", KEY.public)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("2.8.0", ""),
        ("2.32.1", ""),
        ("2.33.0", " --json-format 1"),
        ("nix (Nix Super) 2.35.0", " --json-format 1"),
        ("nix (Lix, like Nix) 2.94.1", ""),
    ],
)
def test_the_json_format_is_named_where_nix_can(open_store: t.Any, version: str, words: str) -> None:
    host = Host(version)
    host.known = {path("a"): entry("a"), path("b"): None}
    assert open_store(host).all() == [info("a")]
    assert host.asked == [f"path-info --json{words} --all"]


def test_derivations_go_apart(open_store: t.Any) -> None:
    host = Host("2.26.3")
    store = open_store(host)
    host.known = {path("a"): entry("a")}
    assert store.of([path("a"), path("d.drv"), path("a")], recursive=True) == [info("a")]
    assert store.sign([path("d.drv"), path("a")]) == 2
    assert host.asked == [
        f"--check-validity --print-invalid {path('a')} {path('d.drv')}",
        f"path-info --json --recursive {path('a')}",
        f"path-info --json --derivation --recursive {path('d.drv')}",
        f"store sign --key-file /key {path('a')}",
        f"store sign --derivation --key-file /key {path('d.drv')}",
    ]
    assert store.of([], recursive=False) == [] and store.sign([]) == 0


def test_errors(open_store: t.Any) -> None:
    gone = [path(f"gone{number}") for number in range(7)]
    with pytest.raises(NixError, match=rf"not a valid path of the store: {gone[0]}, .*\(and 2 more\)"):
        open_store(Host(invalid="\n".join(gone) + "\n")).of(gone, recursive=False)
    with pytest.raises(NixError, match="cannot look for the paths to sign: error: cannot"):
        open_store(Host(rc=1)).of(gone, recursive=False)
    host = Host()
    host.known = {gone[0]: None}
    with pytest.raises(NixError, match=f"not a valid path of the store: {gone[0]}$"):
        open_store(host).of(gone, recursive=False)
    with pytest.raises(NixError, match="could not sign: no rights"):
        open_store(Host(rc=1, sign="no rights")).sign(["/a"])
    with pytest.raises(NixError, match="does not tell how many"):
        open_store(Host(sign="")).sign(["/a"])


def test_what_is_signed(open_store: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = signing.generate("host-1", bytes(31) + b"1")
    infos = [
        info("a", signature("a")),
        info("b", "host-2:" + signature("b").partition(":")[2]),
        info("c", signature("a"), "host-1:rubbish"),
        info("d", signature("d", other)),
        info("e", signature("e", other), signature("e")),
    ]
    store = open_store(Host())
    assert store.unsigned(infos) == ([path("b"), path("c"), path("d")], [])
    assert PathInfo("/n\u00f6/x y", HASH, 1, [], ["host-1:abc"]).is_signed(KEY.public) is None
    monkeypatch.setattr(signing, "has_cryptography", lambda: False)
    assert store.unsigned(infos) == ([path("b")], [path("a"), path("c"), path("d"), path("e")])
    nobody = StoreSignatures(store._nix, "/key", None)
    assert nobody.unsigned(infos) == ([it.path for it in infos], [])


def test_batches() -> None:
    paths = [path(str(number)) for number in range(20000)]
    made = list(batches(paths))
    assert [path for batch in made for path in batch] == paths and len(made) == 4
    assert all(sum(len(path) + 1 for path in batch) <= store_signatures.BATCH_BYTES for batch in made)
    assert list(batches([])) == []
    assert list(batches(["x" * 10**6, "y"])) == [["x" * 10**6], ["y"]]


@pytest.mark.parametrize("text", ["", "3", "[1]", '{"/p": {}}', '[{"path": "/p"}]', '{"/p": 1}', "[[]]"])
def test_strange_answers(text: str) -> None:
    with pytest.raises(NixError, match="cannot read what"):
        parse_path_info(text)


def test_both_shapes() -> None:
    old = [{"path": path("a"), **entry("a", "x:y")}, {"path": "/q", "valid": False}]
    assert parse_path_info(json.dumps(old)) == ([info("a", "x:y")], ["/q"])
    assert parse_path_info(json.dumps({path("a"): entry("a", "x:y"), "/q": None})) == ([info("a", "x:y")], ["/q"])
