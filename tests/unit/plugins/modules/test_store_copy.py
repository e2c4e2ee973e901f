# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying paths: the options, and the whole of it between two throw-away stores of this machine's own Nix."""

from __future__ import annotations

import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import ssh, stores, transfer
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.modules import store_copy
from ansible_collections.nixfleet.builders.tests.support.played_store import PlayedStore, connected

Result = dict[str, t.Any]
Run = t.Callable[..., Result]
PATH = "/nix/store/5wbhmwn9q94syv39gwnhfylbx43ah2zb-hello"
ABSENT = "/nix/store/00000000000000000000000000000000-none"
URI = "ssh-ng://nixremote@b1"


class Copies:
    """Two stores, one with a top that refers to a leaf; the module from the one to the other."""

    def __init__(self, root: Path, run: Run) -> None:
        self._run = run
        self.first, self.second = root / "first", root / "second"
        self.first.mkdir()
        self.second.mkdir()
        expression = '"${builtins.toFile "top" "${builtins.toFile "leaf" "x"}"}"'
        argv = ["nix-instantiate", "--eval", "--read-write-mode", "--store", str(self.first), "-E", expression]
        self.top = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip().strip('"')
        argv = ["nix-store", "--store", str(self.first), "-q", "--references", self.top]
        self.leaf = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def __call__(self, check: bool = False, **options: t.Any) -> Result:
        return self._run(store_copy, check, **{"from": str(self.first), "to": str(self.second), **options})

    def there(self, *paths: str) -> set[str]:
        with stores.open_store(Machine(str(self.second))) as store:
            return store.valid_paths(paths)

    def add_unsigned(self) -> str:
        """A path as a build makes it, in the first store."""
        played = PlayedStore()
        played.add(PATH, b"built")
        with connected(played) as channel, stores.open_store(Machine(str(self.first))) as store:
            transfer.copy(transfer.Store(channel), store, [PATH])
        return PATH


@pytest.fixture
def copies(tmp_path: Path, run_module: Run) -> Copies:
    if not shutil.which("nix-daemon"):
        pytest.skip("no Nix here")
    return Copies(tmp_path, run_module)


def test_a_closure(copies: Copies) -> None:
    foreseen = copies(check=True, paths=[copies.top])
    assert copies.there(copies.top, copies.leaf) == set()
    result = copies(paths=[copies.top])
    assert copies.there(copies.top, copies.leaf) == {copies.top, copies.leaf}
    assert 0 < result.pop("seconds") < 60
    foreseen.pop("seconds")
    assert result == foreseen
    assert (result["changed"], result["copied"], result["present"], result["substituted"]) == (True, 2, 0, 0)
    assert result["paths"] == [copies.leaf, copies.top]
    assert result["bytes"] > 200
    assert result["diff"]["after"] == f"{copies.leaf}\n{copies.top}\n(2 paths)\n"

    for check in (True, False):
        again = copies(check=check, paths=[copies.top])
        assert (again["changed"], again["copied"], again["bytes"], again["present"]) == (False, 0, 0, 1)
        assert (again["paths"], "diff" in again) == ([], False)


def test_single_paths(copies: Copies) -> None:
    result = copies(paths=[copies.top], closure=False)
    assert result["failed"]
    assert f"it refers to {copies.leaf}" in result["msg"]
    assert copies(paths=[copies.leaf], closure=False)["paths"] == [copies.leaf]
    result = copies(paths=[copies.top, copies.leaf], closure=False)
    assert (result["paths"], result["present"]) == ([copies.top], 1)


def test_a_path_that_is_nowhere(copies: Copies) -> None:
    result = copies(paths=[copies.top, ABSENT])
    assert result["failed"]
    assert f"cannot copy {ABSENT} from nix-daemon --stdio of {copies.first} to " in result["msg"]
    assert "it is not valid there" in result["msg"]
    assert (result["changed"], result["copied"]) == (False, 0)


def test_signatures(copies: Copies) -> None:
    path = copies.add_unsigned()
    result = copies(paths=[path])
    assert result["failed"]
    assert f"cannot copy {path} from" in result["msg"]
    assert "lacks a signature by a key that the destination trusts" in result["msg"]
    assert (result["changed"], result["copied"], result["paths"]) == (False, 0, [])
    assert copies(paths=[path], check_signatures=False)["paths"] == [path]
    assert copies.there(path) == {path}


def test_what_arrived_before_a_failure_is_told(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH_PATHS", 1)
    path = copies.add_unsigned()
    result = copies(paths=[copies.leaf, path])
    assert result["failed"]
    assert (result["changed"], result["copied"], result["paths"]) == (True, 1, [copies.leaf])
    assert copies.there(copies.leaf, path) == {copies.leaf}


def test_a_store_that_is_a_path_is_not_made(copies: Copies, tmp_path: Path) -> None:
    for option in ("from", "to"):
        missing = tmp_path / "missing"
        result = copies(paths=[copies.top], **{option: str(missing)})
        assert result["failed"]
        assert f"there is no directory {missing}" in result["msg"]
        assert not missing.exists()


def test_links_lead_to_paths_of_the_hosts_own_store(tmp_path: Path) -> None:
    link = tmp_path / "result"
    link.symlink_to(PATH)
    assert store_copy.store_paths([str(link), PATH, PATH + "/bin/hello"], own=True) == [PATH]
    assert store_copy.store_paths([PATH, PATH], own=False) == [PATH]
    for path in (str(link), PATH + "/bin/hello", "", "hello", "/nix/store/hello", PATH + "\n", PATH + " "):
        with pytest.raises(store_copy.Refusal, match="no store path"):
            store_copy.store_paths([path], own=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "from and to are the same store, auto"),
        ({"from": URI, "to": {"host": "B1", "user": "nixremote"}}, "are the same store"),
        ({"from": ""}, "from is '', which is no store's URI"),
        ({"from": "ssh-ng://a b"}, "no store's URI"),
        ({"to": ["daemon"]}, "to is ['daemon'], but a store is a URI or a machine's dict"),
        ({"from": {"uri": URI, "key": "k"}}, "from: machine ssh-ng://nixremote@b1, key: there is no such key"),
        ({"from": URI, "paths": ["hello"]}, "'hello' in paths is no store path"),
        ({"from": URI, "timeout": 0}, "timeout is 0"),
        ({"from": URI, "connect_timeout": 0}, "connect_timeout is 0"),
        ({"from": URI, "nix_bin_dir": "/nowhere"}, "there is no nix-store in /nowhere"),
    ],
)
def test_bad_options(run_module: Run, options: dict[str, t.Any], message: str) -> None:
    result = run_module(store_copy, **{"paths": [PATH], **options})
    assert result["failed"]
    assert message in result["msg"]


def test_without_paramiko(run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> t.NoReturn:
        raise ssh.ParamikoMissing("No module named 'paramiko'")

    monkeypatch.setattr(ssh, "paramiko_library", missing)
    result = run_module(store_copy, paths=[PATH], **{"from": "ssh-ng://nixremote@127.0.0.1"})
    assert result["failed"]
    assert "Failed to import the required Python library (paramiko)" in result["msg"]


def test_a_builder_that_is_not_there(run_module: Run) -> None:
    result = run_module(store_copy, paths=[PATH], connect_timeout=2, **{"from": "ssh-ng://nixremote@127.0.0.1:1"})
    assert result["failed"]
    assert "127.0.0.1" in result["msg"]
    assert "refused" in result["msg"]
