# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signing paths: the options, and the whole of it in a throw-away store of this machine's own Nix."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import signing, store_signatures
from ansible_collections.nixfleet.builders.plugins.modules import store_sign

Result = dict[str, t.Any]

EXPRESSION = """
let leaf = builtins.toFile "leaf" "x"; in
derivation {
  name = "top"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo ${leaf} > $out" ];
}
"""


class Store:
    """A store of its own with a leaf, a path that refers to it, and that one's derivation; and the module on it."""

    def __init__(self, root: Path, run: t.Callable[..., Result]) -> None:
        self._run = run
        self.root = root
        self.key = root / "key"
        self.new_key()

    def new_key(self, name: str = "host-1") -> None:
        self.key.write_text(signing.generate(name, os.urandom(32)).text())

    def __call__(self, **options: t.Any) -> Result:
        return self._run(store_sign, key=str(self.key), **options)

    def fill(self) -> None:
        (self.root / "top.nix").write_text(EXPRESSION)
        self.top = self.nix("nix-build", str(self.root / "top.nix"), "--no-out-link").strip()
        self.drv = self.nix("nix-store", "-q", "--deriver", self.top).strip()
        self.leaf = self.nix("nix-store", "-q", "--references", self.top).strip()

    def nix(self, *argv: str) -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def signers(self, path: str) -> list[str]:
        kind = ["--derivation"] if path.endswith(".drv") else []
        words = ["nix", "--extra-experimental-features", "nix-command", "path-info", "--json", *kind, path]
        infos, _invalid = store_signatures.parse_path_info(self.nix(*words))
        return [signature.partition(":")[0] for signature in infos[0].signatures]


@pytest.fixture
def store(tmp_path: Path, run_module: t.Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    if not shutil.which("nix-store"):
        pytest.skip("needs Nix on this machine")
    root = tmp_path.resolve()
    monkeypatch.setenv("NIX_REMOTE", "")
    monkeypatch.setenv("NIX_CONFIG", "build-users-group =\nsandbox = false\nsubstituters =")
    for name, directory in (("STORE", "store"), ("STATE", "var"), ("LOG", "log"), ("LOCALSTATE", "var")):
        monkeypatch.setenv(f"NIX_{name}_DIR", str(root / directory))
    return Store(root, run_module)


@pytest.fixture(params=[True, False], ids=["cryptography", "plain"])
def proved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(signing, "has_cryptography", lambda: request.param)
    return bool(request.param)


def test_all(store: Store, proved: bool) -> None:
    assert store(all=True) == store(all=True, check=True)
    assert store(all=True)["checked"] == 0
    store.fill()
    planned = store(all=True, check=True)
    assert planned["changed"] and planned["signed"] == planned["checked"] == 3 and store.signers(store.top) == []
    result = store(all=True)
    assert result == planned and sorted(result["paths"]) == sorted([store.top, store.leaf, store.drv])
    assert store.top in result["diff"]["before"]
    for again in (store(all=True), store(all=True, check=True)):
        assert not again["changed"] and again["signed"] == 0 and again["checked"] == 3
    assert store.signers(store.drv) == ["host-1"]


def test_another_key_of_the_same_name(store: Store, proved: bool) -> None:
    store.fill()
    store(all=True)
    store.new_key()
    assert store(all=True, check=True)["signed"] == (3 if proved else 0)
    assert store(all=True)["signed"] == 3
    assert store(all=True)["signed"] == 0
    store.new_key("host-2")
    assert store(all=True)["signed"] == 3
    assert sorted(store.signers(store.top)) == ["host-1", "host-1", "host-2"]


def test_paths(store: Store) -> None:
    store.fill()
    link = store.root / "result"
    link.symlink_to(store.top)
    result = store(paths=[str(link)])
    assert result["signed"] == result["checked"] == 1 and result["paths"] == [store.top]
    assert store.signers(store.leaf) == []
    result = store(paths=[store.top, store.top], recursive=True)
    assert result["paths"] == [store.leaf] and result["checked"] == 2
    assert store(paths=[store.drv])["paths"] == [store.drv]
    assert not store(paths=[store.drv, store.leaf])["changed"]
    assert store(paths=[])["checked"] == 0


def test_nothing_is_signed_if_a_path_is_wrong(store: Store) -> None:
    store.fill()
    gone = str(store.root / "store" / f"{'0' * 32}-gone")
    for check in (False, True):
        result = store(paths=[store.top, gone], check=check)
        assert result["failed"] and result["msg"] == f"not a valid path of the store: {gone}"
        result = store(paths=[store.top, "/no/such/thing"], check=check)
        assert result["failed"] and "/no/such/thing" in result["msg"]
    assert store.signers(store.top) == []


def test_keys(store: Store) -> None:
    store.fill()
    store.key.unlink()
    assert store(all=True, check=True)["signed"] == 3
    assert f"there is no key in {store.key}" in store(all=True)["msg"]
    store.key.write_text("a:AAAA")
    assert f"{store.key}: the secret key is corrupt" in store(all=True)["msg"]
    assert store.signers(store.top) == []


def test_few_processes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.fill()
    monkeypatch.setattr(store_signatures, "BATCH_BYTES", 10)
    assert store(all=True)["signed"] == 3


def test_options(run_module: t.Any, tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    assert "missing" in run_module(store_sign, key=key)["msg"]
    assert "missing" in run_module(store_sign, key=key, all=False)["msg"]
    assert "mutually exclusive" in run_module(store_sign, key=key, all=True, paths=["/a"])["msg"]
    assert "not an absolute path" in run_module(store_sign, key=key, paths=["-k"])["msg"]
    both = run_module(store_sign, key=key, all=False, paths=["/a"], check=True, nix_bin_dir=str(tmp_path))
    assert not both["changed"] and not both.get("failed")
    bare = run_module(store_sign, key=key, all=True, check=True, nix_bin_dir=str(tmp_path))
    assert not bare["changed"] and bare["checked"] == 0
