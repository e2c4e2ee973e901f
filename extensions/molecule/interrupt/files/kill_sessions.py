# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills what runs in the ssh sessions of this host, but not the sessions; prints how many processes that were."""

from __future__ import annotations

import contextlib
import os
import signal


def processes() -> dict[int, tuple[int, str]]:
    """(parent, name) of each process."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as file:
            head, _bracket, tail = file.read().rpartition(")")
            found[int(name)] = (int(tail.split()[1]), head.partition("(")[2])
    return found


def main() -> None:
    every = processes()
    killed = 0
    for pid, (parent, name) in every.items():
        above = parent
        while above in every and not every[above][1].startswith("sshd"):
            above = every[above][0]
        if above in every and not name.startswith("sshd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    print(killed)


main()
