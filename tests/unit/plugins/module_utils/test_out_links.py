# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Links to results."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import out_links


class Roots:
    """A store that only takes roots."""

    def __init__(self) -> None:
        self.links: list[str] = []

    def add_indirect_root(self, link: str) -> None:
        self.links.append(link)


def test_names_are_those_of_nix_build() -> None:
    wanted = [{"dev": "/a-dev", "out": "/a"}, {"out": "/b"}, {"bin": "/c-bin"}]
    assert out_links.names("result", wanted) == {
        "result-dev": "/a-dev",
        "result": "/a",
        "result-2": "/b",
        "result-3-bin": "/c-bin",
    }


def test_links_are_made_and_replaced(tmp_path: Path) -> None:
    links = {str(tmp_path / "result"): "/new", str(tmp_path / "result-2"): "/same"}
    os.symlink("/old", tmp_path / "result")
    os.symlink("/same", tmp_path / "result-2")
    new = out_links.differing(links)
    assert new == {str(tmp_path / "result"): "/new"}
    roots = Roots()
    out_links.check(links)
    out_links.make(t.cast("t.Any", roots), new)
    assert roots.links == list(new) and os.readlink(tmp_path / "result") == "/new"
    assert not out_links.differing(links) and sorted(os.listdir(tmp_path)) == ["result", "result-2"]


def test_what_is_no_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("mine")
    with pytest.raises(ValueError, match="no symbolic link"):
        out_links.check([str(tmp_path / "result")])
    with pytest.raises(ValueError, match="no directory"):
        out_links.check([str(tmp_path / "missing/result")])
