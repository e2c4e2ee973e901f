#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds derivations on the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
"""

EXAMPLES = r"""
"""

RETURN = r"""
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, evaluate, machines, slots
from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import DerivationError
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.openers import RealStores
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Options
from ansible_collections.nixfleet.builders.plugins.module_utils.route import LocalMachine


def read_text(path: str) -> str:
    """A machines file's text; bytes that are no UTF-8 as surrogate escapes."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def read_bytes(path: str) -> bytes:
    """A .drv file."""
    with open(path, "rb") as file:
        return file.read()


def builders(params: t.Mapping[str, t.Any], nix: Nix, settings: t.Mapping[str, t.Any]) -> list[Machine]:
    """The machines meant. Raises MachinesError."""
    if params["builders"] is not None:
        given = [Machine.from_dict(each, number) for number, each in enumerate(params["builders"], 1)]
        machines.check(given, nix.machines_version)
        return given
    text = f"@{params['builders_file']}" if params["builders_file"] else settings.get("builders", "")
    return machines.parse(text, None, nix.machines_version, read_text)


def roots(params: t.Mapping[str, t.Any], nix: Nix) -> evaluate.Roots:
    """The wanted outputs by .drv path. Raises NixError, NoDerivation."""
    if params["derivations"]:
        return evaluate.parse(params["derivations"])
    if params["installables"]:
        return evaluate.installables(nix, params["installables"])
    return evaluate.instantiate(nix, params["file"], params["attributes"], params["expression"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "derivations": {"type": "list", "elements": "str"},
            "file": {"type": "path"},
            "attributes": {"type": "list", "elements": "str", "default": []},
            "expression": {"type": "str"},
            "installables": {"type": "list", "elements": "str"},
            "builders": {"type": "list", "elements": "dict"},
            "builders_file": {"type": "path"},
            "local_jobs": {"type": "int"},
            "policy": {"type": "str", "choices": ["load", "nix"], "default": "load"},
            "keep_going": {"type": "bool", "default": False},
            "copy_results": {"type": "str", "default": "client"},
            "out_link": {"type": "path"},
            "max_attempts": {"type": "int", "default": 3},
            "connect_timeout": {"type": "int", "default": 20},
            "build_timeout": {"type": "int", "default": 0},
            "builders_use_substitutes": {"type": "bool"},
            "report": {"type": "path"},
            "trace": {"type": "path"},
            "nix_bin_dir": {"type": "path"},
        },
        mutually_exclusive=[("derivations", "file", "expression", "installables"), ("builders", "builders_file")],
        required_one_of=[("derivations", "file", "expression", "installables")],
        supports_check_mode=True,
    )
    params = module.params
    try:
        nix = Nix(module.run_command, params["nix_bin_dir"])
        settings = nix.settings()
        client = LocalMachine.from_settings(settings, params["local_jobs"])
        found = builders(params, nix, settings)
        request = dispatch.Request(
            roots=roots(params, nix),
            machines=found,
            client=client,
            policy=params["policy"],
            keep_going=params["keep_going"],
            max_attempts=params["max_attempts"],
            build_timeout=params["build_timeout"] or None,
            builders_substitute=settings.get("builders-use-substitutes", False)
            if params["builders_use_substitutes"] is None
            else params["builders_use_substitutes"],
            destination=params["copy_results"],
            slots=slots.Slots(slots.directory(), nix.version) if os.geteuid() == 0 else None,
        )
        options = Options(
            max_build_jobs=max(client.max_jobs, 1),
            build_cores=settings.get("cores", 0),
            overrides={"builders": ""},
        )
        stores = RealStores(nix.argv("nix-daemon")[0], params["connect_timeout"], options)
        result = dispatch.run(request, stores, read_bytes, time.time, lambda event: None)
    except (
        NixError,
        MachinesError,
        evaluate.NoDerivation,
        DerivationError,
        planning.PlanError,
        dispatch.DispatchError,
    ) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=result.changed,
        seconds=result.stopped - result.started,
        built=sum(record.status == "built" for record in result.records.values()),
        failed=[(record.task.drv.name, record.error, record.log) for record in result.failed],
        machines=[vars(machine) for machine in result.machines],
        outputs=result.plan.wanted,
        delivered=result.delivered,
    )


if __name__ == "__main__":
    main()
