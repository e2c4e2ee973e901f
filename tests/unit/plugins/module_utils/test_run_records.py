# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a finished run says of itself."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.nixfleet.builders.plugins.module_utils.run_records import Attempt, Record, Run


def run(*records: tuple[str, str], delivered: t.Iterable[str] = ()) -> Run:
    """Records with a status and the outcome of their only attempt, if any."""
    made = {
        str(number): Record(t.cast("t.Any", None), status, [Attempt("b1", 0.0, outcome=outcome)] if outcome else [])
        for number, (status, outcome) in enumerate(records)
    }
    return Run(t.cast("t.Any", None), made, [], 0.0, 1.0, list(delivered), 0)


@pytest.mark.parametrize(
    ("found", "changed", "success", "failed"),
    [
        (run(), False, True, 0),
        (run(delivered=["/nix/store/a"]), True, True, 0),
        (run(("built", "")), False, True, 0),
        (run(("built", "built")), True, True, 0),
        (run(("built", ""), ("failed", "failed"), ("cancelled", "")), False, False, 1),
        (run(("cancelled", "returned")), False, False, 0),
        (run(("built", "built"), ("failed", "lost")), True, False, 1),
    ],
)
def test_how_it_ended(found: Run, changed: bool, success: bool, failed: int) -> None:
    assert (found.changed, found.success, len(found.failed)) == (changed, success, failed)
