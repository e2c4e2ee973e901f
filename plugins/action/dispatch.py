# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module dispatch, and shows meanwhile what is built where.

The module appends its news to a file; a thread here reads on in it every now and then, as the user that the module runs
as, by commands of their own over the same way (ssh, local, become).
"""

from __future__ import annotations

import contextlib
import copy
import json
import shlex
import threading
import time
import typing as t
import uuid

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.nixfleet.builders.plugins.module_utils.progress import Progress

#: Seconds between two looks at the file.
INTERVAL = 1.0
#: Seconds that the last look may take.
LAST_LOOK = 10.0

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """The module, with its news shown."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if self._task.async_val or self._task.check_mode or self._task.args.get("progress"):
            wrap = bool(self._task.async_val) and not self._connection.has_native_async
            result.update(self._execute_module(task_vars=task_vars, wrap_async=wrap))
            return result
        directory = self.get_shell_option("system_tmpdirs", ["/var/tmp"])[0]
        path = f"{directory}/nixfleet-dispatch-{uuid.uuid4().hex}"
        follower = Follower(self, path)
        follower.start()
        try:
            args = {**self._task.args, "progress": path}
            result.update(self._execute_module(module_args=args, task_vars=task_vars))
        finally:
            follower.end()
        result.get("invocation", {}).get("module_args", {}).pop("progress", None)
        return result


class Follower:
    """Reads the news in a thread, and shows them."""

    def __init__(self, action: ActionModule, path: str) -> None:
        # Commands that run at the same time must not share what the plugins remember of the one that runs.
        self._action = copy.copy(action)
        connection = copy.copy(action._connection)
        if connection.become is not None:
            connection.set_become_plugin(copy.copy(connection.become))
        self._action._connection = connection
        self._path = shlex.quote(path)
        self._progress = Progress(display.verbosity > 1)
        self._read = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="dispatch progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Shows what is left, and removes the file."""
        self._ending.set()
        self._thread.join(LAST_LOOK)

    def _follow(self) -> None:
        try:
            while not self._ending.wait(INTERVAL):
                self._look()
            self._look()
        except Exception as error:
            # The module goes on; only its display ends.
            display.vv(f"dispatch: its progress cannot be shown: {error}")
        finally:
            # That the host cannot be reached is the module's to tell.
            with contextlib.suppress(Exception):
                self._command(f"rm -f {self._path}")

    def _look(self) -> None:
        # Counted in lines: a terminal in between changes how they end.
        text = self._command(f"tail -n +{self._read + 1} {self._path} 2>/dev/null || true")
        lines = text.replace("\r", "").split("\n")[:-1]
        self._read += len(lines)
        news = [json.loads(line) for line in lines]
        for line in self._progress.lines(news, time.monotonic()):
            display.display(f"  {line}")

    def _command(self, command: str) -> str:
        answer = self._action._low_level_execute_command(command, sudoable=True)
        return t.cast("str", answer.get("stdout", ""))
