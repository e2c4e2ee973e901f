# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure part: names, host specifications, addresses, inventories. Nothing here touches the machine."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

RELEASES = ("bookworm", "trixie", "forky")
FLAVOURS = ("nix", "bare")
NETWORK = ipaddress.ip_network("198.18.0.0/24")
GATEWAY = "198.18.0.1"
DEFAULT_HOSTS = ("builder1:bookworm", "builder2:trixie", "builder3:forky", "client1:trixie", "client2:bookworm")
GROUPS = (("builder", "nix_builders"), ("client", "nix_clients"))

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?")


class FleetError(Exception):
    """Something the user can act on; its text is the whole message."""


@dataclass(frozen=True)
class Spec:
    """One HOST[:RELEASE[:FLAVOUR]] argument; release and flavour are None where the argument leaves them open."""

    name: str
    release: str | None = None
    flavour: str | None = None


@dataclass(frozen=True)
class Host:
    """What is known for good about a host from the moment its address is taken. Stored as host.json."""

    fleet: str
    name: str
    release: str
    flavour: str
    address: str

    @property
    def machine(self) -> str:
        """The host name the host sees."""
        return f"{self.fleet}-{self.name}"

    @property
    def id(self) -> str:
        """Unique over all fleets, unlike machine: a-b + c and a + b-c are two hosts."""
        return f"{self.fleet}.{self.name}"

    @property
    def number(self) -> int:
        """The last octet of the address."""
        return int(self.address.rsplit(".", 1)[1])

    @property
    def link(self) -> str:
        """The host's end of the cable on the bridge."""
        return f"nixfleet-{self.number}"

    @property
    def mac(self) -> str:
        """Derived from the address, so that a re-used address needs no new neighbour entry anywhere."""
        return f"02:00:c6:12:00:{self.number:02x}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Host:
        return cls(**json.loads(text))


def check_name(kind: str, name: str) -> str:
    """Return name, or raise FleetError: names become host names, directories and namespaces."""
    if not _NAME.fullmatch(name):
        raise FleetError(f"{kind} name {name!r}: use 1 to 31 of a-z, 0-9 and inner hyphens")
    return name


def parse_spec(text: str) -> Spec:
    """Read HOST[:RELEASE[:FLAVOUR]]."""
    name, _sep, rest = text.partition(":")
    release, _sep, flavour = rest.partition(":")
    check_name("host", name)
    if release == "testing":
        release = "forky"
    if release and release not in RELEASES:
        raise FleetError(f"{text}: no release {release!r}; there are {', '.join(RELEASES)}")
    if flavour and flavour not in FLAVOURS:
        raise FleetError(f"{text}: no flavour {flavour!r}; there are {', '.join(FLAVOURS)}")
    return Spec(name, release or None, flavour or None)


def parse_specs(texts: Sequence[str]) -> list[Spec]:
    """Read the arguments of `up`; none means the default set. A name given twice is refused."""
    specs = [parse_spec(text) for text in texts or DEFAULT_HOSTS]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise FleetError(f"host {name} is named twice")
    return specs


def settle(fleet: str, spec: Spec, existing: Host | None) -> tuple[str, str]:
    """The (release, flavour) a specification means, next to the host of that name which may exist already."""
    if existing:
        if spec.release not in (None, existing.release) or spec.flavour not in (None, existing.flavour):
            raise FleetError(
                f"{fleet}/{spec.name} exists as {existing.release}:{existing.flavour}; "
                f"`down {spec.name}` first to make it another"
            )
        return existing.release, existing.flavour
    if not spec.release:
        raise FleetError(f"{fleet}/{spec.name} does not exist; say which release: {spec.name}:{'|'.join(RELEASES)}")
    return spec.release, spec.flavour or "nix"


def free_address(taken: Iterable[str]) -> str:
    """The lowest address of the network that is neither the bridge's nor taken."""
    used = set(taken) | {GATEWAY}
    for address in NETWORK.hosts():
        if str(address) not in used:
            return str(address)
    raise FleetError(f"all addresses of {NETWORK} are taken; take a fleet down")


def known_hosts(keys: dict[str, tuple[str, Sequence[str]]]) -> str:
    """known_hosts text out of {host name: (address, public key lines)}."""
    lines = []
    for name in sorted(keys):
        address, publics = keys[name]
        for public in sorted(publics):
            kind, data = public.split()[:2]
            lines.append(f"{address},{name} {kind} {data}\n")
    return "".join(lines)


def group_of(name: str) -> str | None:
    """The inventory group a host's name puts it in."""
    for prefix, group in GROUPS:
        if name.startswith(prefix):
            return group
    return None


def inventory(hosts: Sequence[Host], key_file: str, known_hosts_file: str) -> str:
    """An Ansible YAML inventory. Scalars are written as JSON strings, which YAML reads the same."""
    ssh_args = " ".join(
        (
            f"-o UserKnownHostsFile={known_hosts_file}",
            "-o GlobalKnownHostsFile=/dev/null",
            "-o StrictHostKeyChecking=yes",
            "-o IdentitiesOnly=yes",
            "-o ServerAliveInterval=10",
            "-o ServerAliveCountMax=3",
        )
    )
    lines = ["---", "all:"]
    common = {
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": key_file,
        "ansible_ssh_common_args": ssh_args,
    }
    lines.append("  vars:")
    lines += [f"    {key}: {json.dumps(value)}" for key, value in common.items()]

    def block(indent: str, members: list[Host]) -> None:
        if not members:
            lines.append(f"{indent}hosts: {{}}")
            return
        lines.append(f"{indent}hosts:")
        for host in members:
            lines.append(f"{indent}  {host.name}:")
            lines.append(f"{indent}    ansible_host: {json.dumps(host.address)}")

    ordered = sorted(hosts, key=lambda host: host.name)
    loose = [host for host in ordered if group_of(host.name) is None]
    if loose:
        block("  ", loose)
    lines.append("  children:")
    for _prefix, group in GROUPS:
        lines.append(f"    {group}:")
        block("      ", [host for host in ordered if group_of(host.name) == group])
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n" for row in rows)
