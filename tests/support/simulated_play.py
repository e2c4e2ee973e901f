# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A play on hosts that are not there: their facts are simulated, and what its variables come to is handed back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

#: The directory that holds ansible_collections/; see tests/unit/conftest.py.
COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet/builders").exists())

#: A module, WANT_JSON, in the place of setup.
SIMULATED_FACTS = """#!/usr/bin/python
# WANT_JSON
import json, sys
print(json.dumps({"changed": False, "ansible_facts": json.load(open(sys.argv[1]))["facts"]}))
"""


class Played(t.NamedTuple):
    """shown: what the variables came to, by host, without those that failed. said: all that ansible-playbook said."""

    shown: dict[str, dict[str, t.Any]]
    said: str


class Host(t.NamedTuple):
    """facts: as setup would find them. variables: as the inventory would have them."""

    facts: dict[str, t.Any]
    variables: dict[str, t.Any] = {}


def play(
    directory: Path,
    role: str,
    hosts: t.Mapping[str, Host],
    shown: t.Mapping[str, str],
    groups: t.Any = None,
    pattern: str = "all",
) -> Played:
    """Runs a role's preflight on the hosts, and renders expressions in its place, by the names in C(shown).

    groups: lists of hosts by the group's name. pattern: the hosts of the play; the others have variables alone.
    """
    library = directory / "library"
    library.mkdir()
    (library / "simulated_facts.py").write_text(SIMULATED_FACTS)
    inventory = directory / "inventory.yml"
    known = {
        name: {"ansible_connection": "local", "simulated": host.facts, **host.variables} for name, host in hosts.items()
    }
    children = {group: {"hosts": dict.fromkeys(names, {})} for group, names in (groups or {}).items()}
    inventory.write_text(json.dumps({"all": {"hosts": known, "children": children}}))
    expressions = ", ".join(
        f"{name}: {expression}" for name, expression in ((json.dumps(n), e) for n, e in shown.items())
    )
    playbook = directory / "play.yml"
    playbook.write_text(f"""
- hosts: {pattern}
  gather_facts: false
  tasks:
    - simulated_facts:
        facts: "{{{{ simulated }}}}"
    - ansible.builtin.import_role:
        name: nixfleet.builders.{role}
        tasks_from: preflight
    - ansible.builtin.set_fact:
        shown: {json.dumps("{{ {" + expressions + "} }}")}
    - ansible.builtin.copy:
        dest: {directory}/shown.json
        mode: "0600"
        content: "{{{{ dict(played | zip(played | map('extract', hostvars, 'shown'))) | to_json }}}}"
      vars:
        played: "{{{{ ansible_play_hosts }}}}"
      run_once: true
""")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_HOME": str(directory / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(playbook)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    file = directory / "shown.json"
    assert file.exists(), said
    return Played(json.loads(file.read_text()), " ".join(said.split()))
