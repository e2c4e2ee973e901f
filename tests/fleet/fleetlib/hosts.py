# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts: a copy-on-write layer, a network namespace and a systemd-nspawn each.

/var/lib/nixfleet-test/fleets/FLEET/{key,key.pub,known_hosts} and hosts/HOST/{host.json,layer.json,upper,console.log}.
The overlay is mounted in the mount namespace of the host's own processes: nothing stays mounted when they are gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from fleetlib import images, network
from fleetlib.machine import Group, lock, remove_tree, run, strays, write
from fleetlib.model import FleetError, Host, Spec, free_address, known_hosts, settle

STATE = Path("/var/lib/nixfleet-test")
FLEETS = STATE / "fleets"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_SECONDS = 120
# volatile: the layer need not survive a crash of this machine, so nothing in it waits for the disk. 133: nspawn's word
# for "the host asked for a reboot" when it is to stay in the unit it was started in.
BOOT = r"""
cd /
overlay="lowerdir=$1,upperdir=$2/upper,workdir=$2/work,redirect_dir=on,metacopy=off,index=off"
mount -t overlay nixfleet -o "$overlay,volatile" "$2/root" || mount -t overlay nixfleet -o "$overlay" "$2/root"
netns=$3 machine=$4 root=$2/root
while :; do
    code=0
    systemd-nspawn --quiet --register=no --keep-unit --settings=no --link-journal=no --timezone=off --resolv-conf=off \
        --network-namespace-path="$netns" --capability=CAP_NET_ADMIN --console=read-only \
        --directory="$root" --machine="$machine" --boot || code=$?
    [ "$code" = 133 ] || exit "$code"
done
"""


def directory(fleet: str, name: str) -> Path:
    """A host's directory."""
    return FLEETS / fleet / "hosts" / name


def load(fleet: str | None = None) -> list[Host]:
    """All hosts which have an address, of one fleet or of all."""
    hosts = []
    for path in sorted(FLEETS.glob(f"{fleet or '*'}/hosts/*/host.json")):
        with contextlib.suppress(FileNotFoundError):
            hosts.append(Host.from_json(path.read_text()))
    return hosts


def find(fleet: str, name: str) -> Host:
    """One host which must exist."""
    with contextlib.suppress(FileNotFoundError):
        return Host.from_json((directory(fleet, name) / "host.json").read_text())
    raise FleetError(f"no host {name} in fleet {fleet}")


def host_lock(fleet: str, name: str) -> contextlib.AbstractContextManager[None]:
    """Held by whoever changes a host."""
    return lock(f"host-{fleet}.{name}")


def state_lock() -> contextlib.AbstractContextManager[None]:
    """Held for short: addresses, the bridge, namespaces, known_hosts, pruning."""
    return lock("state")


def allocate(fleet: str, specs: Sequence[Spec]) -> list[Host]:
    """Give every host of specs an address, all or none, and the fleet its key."""
    with state_lock():
        existing = {host.name: host for host in load(fleet)}
        wanted = [(spec.name, *settle(fleet, spec, existing.get(spec.name))) for spec in specs]
        taken = [host.address for host in load()]
        hosts = []
        for name, release, flavour in wanted:
            if name not in existing:
                host = Host(fleet, name, release, flavour, free_address(taken))
                taken.append(host.address)
                directory(fleet, name).mkdir(parents=True, exist_ok=True)
                write(directory(fleet, name) / "host.json", host.to_json())
                existing[name] = host
            hosts.append(existing[name])
        key = FLEETS / fleet / "key"
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"nixfleet test fleet {fleet}", "-f", str(key)])
        network.raise_bridge(STATE)
        return hosts


def status(host: Host) -> str:
    """running, cut, stopped, or new when it was never booted."""
    if Group(host.id).alive():
        return "cut" if network.is_cut(host) else "running"
    return "stopped" if (directory(host.fleet, host.name) / "layer.json").exists() else "new"


# --- layers -----------------------------------------------------------------------------------------------------------


def _resolv_conf() -> str:
    """The machine's name servers as its hosts can reach them."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            text = path.read_text()
            servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
            if any(not server.startswith("127.") and server != "::1" for server in servers):
                return text
    raise FleetError("this machine has no name server but on its loopback, which its hosts cannot reach")


def _make_layer(host: Host, recipe: images.Images) -> None:
    """A fresh copy-on-write layer with this host's own files. layer.json goes last: without it there is no layer."""
    home = directory(host.fleet, host.name)
    _wipe_layer(host)
    upper = home / "upper"
    public = (FLEETS / host.fleet / "key.pub").read_text()
    # A directory in the layer sets owner and mode of the merged one.
    for path, mode, owner in (
        ("", 0o755, 0),
        ("etc", 0o755, 0),
        ("etc/ssh", 0o755, 0),
        ("root", 0o700, 0),
        ("root/.ssh", 0o700, 0),
        ("home", 0o755, 0),
        ("home/operator", 0o700, 1000),
        ("home/operator/.ssh", 0o700, 1000),
    ):
        (upper / path).mkdir()
        os.chmod(upper / path, mode)
        os.chown(upper / path, owner, 100 if owner else 0)
    run(["ssh-keygen", "-A", "-f", str(upper)])
    write(upper / "root/.ssh/authorized_keys", public, 0o600)
    write(upper / "home/operator/.ssh/authorized_keys", public, 0o600)
    os.chown(upper / "home/operator/.ssh/authorized_keys", 1000, 100)
    write(upper / "etc/hostname", host.machine + "\n")
    write(upper / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {host.machine}\n")
    write(upper / "etc/resolv.conf", _resolv_conf())
    # Not left to the first boot, which would enable every service there is.
    write(upper / "etc/machine-id", secrets.token_hex(16) + "\n", 0o444)
    write(
        home / "layer.json",
        json.dumps(
            {
                "layers": recipe.layers(host.release, host.flavour),
                "boot_id": BOOT_ID.read_text().strip(),
                "host_keys": [
                    path.read_text().strip() for path in sorted((upper / "etc/ssh").glob("ssh_host_*_key.pub"))
                ],
            }
        )
        + "\n",
    )


def _wipe_layer(host: Host) -> None:
    home = directory(host.fleet, host.name)
    (home / "layer.json").unlink(missing_ok=True)
    for name in ("upper", "work", "root"):
        remove_tree(home / name)


def _layer(host: Host) -> dict | None:  # type: ignore[type-arg]
    """layer.json, or None where the layer is missing, half made, or from before a crash of this machine."""
    try:
        layer = json.loads((directory(host.fleet, host.name) / "layer.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    if layer["boot_id"] != BOOT_ID.read_text().strip() or not all(Path(path).is_dir() for path in layer["layers"]):
        return None
    return dict(layer)


def refresh(fleet: str, recipe: images.Images | None = None) -> None:
    """Write the fleet's known_hosts anew out of its hosts' layers; delete images which nobody needs."""
    with state_lock():
        keys: dict[str, tuple[str, Sequence[str]]] = {}
        for host in load(fleet):
            layer = _layer(host)
            if layer:
                keys[host.name] = (host.address, layer["host_keys"])
        if (FLEETS / fleet).is_dir():
            write(FLEETS / fleet / "known_hosts", known_hosts(keys))
        if recipe:
            layers = [layer for host in load() for layer in (_layer(host) or {"layers": []})["layers"]]
            images.prune(recipe.recipe, layers)


# --- power ------------------------------------------------------------------------------------------------------------


def boot(host: Host, recipe: images.Images, fresh: bool = False) -> bool:
    """Boot a host unless it runs; with fresh wipe its layer first. Returns whether it was booted."""
    with host_lock(host.fleet, host.name):
        group = Group(host.id)
        if not (directory(host.fleet, host.name) / "host.json").exists():
            raise FleetError("taken down meanwhile by another run")
        if group.alive():
            # A run that was killed may have left a host which is only just starting.
            if not fresh and _layer(host) and group.wait_leader(5):
                return False
            group.kill()
        layer = None if fresh else _layer(host)
        if layer is None:
            _make_layer(host, recipe)
            layer = _layer(host) or {}
        home = directory(host.fleet, host.name)
        # A work directory that was used with volatile refuses a second mount; the tool knows that the kernel went on.
        remove_tree(home / "work")
        (home / "work").mkdir()
        (home / "root").mkdir(exist_ok=True)
        with state_lock():
            network.plug(host)
        group.start(
            [
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-euc",
                BOOT,
                "sh",
                ":".join(layer["layers"]),
                str(home),
                str(network.namespace_path(host.id)),
                host.machine,
            ],
            home / "console.log",
            {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_LOCK": "0"},
        )
        # Not before: whoever gets the lock next must see that this host runs.
        if not group.wait_leader(30):
            raise FleetError(_with_console(host, "does not start"))
        return True


def _with_console(host: Host, why: str) -> str:
    log = directory(host.fleet, host.name) / "console.log"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    tail = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e]", "", line) for line in lines]
    return "\n".join([f"{why}; the end of {log}:", *[line for line in tail if line.strip()][-10:]])


def wait_ssh(host: Host, seconds: float = BOOT_SECONDS) -> None:
    """Wait until sshd says its name."""
    end = time.monotonic() + seconds
    group = Group(host.id)
    seen = False
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host.address, 22), timeout=2) as connection:
            if connection.recv(4) == b"SSH-":
                return
        alive = group.alive()
        if time.monotonic() > end or (seen and not alive):
            raise FleetError(
                _with_console(host, f"sshd does not answer after {seconds:.0f} s" if alive else "died while booting")
            )
        seen = seen or alive
        time.sleep(0.15)


def stop(host: Host) -> None:
    """Shut down as `poweroff` does; kill what is left after 30 s. The layer stays."""
    with host_lock(host.fleet, host.name):
        group = Group(host.id)
        leader = group.leader()
        if leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGRTMIN + 4)
            group.wait_gone(30)
        group.kill()
        with state_lock():
            network.unplug(host)


def kill(host: Host) -> None:
    """As a power cut: the cable is dead before the processes are, so that no peer is told."""
    with host_lock(host.fleet, host.name):
        with state_lock():
            network.unplug(host)
        Group(host.id).kill()


def set_cut(host: Host, cut: bool) -> None:
    """Cut a running host off, or connect it again."""
    with host_lock(host.fleet, host.name):
        if not Group(host.id).alive():
            raise FleetError("does not run")
        network.set_cut(host, cut)


# --- programs of other processors -------------------------------------------------------------------------------------

# The kernel has one list of handlers for all hosts and the machine itself (before Linux 6.7, and later without user
# namespaces). A host's own systemd would empty it whenever it starts or stops that service, so it must not.
SHOW_HANDLERS = """
ln -sfn /dev/null /etc/systemd/system/systemd-binfmt.service
systemctl daemon-reload
mountpoint -q "$1" || mount -t binfmt_misc binfmt_misc "$1"
"""
HANDLERS = "/proc/sys/fs/binfmt_misc"
# What is taken away again: the names that the collection gives its handlers.
HANDLER_PREFIX = "nixfleet-"


def _handlers(remove_but: Sequence[str] | None = None) -> list[str]:
    """The names of the handlers; with remove_but, remove what has the collection's prefix and is not among these."""
    script = 'mount -t binfmt_misc binfmt_misc /mnt && cd /mnt && ls && for name; do echo -1 >"$name"; done'
    mounted = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    names = [name for name in run(mounted).stdout.split() if name not in ("register", "status")]
    surplus = [] if remove_but is None else [name for name in names if name not in remove_but]
    surplus = [name for name in surplus if name.startswith(HANDLER_PREFIX)]
    if surplus:
        run([*mounted, *surplus])
    return names


def show_handlers(host: Host) -> None:
    """Let a running host register interpreters for programs of other processors. They go with the last such host."""
    with host_lock(host.fleet, host.name):
        with state_lock():
            # The first note counts, as a later one would hold what hosts have registered.
            if not (STATE / "handlers.json").exists():
                note = {"boot_id": BOOT_ID.read_text().strip(), "names": _handlers()}
                write(STATE / "handlers.json", json.dumps(note) + "\n")
        (directory(host.fleet, host.name) / "handlers").touch()
        run(command(host, ["sh", "-ec", SHOW_HANDLERS, "sh", HANDLERS]))


def _forget_handlers() -> None:
    """Remove the handlers that hosts have registered, once none of them is left. Call with the state lock held."""
    path = STATE / "handlers.json"
    if path.exists() and not any(FLEETS.glob("*/hosts/*/handlers")):
        note = json.loads(path.read_text())
        # After a boot of the machine there are none of theirs.
        if note["boot_id"] == BOOT_ID.read_text().strip():
            _handlers(remove_but=note["names"])
        path.unlink()


def remove(fleet: str, name: str) -> None:
    """Kill a host and delete all of it. No host of that name is no error."""
    with host_lock(fleet, name):
        home = directory(fleet, name)
        Group(f"{fleet}.{name}").kill()
        with state_lock(), contextlib.suppress(FleetError):
            network.unplug(find(fleet, name))
        _wipe_layer(Host(fleet, name, "", "", ""))
        for litter in Path("/run/systemd/nspawn").glob(f"*/{fleet}-{name}"):  # nspawn's, when it was killed
            with contextlib.suppress(OSError):
                litter.rmdir()
        # host.json goes last but for its directory: until then the address is taken and the next run finds the rest.
        remove_tree(home)


def sweep() -> None:
    """After hosts were removed: empty fleets, groups nobody knows, and with the last host the bridge."""
    for host_id in strays():
        fleet, _dot, name = host_id.partition(".")
        if not (directory(fleet, name) / "host.json").exists():
            remove(fleet, name)
    with state_lock():
        known = {network.namespace(host.id) for host in load()}
        for path in Path("/run/netns").glob("nixfleet-*"):
            if path.name not in known:
                run(["ip", "netns", "del", path.name], check=False)
        for path in FLEETS.glob("*"):
            if not any((path / "hosts").glob("*")):
                remove_tree(path)
        if not load():
            network.drop_bridge(STATE)
        _forget_handlers()


def command(host: Host, argv: Sequence[str]) -> list[str]:
    """The command line that runs argv as root inside a host, for as long as the host is not booted again."""
    leader = Group(host.id).leader()
    if not leader:
        raise FleetError(f"host {host.name} of fleet {host.fleet} does not run")
    return [
        "nsenter",
        "--target",
        str(leader),
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--cgroup",
        "--root",
        "--wd",
        "env",
        "-i",
        "HOME=/root",
        "LANG=C.UTF-8",
        f"TERM={os.environ.get('TERM', 'dumb')}",
        "USER=root",
        "LOGNAME=root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        *argv,
    ]


def execute(host: Host, argv: Sequence[str]) -> int:
    """Run a command as root inside a host; its exit code."""
    return subprocess.call(command(host, argv))
