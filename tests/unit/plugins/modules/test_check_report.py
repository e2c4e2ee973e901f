# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the action plugin, which is all that the module has."""

from __future__ import annotations

import yaml
from ansible_collections.nixfleet.builders.plugins.action import check_report as action
from ansible_collections.nixfleet.builders.plugins.modules import check_report


def test_documents_what_the_action_plugin_takes() -> None:
    options = yaml.safe_load(check_report.DOCUMENTATION)["options"]
    assert set(options) == {"results", "unreachable", "path"}
    assert action.report_paths("/r")
    assert yaml.safe_load(check_report.EXAMPLES)
    assert set(yaml.safe_load(check_report.RETURN)) == {"passed", "failures", "files"}
