# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One account's drop-in for sshd: written, proved by C(sshd -T -C), put back if it has not the effect."""

from __future__ import annotations

import fnmatch
import glob
import grp
import os
import shutil
import tempfile
import typing as t

from ansible_collections.nixfleet.builders.plugins.module_utils import files, sshd_config
from ansible_collections.nixfleet.builders.plugins.module_utils.sshd_config import SshdConfigError, Value

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

#: Where openSUSE has the configuration that counts while there is none in /etc; not for others to write.
VENDOR_CONFIGS = {"/etc/ssh/sshd_config": "/usr/etc/ssh/sshd_config"}

#: sshd refuses to read any configuration without it; its unit makes it at start (RuntimeDirectory=sshd).
PRIVSEP_DIR = "/run/sshd"

_BEFORE = "That was so before, and no file was changed; mend it first"

Texts = dict[str, t.Optional[str]]


def _include_line(path: str) -> str:
    # One file alone: a glob would switch on files that lie in that directory without effect today.
    return f"Include {path}"


def read_files(pattern: str) -> list[tuple[str, str]]:
    """The files of a glob with their texts, in the order in which sshd includes them."""
    return [(path, files.read_text(path) or "") for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]


class SshdAccount:
    """The state of one account's drop-in, C(path), in the configuration C(config)."""

    def __init__(self, module: AnsibleModule, *, user: str, path: str, config: str, sshd: str | None) -> None:
        self.module = module
        self.user = user
        self.path = path
        vendor = VENDOR_CONFIGS.get(config)
        self.config = vendor if vendor and not os.path.exists(config) and os.path.exists(vendor) else config
        self.written = self.config == config
        binary = sshd or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/sbin")
        if not binary or not os.path.exists(binary):
            raise SshdConfigError(
                f"there is no sshd on this host ({sshd or 'not in /usr/sbin, /usr/local/sbin, /usr/bin, /sbin'}); "
                "install the ssh server first, or name its program in the option sshd"
            )
        self.sshd = binary
        main = files.read_text(self.config)
        if main is None:
            raise SshdConfigError(f"there is no {config}; name sshd's configuration in the option config")
        self.main = main
        #: The drop-in's other place, out of reach of an Include under a Match, where sshd accepts no global setting.
        self.aside = os.path.join(os.path.dirname(config), os.path.basename(path))
        if any(found.conditional for found in sshd_config.find_includes(main, self.config, path)):
            self.path, self.aside = self.aside, path

    def effective(self, user: str, config: str | None = None) -> dict[str, str]:
        """What sshd would have in force for a login of C(user) from this host itself."""
        # macOS has neither this directory nor its parent.
        if os.path.isdir(os.path.dirname(PRIVSEP_DIR)):
            os.makedirs(PRIVSEP_DIR, mode=0o755, exist_ok=True)
        spec = f"user={user},host=localhost,addr=127.0.0.1"
        rc, out, err = self.module.run_command([self.sshd, "-T", "-f", config or self.config, "-C", spec])
        if rc:
            raise SshdConfigError(
                f"sshd does not accept {config or self.config}: {'; '.join(err.strip().splitlines())}"
            )
        return sshd_config.parse_effective(out)

    def effective_before(self, user: str) -> dict[str, str]:
        """What is in force of the files as they are; the error says that it is not this module's doing."""
        try:
            return self.effective(user)
        except SshdConfigError as error:
            raise SshdConfigError(f"{error}. {_BEFORE}") from None

    def keys_files_without(self) -> list[str]:
        """Where sshd would look for the account's keys if there were no drop-in."""
        without = self._temporary(self._staged(self.main, None))
        try:
            words = self.effective(self.user, without).get("authorizedkeysfile", "").split()
        except SshdConfigError as error:
            raise SshdConfigError(f"{error}. {_BEFORE}".replace(without, self.config)) from None
        return [word for word in words if word != "none"]

    def directives(self) -> list[sshd_config.Directive]:
        return list(sshd_config.walk(self.main, self.config, read_files))

    def main_with_include(self, include: str) -> str:
        """The main file as it must be for the drop-in to count: unchanged, or with one line more at its beginning."""
        if any(not found.conditional for found in sshd_config.find_includes(self.main, self.config, self.path)):
            return self._main_without(self.aside)
        if include == "mend" and not self.written:
            raise SshdConfigError(
                f"{self.config} does not include {self.path}, and belongs to the distribution; copy it to /etc/ssh, "
                "where the Include line can be added"
            )
        if include == "mend":
            return f"{_include_line(self.path)}\n{self.main}"
        for found in sshd_config.find_includes(self.main, self.config, self.aside):
            raise SshdConfigError(
                f"{found.place} includes {self.aside} only under 'Match {found.match}', so it does not count for "
                f"{self.user}; move that Include above the first Match of {self.config}, or say include=mend"
            )
        raise SshdConfigError(
            f"{self.config} does not include {self.path}; put '{_include_line(self.path)}' at its beginning, "
            "or say include=mend"
        )

    def main_without_include(self) -> str:
        """The main file without the line that main_with_include puts there."""
        text = self._main_without(self.path)
        return text if text != self.main else self._main_without(self.aside)

    def _main_without(self, path: str) -> str:
        first, _newline, rest = self.main.partition("\n")
        return rest if first == _include_line(path) else self.main

    def rehearse(
        self, text: str, main: str, settings: t.Mapping[str, Value], global_settings: t.Mapping[str, Value]
    ) -> None:
        """Has sshd read all as it will be, the drop-in C(text) and the main file C(main), in temporary files.

        Refuses what sshd does not accept, what changes anything for another account, and what has not its effect.
        """
        without = self._temporary(self._staged(self.main, None))
        candidate = self._temporary(text)
        whole = self._temporary(self._staged(main, candidate))
        try:
            before = self.effective("root", without)
        except SshdConfigError as error:
            raise SshdConfigError(f"{error}. {_BEFORE}".replace(without, self.config)) from None
        try:
            after = self.effective("root", whole)
            ours = self.effective(self.user, whole)
        except SshdConfigError as error:
            raise SshdConfigError(
                f"sshd refuses the settings meant for {self.path}, which was left as it was; correct them: "
                + str(error).replace(candidate, self.path).replace(whole, self.config)
            ) from None
        allowed = {keyword.lower() for keyword in global_settings}
        spoiled = sorted(key for key in {*before, *after} - allowed if before.get(key) != after.get(key))
        if spoiled:
            raise SshdConfigError(f"the settings for {self.path} would change {', '.join(spoiled)} for root as well")
        self._prove(ours, text, settings, global_settings)

    def _staged(self, main: str, candidate: str | None) -> str:
        """The main file with another file in the drop-in's place, or with none there."""

        def expand(pattern: str) -> list[str]:
            found = {path for path in glob.glob(pattern) if path not in (self.path, self.aside)}
            if candidate and fnmatch.fnmatchcase(self.path, pattern):
                found.add(self.path)
            return [candidate if candidate and path == self.path else path for path in sorted(found)]

        return sshd_config.spell_out(main, self.config, (self.path, self.aside), expand)

    def _temporary(self, text: str) -> str:
        handle, path = tempfile.mkstemp(dir=self.module.tmpdir, prefix="sshd_config.")
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return path

    def _prove(
        self,
        effective: dict[str, str],
        text: str | None,
        settings: t.Mapping[str, Value],
        global_settings: t.Mapping[str, Value],
    ) -> None:
        """Refuses a configuration in which another line has the last word, or that keeps the account out."""
        wrong = sshd_config.differing({**global_settings, **settings}, effective)
        if wrong and text is not None:
            # sshd says some values in its own words, such as 60 for 1m.
            alone = f"Include {self._temporary(text)}\n{self._staged(self.main, None)}"
            ours = self.effective(self.user, self._temporary(alone))
            wrong = {keyword: value for keyword, value in wrong.items() if ours.get(keyword.lower()) != value}
        if wrong:
            directives = self.directives()
            reasons = [
                f"{keyword} is {value or 'not set'}: " + sshd_config.explain(keyword, self.path, self.user, directives)
                for keyword, value in wrong.items()
            ]
            raise SshdConfigError(
                f"{self.path} does not have its effect for {self.user}, so no file was changed. "
                + "; ".join(reasons)
                + ". Remove those lines, or give the drop-in a name that sorts before their file"
            )
        self._let_in(effective, settings)

    def _let_in(self, effective: dict[str, str], settings: t.Mapping[str, Value]) -> None:
        barrier = sshd_config.shut_out(self.user, self._groups(), effective) if settings else None
        if barrier:
            place = sshd_config.explain(barrier, self.path, self.user, self.directives())
            raise SshdConfigError(
                f"sshd would not let {self.user} in, whatever its key: {place}. Add {self.user} there, or set "
                f"{barrier} for this account alone in the option settings"
            )

    def _groups(self) -> list[str]:
        # The role makes a group of the account's name before; in check mode neither exists yet.
        return [self.user, *(group.gr_name for group in grp.getgrall() if self.user in group.gr_mem)]

    def place(
        self,
        texts: Texts,
        text: str | None,
        settings: t.Mapping[str, Value],
        global_settings: t.Mapping[str, Value],
        pending: files.Pending,
    ) -> dict[str, str]:
        """Replaces (or removes, where the text is None) the files, each whole, and puts all back if sshd disagrees.

        C(text) is the drop-in as it is to be, C(texts) what there is to replace. What is in force for the account then.
        """
        if not texts:
            effective = self.effective_before(self.user)
            self._prove(effective, text, settings, global_settings)
            return effective
        former: Texts = {path: files.read_text(path) for path in texts}
        pending.mark()
        try:
            for path, new in texts.items():
                self._write(path, new)
            effective = self.effective(self.user)
            self._prove(effective, text, settings, global_settings)
        except SshdConfigError:
            for path, old in former.items():
                self._write(path, old)
            pending.clear()
            self.effective_before(self.user)
            raise
        return effective

    def _write(self, path: str, text: str | None) -> None:
        if text is None:
            files.remove(path)
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        files.write(self.module, path, text, 0o644, keep_attributes=True)
