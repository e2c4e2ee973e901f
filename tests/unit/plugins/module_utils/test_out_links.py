# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Links to results, on a real file system."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import out_links
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import RemoteError

FIRST, DEV, SECOND = "/nix/store/1-first", "/nix/store/1-first-dev", "/nix/store/2-second"


class Roots:
    """As much of a Store as is used: remembers the links, and where they led when they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def add_indirect_root(self, link: str) -> None:
        self.told.append((link, os.readlink(link)))


def make(store: object, links: t.Mapping[str, str]) -> None:
    out_links.make(t.cast("t.Any", store), links)


def test_names_are_those_of_nix_build() -> None:
    wanted = [{"dev": DEV, "out": FIRST}, {"out": SECOND}, {"lib": "/l", "doc": "/d"}]
    assert out_links.names("/r/result", wanted) == {
        "/r/result-dev": DEV,
        "/r/result": FIRST,
        "/r/result-2": SECOND,
        "/r/result-3-lib": "/l",
        "/r/result-3-doc": "/d",
    }
    assert out_links.names("result", []) == {}


def test_what_differs(tmp_path: Path) -> None:
    right, wrong, absent, file = (str(tmp_path / name) for name in ("right", "wrong", "absent", "file"))
    os.symlink(FIRST, right)
    os.symlink(FIRST, wrong)
    Path(file).touch()
    links = {right: FIRST, wrong: SECOND, absent: FIRST, file: FIRST}
    assert out_links.differing(links) == {wrong: SECOND, absent: FIRST, file: FIRST}


def test_only_links_are_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    out_links.check([str(link), str(tmp_path / "absent"), "absent"])
    (tmp_path / "file").touch()
    for name in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=f"{name} is there and is no symbolic link; it is left alone"):
            out_links.check([str(link), str(name)])
    with pytest.raises(ValueError, match=f"no directory {tmp_path}/none for the link {tmp_path}/none/result; make it"):
        out_links.check([str(tmp_path / "none/result")])
    with pytest.raises(ValueError, match="no directory"):
        out_links.check([str(tmp_path / "file/result")])


def test_links_are_made_and_told_as_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").symlink_to(SECOND)
    store = Roots()
    make(store, {"new": FIRST, str(tmp_path / "old"): DEV})
    assert {each.name: os.readlink(each) for each in tmp_path.iterdir()} == {"new": FIRST, "old": DEV}
    assert store.told == [(str(tmp_path / "new"), FIRST), (str(tmp_path / "old"), DEV)]


def test_a_link_is_never_absent_while_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "result"
    link.symlink_to(SECOND)
    seen = []
    for name in ("symlink", "replace"):
        real = getattr(os, name)

        def watched(*args: t.Any, real: t.Any = real) -> None:
            seen.append(os.readlink(link))
            real(*args)
            seen.append(os.readlink(link))

        monkeypatch.setattr(os, name, watched)
    make(Roots(), {str(link): FIRST})
    assert seen == [SECOND, SECOND, SECOND, FIRST]


def test_nothing_is_left_of_a_link_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    store = Roots()
    with pytest.raises(OSError):
        make(store, {str(tmp_path / "directory"): FIRST})
    assert [each.name for each in tmp_path.iterdir()] == ["directory"]
    assert store.told == []


def test_a_link_stays_when_the_store_does_not_take_it_as_a_root(tmp_path: Path) -> None:
    class Refusing:
        def add_indirect_root(self, link: str) -> None:
            raise RemoteError(0, f"{link}: no space left on device")

    with pytest.raises(RemoteError, match="result: no space"):
        make(Refusing(), {str(tmp_path / "result"): FIRST})
    assert [each.name for each in tmp_path.iterdir()] == ["result"]
