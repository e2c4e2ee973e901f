# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Machines as hosts of an inventory: their names, groups and variables, and what cannot be a host. Pure."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.machine import Machine
from ansible_collections.nixfleet.builders.plugins.module_utils.store_uri import (
    SSH_SCHEMES,
    identity,
    is_ipv6,
    is_loopback,
    normal_host,
)

SSH_PORT = 22
#: What the role nix_builder can have clients use.
_PROTOCOLS = ("ssh", "ssh-ng")
_NO_GROUP_CHAR = re.compile(r"[^A-Za-z0-9_]")


class BuilderHost(t.NamedTuple):
    """A machine that is a host: its name in the inventory, its variables, and its groups, sorted."""

    name: str
    variables: dict[str, t.Any]
    groups: tuple[str, ...]


def builder_hosts(machines: t.Iterable[Machine]) -> tuple[list[BuilderHost], list[str]]:
    """The hosts of these machines, in their order; and, as texts, what was left out or cannot be kept, with the reason.

    A host's name is that of the machine's URI, or C(name-port), see _name(). Of two machines on one host and port the
    first counts.
    """
    found: list[BuilderHost] = []
    remarks: list[str] = []
    places: dict[tuple[str, int], Machine] = {}
    names: dict[str, Machine] = {}
    for machine in machines:
        reason = _no_host(machine)
        if reason:
            remarks.append(f"{machine.uri} is left out: {reason}")
            continue
        parts = machine.parts
        name = _name(machine)
        # A name may also be taken by one that looks like it: gw with port 2201, and a host gw-2201.
        place = (normal_host(parts.host), parts.port or SSH_PORT)
        other = places.setdefault(place, machine)
        if other is machine:
            other = names.setdefault(name.lower(), machine)
        if other is not machine:
            twice = identity(other.uri) == identity(machine.uri)
            reason = (
                "it is there twice"
                if twice
                else f"{name} is {other.uri} already, and the roles make one builder of a host"
            )
            remarks.append(f"{machine.uri} is left out: {reason}")
            continue
        remarks += _lost(machine)
        found.append(BuilderHost(name, _variables(name, machine), _groups(machine)))
    return found, remarks


def _no_host(machine: Machine) -> str:
    """Why a machine is no host that Ansible could log in to; empty if it is one."""
    parts = machine.parts
    if not parts.protocol:
        return "it is a store on the client itself, no host"
    if parts.protocol not in SSH_SCHEMES:
        return f"a store that is reached by {parts.protocol}, not by ssh, is no host"
    if not parts.host:
        return "it names no host"
    if is_loopback(parts.host) and (parts.port or SSH_PORT) == SSH_PORT:
        return "it is the client itself, whichever machine that is"
    return ""


def _name(machine: Machine) -> str:
    """The host as it is written; C(host-port) with a port of its own, as one address may lead to several hosts."""
    parts = machine.parts
    return parts.host if (parts.port or SSH_PORT) == SSH_PORT else f"{parts.host}-{parts.port}"


def _lost(machine: Machine) -> list[str]:
    """What a machine says that the roles would not write again."""
    parts = machine.parts
    lost = []
    if parts.protocol not in _PROTOCOLS:
        lost.append(f"the protocol {parts.protocol}")
    if parts.rest.strip("/?"):
        lost.append(f"the parameters {parts.rest.lstrip('/?')}")
    if not lost:
        return []
    return [f"{machine.uri}: {' and '.join(lost)} stand in nix_builder_machine only, the roles do not write them again"]


def _variables(name: str, machine: Machine) -> dict[str, t.Any]:
    """What the roles read, and the machine whole. What the file leaves to others is not set: they have defaults."""
    parts = machine.parts
    variables: dict[str, t.Any] = {
        "ansible_host": parts.host,
        "nix_builder_address": parts.host,
        "nix_builder_max_jobs": machine.max_jobs,
        "nix_builder_speed_factor": machine.speed_factor,
        "nix_builder_supported_features": list(machine.supported_features),
        "nix_builder_mandatory_features": list(machine.mandatory_features),
        "nix_builder_machine": machine.to_dict(),
    }
    if parts.protocol in _PROTOCOLS:
        variables["nix_builder_protocol"] = parts.protocol
    if parts.user:
        variables["nix_builder_user"] = parts.user
    if parts.port is not None:
        variables["ansible_port"] = variables["nix_builder_port"] = parts.port
    if machine.systems:
        variables["nix_builder_systems"] = list(machine.systems)
    if is_ipv6(parts.host):
        # The name of a key of Nix's ends at the first colon.
        variables["nix_builder_signing_key_name"] = _NO_GROUP_CHAR.sub("-", name) + "-1"
    return variables


def _groups(machine: Machine) -> tuple[str, ...]:
    kinds = (
        ("system", machine.systems),
        ("feature", machine.supported_features + machine.mandatory_features),
        ("mandatory", machine.mandatory_features),
    )
    return tuple(sorted({f"nix_{kind}_{_NO_GROUP_CHAR.sub('_', word)}" for kind, words in kinds for word in words}))
