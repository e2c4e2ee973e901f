# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a playbook again and again, and kills each run with SIGKILL in the next of some tasks, until one ends by itself.

Prints JSON: the headers of the tasks in which it was killed.

Usage: killed.py TASK[,TASK...] -- COMMAND...
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "interrupt/files"))
from interrupt import Driver

#: Seconds between the start of a task and the kill, by turns: in the middle of a module, when it is through, at once.
DELAYS = (0.3, 1.0, 0.0)


def run(command: list[str], task: str | None, delay: float) -> str | None:
    """One run, killed in the task. The task's header; None if the run ended by itself, with success."""
    tail: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in t.cast(t.IO[str], process.stdout):
            tail = [*tail[-40:], line]
            if task and line.startswith(("TASK [", "RUNNING HANDLER [")) and f"{task}]" in line:
                time.sleep(delay)
                # Without what runs on the hosts: there are the builds, too.
                Driver(0, [], [], command).kill(process.pid, "group")
                return line.strip(" *\n")
        if process.wait():
            sys.exit(f"the playbook failed by itself:\n{''.join(tail)}")
        if task:
            sys.exit(f"there was no task {task}")
        return None


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    tasks = "".join(arguments[:split]).split(",")
    command = arguments[split + 1 :]
    killed = [run(command, task, DELAYS[number % len(DELAYS)]) for number, task in enumerate(tasks)]
    run(command, None, 0.0)
    print(json.dumps(killed))


if __name__ == "__main__":
    main(sys.argv[1:])
