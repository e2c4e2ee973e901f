# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a playbook's time goes: one JSON line per task, per result and per module that was run on a host.

An action such as copy runs several modules on the host, which no callback is told. So this one wraps the method of
ansible-core through which all of them go, before the workers are forked.
"""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bench_trace
type: notification
short_description: Writes down when tasks begin and which modules are run on hosts
description:
  - For the measurements in tests/bench. Appends JSON lines to a file, from the workers too.
options:
  trace:
    description: The file.
    type: path
    required: true
    env:
      - name: BENCH_TRACE
requirements:
  - to be listed in E(ANSIBLE_CALLBACKS_ENABLED)
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "bench_trace"
    CALLBACK_NEEDS_ENABLED = True

    def set_options(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().set_options(*args, **kwargs)
        # Lines are written whole, as they are short and the file is opened for appending.
        self._file = os.open(self.get_option("trace"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._watch_modules()

    def _write(self, kind: str, **fields: t.Any) -> None:
        line = json.dumps({"kind": kind, "time": time.time(), **fields})
        os.write(self._file, f"{line}\n".encode())

    def _watch_modules(self) -> None:
        execute = ActionBase._execute_module
        write = self._write

        def watched(action: ActionBase, module_name: str | None = None, *args: t.Any, **kwargs: t.Any) -> t.Any:
            start = time.time()
            try:
                return execute(action, module_name, *args, **kwargs)
            finally:
                write(
                    "module",
                    module=module_name or action._task.action,
                    task=action._task._uuid,
                    # Of a delegated task this is the host that it is delegated to.
                    host=action._play_context.remote_addr,
                    seconds=round(time.time() - start, 4),
                )

        ActionBase._execute_module = watched

    def _task(self, task: t.Any) -> None:
        self._write("task", task=task._uuid, name=task.get_name(), path=task.get_path())

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._task(task)

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        self._task(task)

    def _result(self, outcome: str, result: t.Any) -> None:
        self._write("result", task=result._task._uuid, host=result._host.get_name(), outcome=outcome)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._result("changed" if result._result.get("changed") else "ok", result)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._result("skipped", result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._result("failed", result)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._result("unreachable", result)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._write("end")
