# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""module_defaults of the action group reach every module, also those with an action plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = next(path for path in sys.path if (Path(path) / "ansible_collections/nixfleet").is_dir())
GROUP = "group/nixfleet.builders.builders"
#: What is required beside that, as one of several options or with the value that another one has.
ALSO: dict[str, dict[str, object]] = {
    "dispatch": {"file": "/x"},
    "emulation": {"systems": []},
    "machines_file": {"machines": []},
    "nix_conf": {"settings": {}},
    "nix_tarball": {"src": "/x"},
    "signing_key": {"name": "x"},
    "sshd_account": {"settings": {}},
    "store_sign": {"paths": []},
}


def run(play: dict[str, object], cwd: Path) -> subprocess.CompletedProcess[str]:
    play = {"hosts": "localhost", "gather_facts": False, **play}
    (cwd / "play.yml").write_text(json.dumps([play]))
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"]
        + ["-e", f"ansible_python_interpreter={sys.executable}"],
        check=False,
        cwd=cwd,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "ANSIBLE_LOCAL_TEMP": str(cwd / "tmp")},
        capture_output=True,
        text=True,
    )


def required(module: str) -> dict[str, object]:
    """Something for each option that a module insists on, as their lack is noticed first."""
    text = (ROOT / "plugins/modules" / f"{module}.py").read_text()
    options = yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0]).get("options", {})
    values = {"list": [], "dict": {}, "bool": False, "int": 1}
    given = {name: values.get(option["type"], "/x") for name, option in options.items() if option.get("required")}
    return {**given, **ALSO.get(module, {})}


def test_a_default_is_used_and_the_task_overrules_it(tmp_path: Path) -> None:
    machine = {"uri": "ssh-ng://builder1"}
    done = run(
        {
            "module_defaults": {GROUP: {"path": str(tmp_path / "machines"), "nix_version": "2.8.0"}},
            "tasks": [
                {"nixfleet.builders.machines_file": {"machines": [machine]}},
                {"nixfleet.builders.machines_file": {"machines": [machine], "path": str(tmp_path / "other")}},
            ],
        },
        tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ssh-ng://builder1 - - 1 1 - - -" in (tmp_path / "machines").read_text()
    assert (tmp_path / "other").read_text() == (tmp_path / "machines").read_text()


def test_they_reach_every_module(tmp_path: Path) -> None:
    """A default that no module has is refused by each of them, by its name."""
    modules = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]["builders"]
    tasks: list[dict[str, object]] = [
        {f"nixfleet.builders.{module}": required(module), "register": f"of_{module}", "ignore_errors": True}
        for module in modules
    ]
    results = "{{ {" + ", ".join(f"'{module}': of_{module}.msg" for module in modules) + "} | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": results, "dest": str(tmp_path / "results")}})
    done = run({"module_defaults": {GROUP: {"not_an_option": 1}}, "tasks": tasks}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    messages = json.loads((tmp_path / "results").read_text())
    not_reached = {module: messages[module] for module in modules if "not_an_option" not in messages[module]}
    assert not_reached == {}
