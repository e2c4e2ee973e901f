# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Nix itself makes of a configuration, before any of it is in place.

The whole configuration as it will be is copied to a temporary directory, included files too, and Nix is asked for the
settings in force there. A second question, with our settings alone, tells what our values mean to Nix.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import nix_conf
from ansible_collections.nixfleet.builders.plugins.module_utils.files import FileError, read_text
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_cli import CONFIG_SHOW_SINCE, Nix, NixError
from ansible_collections.nixfleet.builders.plugins.module_utils.nix_version import version_text

DEFAULT_MAIN = "/etc/nix/nix.conf"

#: A user's own files, below the home and for all users, which are read after the main file; the first named wins
#: (src/libstore/globals.cc). The daemon reads root's.
USER_FILE = ".config/nix/nix.conf"
USERS_FILE = "/etc/xdg/nix/nix.conf"

_UNKNOWN = re.compile(r"unknown setting '([^']+)'")
_NEEDS_FEATURE = re.compile(r"[Ii]gnoring setting '([^']+)' because experimental feature '([^']+)' is not enabled")
_UNKNOWN_FEATURE = re.compile(r"unknown experimental feature '([^']+)'")
_NOISE = re.compile(r"^(Try '.*nix --help' for more information\.|warning: .*|\s*)$", re.MULTILINE)


class Refused(Exception):
    """Nix would not take the settings, or something else has the last word on them. Nothing was changed."""


class Shown(t.NamedTuple):
    """What C(nix config show --json) said: each setting's entry (value, aliases…), and stderr."""

    entries: dict[str, dict[str, t.Any]]
    stderr: str

    def canonical(self, name: str) -> str:
        """The name that Nix shows for a setting, its alias, or C(extra-) with either."""
        names = [name] if name in self.entries else [name, nix_conf.base_name(name)]
        for wanted in names:
            for shown, entry in self.entries.items():
                if wanted == shown or wanted in entry.get("aliases", ()):
                    return shown
        return nix_conf.base_name(name)

    def appends(self, name: str) -> bool:
        """Whether C(name) appends to a setting, and is none itself."""
        return name not in self.entries and nix_conf.base_name(name) != name

    def value(self, name: str) -> t.Any:
        return self.entries.get(self.canonical(name), {}).get("value")


class Verdict(t.NamedTuple):
    """The settings' values in force, by the names that were given, and what is worth a warning."""

    effective: dict[str, t.Any]
    warnings: list[str]


class Candidate:
    """A main file and its drop-in as they will be. C(directory) is an empty private one for the copies."""

    def __init__(self, nix: Nix, directory: str, *, main: str, main_text: str, path: str, text: str) -> None:
        self._nix = nix
        self._directory = directory
        self._main = main
        self._path = path
        self._texts = {main: main_text, path: text}
        self._staged: dict[str, str] = {}

    def check(self) -> Verdict:
        """Refused where Nix does not take a setting of the drop-in, or where another line has the last word on it."""
        settings = nix_conf.settings_of(self._texts[self._path], self._path)
        users = [USERS_FILE, os.path.join(self._nix.home, USER_FILE)]
        starts = [self._main]
        if self._main == DEFAULT_MAIN:
            starts += [file for file in users if os.path.exists(file)]
        elif self._main == users[1]:
            starts = [DEFAULT_MAIN, *(file for file in users[:1] if os.path.exists(file)), self._main]
        met = [assignment for start in starts for assignment in nix_conf.walk(start, self._read)]
        alone = self._show_alone(settings)
        whole = self._show_whole(starts)
        self._known(settings, whole)
        self._doubled(settings, whole)
        for name in settings:
            self._in_force(name, settings[name], met, alone, whole)
        warnings = [
            f"{self._path} enables the experimental feature {feature}, which Nix {self._version} does not know"
            for feature in dict.fromkeys(_UNKNOWN_FEATURE.findall(alone.stderr))
        ]
        return Verdict({name: _effective(name, met, whole) for name in settings}, warnings)

    @property
    def _version(self) -> str:
        return version_text(self._nix.version)

    def _read(self, path: str) -> str | None:
        """A file as it will be. One that is there and cannot be read counts as empty: that is what Nix makes of it."""
        if path in self._texts:
            return self._texts[path]
        try:
            return read_text(path) if self._readable(path) else ""
        except FileError:
            return ""

    def _readable(self, path: str) -> bool:
        """Whether the user who calls Nix in root's place may read a file, as far as its owner and its mode tell."""
        if not self._nix.user or not os.path.exists(path):
            return True
        status = os.stat(path)
        return bool(status.st_mode & 0o004) or status.st_uid == self._nix.user.pw_uid

    def _stage(self, path: str, copy: str) -> None:
        """Copies a file and, numbered beside it, those that it includes; lines keep their numbers."""
        self._staged[copy] = path
        lines = (self._read(path) or "").split("\n")
        included = [entry for entry in nix_conf.parse("\n".join(lines), path) if isinstance(entry, nix_conf.Include)]
        for entry in included:
            target = nix_conf.resolve(entry.path, path)
            if target not in self._texts and not os.path.isfile(target):
                lines[entry.line - 1] = f"!include {target}"
                continue
            name = f"{len(self._staged)}.conf"
            lines[entry.line - 1] = f"!include {name}"
            self._stage(target, os.path.join(os.path.dirname(copy), name))
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write("\n".join(lines).encode("utf-8", "surrogateescape"))
            self._share(file.fileno(), 0o640)

    def _share(self, file: str | int, mode: int) -> None:
        """Lets the user read it who calls Nix in root's place, and not write it."""
        if self._nix.user:
            os.chown(file, 0, self._nix.user.pw_gid)
            os.chmod(file, mode)

    def _show(self, name: str, starts: list[str]) -> Shown:
        """The settings in force of a main file and then root's own; NixError with what Nix said."""
        directory = os.path.join(self._directory, name)
        os.mkdir(directory, 0o700)
        self._share(self._directory, 0o750)
        self._share(directory, 0o750)
        copies = [
            os.path.join(directory, "nix.conf" if start == starts[0] else f"user{n}.conf")
            for n, start in enumerate(starts)
        ]
        for start, copy in zip(starts, copies):
            self._stage(start, copy)
        env = {"NIX_CONF_DIR": directory, "NIX_USER_CONF_FILES": ":".join(reversed(copies[1:])), "NIX_CONFIG": ""}
        words = ("config", "show") if self._nix.cli_version >= CONFIG_SHOW_SINCE else ("show-config",)
        rc, out, err = self._nix.call("nix", *words, "--json", env=env)
        if rc:
            raise NixError(self._said(err), rc, err)
        try:
            return Shown(json.loads(out), err)
        except ValueError as error:
            raise NixError(f"nix {' '.join(words)} --json printed no JSON: {error}", rc, err) from error

    def _show_alone(self, settings: t.Mapping[str, str]) -> Shown:
        # Behind an empty main file where ours is a user's: Nix 2.25 to 2.33 forget a build-hook of the main file.
        before = [] if self._main == DEFAULT_MAIN else ["nothing"]
        self._texts["nothing"] = ""
        try:
            return self._show("alone", [*before, self._path])
        except NixError as error:
            said = str(error)
        for number, (name, value) in enumerate(settings.items()):
            single = f"setting{number}"
            self._texts[single] = nix_conf.render({name: value})
            try:
                self._show(single, [*before, single])
            except NixError as error:
                raise Refused(f"Nix {self._version} does not take the setting {name} = {value}: {error}") from error
        raise Refused(f"Nix {self._version} does not take the settings meant for {self._path}: {said}")

    def _show_whole(self, starts: list[str]) -> Shown:
        try:
            return self._show("whole", starts)
        except NixError as error:
            raise Refused(
                f"Nix {self._version} does not take the configuration that this host has already, which starts at "
                f"{self._main}; mend that first: {error}"
            ) from error

    def _said(self, stderr: str) -> str:
        """Nix's error without its warnings, with the real files' names, and without secrets."""
        for copy, path in self._staged.items():
            stderr = stderr.replace(copy, path if os.path.isabs(path) else self._path)
        text = " ".join(_NOISE.sub("", stderr).split())
        return nix_conf.redact(text[len("error: ") :] if text.startswith("error: ") else text)

    def _known(self, settings: t.Mapping[str, str], whole: Shown) -> None:
        unknown = set(_UNKNOWN.findall(whole.stderr))
        for name in settings:
            if name not in unknown:
                continue
            base = nix_conf.base_name(name)
            if base != name and whole.canonical(base) in whole.entries:
                raise Refused(
                    f"Nix {self._version} cannot append to the setting {base}; give {base} itself instead of {name}"
                )
            near = difflib.get_close_matches(name, whole.entries, 1, 0.75)
            hint = f"; do you mean {near[0]}?" if near else ""
            raise Refused(f"Nix {self._version} does not know the setting {name}, and would ignore it{hint}")
        for name, feature in _NEEDS_FEATURE.findall(whole.stderr):
            if name in settings or f"extra-{name}" in settings:
                raise Refused(
                    f"Nix {self._version} ignores the setting {name}, as its experimental feature is not enabled; "
                    f"add extra-experimental-features: [{feature}] to the settings, or leave {name} out"
                )

    def _doubled(self, settings: t.Mapping[str, str], whole: Shown) -> None:
        names: dict[str, str] = {}
        for name in settings:
            if whole.appends(name):
                continue
            other = names.setdefault(whole.canonical(name), name)
            if other != name:
                raise Refused(f"{other} and {name} are two names of one setting; give one of them")

    def _in_force(self, name: str, value: str, met: list[nix_conf.Assignment], alone: Shown, whole: Shown) -> None:
        """Refused where the value that Nix has in force is not the drop-in's."""
        canonical = whole.canonical(name)
        last = max(index for index, it in enumerate(met) if it.file == self._path and it.name == name)
        later = [it for it in met[last + 1 :] if whole.canonical(it.name) == canonical and not whole.appends(it.name)]
        theirs = _effective(name, met, whole)
        ours = _effective(name, [it for it in met if it.file == self._path], alone)
        if ours == theirs:
            return
        if isinstance(theirs, list) and (whole.appends(name) or not later):
            wanted = value.split() if whole.appends(name) else ours
            if all(item in theirs for item in wanted):
                return
        elif isinstance(theirs, dict) and not later and all(theirs.get(key) == ours[key] for key in ours):
            return
        lost = f"{name} = {value} of {self._path} would have no effect"
        if not later:
            raise Refused(
                f"{lost}: Nix {self._version} has {theirs!r} in force. Look for a file that {self._main} includes "
                "before it, and that cannot be read"
            )
        it = later[-1]
        advice = (
            "remove that line, or move it before the one that includes the drop-in, or leave the setting out here"
            if it.file == self._main
            else "give the setting in one of the two only"
        )
        raise Refused(f"{lost}, as {it.file}:{it.line} sets {it.name} again; {advice}")


def _effective(name: str, met: list[nix_conf.Assignment], shown: Shown) -> t.Any:
    """A setting's value in force.

    That of experimental-features comes from the files: 2.8 shows numbers, and the module's own call of Nix adds one.
    """
    canonical = shown.canonical(name)
    if canonical != "experimental-features":
        return shown.value(name)
    features: list[str] = []
    for it in met:
        if it.name == canonical:
            features = it.value.split()
        elif it.name == f"extra-{canonical}":
            features += it.value.split()
    return sorted(set(features))
