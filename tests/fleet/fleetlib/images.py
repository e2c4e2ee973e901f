# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems, cached by the hash of everything that makes them.

A release has two directories: <release>-<hash>/bare, made by mmdebstrap, and <release>-<hash>/nix, the overlay layer
that installing Nix leaves over it. A build happens in a namespace of its own which dies with the tool, in a directory
that is renamed into place when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from fleetlib.machine import KEYRING, in_parallel, lock, remove_tree, run, say
from fleetlib.model import RELEASES, FleetError

CACHE = Path("/var/cache/nixfleet-test")
RECIPE_VERSION = "1"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "openssh-server",
    "openssh-client",
    "python3",
    "python3-apt",
    "sudo",
    "iproute2",
    "iputils-ping",
    "procps",
    "ca-certificates",
    "busybox-static",
    "adduser",
    "passwd",
)
APT_OPTIONS = ('Acquire::Check-Valid-Until "false"', 'Acquire::Languages "none"', 'Acquire::Retries "3"')
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
)
HOOK = Path(__file__).with_name("customize.sh")
# Install Nix in an overlay over the bare root file system; arguments: bare, upper, work, mount point.
NIX_LAYER = r"""
mount -t overlay nixfleet -o "lowerdir=$1,upperdir=$2,workdir=$3,redirect_dir=off,metacopy=off,index=off" "$4"
mount -t proc proc "$4/proc"
cp /etc/resolv.conf "$4/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
chroot "$4" apt-get -y -o Dpkg::Use-Pty=0 install nix-bin nix-setup-systemd
chroot "$4" usermod --append --groups nix-users operator
rm -f "$4/etc/resolv.conf" "$4/etc/machine-id" "$4/var/lib/dbus/machine-id"
umount "$4/proc" "$4"
"""


def _mirror() -> str:
    """The Debian mirror of this machine's own apt, or '' where it has none and mmdebstrap's default must do."""
    if "NIXFLEET_MIRROR" in os.environ:
        return os.environ["NIXFLEET_MIRROR"]
    listed = run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)",
            "Created-By: Packages",
        ],
        check=False,
    ).stdout
    for line in listed.splitlines():
        origin, component, release, uri = line.split("|", 3)
        if origin == "Debian" and component == "main" and "-" not in release:
            return uri.rstrip("/")
    return ""


def _machine_apt_options() -> list[str]:
    """Proxies and other ways to the network out of this machine's apt configuration."""
    dumped = run(["apt-config", "dump"], check=False).stdout
    return [
        line.rstrip(";")
        for line in dumped.splitlines()
        if line.startswith(("Acquire::http", "Acquire::https")) and not line.endswith('"";')
    ]


class Images:
    """The images of one machine with one recipe."""

    def __init__(self) -> None:
        self.mirror = _mirror()
        self.apt_options = [*APT_OPTIONS, *_machine_apt_options()]
        digest = hashlib.sha256(
            repr(
                (
                    RECIPE_VERSION,
                    PACKAGES,
                    self.apt_options,
                    DPKG_OPTIONS,
                    NIX_LAYER,
                    self.mirror,
                    HOOK.read_text(),
                    [path.read_bytes() for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))],
                )
            ).encode()
        )
        self.recipe = digest.hexdigest()[:12]

    def path(self, release: str) -> Path:
        """Where the image of a release is, or will be."""
        return CACHE / f"{release}-{self.recipe}"

    def layers(self, release: str, flavour: str) -> list[str]:
        """The directories of a flavour, topmost first, as overlayfs wants them."""
        bare = str(self.path(release) / "bare")
        return [str(self.path(release) / "nix"), bare] if flavour == "nix" else [bare]

    def build(self, releases: Iterable[str]) -> None:
        """Build what is not there yet, in parallel."""
        missing = [release for release in sorted(set(releases)) if not self.path(release).is_dir()]
        if missing:
            say(f"building images for {', '.join(missing)} (once; logs in {CACHE})")
        in_parallel(
            {
                f"image {release}": lambda release=release: self._build(release)  # type: ignore[misc]
                for release in missing
            }
        )

    def _build(self, release: str) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        with lock(f"image-{release}"):
            if self.path(release).is_dir():
                return
            for leftover in CACHE.glob(f".{release}-*"):
                remove_tree(leftover)
            begun = time.monotonic()
            temp = CACHE / f".{release}-{self.recipe}"
            for name in ("nix", "work", "root"):
                (temp / name).mkdir(parents=True)
            log = CACHE / f"{release}.log"
            log.write_text("")
            self._bootstrap(release, temp / "bare", log)
            _contained(
                ["sh", "-ec", NIX_LAYER, "sh", *(str(temp / name) for name in ("bare", "nix", "work", "root"))], log
            )
            for name in ("work", "root"):
                remove_tree(temp / name)
            run(["sync", "--file-system", str(temp)])
            os.rename(temp, self.path(release))
            say(f"image {release}: built in {time.monotonic() - begun:.0f} s")

    def _bootstrap(self, release: str, target: Path, log: Path) -> None:
        """mmdebstrap with this machine's archive keys, or if they are too old with those of the release before."""
        argv = [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--format=directory",
            "--skip=cleanup/apt",
            f"--include={','.join(PACKAGES)}",
            f"--customize-hook={HOOK}",
        ]
        argv += [f"--aptopt={option}" for option in self.apt_options] + [
            f"--dpkgopt={option}" for option in DPKG_OPTIONS
        ]
        argv += [release, str(target)]
        if self.mirror:
            argv.append(f"deb [signed-by={KEYRING}] {self.mirror} {release} main")
        try:
            _contained(argv, log)
        except FleetError:
            position = RELEASES.index(release)
            text = log.read_text(errors="replace")
            if position == 0 or not ("NO_PUBKEY" in text or "Missing key" in text):
                raise
            before = RELEASES[position - 1]
            say(f"image {release}: this machine does not know its archive key; taking the key ring of {before}")
            self._build(before)
            remove_tree(target)
            newer = self.path(before) / "bare" / str(KEYRING)[1:]
            _contained(
                ["sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", str(newer), str(KEYRING), *argv], log
            )


def _contained(argv: Sequence[str], log: Path) -> None:
    """Run argv in namespaces of its own: with the tool die all its processes and their mounts."""
    with open(log, "ab") as stream:
        done = subprocess.run(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                *argv,
            ],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            check=False,
        )
    if done.returncode:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        raise FleetError("\n".join([f"{argv[0]} failed ({done.returncode}); the end of {log}:", *tail]))


def prune(recipe: str, used: Iterable[str]) -> None:
    """Delete images of other recipes which no host has a layer over. Call with the state lock held."""
    keep: dict[str, bool] = {str(Path(layer).parent): True for layer in used}
    for path in CACHE.glob("*-*"):
        if path.is_dir() and not path.name.startswith(".") and not path.name.endswith(recipe) and str(path) not in keep:
            trash = path.with_name(".trash-" + path.name)
            os.rename(path, trash)
            remove_tree(trash)


def purge() -> None:
    """Delete the cache."""
    for release in RELEASES:
        with lock(f"image-{release}"):
            for path in [*CACHE.glob(f"{release}-*"), *CACHE.glob(f".{release}-*"), *CACHE.glob(f".trash-{release}-*")]:
                remove_tree(path)
    shutil.rmtree(CACHE, ignore_errors=True)
