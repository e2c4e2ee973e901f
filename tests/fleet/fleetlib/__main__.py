# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Callable

from fleetlib import hosts, images
from fleetlib.machine import in_parallel, require_root, require_tools, say
from fleetlib.model import DEFAULT_HOSTS, RELEASES, FleetError, Host, check_name, inventory, parse_specs, table


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and their arguments."""
    parser = argparse.ArgumentParser(prog="fleet", description=__doc__, epilog="See tests/fleet/README.md.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fleet = argparse.ArgumentParser(add_help=False)
    fleet.add_argument(
        "--fleet",
        default=os.environ.get("NIXFLEET_FLEET", "dev"),
        metavar="NAME",
        help="which fleet (default: $NIXFLEET_FLEET, else dev)",
    )

    up = commands.add_parser("up", parents=[fleet], help="make and start hosts, wait until sshd answers")
    up.add_argument(
        "hosts",
        nargs="*",
        metavar="HOST[:RELEASE[:FLAVOUR]]",
        help=f"releases {', '.join(RELEASES)}; flavours nix (default), bare; no host: {' '.join(DEFAULT_HOSTS)}",
    )
    down = commands.add_parser("down", parents=[fleet], help="kill and delete hosts, or a fleet")
    down.add_argument("--all", action="store_true", help="every host of every fleet")
    down.add_argument("hosts", nargs="*", metavar="HOST")
    commands.add_parser("list", help="all hosts of all fleets")
    listing = commands.add_parser("inventory", parents=[fleet], help="print an Ansible inventory")
    listing.add_argument("--format", choices=["yaml"], default="yaml")
    for name, text in (
        ("cut", "drop every packet from and to a host, silently"),
        ("reconnect", "undo cut"),
        ("kill", "cut the power; the disk stays"),
        ("stop", "shut down; the disk stays"),
        ("start", "boot a stopped or killed host"),
        ("reset", "a fresh disk and new host keys, then boot"),
        ("binfmt", "let a running host register interpreters for programs of other processors"),
    ):
        command = commands.add_parser(name, parents=[fleet], help=text)
        command.add_argument("hosts", nargs="+", metavar="HOST")
    execute = commands.add_parser("exec", parents=[fleet], help="run a command in a host as root")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    commands.add_parser("images", help="build all root file systems")
    commands.add_parser("purge", help="down --all, and delete the root file systems")
    return parser


def _each(chosen: Sequence[Host], job: Callable[[Host], object]) -> None:
    def named(host: Host) -> None:
        job(host)

    in_parallel({host.name: partial(named, host) for host in chosen})


def _boot(recipe: images.Images, fresh: bool, host: Host) -> None:
    begun = time.monotonic()
    booted = hosts.boot(host, recipe, fresh)
    hosts.wait_ssh(host)
    if booted:
        say(f"{host.name}: up after {time.monotonic() - begun:.1f} s ({host.release}, {host.flavour}, {host.address})")


def _up(fleet: str, texts: Sequence[str]) -> None:
    specs = parse_specs(texts)
    known = {host.name: host.release for host in hosts.load(fleet)}
    recipe = images.Images()
    recipe.build([release for release in (spec.release or known.get(spec.name) for spec in specs) if release])
    chosen = hosts.allocate(fleet, specs)
    try:
        _each(chosen, partial(_boot, recipe, False))
    finally:
        hosts.refresh(fleet, recipe)


def _restart(fleet: str, chosen: Sequence[Host], fresh: bool) -> None:
    recipe = images.Images()
    if fresh:
        recipe.build([host.release for host in chosen])
    hosts.allocate(fleet, [])
    try:
        _each(chosen, partial(_boot, recipe, fresh))
    finally:
        hosts.refresh(fleet, recipe)


def _down(pairs: Sequence[tuple[str, str]]) -> None:
    try:
        in_parallel({f"{fleet}/{name}": partial(hosts.remove, fleet, name) for fleet, name in pairs})
    finally:
        hosts.sweep()
        for fleet in {fleet for fleet, _name in pairs}:
            hosts.refresh(fleet)


def _list() -> None:
    rows: list[Sequence[str]] = [("FLEET", "HOST", "RELEASE", "FLAVOUR", "ADDRESS", "STATE")]
    rows += [
        (host.fleet, host.name, host.release, host.flavour, host.address, hosts.status(host)) for host in hosts.load()
    ]
    sys.stdout.write(table(rows))


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; the exit code."""
    options = build_parser().parse_args(arguments)
    fleet = check_name("fleet", getattr(options, "fleet", "dev"))
    if options.command == "inventory":
        home = hosts.FLEETS / fleet
        sys.stdout.write(inventory(hosts.load(fleet), str(home / "key"), str(home / "known_hosts")))
        return 0
    require_root()
    if options.command == "list":
        _list()
        return 0
    if options.command == "exec":
        argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
        if not argv:
            raise FleetError("exec: no command given")
        return hosts.execute(hosts.find(fleet, options.host), argv)
    require_tools()
    if options.command == "up":
        _up(fleet, options.hosts)
    elif options.command == "images":
        images.Images().build(RELEASES)
    elif options.command in ("down", "purge"):
        everything = options.command == "purge" or options.all
        names = [(fleet, check_name("host", name)) for name in getattr(options, "hosts", [])]
        if everything and names:
            raise FleetError("down: name hosts, or --all, not both")
        _down(
            names
            or [
                (path.parent.parent.name, path.name)
                for path in hosts.FLEETS.glob(f"{'*' if everything else fleet}/hosts/*")
            ]
        )
        if options.command == "purge":
            images.purge()
    else:
        chosen = [hosts.find(fleet, name) for name in dict.fromkeys(options.hosts)]
        if options.command in ("start", "reset"):
            _restart(fleet, chosen, options.command == "reset")
        elif options.command == "binfmt":
            _each(chosen, hosts.show_handlers)
        elif options.command in ("cut", "reconnect"):
            _each(chosen, lambda host: hosts.set_cut(host, options.command == "cut"))
        else:
            _each(chosen, hosts.kill if options.command == "kill" else hosts.stop)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FleetError as problem:
        sys.exit(f"fleet: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
