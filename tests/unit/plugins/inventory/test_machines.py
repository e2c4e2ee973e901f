# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin, by ansible-inventory on real files; and into the lookups, which give the same machines back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, inventory_loader
from ansible.template import Templar
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.machines import render_file
from ansible_collections.nixfleet.builders.plugins.plugin_utils.builder_hosts import builder_hosts
from ansible_collections.nixfleet.builders.plugins.plugin_utils.inventory_machines import inventory_machines
from hypothesis import HealthCheck, given, settings

from tests.support.machine_samples import MACHINE_LISTS, NEW

COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet").is_dir())
SOURCE = "site.machines.yml"
FILE = """\
# ours
ssh-ng://nixremote@b1.example.org x86_64-linux,i686-linux /root/.ssh/nixremote 8 1.5 kvm,big-parallel gpu -
ssh://b2 - - - - {{1+1}} - - # old
@more
daemon
"""


def write(directory: Path, text: str, **options: t.Any) -> Path:
    (directory / "machines").write_text(text)
    source = directory / SOURCE
    source.write_text(json.dumps({"plugin": "nixfleet.builders.machines", "files": ["machines"], **options}))
    return source


def ansible(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / program), "-i", SOURCE, *arguments],
        check=False,
        cwd=cwd,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
            "ANSIBLE_LOCAL_TEMP": str(cwd / "tmp"),
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        },
        capture_output=True,
        text=True,
    )


def test_ansible_inventory(tmp_path: Path) -> None:
    """Two files, an include, groups and variables of the user's own."""
    more = tmp_path / "more"
    more.write_text("ssh-ng://u@[fd00::12]:2222 aarch64-linux\n")
    write(
        tmp_path,
        FILE.replace("@more", f"@{more}"),
        files=["machines", str(more)],
        strict=True,
        compose={"length": "inventory_hostname | length"},
        groups={"fast": "nix_builder_speed_factor > 1"},
        keyed_groups=[{"key": "nix_builder_max_jobs | string", "prefix": "jobs"}],
    )
    done = ansible("ansible-inventory", "--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["nix_builders"]["hosts"] == ["b1.example.org", "b2", "fd00::12-2222"]
    groups = {group: value["hosts"] for group, value in found.items() if "hosts" in value and group != "nix_builders"}
    assert groups == {
        "nix_system_x86_64_linux": ["b1.example.org"],
        "nix_system_i686_linux": ["b1.example.org"],
        "nix_system_aarch64_linux": ["fd00::12-2222"],
        "nix_feature_kvm": ["b1.example.org"],
        "nix_feature_big_parallel": ["b1.example.org"],
        "nix_feature_gpu": ["b1.example.org"],
        "nix_feature___1_1__": ["b2"],
        "nix_mandatory_gpu": ["b1.example.org"],
        "fast": ["b1.example.org"],
        "jobs_8": ["b1.example.org"],
        "jobs_1": ["b2", "fd00::12-2222"],
    }
    variables = found["_meta"]["hostvars"]
    assert variables["b1.example.org"]["length"] == 14
    # What somebody wrote into a machines file is no template.
    assert variables["b2"]["nix_builder_supported_features"] == [{"__ansible_unsafe": "{{1+1}}"}]
    warnings = " ".join(done.stderr.split())
    assert "daemon is left out" in warnings and "ssh-ng://u@[fd00::12]:2222 is left out: it is there twice" in warnings


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (
            "ssh://a\n\nssh://b - - x\n",
            {},
            r"{dir}/machines, line 3, machine ssh://b, max_jobs, column 4: 'x' is no unsigned integer; ",
        ),
        (
            "ssh://a - - 1 1.5\n",
            {"nix_version": "2.8.0"},
            r"line 1, machine ssh://a, speed_factor, column 5: .*2\.8\.0",
        ),
        ("@/etc\n", {}, r"{dir}/machines, line 1: '/etc' cannot be read: Is a directory; "),
        ("ssh://a\n", {"nix_version": "new"}, "'new' is no version of Nix"),
        ("ssh://a\n", {"files": ["missing"]}, r"machines file {dir}/missing: No such file or directory; correct"),
        ("ssh://a\n", {"strict": True, "compose": {"x": "nope + 1"}}, "Could not set x for host a"),
    ],
)
def test_refusals(tmp_path: Path, text: str, options: dict[str, t.Any], reason: str) -> None:
    write(tmp_path, text, **options)
    done = ansible("ansible-inventory", "--list", cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(reason.format(dir=tmp_path), " ".join(done.stderr.split())), done.stderr


def test_an_include_that_is_not_there_is_said(tmp_path: Path) -> None:
    write(tmp_path, f"@{tmp_path}/nowhere\nssh://a\n")
    done = ansible("ansible-inventory", "--graph", cwd=tmp_path)
    assert done.returncode == 0 and "|--a" in done.stdout
    assert f"{tmp_path}/nowhere is included, and is not there" in " ".join(done.stderr.split())


def test_the_lookups_know_its_machines(tmp_path: Path) -> None:
    """machines and route, in a play that has reached no host."""
    write(tmp_path, FILE.replace("@more\n", ""))
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "dest": str(tmp_path / "out"),
                    "content": "{{ {'lines': query('nixfleet.builders.machines', format='lines', nix_version='2.26.3'),"
                    " 'route': query('nixfleet.builders.route', {'system': 'x86_64-linux', 'features': ['gpu']})}"
                    " | to_json }}",
                }
            }
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = ansible("ansible-playbook", "play.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    out = json.loads((tmp_path / "out").read_text())
    assert out["lines"] == [
        "ssh-ng://nixremote@b1.example.org i686-linux,x86_64-linux /root/.ssh/nixremote 8 1.5 big-parallel,kvm gpu -",
        "ssh://b2 - - 1 1 {{1+1}} - -",
    ]
    assert "b1.example.org" in json.dumps(out["route"])


@pytest.fixture(scope="module")
def finder() -> t.Iterator[None]:
    """Ansible's finder of collections, which finds its own fragments of documentation; other tests do without it."""
    init_plugin_loader([COLLECTIONS])
    yield
    _AnsibleCollectionFinder._remove()


def read(source: Path) -> InventoryData:
    inventory = InventoryData()
    # By its directory: ansible's finder of collections does not work once another test has imported this one.
    inventory_loader.add_directory(str(Path(COLLECTIONS) / "ansible_collections/nixfleet/builders/plugins/inventory"))
    plugin = inventory_loader.get("machines")
    # As its own name is found by it alone.
    plugin._redirected_names = ["nixfleet.builders.machines"]
    plugin.parse(inventory, DataLoader(), str(source))
    return inventory


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MACHINE_LISTS)
def test_the_lookup_gives_the_files_machines_back(finder: None, tmp_path: Path, machines: list[Machine]) -> None:
    text = render_file(machines, NEW)
    inventory = read(write(tmp_path, text))
    names = list(inventory.hosts)
    variables = {"groups": {"all": names, "nix_builders": names}, "hostvars": {}}
    variables["hostvars"] = {name: inventory.hosts[name].get_vars() for name in names}
    loader = DataLoader()
    lookup = SimpleNamespace(_loader=loader, _templar=Templar(loader, variables={}))
    found = inventory_machines(lookup, variables)
    hosts, _remarks = builder_hosts(machines)
    assert found == [Machine.from_dict(host.variables["nix_builder_machine"]) for host in hosts]
    assert found == [machine for machine in machines if machine in found]


def test_only_files_of_its_name(finder: None, tmp_path: Path) -> None:
    with pytest.raises(AnsibleParserError):
        read(tmp_path / "missing.machines.yml")
