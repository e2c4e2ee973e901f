# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How error messages show values."""

from __future__ import annotations


def shown(value: object) -> str:
    """The value quoted, on one line, and not longer than needed to find it."""
    text = repr(value)
    return text if len(text) <= 100 else text[:90] + "…" + text[-1]
