# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nix's command line on one host: where it is, which version, as whom and how it is called.

Runs programs only through the callable it is given (AnsibleModule.run_command or a test's), so it needs no Ansible.

Where an ordinary user owns the store, there is no daemon, and each program opens the store itself (a single-user
installation). Root must not do that: it would leave files that the owner cannot write, and it would run programs that
the owner can replace. So root calls Nix as the owner there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
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

#: Where a user's own profile has Nix, below the home.
PROFILE_DIRS = (".nix-profile/bin", ".local/state/nix/profile/bin")

#: Belongs to root, or to who owns a single-user installation.
DATABASE = "/nix/var/nix/db"

#: Starts a program as somebody else, in a directory that everybody can enter, with nothing of the former user's home.
_ENTER = (
    "cd / && unset XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_CACHE_HOME XDG_DATA_HOME XDG_STATE_HOME && "
    'HOME=$1 USER=$2 LOGNAME=$2 && export HOME USER LOGNAME && shift 2 && exec "$@"'
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


def store_owner(database: str = DATABASE) -> pwd.struct_passwd | None:
    """The ordinary user who owns this host's Nix; None where it is root's, or where there is none."""
    try:
        number = os.stat(database).st_uid
        return pwd.getpwuid(number) if number else None
    except (OSError, KeyError):
        return None


def as_user(user: pwd.struct_passwd, *argv: str) -> list[str]:
    """The argument list by which root starts a program as another user, who has no terminal then and no right more."""
    drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--no-new-privs", "--"]
    return [*drop, "/bin/sh", "-c", _ENTER, "sh", user.pw_dir, user.pw_name, *argv]


class Module(t.Protocol):
    """The part of AnsibleModule that is used here."""

    params: dict[str, t.Any]

    @property
    def run_command(self) -> RunCommand: ...


def of_module(module: Module) -> Nix:
    """The Nix that a module's options name, see the documentation fragments nix and nix.wrapper."""
    params = module.params
    wrapper, user = params.get("nix_wrapper") or (), params.get("nix_user")
    return Nix(module.run_command, params["nix_bin_dir"], wrapper=wrapper, user=user)


class Nix:
    """One host's Nix. Raises NixNotFound where there is none.

    C(wrapper): words in front of Nix's own, for a Nix that only another program can start; C(bin_dir) is then where
    that program shows it. C(user): the account that is to call it, by default the store's owner.
    """

    def __init__(
        self,
        run_command: RunCommand,
        bin_dir: str | None = None,
        *,
        wrapper: t.Sequence[str] = (),
        user: str | None = None,
    ) -> None:
        self._run_command = run_command
        owner = self._account(user) if user else None if wrapper else store_owner()
        #: Who calls Nix in place of root; None where nobody has to.
        self.user = owner if os.geteuid() == 0 and owner and owner.pw_uid else None
        self.wrapper = list(wrapper)
        self.bin_dir = bin_dir or self._find(owner)
        if not wrapper and not os.path.exists(os.path.join(self.bin_dir, "nix-store")):
            raise NixNotFound(
                f"there is no nix-store in {self.bin_dir}; name the right directory in nix_bin_dir, or install Nix"
            )
        self._version: tuple[Version, str] | None = None

    @staticmethod
    def _account(name: str) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            raise NixNotFound(f"there is no account {name} on this host, which is to call Nix") from None

    @property
    def home(self) -> str:
        """The home of who calls Nix."""
        if self.user:
            return self.user.pw_dir
        return "/root" if os.geteuid() == 0 else os.path.expanduser("~")

    @staticmethod
    def _find(owner: pwd.struct_passwd | None) -> str:
        directories = [*BIN_DIRS, *([os.path.join(owner.pw_dir, each) for each in PROFILE_DIRS] if owner else [])]
        for directory in directories:
            if os.path.exists(os.path.join(directory, "nix-store")):
                return directory
        raise NixNotFound(
            "this host has no Nix: no nix-store in "
            + ", ".join(directories)
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
        directory = daemon_dir(self.bin_dir) if program == "nix-daemon" and not self.wrapper else self.bin_dir
        argv = [*self.wrapper, os.path.join(directory, program), *prefix, *args]
        return as_user(self.user, *argv) if self.user else argv

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
