# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's interpreter on the client: runs the real one and notes how much memory it needed at most, in KiB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

process = subprocess.Popen(["/usr/bin/python3", *sys.argv[1:]])
_pid, status, usage = os.wait4(process.pid, 0)
Path("/opt/survival/memory").write_text(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
