# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strace saw of secrets on a host: where they were written, with which mode such files came to be, who had them as
an argument.

One file per process (strace -ff -y), so that no line is broken up by another.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
import typing as t
from pathlib import Path

CALLS = (
    "execve,openat,open,creat,write,pwrite64,writev,sendto,sendmsg,rename,renameat,renameat2,link,linkat,"
    "chmod,fchmod,fchmodat,umask"
)
#: No secret is longer, and module results fit.
STRING = 1 << 16

_CREATED = re.compile(
    r'^(?:openat\([^,]*, |open\(|creat\()"([^"]*)"(?:, ([A-Z_|]+))?(?:, (0\d*))?\) = \d+(?:<([^>]*)>)?'
)
_WRITTEN = re.compile(r"^(?:write|pwrite64|writev|sendto|sendmsg)\(\d+<([^>]*(?:>[^,]*)?)>, ")
_CHMOD = re.compile(r'^(?:chmod\(|fchmodat2?\([^,]*, )"([^"]*)", (0\d+)|^fchmod\(\d+<([^>]*)>, (0\d+)')
_UMASK = re.compile(r"^umask\((0\d*)\)")


class Trace:
    """strace of some processes and all that they start, until stop()."""

    def __init__(self, directory: Path, pids: t.Sequence[int]) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        argv = ["strace", "-f", "-ff", "-y", "-q", "-s", str(STRING), "-e", f"trace={CALLS}", "-e", "signal=none"]
        argv += ["-o", str(directory / "trace")]
        for pid in pids:
            argv += ["-p", str(pid)]
        self._errors = (directory / "errors").open("wb")
        self._process = subprocess.Popen(argv, stderr=self._errors, start_new_session=True)
        deadline = time.monotonic() + 10
        while not any(directory.glob("trace.*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._process.poll() is not None:
            raise RuntimeError(f"strace ended: {(directory / 'errors').read_text()}")

    def stop(self) -> None:
        """Lets the processes go on by themselves."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self._errors.close()


class Seen(t.NamedTuple):
    """commands: how many programs were started. written: where secrets went, with the mode of that file's creation.

    faults: what must not be.
    """

    commands: int
    written: dict[str, str]
    faults: list[str]


def read(directory: Path, secrets: t.Mapping[str, str]) -> Seen:
    """secrets: parts of them by name; they may be seen in writes to files that are private from the first, only."""
    created: dict[str, int] = {}
    opened_up: dict[str, int] = {}
    written: dict[str, set[str]] = {}
    faults: list[str] = []
    commands = 0
    for file in sorted(directory.glob("trace.*")):
        umask = 0o022
        for line in file.read_text(errors="replace").splitlines():
            found = _UMASK.match(line)
            if found:
                umask = int(found[1], 8)
            found = _CREATED.match(line)
            if found and ("creat(" in line[:6] or "O_CREAT" in (found[2] or "")):
                # Of several creations the widest counts. A file that was there keeps its mode, which is then known.
                path = found[4] or found[1]
                created[path] = created.get(path, 0) | (int(found[3] or "0", 8) & ~umask)
            found = _CHMOD.match(line)
            if found:
                opened_up[found[1] or found[3]] = int(found[2] or found[4], 8)
            if line.startswith("execve("):
                commands += 1
                faults += [
                    f"{name} is an argument: {_hidden(line, part)}" for name, part in secrets.items() if part in line
                ]
                continue
            for name, part in secrets.items():
                if part in line:
                    place = _WRITTEN.match(line)
                    written.setdefault(place[1] if place else line[:60], set()).add(name)
    shown = {}
    for place, names in written.items():
        what = ", ".join(sorted(names))
        mode = created.get(place)
        if mode is None:
            faults.append(f"{what} went to {place}, which is no file that was made meanwhile")
            continue
        shown[place] = f"{what}: {mode:04o}"
        later = opened_up.get(place, mode)
        for each in (mode, later):
            if each & 0o077:
                faults.append(f"{what} was written to {place}, which has mode {each:04o}")
                break
    return Seen(commands, shown, faults)


def _hidden(line: str, part: str) -> str:
    return line.replace(part, "<secret>")[:120]
