# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""sshd_config text: which line sets what, which Include counts, and one account's Match block.

Pure: files are read through a callable. What sshd makes of the text in the end only sshd can tell (C(sshd -T -C)); this
room finds the line to name in an error. Rules: sshd_config(5) and servconf.c of OpenSSH 9.2 to 10.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from fnmatch import fnmatchcase

Value = t.Union[str, int, bool, list[str]]

#: (path pattern) -> [(path, text)], in the lexical order in which sshd reads an Include.
ReadFiles = t.Callable[[str], list[tuple[str, str]]]

#: sshd has the same limit (servconf.c, SERVCONF_MAX_DEPTH).
MAX_DEPTH = 16


class SshdConfigError(Exception):
    """A setting that cannot be written, or a configuration that does not have the wanted effect."""


@dataclass(frozen=True)
class Directive:
    """One line that sets something. C(match) is the text of the Match that it stands under, '' outside of any."""

    file: str
    line: int
    keyword: str
    value: str
    match: str

    @property
    def place(self) -> str:
        return f"{self.file} line {self.line}"

    @property
    def conditional(self) -> bool:
        return self.match not in ("", "all")


def parse(text: str, file: str) -> list[Directive]:
    """The directives of one file, Includes not followed. Keywords in lower case, comments and blank lines left out."""
    directives = []
    match = ""
    for number, line in enumerate(text.split("\n"), start=1):
        found = re.match(r"\s*([A-Za-z][A-Za-z0-9]*)\s*(?:=|\s)\s*(.*?)\s*$", line)
        if not found:
            continue
        keyword, value = found.group(1).lower(), found.group(2)
        if keyword == "match":
            match = " ".join(value.split()).lower()
        directives.append(Directive(file, number, keyword, value, "" if keyword == "match" else match))
    return directives


def _patterns(include: Directive, directory: str) -> list[str]:
    """The paths or globs of an Include line; a relative one is looked for beside sshd_config."""
    words = re.findall(r'"([^"]*)"|(\S+)', include.value)
    paths = [quoted or bare for quoted, bare in words]
    return [path if path.startswith("/") else f"{directory}/{path}" for path in paths]


def walk(text: str, file: str, read: ReadFiles, _match: str = "", _depth: int = 0) -> t.Iterator[Directive]:
    """All directives in the order in which sshd reads them, Includes followed, a Match around an Include kept."""
    directory = file.rsplit("/", 1)[0]
    for directive in parse(text, file):
        if directive.match in ("", "all") and _match:
            directive = Directive(directive.file, directive.line, directive.keyword, directive.value, _match)
        yield directive
        if directive.keyword == "include" and _depth < MAX_DEPTH:
            for pattern in _patterns(directive, directory):
                for path, included in read(pattern):
                    yield from walk(included, path, read, directive.match, _depth + 1)


def find_includes(text: str, file: str, path: str) -> list[Directive]:
    """The Include lines of the main file that name C(path), directly or by a glob; conditional ones too."""
    directory = file.rsplit("/", 1)[0]
    return [
        directive
        for directive in parse(text, file)
        if directive.keyword == "include"
        and any(fnmatchcase(path, pattern) for pattern in _patterns(directive, directory))
    ]


def spell_out(text: str, file: str, paths: t.Iterable[str], expand: t.Callable[[str], list[str]]) -> str:
    """The main file's text with each Include line that names one of C(paths) as a list of files, those of each pattern.

    All lines keep their numbers.
    """
    paths = list(paths)
    directory = file.rsplit("/", 1)[0]
    lines = text.split("\n")
    for directive in {found for path in paths for found in find_includes(text, file, path)}:
        included = [f'"{name}"' for pattern in _patterns(directive, directory) for name in expand(pattern)]
        lines[directive.line - 1] = " ".join(["Include", *included]) if included else "#"
    return "\n".join(lines)


def render_value(keyword: str, value: Value) -> str:
    """A setting's value as sshd writes it: yes/no for a bool, words with a blank between them for a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    words = [str(word) for word in value] if isinstance(value, list) else [str(value)]
    for word in words:
        if not word.strip() or re.search(r'[\x00-\x1f\x7f"#]', word):
            raise SshdConfigError(
                f"the value {word!r} of {keyword} cannot be written into sshd's configuration: it is blank, or has a "
                "quote, a '#' or a control character"
            )
    if words and words[0].lstrip().startswith("="):
        raise SshdConfigError(f"the value {words[0]!r} of {keyword} begins with '=', which sshd would take for a blank")
    return " ".join(words)


def render(user: str, settings: t.Mapping[str, Value], global_settings: t.Mapping[str, Value], header: str) -> str:
    """The drop-in: the global settings, then one Match block for the account, closed by C(Match all)."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", user):
        raise SshdConfigError(f"{user!r} is not the name of an account that a Match User line can hold")
    for keyword in (*settings, *global_settings):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", keyword) or keyword.lower() in ("match", "include"):
            raise SshdConfigError(f"{keyword!r} is not the name of a setting of sshd")
    lines = [f"# {header}"]
    lines += [f"{keyword} {render_value(keyword, value)}" for keyword, value in global_settings.items()]
    lines += [f"Match User {user}"]
    lines += [f"    {keyword} {render_value(keyword, value)}" for keyword, value in settings.items()]
    # Closes the block for whatever sshd reads next.
    lines += ["Match all"]
    return "\n".join(lines) + "\n"


def parse_effective(text: str) -> dict[str, str]:
    """What C(sshd -T) printed, by lower-case keyword; values of one keyword on several lines joined by a blank."""
    effective: dict[str, str] = {}
    for line in text.splitlines():
        keyword, _blank, value = line.strip().partition(" ")
        keyword = keyword.lower()
        effective[keyword] = f"{effective[keyword]} {value}" if keyword in effective else value
    return effective


def differing(settings: t.Mapping[str, Value], effective: t.Mapping[str, str]) -> dict[str, str | None]:
    """The settings that sshd does not have in force, each with the value it has instead (None: not set at all)."""
    return {
        keyword: effective.get(keyword.lower())
        for keyword, value in settings.items()
        if render_value(keyword, value).lower() != (effective.get(keyword.lower()) or "").lower()
    }


def explain(keyword: str, ours: str, user: str, directives: t.Iterable[Directive]) -> str:
    """Which line, other than in the file C(ours), sets C(keyword) for the account or for all."""
    for directive in directives:
        if directive.keyword == keyword.lower() and directive.file != ours:
            where = f" under 'Match {directive.match}'" if directive.conditional else ""
            return f"{directive.place} sets '{directive.keyword} {directive.value}'{where}"
    return f"no line sets it; the Include of {ours} has no effect for {user}"


def _listed(name: str, patterns: str) -> bool:
    """Whether a name is in a list like AllowUsers: globs, '!' excludes, a part from '@' on names a host."""
    words = [word.rsplit("@", 1)[0] for word in patterns.split()]
    if any(word.startswith("!") and fnmatchcase(name, word[1:]) for word in words):
        return False
    return any(fnmatchcase(name, word) for word in words if not word.startswith("!"))


def shut_out(user: str, groups: t.Iterable[str], effective: t.Mapping[str, str]) -> str | None:
    """The keyword by which sshd keeps the account out whatever its key (auth.c, allowed_user), or None."""
    groups = list(groups)
    if _listed(user, effective.get("denyusers", "")):
        return "DenyUsers"
    if effective.get("allowusers") and not _listed(user, effective["allowusers"]):
        return "AllowUsers"
    if any(_listed(group, effective.get("denygroups", "")) for group in groups):
        return "DenyGroups"
    if effective.get("allowgroups") and not any(_listed(group, effective["allowgroups"]) for group in groups):
        return "AllowGroups"
    return None
