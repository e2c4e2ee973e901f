# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup, called by itself and in a play."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar

COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet").is_dir())

LINUX = {"uri": "ssh-ng://u@b1", "systems": ["x86_64-linux"]}
FAST = {"host": "b2", "user": "u", "systems": ["x86_64-linux"], "speed_factor": 2, "supported_features": ["kvm"]}
ARM = {"uri": "ssh-ng://u@b3", "systems": ["aarch64-linux"]}
VARIABLES = {
    "groups": {"all": ["b1", "b2"], "nix_builders": ["b1", "b2"]},
    "hostvars": {"b1": {"nix_builder_fact": {"machine": LINUX}}, "b2": {"nix_builder_fact": {"machine": FAST}}},
}
DRV = (
    b'Derive([("out","/nix/store/o","","")],[],[],"x86_64-linux","/bin/sh",[],'
    b'[("requiredSystemFeatures","kvm benchmark")])'
)


def query(*terms: t.Any, variables: t.Any = None, **options: t.Any) -> list[dict[str, t.Any]]:
    variables = variables or VARIABLES
    loader = DataLoader()
    # By its directory: ansible's finder of collections does not work once another test has imported this one.
    lookup_loader.add_directory(str(Path(COLLECTIONS) / "ansible_collections/nixfleet/builders/plugins/lookup"))
    lookup = lookup_loader.get("route", loader=loader, templar=Templar(loader, variables=variables))
    found: list[dict[str, t.Any]] = lookup.run(list(terms), variables, **options)
    return found


def uris(route: dict[str, t.Any]) -> list[str]:
    return [machine["uri"] for machine in route["machines"]]


def test_who_takes_it_and_why_the_others_do_not() -> None:
    (route,) = query({"system": "x86_64-linux"}, machines=[LINUX, FAST, ARM])
    assert uris(route) == ["ssh-ng://u@b2", "ssh-ng://u@b1"]
    assert route["machines"][0]["supported_features"] == ["kvm"]
    assert route["refused"] == [
        {
            "uri": "ssh-ng://u@b3",
            "reasons": [
                {
                    "reason": "system",
                    "text": "builds for aarch64-linux, not for x86_64-linux: if the host can, add that to "
                    "nix_builder_systems",
                }
            ],
        }
    ]
    assert (route["name"], route["system"], route["features"], route["message"]) == ("", "x86_64-linux", [], "")


def test_a_file_of_the_controller(tmp_path: Path) -> None:
    path = tmp_path / ("0" * 32 + "-test-1.0.drv")
    path.write_bytes(DRV)
    named, described = query(str(path), {"system": "x86_64-linux", "features": ["kvm"]})
    assert (named["name"], named["features"]) == ("test-1.0", ["benchmark", "kvm"])
    assert not named["machines"] and [refused["uri"] for refused in named["refused"]] == [
        "ssh-ng://u@b1",
        "ssh-ng://u@b2",
    ]
    assert named["message"].startswith("No machine takes test-1.0, which needs system x86_64-linux and features bench")
    assert "\n  b2  lacks feature benchmark:" in named["message"]
    assert uris(described) == ["ssh-ng://u@b2"]


def test_machines_for_the_client_s_own_system() -> None:
    own = {"uri": "ssh-ng://u@b4"}
    assert uris(query({"system": "riscv64-linux"}, machines=[own], system="riscv64-linux")[0]) == ["ssh-ng://u@b4"]
    assert "not known here" in query({"system": "riscv64-linux"}, machines=[own])[0]["message"]
    assert "no machine at all" in query({"system": "riscv64-linux"}, machines=[])[0]["message"]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("/gone.drv", "route: '/gone.drv' cannot be read on the controller: No such file"),
        ("/a\0b", "cannot be read on the controller: embedded null byte"),
        ({}, "is no term; name a .drv file, or write a dict"),
        ({"system": "x", "feature": ["kvm"]}, "is no term"),
        ({"system": "x", "features": "kvm"}, "is no term"),
        (3, "is no term"),
    ],
)
def test_terms_that_cannot_be_used(term: t.Any, expected: str) -> None:
    with pytest.raises(AnsibleError, match=expected):
        query(term)


def test_other_things_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "x.drv").write_bytes(b"Derive([")
    with pytest.raises(AnsibleError, match="nixfleet.builders.route: derivation .*x.drv, byte 8: "):
        query(str(tmp_path / "x.drv"))
    with pytest.raises(AnsibleError, match="machine number 1, uri: there is no URI"):
        query({"system": "x"}, machines=[{}])
    with pytest.raises(AnsibleError, match="builder b2 has published nothing"):
        query({"system": "x"}, variables={**VARIABLES, "hostvars": {**VARIABLES["hostvars"], "b2": {}}})


def test_in_a_play(tmp_path: Path) -> None:
    path = tmp_path / ("0" * 32 + "-test-1.0.drv")
    path.write_bytes(DRV)
    hosts = dict(VARIABLES["hostvars"])
    (tmp_path / "inventory.yml").write_text(json.dumps({"nix_builders": {"hosts": hosts}}))
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.assert": {
                    "that": [
                        "fits.machines | map(attribute='uri') == ['ssh-ng://u@b2']",
                        "not fits.message",
                        "fits.refused[0].reasons[0].reason == 'missing_features'",
                    ]
                },
                "vars": {"fits": "{{ lookup('nixfleet.builders.route', required) }}"},
            },
            {
                "ansible.builtin.assert": {
                    "that": "route.machines | length > 0",
                    "fail_msg": "{{ route.message }}",
                },
                "vars": {"route": "{{ lookup('nixfleet.builders.route', drv) }}"},
            },
        ],
        "vars": {"required": {"system": "x86_64-linux", "features": ["kvm"]}, "drv": str(path)},
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory.yml", "play.yml"]
        + ["-e", json.dumps({"ansible_python_interpreter": sys.executable})],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "ok=1" in done.stdout, done.stdout + done.stderr
    assert "No machine takes test-1.0, which needs system x86_64-linux and features benchmark, kvm." in done.stdout
    assert "DEPRECATION" not in done.stderr
