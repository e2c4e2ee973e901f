# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the options of a user to a run of the dispatcher, for the module dispatch and the lookup build.

C(params) are the options that the documentation fragment build describes, with C(derivations), C(file) and
C(copy_results).
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import dispatch, evaluate, machines, out_links, slots
from ansible_collections.nixfleet.builders.plugins.module_utils import plan as planning
from ansible_collections.nixfleet.builders.plugins.module_utils.channel import ChannelError
from ansible_collections.nixfleet.builders.plugins.module_utils.derivation import DerivationError
from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine, MachinesError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import Nix, NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.openers import RealStores
from ansible_collections.nixfleet.builders.plugins.module_utils.plan import Plan
from ansible_collections.nixfleet.builders.plugins.module_utils.protocol import Options, RemoteError
from ansible_collections.nixfleet.builders.plugins.module_utils.route import LocalMachine
from ansible_collections.nixfleet.builders.plugins.module_utils.wire import ProtocolError

Params = t.Mapping[str, t.Any]
Settings = t.Mapping[str, t.Any]

#: What says that it cannot be done, in words; beside OSError and ValueError.
ERRORS = (
    NixError,
    MachinesError,
    evaluate.NoDerivation,
    DerivationError,
    planning.PlanError,
    dispatch.DispatchError,
    slots.SlotsError,
    ChannelError,
    RemoteError,
    ProtocolError,
)

#: What is wanted is named by one of these.
WANTED = ("derivations", "file", "expression", "installables")
_LEAST = {"local_jobs": 0, "max_attempts": 1, "connect_timeout": 1, "build_timeout": 0}


def check(params: Params) -> None:
    """Raises ValueError for options that cannot be meant, before anything is done."""
    for option, least in _LEAST.items():
        if params[option] is not None and params[option] < least:
            raise ValueError(f"{option} is {params[option]}, it has to be at least {least}")
    if params["out_link"] and params["copy_results"] != dispatch.TO_CLIENT:
        raise ValueError("out_link needs the results on this host: leave out copy_results, or out_link")
    check_directory(params, "out_link")
    if params["attributes"] and not (params["file"] or params["expression"]):
        raise ValueError("attributes are those of a file or an expression: give one of these, too")


def check_directory(params: Params, option: str) -> None:
    """Raises ValueError where there is no directory for the file that an option names."""
    directory = os.path.dirname(params[option] or "")
    if directory and not os.path.isdir(directory):
        raise ValueError(f"there is no directory {directory} for {option}; make it first")


def read_text(path: str) -> str:
    """A machines file's text; bytes that are no UTF-8 as surrogate escapes."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def read_bytes(path: str) -> bytes:
    """A .drv file."""
    with open(path, "rb") as file:
        return file.read()


def builders(params: Params, nix: Nix, settings: Settings) -> list[Machine]:
    """The machines meant. Raises MachinesError."""
    if params["builders"] is not None:
        given = [Machine.from_dict(each, number) for number, each in enumerate(params["builders"], 1)]
        machines.check(given, nix.machines_version)
        return given
    if params["builders_file"]:
        text, file = read_text(params["builders_file"]), params["builders_file"]
    else:
        text, file = settings.get("builders", ""), None
    return machines.parse(text, file, nix.machines_version, read_text)


def roots(params: Params, nix: Nix) -> evaluate.Roots:
    """The wanted outputs by .drv path. Raises NixError, NoDerivation."""
    if params["derivations"] is not None:
        return evaluate.parse(params["derivations"])
    if params["installables"] is not None:
        return evaluate.installables(nix, params["installables"])
    return evaluate.instantiate(nix, params["file"], params["attributes"], params["expression"])


def make_request(params: Params, nix: Nix, settings: Settings) -> dispatch.Request:
    """What is asked for. Raises ERRORS, OSError."""
    substitute = params["builders_use_substitutes"]
    return dispatch.Request(
        roots=roots(params, nix),
        machines=builders(params, nix, settings),
        client=LocalMachine.from_settings(settings, params["local_jobs"]),
        policy=params["policy"],
        keep_going=params["keep_going"],
        max_attempts=params["max_attempts"],
        build_timeout=params["build_timeout"] or None,
        builders_substitute=settings.get("builders-use-substitutes", False) if substitute is None else substitute,
        destination=params["copy_results"],
        # The locks are root's.
        slots=slots.Slots(slots.directory(), nix.cli_version, nix.flavour == "lix") if os.geteuid() == 0 else None,
    )


def make_stores(params: Params, nix: Nix, settings: Settings, request: dispatch.Request) -> RealStores:
    """How stores are reached. The client's daemon is not to give builds to builders itself."""
    options = Options(
        max_build_jobs=max(request.client.max_jobs, 1),
        build_cores=settings.get("cores", 0),
        max_silent_time=settings.get("max-silent-time", 0),
        overrides={"builders": ""},
    )
    return RealStores(nix.argv("nix-daemon")[0], params["connect_timeout"], options)


def links(params: Params, plan: Plan) -> dict[str, str]:
    """The links to make, with where each leads. Raises ValueError where something else is in the place of one."""
    if not params["out_link"]:
        return {}
    found = out_links.names(params["out_link"], list(plan.wanted.values()))
    out_links.check(found)
    return found


def make_links(stores: dispatch.Stores, wanted: t.Mapping[str, str]) -> bool:
    """Makes those of links() that are not there; whether there were any. Raises OSError, ERRORS."""
    new = out_links.differing(wanted)
    if new:
        store = stores.client().open()
        out_links.make(store, new)
        store.close()
    return bool(new)
