# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends a builder's account what it must not run, over real logins; complains on stdout and ends with 1 where it did.

Usage: knock.py HOST COMMAND_THAT_IS_OFF. The last line says how many refusals the builder must have logged.
"""

from __future__ import annotations

import subprocess
import sys

HOST = sys.argv[1].encode()
TOUCH = b"touch /tmp/pwned"
COMMANDS = [
    sys.argv[2].encode(),
    b"id",
    b"/bin/sh -i",
    b"nix-daemon",
    b"nix-daemon --stdio --store /tmp/x",
    b"nix-daemon --stdio\n" + TOUCH,
    b"nix-daemon --stdio; " + TOUCH,
    b"nix-daemon --stdio && " + TOUCH,
    b"nix-daemon --stdio | " + TOUCH,
    b"nix-daemon --stdio $(" + TOUCH + b")",
    b"`" + TOUCH + b"`",
    b"'; " + TOUCH + b"; '",
    b'"; ' + TOUCH + b'; "',
    b"*",
    b"nix-daemon --stdi?",
    b"\xff\xfe\x80",
    b"\x1b]0;pwned\x07",
    b"x\nNov 20 12:00:00 h sshd[1]: Accepted publickey for pwned",
    b"nix-daemon --stdio" + b" " * 50_000,
    b"A" * 120_000,
]
problems = []


def knock(*words: bytes, options: tuple[bytes, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [b"ssh", *options, HOST, *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )


def check(name: object, done: subprocess.CompletedProcess[bytes], status: int = 126) -> None:
    line = done.stderr.rstrip(b"\r\n")
    if done.returncode != status or done.stdout or not line.startswith(b"nixfleet-gate: refused: '"):
        problems.append(f"{name}: {done}"[:600])
    elif len(line) > 500 or any(not 32 <= byte < 127 for byte in line):
        problems.append(f"{name}: not one line of printable text: {line!r}"[:600])


for command in COMMANDS:
    check(command[:60], knock(command))
check("a shell", knock())
# sshd hands on nothing of what a subsystem writes to stderr.
sftp = knock(b"sftp", options=(b"-s",))
if sftp.returncode != 126 or sftp.stdout:
    problems.append(f"sftp: {sftp}"[:600])
# More than the kernel hands on to a process: sshd cannot even start the gate.
long = knock(b"A" * 100_000, b"B" * 100_000)
if long.returncode == 0 or long.stdout or b"Argument list too long" not in long.stderr:
    problems.append(f"200 kB: {long}"[:600])
for problem in problems:
    print(problem)
print(len(COMMANDS) + 2)
sys.exit(1 if problems else 0)
