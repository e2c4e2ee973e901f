# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts questions to the Nix of this machine or of a host of the test fleet, by a script that is sent there."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

FLEET = Path(__file__).resolve().parents[1] / "fleet/fleet"
#: This machine, among hosts of the test fleet (FLEET/HOST).
HERE = "here"


def ask(host: str, script: Path, questions: t.Any, *arguments: str) -> t.Any:
    """What the script prints as JSON when it has the questions on stdin. Raises RuntimeError."""
    if host == HERE:
        argv = [sys.executable, str(script)]
    else:
        fleet, _slash, name = host.partition("/")
        argv = [str(FLEET), "exec", "--fleet", fleet, name, "--", "python3", "-c", script.read_text()]
    done = subprocess.run(
        [*argv, *arguments], input=json.dumps(questions), capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script.name} on {host}: exit status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)
