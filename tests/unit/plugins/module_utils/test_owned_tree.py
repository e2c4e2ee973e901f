# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and directories of the account that runs the tests, with the real methods of AnsibleModule."""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import basic
from ansible_collections.nixfleet.builders.plugins.module_utils import files
from ansible_collections.nixfleet.builders.plugins.module_utils.owned_tree import OwnedTree

Make = t.Callable[..., OwnedTree]


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """tree(check=False): a tree of this user's."""
    os.umask(0o022)

    def make(check: bool = False) -> OwnedTree:
        args = f'{{"ANSIBLE_MODULE_ARGS": {{"_ansible_check_mode": {str(check).lower()}}}}}'
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", args.encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        module = basic.AnsibleModule({}, supports_check_mode=True)
        return OwnedTree(module, os.getuid(), os.getgid())

    return make


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directory(tree: Make, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    first = tree()
    umask = os.umask(0o077)
    first.directory(str(path), 0o555)
    os.umask(umask)
    assert (first.changed, mode(path), mode(path.parent)) == (True, 0o555, 0o755)
    second = tree()
    second.directory(str(path), 0o555)
    assert (second.changed, second.diff) == (False, [])
    third = tree()
    third.directory(str(path), 0o700)
    assert (third.changed, mode(path)) == (True, 0o700)
    assert third.diff[0]["before"] == {"mode": "0555"}


def test_file(tree: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = tree()
    first.file(str(path), "one\n", 0o444)
    assert (first.changed, path.read_text(), mode(path)) == (True, "one\n", 0o444)
    assert first.diff == [files.diff(str(path), None, "one\n")]
    second = tree()
    second.file(str(path), "one\n", 0o444)
    assert (second.changed, second.diff) == (False, [])
    third = tree()
    third.file(str(path), "two \udcff\n", 0o600)
    assert (path.read_bytes(), mode(path)) == (b"two \xff\n", 0o600)
    path.chmod(0o644)
    fourth = tree()
    fourth.file(str(path), "two \udcff\n", 0o600)
    assert (fourth.changed, mode(path)) == (True, 0o600)


def test_file_has_its_mode_before_it_is_in_place(tree: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace = os.replace

    def watched(source: str, target: str) -> None:
        seen.append((mode(Path(source)), Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    tree().file(str(tmp_path / "file"), "text", 0o600)
    assert seen == [(0o600, "text")]


def test_what_a_killed_run_left_is_no_obstacle(tree: Make, tmp_path: Path) -> None:
    (tmp_path / "file.nixfleet-new").symlink_to(tmp_path / "elsewhere")
    tree().file(str(tmp_path / "file"), "text", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_secret_is_not_in_the_diff(tree: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old secret")
    change = tree()
    change.file(str(tmp_path / "file"), "new secret", 0o600, secret=True)
    assert "secret)" in str(change.diff)
    assert "old" not in str(change.diff) and "new secret" not in str(change.diff)


def test_edit(tree: Make, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    first = tree()
    first.edit(str(link), "one", 0o600)
    assert (first.changed, real.read_text(), mode(real), link.is_symlink()) == (True, "one", 0o600, True)
    real.chmod(0o640)
    second = tree()
    second.edit(str(link), "one", 0o600)
    assert not second.changed
    tree().edit(str(link), "two", 0o600)
    assert (real.read_text(), mode(real), link.is_symlink()) == ("two", 0o640, True)


def test_remove(tree: Make, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    change = tree()
    for name in ("link", "file", "none"):
        change.remove(str(tmp_path / name))
    assert (len(change.diff), os.listdir(tmp_path)) == (2, ["tree"])
    change.remove(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_remove_empty(tree: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    change = tree()
    for name in ("empty", "full", "full/file", "none"):
        change.remove_empty(str(tmp_path / name))
    assert (len(change.diff), os.listdir(tmp_path), os.listdir(tmp_path / "full")) == (1, ["full"], ["file"])


def test_check_mode_changes_nothing(tree: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o644)
    change = tree(check=True)
    change.directory(str(tmp_path / "a/b"), 0o700)
    change.file(str(tmp_path / "a/b/new"), "text", 0o600)
    change.file(str(tmp_path / "file"), "text", 0o600)
    change.edit(str(tmp_path / "file"), "text", 0o600)
    change.remove(str(tmp_path / "file"))
    assert change.changed
    assert len(change.diff) == 6  # the file's text and its mode
    assert (os.listdir(tmp_path), (tmp_path / "file").read_text(), mode(tmp_path / "file")) == (["file"], "old", 0o644)


def test_directory_that_is_missing(tree: Make, tmp_path: Path) -> None:
    with pytest.raises(files.FileError, match="cannot write .*/none/file: No such file"):
        tree().file(str(tmp_path / "none/file"), "text", 0o600)
