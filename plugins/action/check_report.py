# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows what clients have found out about their builders, and writes it to files on the controller."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.plugin_utils import check_report

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """Everything happens here."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(
            argument_spec={
                "results": {"type": "dict", "required": True},
                "unreachable": {"type": "dict", "default": {}},
                "path": {"type": "path"},
            },
        )
        try:
            clients = check_report.read_clients(args["results"])
        except (AttributeError, KeyError, TypeError) as error:
            raise AnsibleActionFail(f"results is not what builder_checks returns: there is no {error}") from error
        unreachable = args["unreachable"]
        for line in check_report.table(clients, unreachable):
            display.display(line)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        files: dict[str, str] = {}
        for path in report_paths(args["path"]):
            files[path] = (
                check_report.as_junit(clients, unreachable, now)
                if path.endswith(".xml")
                else check_report.as_json(clients, unreachable, now, self._task.check_mode)
            )
        try:
            write_all(files)
        except OSError as error:
            raise AnsibleActionFail(
                f"the report cannot be written: {error}; name another place in path (nix_verify_report)"
            ) from error
        failures = {"clients": check_report.by_client(clients), "builders": check_report.by_builder(clients)}
        result.update(failures=failures)
        result.update(changed=False, passed=check_report.passed(clients, unreachable), files=list(files))
        return result


def report_paths(path: str | None) -> list[str]:
    """The files to write, by the option C(path)."""
    if not path:
        return []
    path = os.path.abspath(path)
    if path.endswith((".json", ".xml")) and not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in ("verify.json", "verify.xml")]


def write_all(files: t.Mapping[str, str]) -> None:
    """Replaces the files, none before all of them lie whole beside their places."""
    umask = os.umask(0)
    os.umask(umask)
    ready: dict[str, str] = {}
    try:
        for path, text in files.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".verify-", dir=os.path.dirname(path))
            ready[temporary] = path
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o666 & ~umask)
        for temporary, path in ready.items():
            os.replace(temporary, path)
    finally:
        for temporary in ready:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
