# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup, called by itself and in a play that has gathered real local facts."""

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


def fact(uri: str, **machine: t.Any) -> dict[str, t.Any]:
    return {"machine": {"uri": uri, **machine}, "nix_version": "2.26.3", "clients": {}}


GROUPS = {
    "all": ["b1", "b2", "b3", "c1"],
    "ungrouped": [],
    "nix_builders": ["b1", "b2", "b3"],
    "others": ["b3"],
    "nix_clients": ["c1"],
}
HOSTVARS: dict[str, dict[str, t.Any]] = {
    "b1": {"nix_builder_fact": fact("ssh-ng://u@b1", speed_factor=1.5), "ansible_facts": {}},
    "b2": {"ansible_facts": {"ansible_local": {"nix_builder": fact("ssh-ng://u@b2", max_jobs=4)}}},
    "b3": {"ansible_facts": {"local": {"nix_builder": fact("ssh-ng://u@b3")}}},
    "c1": {},
}


class Query(t.Protocol):
    def __call__(self, *terms: str, hostvars: t.Any = ..., more: t.Any = ..., **options: t.Any) -> list[t.Any]: ...


@pytest.fixture
def query() -> Query:
    def run(*terms: str, hostvars: t.Any = None, more: dict[str, t.Any] | None = None, **options: t.Any) -> list[t.Any]:
        variables = {"groups": GROUPS, "hostvars": HOSTVARS if hostvars is None else hostvars, **(more or {})}
        loader = DataLoader()
        # By its directory: ansible's finder of collections does not work once another test has imported this one.
        lookup_loader.add_directory(str(Path(COLLECTIONS) / "ansible_collections/nixfleet/builders/plugins/lookup"))
        lookup = lookup_loader.get("machines", loader=loader, templar=Templar(loader, variables=variables))
        found: list[t.Any] = lookup.run(list(terms), variables, **options)
        return found

    return run


def uris(machines: list[dict[str, t.Any]]) -> list[str]:
    return [machine["uri"] for machine in machines]


def test_all_builders_of_the_group_wherever_their_fact_is(query: Query) -> None:
    machines = query()
    assert uris(machines) == ["ssh-ng://u@b1", "ssh-ng://u@b2", "ssh-ng://u@b3"]
    assert machines[1] == {
        "uri": "ssh-ng://u@b2",
        "systems": [],
        "ssh_key": "",
        "max_jobs": 4,
        "speed_factor": 1.0,
        "supported_features": [],
        "mandatory_features": [],
        "public_host_key": "",
    }


def test_the_fact_of_this_run_goes_before_the_gathered_one(query: Query) -> None:
    both = {**HOSTVARS["b2"], "nix_builder_fact": fact("ssh-ng://u@new")}
    assert uris(query("b2", hostvars={**HOSTVARS, "b2": both}, remembered={"b2": fact("ssh-ng://u@old")})) == [
        "ssh-ng://u@new"
    ]


def test_another_group(query: Query) -> None:
    assert uris(query(more={"nix_builders_group": "others"})) == ["ssh-ng://u@b3"]
    assert query(more={"nix_builders_group": "not_there"}) == []


def test_patterns(query: Query) -> None:
    assert uris(query("b2", "b1")) == ["ssh-ng://u@b2", "ssh-ng://u@b1"]
    assert uris(query("nix_builders", "!others")) == ["ssh-ng://u@b1", "ssh-ng://u@b2"]
    assert uris(query("~b[12]")) == ["ssh-ng://u@b1", "ssh-ng://u@b2"]
    with pytest.raises(AnsibleError, match="'b9'"):
        query("b1", "b9")


def test_what_is_set_on_each(query: Query) -> None:
    machines = query(ssh_key="/k", protocol="ssh", exclude=["b1", "c1"])
    assert uris(machines) == ["ssh://u@b2", "ssh://u@b3"]
    assert {machine["ssh_key"] for machine in machines} == {"/k"}


def test_lines(query: Query) -> None:
    assert query("b2", format="lines") == ["ssh-ng://u@b2 - - 4 1 - - -"]
    assert query("b1", format="lines", nix_version="2.20.0") == ["ssh-ng://u@b1 - - 1 1.5 - - -"]
    with pytest.raises(AnsibleError, match="ssh-ng://u@b1, speed_factor"):
        query("b1", format="lines")
    with pytest.raises(AnsibleError, match="version of Nix"):
        query("b1", format="lines", nix_version="new")


def test_a_builder_that_has_published_nothing(query: Query, capsys: pytest.CaptureFixture[str]) -> None:
    hostvars = {**HOSTVARS, "b2": {"ansible_facts": {}}}
    with pytest.raises(AnsibleError, match="builder b2 .*nixfleet.builders.fleet.*nix_builder.* first"):
        query(hostvars=hostvars)
    assert uris(query(hostvars=hostvars, missing="skip")) == ["ssh-ng://u@b1", "ssh-ng://u@b3"]
    assert "b2" not in capsys.readouterr().err
    assert uris(query(hostvars=hostvars, missing="warn")) == ["ssh-ng://u@b1", "ssh-ng://u@b3"]
    assert "builder b2" in capsys.readouterr().err.replace("\n", " ")
    assert uris(query(hostvars=hostvars, remembered={"b2": fact("ssh-ng://u@then")}))[1] == "ssh-ng://u@then"


@pytest.mark.parametrize(
    "broken", ["error loading facts as JSON", {"nix_version": "2.8"}, {"machine": "b1"}, fact("ssh://b", max_jobs="x")]
)
def test_a_damaged_fact_names_the_builder(query: Query, broken: t.Any) -> None:
    hostvars = {**HOSTVARS, "b2": {"ansible_facts": {"ansible_local": {"nix_builder": broken}}}}
    with pytest.raises(AnsibleError, match="builder b2 has published is damaged"):
        query(hostvars=hostvars, missing="skip")


def test_in_a_play_with_gathered_local_facts(tmp_path: Path) -> None:
    (tmp_path / "facts.d").mkdir()
    (tmp_path / "facts.d/nix_builder.fact").write_text(json.dumps(fact("ssh-ng://u@b1", systems=["x86_64-linux"])))
    builders = {"hosts": {"b1": {}, "b2": {"nix_builder_fact": {"machine": {"host": "b2"}}}}}
    (tmp_path / "inventory.yml").write_text(json.dumps({"builders": builders, "clients": {"hosts": {"c1": {}}}}))
    play = [
        {
            "hosts": "b1",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.setup": {"fact_path": str(tmp_path / "facts.d"), "gather_subset": ["!all"]}}],
        },
        {
            "hosts": "c1",
            "gather_facts": False,
            "tasks": [
                {
                    "nixfleet.builders.machines_file": {
                        "path": str(tmp_path / "machines"),
                        "nix_version": "2.8.0",
                        "machines": "{{ query('nixfleet.builders.machines', ssh_key='/k') }}",
                    }
                }
            ],
        },
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory.yml", "play.yml"]
        + ["-e", json.dumps({"ansible_connection": "local", "ansible_python_interpreter": sys.executable})]
        + ["-e", "nix_builders_group={{ 'builders' }}"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DEPRECATION" not in done.stderr
    assert (tmp_path / "machines").read_text().splitlines()[1:] == [
        "ssh-ng://u@b1 x86_64-linux /k 1 1 - - -",
        "ssh-ng://b2 - /k 1 1 - - -",
    ]
