# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a playbook again and again, and kills each run some tasks later than the last one, until one ends by itself.

A run is killed at the start of every STEP-th task, and of every handler the first time that it is met. By turns only
Ansible's process group is killed, whose workers then go on for a while, or all of Ansible's processes together with
what runs on the hosts. Prints JSON: [{"task": its header, "how": "group" or "all", "delay": seconds after the header}].

Usage: interrupt.py STEP FLEET-TOOL FLEET HOST[,HOST...] -- COMMAND...
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

#: Seconds between the start of a task and the kill: at once, in the middle of a module, when it may be through.
DELAYS = (0.0, 0.2, 0.5, 1.0)
WORKERS_SECONDS = 3.0


class Driver:
    """All runs of one command."""

    def __init__(self, step: int, exec_argv: list[str], hosts: list[str], command: list[str]) -> None:
        self.step = step
        self.exec_argv = exec_argv
        self.hosts = hosts
        self.command = command
        self.kills: list[dict[str, t.Any]] = []
        self.handlers: set[str] = set()

    def run(self) -> None:
        """Runs until one run ends by itself, with success."""
        limit = 1
        while True:
            past = self.run_until(limit)
            if past is None:
                return
            if past >= limit:
                limit = past + self.step

    def run_until(self, limit: int) -> int | None:
        """One run, killed at its limit-th task or at a new handler. The number of the task, None if it ended."""
        how, delay = ("group", "all")[len(self.kills) % 2], DELAYS[len(self.kills) // 2 % len(DELAYS)]
        tail: list[str] = []
        with subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            number = 0
            for line in t.cast(t.IO[str], process.stdout):
                tail = [*tail[-40:], line]
                if not line.startswith(("TASK [", "RUNNING HANDLER [")):
                    continue
                number += 1
                header = line.strip(" *\n")
                new = header.startswith("RUNNING") and header not in self.handlers
                if number >= limit or new:
                    self.handlers.add(header)
                    time.sleep(delay)
                    self.kill(process.pid, how)
                    self.kills.append({"task": header, "how": how, "delay": delay})
                    return number
            if process.wait():
                sys.exit(f"the playbook failed by itself:\n{''.join(tail)}")
            return None

    def kill(self, pid: int, how: str) -> None:
        """Kills a run, and waits until nothing of it is left here."""
        family = descendants(pid)
        if how == "all":
            for member in family:
                kill(member)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if how == "all":
            program = Path(__file__).with_name("kill_sessions.py").read_text(encoding="utf-8")
            for host in self.hosts:
                subprocess.run(
                    [*self.exec_argv, host, "--", "python3", "-c", program], check=True, stdout=subprocess.DEVNULL
                )
        # Some workers wait for their parent for ever; what they run on the hosts is mostly through by then.
        end = time.monotonic() + WORKERS_SECONDS
        while any(alive(member) for member in family) and time.monotonic() < end:
            time.sleep(0.05)
        for member in family:
            kill(member)


def parents() -> dict[int, int]:
    """The parent of each process of this machine."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as file:
            found[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    """A process and all below it, but not an ssh that serves further runs: it has left the family."""
    tree = parents()
    family = [pid]
    for member in family:
        family += [child for child, parent in tree.items() if parent == member]
    return family


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    step, tool, fleet, hosts = arguments[:split]
    driver = Driver(int(step), [tool, "exec", "--fleet", fleet], hosts.split(","), arguments[split + 1 :])
    driver.run()
    print(json.dumps(driver.kills))


if __name__ == "__main__":
    main(sys.argv[1:])
