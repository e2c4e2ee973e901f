# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Several files and directories of one account, made, mended and removed in one module.

Each file is replaced in one step, and has its mode and its owner from the first byte: whenever a run is killed, files
are whole, and no secret is open. Imports nothing of Ansible.
"""

from __future__ import annotations

import os
import shutil
import stat
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import files


class Module(t.Protocol):
    """The part of AnsibleModule that is used here."""

    check_mode: bool

    def load_file_common_arguments(self, params: dict[str, t.Any], path: str | None = ...) -> dict[str, t.Any]: ...

    def set_fs_attributes_if_different(
        self, file_args: dict[str, t.Any], changed: bool, diff: dict[str, t.Any] | None = ...
    ) -> bool: ...


class OwnedTree:
    """What was done, or in check mode would be: C(changed) and C(diff), which are Ansible's."""

    def __init__(self, module: Module, uid: int, gid: int) -> None:
        self._module = module
        self._uid = uid
        self._gid = gid
        self.changed = False
        self.diff: list[dict[str, t.Any]] = []

    def note(self, diff: dict[str, t.Any]) -> None:
        """Something was changed, this module's own doing included."""
        self.changed = True
        self.diff.append(diff)

    def directory(self, path: str, mode: int) -> None:
        """A directory. Those above it are made as well, 0755, where they are missing."""
        if not os.path.isdir(path):
            self.note(files.diff(path, None, "a directory\n"))
            if not self._module.check_mode:
                self._make(path, mode)
        self._attributes(path, mode)

    def file(self, path: str, text: str, mode: int, *, secret: bool = False) -> None:
        """A file with this text, in a directory that is there. C(secret) keeps the text out of the diff."""
        before = files.read_text(path)
        if text != before:
            shown = [None if it is None else "(secret)\n" if secret else it for it in (before, text)]
            self.note(files.diff(path, *shown))
            if not self._module.check_mode:
                self._write(path, text, mode, self._uid, self._gid)
        self._attributes(path, mode)

    def edit(self, path: str, text: str, mode: int) -> None:
        """Somebody's own file with this text. Its mode, its owner and a link to it stay; C(mode) is for a new one."""
        path = os.path.realpath(path)
        before = files.read_text(path)
        if text == before:
            return
        self.note(files.diff(path, before, text))
        if not self._module.check_mode:
            uid, gid = self._uid, self._gid
            if before is not None:
                status = os.stat(path)
                mode, uid, gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
            self._write(path, text, mode, uid, gid)

    def remove(self, path: str) -> None:
        """A file, or a directory with all that is in it."""
        if not os.path.lexists(path):
            return
        is_tree = os.path.isdir(path) and not os.path.islink(path)
        self.note(files.diff(path, "a directory\n" if is_tree else "a file\n", None))
        if not self._module.check_mode:
            (shutil.rmtree if is_tree else os.unlink)(path)

    def remove_empty(self, path: str) -> None:
        """A directory, if it is there and empty."""
        if os.path.isdir(path) and not os.listdir(path):
            self.remove(path)

    def _make(self, path: str, mode: int) -> None:
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            self._make(parent, 0o755)
        os.mkdir(path, 0o700)
        os.chown(path, self._uid, self._gid)
        os.chmod(path, mode)

    def _write(self, path: str, text: str, mode: int, uid: int, gid: int) -> None:
        # Beside it, so that it can take its place in one step, and has the label that SELinux gives to files there.
        temporary = f"{path}.nixfleet-new"
        try:
            files.remove(temporary)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode("utf-8", "surrogateescape"))
                os.fchown(file.fileno(), uid, gid)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise files.FileError(f"cannot write {path}: {error.strerror}") from error

    def _attributes(self, path: str, mode: int) -> None:
        """Mode, owner and label of what is there already."""
        if not os.path.exists(path):
            return
        params = {"mode": mode, "owner": str(self._uid), "group": str(self._gid), "follow": True}
        diff: dict[str, t.Any] = {}
        arguments = self._module.load_file_common_arguments(params, path=path)
        if self._module.set_fs_attributes_if_different(arguments, False, diff):
            self.note({"before_header": path, "after_header": path, **diff})
