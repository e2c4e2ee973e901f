# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs programs on the controller, as AnsibleModule.run_command does on a host."""

from __future__ import annotations

import os
import subprocess


def run_command(
    args: list[str], *, data: str | None = None, environ_update: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """(exit status, stdout, stderr); nix_cli.RunCommand. Raises OSError."""
    done = subprocess.run(
        args,
        input=data or "",
        env={**os.environ, **(environ_update or {})},
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return done.returncode, done.stdout, done.stderr
