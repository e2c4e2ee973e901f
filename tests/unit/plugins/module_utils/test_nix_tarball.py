# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a tarball into the store: what comes there, what is refused, what an interruption leaves."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils import nix_tarball

TOP = "nix-2.34.8-x86_64-linux"
NIX = "0123456789abcdfghijklmnpqrsvwxyz-nix-2.34.8"
LIBRARIES = "1123456789abcdfghijklmnpqrsvwxyz-nix-libraries-2.34.8"
WHOLE: dict[str, bytes | str | None] = {
    TOP: None,
    f"{TOP}/.reginfo": b"registered\n",
    f"{TOP}/install": b"#!/bin/sh\n",
    f"{TOP}/store": None,
    f"{TOP}/store/{NIX}": None,
    f"{TOP}/store/{NIX}/bin": None,
    f"{TOP}/store/{NIX}/bin/nix": b"program",
    f"{TOP}/store/{NIX}/bin/nix-store": "nix",
    f"{TOP}/store/{LIBRARIES}": b"a path that is a file",
}


def pack(members: dict[str, bytes | str | None]) -> io.BytesIO:
    """A tarball: None is a directory, text a symbolic link, bytes a file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if name.endswith("/nix") else 0o600
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    file.seek(0)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    nix_tarball.make_tree(str(tmp_path / "nix"), os.getegid())
    return tmp_path / "nix"


def unpack(root: Path, members: dict[str, t.Any], dry: bool = False) -> nix_tarball.Contents:
    staging = str(root / ".nix_install")
    return nix_tarball.unpack(pack(members), "n.tar.xz", ["x86_64-linux"], str(root / "store"), staging, dry)


def test_tree(tmp_path: Path) -> None:
    root = str(tmp_path / "nix")
    assert nix_tarball.missing_tree(root) == [
        root if not name else f"{root}/{name}" for name, _mode in nix_tarball.TREE
    ]
    assert nix_tarball.make_tree(root, os.getegid()) == [
        root if not name else f"{root}/{name}" for name, _mode in nix_tarball.TREE
    ]
    assert stat.S_IMODE(os.stat(f"{root}/store").st_mode) == 0o1775
    os.chmod(f"{root}/var", 0o700)
    assert nix_tarball.make_tree(root, os.getegid()) == nix_tarball.missing_tree(root) == []
    assert stat.S_IMODE(os.stat(f"{root}/var").st_mode) == 0o700


def test_unpack(root: Path) -> None:
    contents = unpack(root, WHOLE)
    assert contents == ("2.34.8", "x86_64-linux", [NIX, LIBRARIES], [NIX, LIBRARIES], NIX, "registered\n")
    program = root / "store" / NIX / "bin/nix"
    assert program.read_bytes() == b"program"
    assert os.readlink(program.with_name("nix-store")) == "nix"
    for path, mode in ((program, 0o555), (program.parent, 0o555), (root / "store" / LIBRARIES, 0o444)):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime) == (mode, 1)
    assert sorted(os.listdir(root)) == ["store", "var"]
    assert unpack(root, WHOLE).missing == []


def test_dry(root: Path) -> None:
    assert unpack(root, WHOLE, dry=True).missing == [NIX, LIBRARIES]
    assert os.listdir(root / "store") == []


def test_interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two renames, with a half-unpacked path beside the store: the next run has it all."""
    half = root / ".nix_install" / NIX / "bin"
    half.mkdir(parents=True)
    half.chmod(0o500)

    def killed(source: str, target: str) -> None:
        monkeypatch.undo()
        os.rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(nix_tarball.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        unpack(root, WHOLE)
    assert os.listdir(root / "store") == [NIX]
    assert unpack(root, WHOLE).missing == [LIBRARIES]
    assert sorted(os.listdir(root / "store")) == [NIX, LIBRARIES]


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"nix-x": None}, "begins with nix-x"),
        ({"nix-2.34.8-aarch64-linux": None}, "is for aarch64-linux, and this host is x86_64-linux"),
        ({TOP: None}, "has no store path of nix-2.34.8"),
        ({f"{TOP}/store/{NIX}": b""}, "has no .reginfo"),
        ({TOP: None, "other/x": b""}, "other/x is not in the directory"),
        ({TOP: None, f"{TOP}/../x": b""}, "is not in the directory"),
        ({TOP: None, "/etc/passwd": b""}, "is not in the directory"),
        ({f"{TOP}/store/x": b""}, "is not named like a path in the store"),
        ({f"{TOP}/store/{NIX}": "/etc", f"{TOP}/store/{NIX}/cron.d": b""}, "is behind a symbolic link"),
    ],
)
def test_refused(root: Path, members: dict[str, t.Any], error: str) -> None:
    with pytest.raises(nix_tarball.TarballError, match=error):
        unpack(root, members)
    assert os.listdir(root / "store") == []
    assert sorted(os.listdir(root)) == ["store", "var"]


@pytest.mark.parametrize("content", [b"", b"junk" * 999, pack(WHOLE).getvalue()[:200]])
def test_broken(root: Path, content: bytes) -> None:
    with pytest.raises(nix_tarball.TarballError, match="cannot be read as a tar archive: .*[a-z]$"):
        nix_tarball.unpack(io.BytesIO(content), "n", ["x86_64-linux"], str(root / "store"), str(root / ".nix_install"))
    assert os.listdir(root / "store") == []


def test_checksum() -> None:
    file = io.BytesIO(b"content")
    right = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    nix_tarball.check_sum(file, "n", right)
    assert file.read() == b"content"
    file.seek(0)
    with pytest.raises(nix_tarball.TarballError, match=f"n has the checksum {right}, not sha256:0"):
        nix_tarball.check_sum(file, "n", "sha256:0")
