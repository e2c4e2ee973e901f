# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""inventory.example works as it says: copied to a name without an ending, and read by Ansible."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE_OF_GROUP = {"nix_builders": "nix_builder", "nix_clients": "nix_client"}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, t.Any]:
    """What ansible-inventory --list says about the copy."""
    copy = tmp_path_factory.mktemp("inventory") / "inventory"
    shutil.copy(ROOT / "inventory.example", copy)
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(copy), "--list"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=copy.parent)
    assert "WARNING" not in done.stderr
    return json.loads(done.stdout)


def test_groups(inventory: dict[str, t.Any]) -> None:
    """Three builders and one client, and nobody else."""
    assert inventory["nix_builders"]["hosts"] == ["builder1", "builder2", "builder3"]
    assert inventory["nix_clients"]["hosts"] == ["client1"]
    assert set(inventory["_meta"]["hostvars"]) == {"builder1", "builder2", "builder3", "client1"}


def test_features(inventory: dict[str, t.Any]) -> None:
    """Two builders with different features, and one that takes nothing else."""
    variables = inventory["_meta"]["hostvars"]
    first, second = (set(variables[name]["nix_builder_supported_features"]) for name in ("builder1", "builder2"))
    assert first and second and not first & second
    assert variables["builder3"]["nix_builder_mandatory_features"] == ["gpu"]


@pytest.mark.parametrize("group", ROLE_OF_GROUP)
def test_variables_exist(inventory: dict[str, t.Any], group: str) -> None:
    """Every variable with a role's prefix is one of that role."""
    role = ROLE_OF_GROUP[group]
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    known = set(specs["argument_specs"]["main"]["options"])
    for host in inventory[group]["hosts"]:
        used = set(inventory["_meta"]["hostvars"][host])
        assert used - known <= {"ansible_host", "ansible_user"}
