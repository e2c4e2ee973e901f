# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of Nix, out of text and back."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import (
    NixVersionError,
    parse_version,
    version_text,
)


@pytest.mark.parametrize(
    ("text", "version"), [("2.8.0", (2, 8, 0)), ("2.31pre20250806_abc", (2, 31)), (" 2.26.3\n", (2, 26, 3))]
)
def test_a_version(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version
    assert parse_version(version_text(version)) == version


@pytest.mark.parametrize("text", ["", "2", "new", "²·3", "9." + "9" * 6000])
def test_no_version(text: str) -> None:
    with pytest.raises(NixVersionError, match="is no version of Nix; write it as .* for example 2.26.3"):
        parse_version(text)
