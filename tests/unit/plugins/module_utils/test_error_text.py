# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How error messages show values."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.error_text import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\nb", "'a\\nb'"), (1.5, "1.5"), (["a"], "['a']"), ("x" * 200, "'" + "x" * 89 + "…'")],
)
def test_a_value_is_one_short_line(value: object, text: str) -> None:
    assert shown(value) == text
