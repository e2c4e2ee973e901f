# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One bridge with NAT for all fleets, and a network namespace with one cable to it for each host."""

from __future__ import annotations

import json
from pathlib import Path

from fleetlib.machine import run, write
from fleetlib.model import GATEWAY, NETWORK, FleetError, Host

BRIDGE = "nixfleet0"
SYSCTL = Path("/proc/sys")
# Kernel settings and the least they must be. Every host's systemd and logind are the same user to the kernel: with the
# usual 128 inotify instances some of their units fail from about 15 hosts on.
SETTINGS = {"net/ipv4/ip_forward": 1, "fs/inotify/max_user_instances": 8192}
# (table, chain, rule): let the hosts out through NAT, also where the machine's own policy is DROP.
RULES = (
    ("nat", "POSTROUTING", ["-s", str(NETWORK), "!", "-d", str(NETWORK), "-j", "MASQUERADE"]),
    ("filter", "FORWARD", ["-i", BRIDGE, "-j", "ACCEPT"]),
    ("filter", "FORWARD", ["-o", BRIDGE, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"]),
)


def _rule(action: str, table: str, chain: str, rule: list[str], check: bool = True) -> bool:
    return run(["iptables", "-w", "-t", table, action, chain, *rule], check=check).returncode == 0


def _exists(link: str) -> bool:
    return run(["ip", "link", "show", "dev", link], check=False).returncode == 0


def raise_bridge(state: Path) -> None:
    """Make the bridge, its rules and the kernel settings where they are missing. Call with the state lock held."""
    if not _exists(BRIDGE):
        for route in json.loads(run(["ip", "-json", "-4", "route", "show", "root", str(NETWORK)]).stdout or "[]"):
            raise FleetError(f"{NETWORK} is in use on this machine: {route.get('dst')} dev {route.get('dev')}")
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "replace", f"{GATEWAY}/{NETWORK.prefixlen}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for table, chain, rule in RULES:
        if not _rule("-C", table, chain, rule, check=False):
            _rule("-I", table, chain, rule)
    before = {name: int((SYSCTL / name).read_text()) for name in SETTINGS}
    if any(before[name] < least for name, least in SETTINGS.items()):
        # The first note counts: a later one would hold this tool's own values.
        noted = json.loads((state / "sysctl.json").read_text()) if (state / "sysctl.json").exists() else {}
        write(state / "sysctl.json", json.dumps({**before, **noted}) + "\n")
        for name, least in SETTINGS.items():
            (SYSCTL / name).write_text(str(max(least, before[name])))


def drop_bridge(state: Path) -> None:
    """Take all of it away again."""
    for table, chain, rule in RULES:
        while _rule("-D", table, chain, rule, check=False):
            pass
    run(["ip", "link", "del", BRIDGE], check=False)
    if (state / "sysctl.json").exists():
        for name, value in json.loads((state / "sysctl.json").read_text()).items():
            (SYSCTL / name).write_text(str(value))
        (state / "sysctl.json").unlink()


def namespace(host_id: str) -> str:
    """The name of a host's network namespace."""
    return f"nixfleet-{host_id}"


def namespace_path(host_id: str) -> Path:
    """Its file, as `ip netns` makes it."""
    return Path("/run/netns") / namespace(host_id)


def plug(host: Host) -> None:
    """A fresh namespace with eth0 on the bridge. Call with the state lock held (`ip netns` races with itself)."""
    unplug(host)
    name = namespace(host.id)
    run(["ip", "netns", "add", name])
    run(
        [
            "ip",
            "link",
            "add",
            host.link,
            "mtu",
            str(_mtu()),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "mtu",
            str(_mtu()),
            "address",
            host.mac,
            "netns",
            name,
        ]
    )
    run(["ip", "link", "set", host.link, "master", BRIDGE, "up"])
    run(["ip", "-n", name, "link", "set", "lo", "up"])
    run(["ip", "-n", name, "addr", "add", f"{host.address}/{NETWORK.prefixlen}", "dev", "eth0"])
    run(["ip", "-n", name, "link", "set", "eth0", "up"])
    run(["ip", "-n", name, "route", "add", "default", "via", GATEWAY])


def unplug(host: Host) -> None:
    """Pull the cable and delete the namespace's name; it is gone when its last process is."""
    if _exists(host.link):
        run(["ip", "link", "del", host.link], check=False)
    if namespace_path(host.id).exists():
        run(["ip", "netns", "del", namespace(host.id)], check=False)


def _mtu() -> int:
    """The machine's own, where its way out is narrower than Ethernet."""
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "default"]).stdout or "[]"):
        return min(
            1500,
            *(
                int(link["mtu"])
                for link in json.loads(run(["ip", "-json", "link", "show", "dev", route["dev"]]).stdout)
            ),
        )
    return 1500


def is_cut(host: Host) -> bool:
    """Whether `cut` is in force."""
    return (
        run(
            ["ip", "netns", "exec", namespace(host.id), "iptables", "-w", "-C", "INPUT", "-i", "eth0", "-j", "DROP"],
            check=False,
        ).returncode
        == 0
    )


def set_cut(host: Host, cut: bool) -> None:
    """Drop all packets in both directions silently, or let them pass again."""
    if is_cut(host) == cut:
        return
    for chain, flag in (("INPUT", "-i"), ("OUTPUT", "-o")):
        run(
            [
                "ip",
                "netns",
                "exec",
                namespace(host.id),
                "iptables",
                "-w",
                "-I" if cut else "-D",
                chain,
                flag,
                "eth0",
                "-j",
                "DROP",
            ]
        )
