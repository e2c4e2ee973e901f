# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a program for a limited time, which AnsibleModule.run_command cannot. Imports nothing of Ansible."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

#: How often is looked what a program has said by now, in seconds.
LOOK = 5.0


def run_limited(
    argv: list[str], environment: dict[str, str], timeout: float, hopeless: str = ""
) -> tuple[int | None, str, str]:
    """(exit status, stdout, stderr) of a program without stdin; the status is None when the time was up.

    C(timeout) is in seconds. The time is also up when it has said C(hopeless) on stderr and goes on. Then the program
    and all that it started are killed, except what left its session.
    """
    # AnsibleModule.run_command has no time limit.
    process = subprocess.Popen(  # pylint: disable=ansible-bad-function
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    end = time.monotonic() + timeout
    try:
        while True:
            left = end - time.monotonic()
            try:
                out, err = process.communicate(timeout=min(LOOK, left) if hopeless else left)
                return process.returncode, out, err
            except subprocess.TimeoutExpired as expired:
                # Bytes, also of a stream of text.
                if time.monotonic() >= end or (hopeless and hopeless.encode() in (expired.stderr or b"")):
                    raise
    except subprocess.TimeoutExpired:
        _end_session(process.pid)
        # A grandchild that left the session could keep the pipes open: what was read until now has to do.
        try:
            out, err = process.communicate(timeout=1)
        except subprocess.TimeoutExpired as expired:
            out, err = ((part or b"").decode(errors="replace") for part in (expired.stdout, expired.stderr))
        return None, out, err


def _end_session(leader: int) -> None:
    """Kills the process group of a session's leader, in which the ssh of Nix is, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
