# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that a module owns: read, replaced in one step, removed, and markers for services that must reload.

How a module uses it (C(module) is its AnsibleModule with C(add_file_common_args)):

    pending = Pending(module, module.params["pending"])
    target = OwnedFile(module, path, mode=0o644, pending=pending)
    target.put(text)         # or target.remove(); writes only where the text differs, nothing in check mode
    module.exit_json(changed=target.changed or pending.waiting, diff=target.diff)

Texts are the file's bytes, decoded with surrogateescape and with their line ends as they are, so that what is written
back is what was read. Imports nothing of Ansible.
"""

from __future__ import annotations

import os
import tempfile
import typing as t

#: The first line, a comment, of a file that the collection owns as a whole; the roles' templates repeat it.
#: Without a C(;), after which an older Nix takes the rest of a comment in a machines file for a machine.
HEADER = "Written by the Ansible collection nixfleet.builders. Changes made here are lost."


class FileError(Exception):
    """A file cannot be read, written or removed; the text names it."""


class Module(t.Protocol):
    """The part of AnsibleModule that is used here."""

    check_mode: bool
    params: dict[str, t.Any]

    @property
    def tmpdir(self) -> str: ...

    def atomic_move(self, src: str, dest: str, unsafe_writes: bool = ..., keep_dest_attrs: bool = ...) -> None: ...

    def load_file_common_arguments(self, params: dict[str, t.Any], path: str | None = ...) -> dict[str, t.Any]: ...

    def set_fs_attributes_if_different(self, file_args: dict[str, t.Any], changed: bool) -> bool: ...


def read_text(path: str) -> str | None:
    """A file's text, byte for byte; None where there is no file."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error


def diff(path: str, before: str | None, after: str | None) -> dict[str, str]:
    """Ansible's diff of one file; None is a file that does not exist."""
    return {
        "before_header": path if before is not None else f"{path} (absent)",
        "after_header": path if after is not None else f"{path} (absent)",
        "before": before or "",
        "after": after or "",
    }


def write(module: Module, path: str, text: str, mode: int, keep_attributes: bool = False) -> None:
    """Replaces a file in one step. It has C(mode) from its first byte, or an existing file's own mode and owner.

    The umask matters: atomic_move gives a file that was not there 0666 less the umask after it has put it in place
    (ansible-core 2.19 to 2.21, basic.py), so that a secret would be open for a moment.
    """
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        umask = os.umask(0o777 & ~mode)
        try:
            module.atomic_move(temporary, path, keep_dest_attrs=keep_attributes)
        finally:
            os.umask(umask)
    except Exception as error:  # atomic_move raises plain Exception
        raise FileError(f"cannot write {path}: {error}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FileError(f"cannot remove {path}: {error.strerror}") from error


class Pending:
    """A marker that says: a file was replaced, and its service has not been reloaded yet.

    Made before the file is replaced; the handler that reloads the service removes it. A run that was killed between
    the two is so finished by the next one, which reports C(waiting) as a change and notifies the handler again.
    """

    def __init__(self, module: Module, path: str | None) -> None:
        self._module = module
        self._path = path
        self.waiting = bool(path) and os.path.exists(path or "")

    def mark(self) -> None:
        """Makes the marker, with its directory (0755); not in check mode."""
        if not self._path or self._module.check_mode:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
            with open(self._path, "ab"):
                pass
        except OSError as error:
            raise FileError(f"cannot make the marker {self._path}: {error.strerror}") from error

    def clear(self) -> None:
        """Takes the marker back after the file was put back, unless an earlier run had left it."""
        if self._path and not self.waiting:
            remove(self._path)


class OwnedFile:
    """One file and what was done to it: C(before) and C(after) (None: absent), C(changed), C(diff).

    C(params) are the options mode, owner, group… of this file, where they are not the module's own.
    """

    def __init__(
        self,
        module: Module,
        path: str,
        mode: int,
        pending: Pending | None = None,
        params: dict[str, t.Any] | None = None,
    ) -> None:
        self._module = module
        self._params = module.params if params is None else params
        self._mode = mode
        self._pending = pending
        self.path = path
        self.before = read_text(path)
        self.after = self.before
        self.changed = False

    @property
    def diff(self) -> dict[str, str]:
        return diff(self.path, self.before, self.after)

    def put(self, text: str, attributes: bool = True) -> None:
        """Makes C(text) the file's content, and (C(attributes)) the module's mode, owner and group the file's.

        The directory must exist. In check mode only C(changed) and C(diff) tell what would happen.
        """
        file_args = self._file_args() if attributes else None
        if text != self.before:
            self.after = text
            self.changed = True
            if not self._module.check_mode:
                if self._pending:
                    self._pending.mark()
                mode = file_args["mode"] if file_args and isinstance(file_args["mode"], int) else self._mode
                write(self._module, self.path, text, mode, keep_attributes=not attributes)
        if file_args:
            self.changed = self._module.set_fs_attributes_if_different(file_args, self.changed)

    def remove(self) -> None:
        """Removes the file, if it is there."""
        self.after = None
        if self.before is None:
            return
        self.changed = True
        if not self._module.check_mode:
            if self._pending:
                self._pending.mark()
            remove(self.path)

    def _file_args(self) -> dict[str, t.Any]:
        file_args = self._module.load_file_common_arguments(dict(self._params), path=self.path)
        if file_args.get("mode") is None:
            file_args["mode"] = self._mode
        elif isinstance(file_args["mode"], str) and file_args["mode"].isdigit():
            file_args["mode"] = int(file_args["mode"], 8)
        return file_args
