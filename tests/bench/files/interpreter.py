# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's interpreter on the client: runs the real one and notes when, how long, and with how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

start, clock = time.time(), time.monotonic()
process = subprocess.Popen(["/usr/bin/python3", *sys.argv[1:]])
_pid, status, usage = os.wait4(process.pid, 0)
Path("/opt/bench/usage.json").write_text(
    json.dumps(
        {
            "start": start,
            "wall_seconds": time.monotonic() - clock,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_mb": usage.ru_maxrss / 1024,
        }
    )
)
sys.exit(os.waitstatus_to_exitcode(status))
