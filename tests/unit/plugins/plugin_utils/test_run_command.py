# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real programs."""

from __future__ import annotations

import pytest
from ansible_collections.nixfleet.builders.plugins.plugin_utils.run_command import run_command


def test_a_program() -> None:
    script = 'read -r line; echo "$line $MINE"; printf "\\377" >&2; exit 3'
    found = run_command(["sh", "-c", script], data="said\n", environ_update={"MINE": "too"})
    assert found == (3, "said too\n", "\udcff")


def test_without_data_there_is_nothing_to_read() -> None:
    assert run_command(["cat"]) == (0, "", "")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(OSError, match="/nowhere"):
        run_command(["/nowhere"])
