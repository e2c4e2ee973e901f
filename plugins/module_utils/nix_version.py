# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Versions of Nix, as tuples that compare: out of text and back.

A function that takes C(nix_version) means the Nix that will read what it is about. Without it the rules of the oldest
supported one hold: what they let through every later one reads the same way.
"""

from __future__ import annotations

import re

from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown

Version = tuple[int, ...]

OLDEST: Version = (2, 8)


class NixVersionError(ValueError):
    """A text that is no version."""


def parse_version(text: str) -> Version:
    """(2, 26, 3) out of C(2.26.3), also with a suffix like C(pre20250806). Raises NixVersionError."""
    found = re.match(r"([0-9]+(?:\.[0-9]+)+)", text.strip())
    if not found or len(found.group(1)) > 40:
        raise NixVersionError(
            f"{shown(text)} is no version of Nix; write it as 'nix --version' prints it, for example 2.26.3"
        )
    return tuple(int(part) for part in found.group(1).split("."))


def version_text(nix_version: Version) -> str:
    """C(2.26.3) out of (2, 26, 3)."""
    return ".".join(map(str, nix_version))
