# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the script that ansible-test downloads to put pip into its own environments: Python's own pip does.

Called with pip's options and packages, and with --no-setuptools and --no-wheel, which only the original knows.
"""

from __future__ import annotations

import subprocess
import sys

ORIGINAL_ONLY = {"--no-setuptools", "--no-wheel"}

# In a process of its own, since it switches pip's configuration off in its environment.
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
wanted = [argument for argument in sys.argv[1:] if argument not in ORIGINAL_ONLY]
if any(not argument.startswith("-") for argument in wanted):
    subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True, stdout=subprocess.DEVNULL)
