# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes this checkout importable as ansible_collections.nixfleet.builders; settings of all property tests."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parents[2]


def _collections_path() -> Path:
    """The directory that holds ansible_collections/: the one around us, else a link that is made in .build."""
    if ROOT.parts[-3:] == ("ansible_collections", "nixfleet", "builders"):
        return ROOT.parents[2]
    link = ROOT / ".build/collections/ansible_collections/nixfleet/builders"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT)
    return ROOT / ".build/collections"


sys.path.insert(0, str(_collections_path()))

# How long an example takes is a matter of what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
