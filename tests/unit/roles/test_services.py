# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How nix-daemon is restarted where there is no systemd: the roles' own words, with a launchctl that a test plays."""

from __future__ import annotations

import os
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
LAUNCHCTL = """#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
  print) [ "$2" = "system/$LOADED" ] ;;
esac
"""


def restart() -> dict[str, dict[str, t.Any]]:
    """The tasks by the manager of services that they are for."""
    tasks = yaml.safe_load((ROLES / "nix_install/tasks/restart.yml").read_text())
    return {task["when"].split("'")[1]: task for task in tasks}


@pytest.mark.parametrize("role", ["nix_builder", "nix_client"])
def test_each_manager_has_its_task(role: str) -> None:
    found = restart()
    known = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())
    rows = [known[f"_{role}_platform_default"], *known[f"_{role}_platforms"].values()]
    assert sorted(found) == sorted({row["services"] for row in rows if "services" in row})
    assert found["openrc"]["ansible.builtin.service"] == {"name": "nix-daemon", "state": "restarted"}


@pytest.mark.parametrize("loaded", ["org.nixos.nix-daemon", "systems.determinate.nix-daemon", "another"])
def test_launchd_restarts_the_daemon_that_it_knows(loaded: str, tmp_path: Path) -> None:
    (tmp_path / "launchctl").write_text(LAUNCHCTL)
    (tmp_path / "launchctl").chmod(0o755)
    calls = tmp_path / "calls"
    done = subprocess.run(
        restart()["launchd"]["ansible.builtin.command"]["argv"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOADED": loaded, "CALLS": str(calls)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = calls.read_text().splitlines()[-1]
    if loaded == "another":
        assert (done.returncode, last.split()[0]) == (1, "print")
        assert "launchd knows no nix-daemon" in done.stderr
    else:
        assert (done.returncode, last) == (0, f"kickstart -k system/{loaded}")
