# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module in this process with a real AnsibleModule."""

from __future__ import annotations

import json
import types
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import _internal, basic
from ansible.module_utils.common import warnings

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: t.Any) -> Run:
    """run_module(module, check=False, **options): the module's result, with C(failed) where it failed."""

    def run(module: types.ModuleType, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        scratch: Path = tmp_path_factory.mktemp("remote")
        internal = {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": str(scratch)}
        args = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, **internal}})
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", args.encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        # The lookup's tests bring in the controller's side, on which warnings are shown instead of returned.
        monkeypatch.setattr(_internal, "is_controller", False)
        monkeypatch.setattr(warnings, "_global_warnings", {})
        capsys.readouterr()
        with pytest.raises(SystemExit):
            module.main()
        result: dict[str, t.Any] = json.loads(capsys.readouterr().out)
        return result

    return run
