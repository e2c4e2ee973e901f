# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nix's command line on one host: where it is, which version, how it is called.

Runs programs only through the callable it is given (AnsibleModule.run_command or a test's), so it needs no Ansible.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import (
    NixVersionError,
    Version,
    parse_version,
)

#: Looked through in this order: the installer's profile, NixOS, a local build, a distribution's package.
BIN_DIRS = (
    "/nix/var/nix/profiles/default/bin",
    "/run/current-system/sw/bin",
    "/usr/local/bin",
    "/usr/bin",
)

#: Alpine's package has nix-daemon apart from the other programs.
DAEMON_DIRS = {"/usr/bin": "/usr/sbin"}

#: `nix show-config` became `nix config show` in 2.20 (src/nix/config.cc).
CONFIG_SHOW_SINCE: Version = (2, 20)

#: Lix has the float speed of 2.20 and the comments of before 2.28.2, in whatever version (its libstore/machines.cc).
LIX_READS_AS: Version = (2, 20)

#: Lix's command line is that of Nix 2.18, with what is told of 2.20 here; later options of Nix are not its own.
LIX_SPEAKS_AS: Version = (2, 20)

#: With it no program of Nix reads a file: one that is broken keeps even C(nix --version) from answering.
NO_CONFIGURATION = {"NIX_CONF_DIR": "/nonexistent", "NIX_USER_CONF_FILES": "", "NIX_CONFIG": ""}


class NixError(Exception):
    """A Nix command failed. C(stderr) is what it said, C(rc) its exit status."""

    def __init__(self, message: str, rc: int = 1, stderr: str = "") -> None:
        super().__init__(message)
        self.rc = rc
        self.stderr = stderr


class NixNotFound(NixError):
    """The host has no Nix where one is looked for."""


class RunCommand(t.Protocol):
    """The part of AnsibleModule.run_command that is used here: (rc, stdout, stderr) of an argument list."""

    def __call__(
        self, args: list[str], *, data: str | None = None, environ_update: dict[str, str] | None = None
    ) -> tuple[int, str, str]: ...


def daemon_dir(bin_dir: str) -> str:
    """The directory of nix-daemon, where the other programs are in C(bin_dir)."""
    other = DAEMON_DIRS.get(bin_dir, bin_dir)
    apart = not os.path.exists(os.path.join(bin_dir, "nix-daemon")) and os.path.exists(
        os.path.join(other, "nix-daemon")
    )
    return other if apart else bin_dir


def parse_identity(text: str) -> tuple[Version, str]:
    """(version, flavour) out of C(nix --version): C(nix (Nix) 2.8.0) or C(nix (Lix, like Nix) 2.91.0).

    flavour is the first word in the brackets, lower case. Nix Super's is C(nix), as all its rules are. Raises NixError.
    """
    found = re.search(r"\(([A-Za-z-]+)[^)]*\)\s+([0-9.]+)", text)
    if found:
        with contextlib.suppress(NixVersionError):
            return parse_version(found.group(2)), found.group(1).lower()
    raise NixError(f"cannot read a version out of {text.strip()!r}, which 'nix --version' printed")


class Nix:
    """One host's Nix. Raises NixNotFound where there is none."""

    def __init__(self, run_command: RunCommand, bin_dir: str | None = None) -> None:
        self._run_command = run_command
        self.bin_dir = bin_dir or self._find()
        if not os.path.exists(os.path.join(self.bin_dir, "nix-store")):
            raise NixNotFound(
                f"there is no nix-store in {self.bin_dir}; name the right directory in nix_bin_dir, or install Nix"
            )
        self._version: tuple[Version, str] | None = None

    @staticmethod
    def _find() -> str:
        for directory in BIN_DIRS:
            if os.path.exists(os.path.join(directory, "nix-store")):
                return directory
        raise NixNotFound(
            "this host has no Nix: no nix-store in "
            + ", ".join(BIN_DIRS)
            + "; install it (role nixfleet.builders.nix_install), or name its directory in nix_bin_dir"
        )

    @property
    def version(self) -> Version:
        """E.g. (2, 26, 3)."""
        return self._identity()[0]

    @property
    def flavour(self) -> str:
        """C(nix), C(lix), C(determinate)…: the first word in the brackets of C(nix --version)."""
        return self._identity()[1]

    @property
    def cli_version(self) -> Version:
        """The version of Nix whose command line and files in its state directory this one has."""
        return LIX_SPEAKS_AS if self.flavour == "lix" else self.version

    @property
    def machines_version(self) -> Version:
        """The version of Nix whose rules for machines files this one has."""
        return LIX_READS_AS if self.flavour == "lix" else self.version

    def _identity(self) -> tuple[Version, str]:
        if self._version is None:
            self._version = parse_identity(self.run("nix", "--version", env=NO_CONFIGURATION))
        return self._version

    def argv(self, program: str, *args: str) -> list[str]:
        """The argument list of a Nix program; C(nix) gets its subcommands enabled, which Debian leaves off."""
        enable = program == "nix" and args[:1] != ("--version",)
        prefix = ["--extra-experimental-features", "nix-command"] if enable else []
        directory = daemon_dir(self.bin_dir) if program == "nix-daemon" else self.bin_dir
        return [os.path.join(directory, program), *prefix, *args]

    def call(
        self, program: str, *args: str, data: str | None = None, env: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """(rc, stdout, stderr) of a Nix program."""
        return self._run_command(self.argv(program, *args), data=data, environ_update=env)

    def run(self, program: str, *args: str, data: str | None = None, env: dict[str, str] | None = None) -> str:
        """stdout of a Nix program; NixError with its stderr if it fails."""
        rc, out, err = self.call(program, *args, data=data, env=env)
        if rc:
            raise NixError(f"{program} {' '.join(args[:2])} failed with status {rc}: {err.strip()}", rc, err)
        return out

    def settings(self, env: dict[str, str] | None = None) -> dict[str, t.Any]:
        """The settings in force, by name, as JSON values (list, int, bool, str), after all files and C(env)."""
        words = ("config", "show") if self.cli_version >= CONFIG_SHOW_SINCE else ("show-config",)
        shown = json.loads(self.run("nix", *words, "--json", env=env))
        return {name: entry["value"] for name, entry in shown.items()}
