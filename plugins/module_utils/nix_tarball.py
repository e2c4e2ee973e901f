# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The binary tarball of a Nix release, taken into the store so that an interruption leaves nothing half done.

The layout is C(nix-VERSION-SYSTEM/) with C(store/HASH-NAME) and C(.reginfo), the registration of those paths as
C(nix-store --load-db) reads it (scripts/binary-tarball.nix, up to 2.34). Each path is unpacked beside the store and
then renamed into it, so what is in the store is whole. Imports nothing of Ansible.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import typing as t

TOP = re.compile(r"nix-(?P<version>\d[^/]*?)-(?P<system>[a-z0-9_]+-(?:linux|darwin))$")
STORE_NAME = re.compile(r"[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]+$")

#: Directories of a multi-user Nix with their modes (scripts/install-multi-user.sh); the store's group is the builders'.
TREE = (
    ("", 0o755),
    ("store", 0o1775),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/log/nix", 0o755),
    ("var/log/nix/drvs", 0o755),
    ("var/nix", 0o755),
    ("var/nix/daemon-socket", 0o755),
    ("var/nix/db", 0o755),
    ("var/nix/gcroots", 0o755),
    ("var/nix/gcroots/per-user", 0o755),
    ("var/nix/profiles", 0o755),
    ("var/nix/profiles/per-user", 0o755),
    ("var/nix/temproots", 0o755),
    ("var/nix/userpool", 0o755),
)


class TarballError(Exception):
    """The file is not the tarball of a Nix release, or not the one that was asked for."""


class Contents(t.NamedTuple):
    """What a tarball holds. C(paths) are the names of its store paths, C(nix) that of Nix, C(missing) the new ones."""

    version: str
    system: str
    paths: list[str]
    missing: list[str]
    nix: str
    reginfo: str


def check_sum(file: t.BinaryIO, name: str, wanted: str) -> None:
    """Compares with C(sha256:HEX) and rewinds the file."""
    found = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        found.update(block)
    file.seek(0)
    if wanted != f"sha256:{found.hexdigest()}":
        raise TarballError(f"{name} has the checksum sha256:{found.hexdigest()}, not {wanted}")


def make_tree(root: str, group: int) -> list[str]:
    """Makes what is missing of the directories under C(/nix), and returns it. Leaves those that are there alone."""
    made = []
    for name, mode in TREE:
        path = os.path.join(root, name) if name else root
        if not os.path.isdir(path):
            os.mkdir(path)
            if name == "store":
                os.chown(path, -1, group)
            # After the owner, whose change takes special bits away.
            os.chmod(path, mode)
            made.append(path)
    return made


def missing_tree(root: str) -> list[str]:
    """What C(make_tree) would make."""
    paths = (os.path.join(root, name) if name else root for name, _mode in TREE)
    return [path for path in paths if not os.path.isdir(path)]


def _inner_name(member: tarfile.TarInfo, top: str) -> str:
    """The member's path below the top directory, '' for that itself."""
    name = os.path.normpath(member.name)
    if name == top:
        return ""
    if not name.startswith(f"{top}/") or ".." in name.split("/"):
        raise TarballError(f"{member.name} is not in the directory {top}")
    return name[len(top) + 1 :]


class _Unpacker:
    """Unpacks members of store paths into a directory, as the store keeps them: root's, read-only, from 1970."""

    def __init__(self, staging: str) -> None:
        self._staging = os.path.realpath(staging)
        self._directories: list[str] = []

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        target = os.path.join(self._staging, name)
        parent = os.path.dirname(target)
        if os.path.realpath(parent) != parent:
            raise TarballError(f"{member.name} is behind a symbolic link")
        if member.isdir():
            os.makedirs(target, exist_ok=True)
            self._directories.append(target)
            return
        os.makedirs(parent, exist_ok=True)
        if member.issym():
            os.symlink(member.linkname, target)
        elif member.isreg() or member.islnk():
            source = archive.extractfile(member)
            if source is None:
                raise TarballError(f"{member.name} links to nothing")
            with source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            os.chmod(target, 0o555 if member.mode & 0o100 else 0o444)
        else:
            raise TarballError(f"{member.name} is neither a file nor a directory nor a symbolic link")
        self._settle(target)

    def finish(self) -> None:
        """Directories last, as they change with what comes into them."""
        for path in reversed(self._directories):
            os.chmod(path, 0o555)
            self._settle(path)

    @staticmethod
    def _settle(path: str) -> None:
        os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
        os.utime(path, (1, 1), follow_symlinks=False)


def _remove(staging: str) -> None:
    """Removes what an earlier run may have left; directories of store paths are read-only."""
    for directory, _names, _files in os.walk(staging):
        os.chmod(directory, 0o700)
    shutil.rmtree(staging, ignore_errors=True)


def unpack(
    file: t.BinaryIO, name: str, systems: t.Sequence[str], store: str, staging: str, dry: bool = False
) -> Contents:
    """Brings the tarball's store paths into the store, those that are missing there; C(dry) only tells.

    C(systems) are those that this host runs. C(staging) is a directory on the store's file system, which is removed at
    the end.
    """
    top = version = system = reginfo = ""
    paths: dict[str, bool] = {}
    unpacker = _Unpacker(staging)
    _remove(staging)
    try:
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                if not top:
                    top = os.path.normpath(member.name).split("/")[0]
                    found = TOP.match(top)
                    if not found:
                        raise TarballError(f"{name} begins with {member.name}, not with nix-VERSION-SYSTEM")
                    version, system = found.group("version"), found.group("system")
                    if system not in systems:
                        raise TarballError(f"{name} is for {system}, and this host is {systems[0]}")
                inner = _inner_name(member, top)
                if inner == ".reginfo":
                    content = archive.extractfile(member)
                    reginfo = content.read().decode() if content else ""
                if not inner.startswith("store/"):
                    continue
                inner = inner[len("store/") :]
                path = inner.split("/")[0]
                if path not in paths:
                    if not STORE_NAME.match(path):
                        raise TarballError(f"{member.name} is not named like a path in the store")
                    paths[path] = os.path.lexists(os.path.join(store, path))
                if not paths[path] and not dry:
                    os.makedirs(staging, mode=0o700, exist_ok=True)
                    unpacker.add(archive, member, inner)
        unpacker.finish()
        missing = [path for path, there in paths.items() if not there]
        nix = [path for path in paths if path[33:] == f"nix-{version}"]
        if not reginfo or not nix:
            raise TarballError(f"{name} has no {'.reginfo' if nix else f'store path of nix-{version}'}")
        for path in [] if dry else missing:
            os.rename(os.path.join(staging, path), os.path.join(store, path))
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        # What each compression had against the file would follow in more lines.
        reason = str(error).partition("\n")[0].rstrip(":")
        raise TarballError(f"{name} cannot be read as a tar archive: {reason}") from error
    finally:
        _remove(staging)
    return Contents(version, system, list(paths), missing, nix[0], reginfo)
