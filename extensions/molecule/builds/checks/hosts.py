# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of the test fleet, on which commands are run as a user would run them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import fleetlib.hosts

# Longer than any build here takes.
SECONDS = 120
BUILDS = "/opt/builds/builds.nix"


@dataclass(frozen=True)
class Host:
    """The host `name` of the fleet `fleet`."""

    fleet: str
    name: str

    def command(self, argv: list[str], user: str = "root") -> list[str]:
        """The command line that runs argv on the host as user."""
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        return fleetlib.hosts.command(fleetlib.hosts.find(self.fleet, self.name), ["env", "--chdir=/", *become, *argv])

    def try_(self, *argv: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Runs a command, whatever comes of it."""
        return subprocess.run(
            self.command(list(argv), user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def run(self, *argv: str, user: str = "root") -> str:
        """What a command that must succeed prints."""
        done = self.try_(*argv, user=user)
        assert done.returncode == 0, f"{self.name}: {argv} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def shell(self, script: str, *argv: str) -> str:
        """What a shell script that must succeed prints."""
        return self.run("sh", "-euc", script, "sh", *argv)

    def nix(self, *argv: str, user: str = "root") -> str:
        """What the command `nix` prints, with the feature that it needs."""
        return self.run("nix", "--extra-experimental-features", "nix-command", *argv, user=user)

    def nix_version(self) -> tuple[int, int]:
        """The first two numbers of the Nix there."""
        major, minor = self.run("nix-store", "--version").split()[-1].split(".")[:2]
        return int(major), int(minor)

    def store(self, pattern: str) -> set[str]:
        """The names in the store that match all of a regular expression, without their hashes."""
        names = {name[33:] for name in self.run("ls", "/nix/store").split("\n")}
        return {name for name in names if re.fullmatch(pattern, name)}


@dataclass(frozen=True)
class Build:
    """A finished nix-build."""

    code: int
    paths: list[str]
    log: str


class Client(Host):
    """A host whose Nix sends builds away."""

    def build_command(self, attribute: str, run: str, *options: str) -> list[str]:
        """The command line of plain nix-build for an attribute of builds.nix."""
        return ["nix-build", "--no-out-link", "--argstr", "run", run, "--attr", attribute, *options, BUILDS]

    def try_build(self, attribute: str, run: str, *options: str, user: str = "root") -> Build:
        """Builds an attribute of builds.nix, whatever comes of it."""
        done = self.try_(*self.build_command(attribute, run, *options), user=user)
        return Build(done.returncode, done.stdout.split(), done.stderr)

    def build(self, attribute: str, run: str, *options: str, user: str = "root") -> Build:
        """Builds an attribute of builds.nix, which must succeed."""
        built = self.try_build(attribute, run, *options, user=user)
        assert built.code == 0, built.log
        return built

    def derivation(self, attribute: str, run: str) -> str:
        """The derivation of an attribute of builds.nix."""
        return self.run("nix-instantiate", "--argstr", "run", run, "--attr", attribute, BUILDS).strip()

    def read(self, *paths: str) -> list[str]:
        """The lines of files."""
        return self.run("cat", *paths).splitlines()

    def places(self, *paths: str) -> list[str]:
        """The builders' names in files that say where they were built."""
        return [line.split()[0].removeprefix(f"{self.fleet}-") for line in self.read(*paths)]

    def machines(self, slots: int) -> str:
        """The client's machines with another number of slots, for the option --builders."""
        lines = [line.split() for line in self.read("/etc/nix/machines") if not line.startswith("#")]
        return "; ".join(" ".join([*line[:3], str(slots), *line[4:]]) for line in lines)
